"""Chat templates: messages → the text that a model was trained on. Knows nothing of token ids."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any

import jinja2
from jinja2 import meta, nodes

from radixmill.core.errors import BadModel
from radixmill.front.text.budget import OutOfTime, OverBudget
from radixmill.front.text.sandbox import CHANGES, Sandbox

Message = dict[str, Any]
Tags = tuple[str, str]
"""What opens thoughts and what closes them."""

CHATML = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

LINES = """{%- for message in messages -%}
{{- message.role + ': ' + (message.content or '') + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'assistant:' -}}{%- endif -%}"""

# The names one thing goes by: a message has its thoughts under each, since templates differ in which one they read.
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
_OURS = frozenset(
    {"messages", "tools", "add_generation_prompt", "continue_final_message", "stack", "self", "tags", "prepare"}
)
_TOKENS = frozenset(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)  # only those templates see


class TemplateError(ValueError):
    """The template refused the conversation, or failed on it. The message is for the client."""


class TooSlow(ValueError):
    """The template took too long. No refusal: another try, in other shapes, would take as long."""


class ChatTemplate:
    """A model's chat template, or its set of named ones: "tool_use" serves requests with tools, "rag" those with
    documents, "default" the others.

    `variables` (bos_token, …) are visible to the template. `origin` says where it comes from. `names`: what it reads
    besides what it sets itself. `constants`: its own texts; `words`: what it looks for. `takes_tools`,
    `takes_documents`: whether it has a place for them. Raises BadModel where the source is no Jinja.

    A message's content is a string, null, or a list of parts `{"type": "text", "text": …}`. A template that knows only
    strings gets the parts joined by line ends; one that prints null as a word, or fails on it, gets "". Arguments
    of tool calls are given as objects or as JSON text, whichever the template can print, and thoughts by all names that
    they go by, or as a part of the content, where the template knows only that.
    """

    def __init__(
        self, source: str | Mapping[str, str], *, variables: Mapping[str, str] | None = None, origin: str = ""
    ) -> None:
        self.sources = {"default": source} if isinstance(source, str) else dict(source)
        self.variables, self.origin = dict(variables or {}), origin
        environment = Sandbox()
        self._budget = environment.budget
        self.reserved = _OURS | _TOKENS | environment.globals.keys()
        self._templates = {name: _compile(environment, text, origin) for name, text in self.sources.items()}
        parsed = [environment.parse(source) for source in self.sources.values()]
        self.constants = frozenset(text for one in parsed for text in _constants(one))
        self.words = frozenset(word for one in parsed for word in _words(one))
        self.names = frozenset(name for one in parsed for name in meta.find_undeclared_variables(one))
        self.takes_tools, self.takes_documents = "tools" in self.names, "documents" in self.names
        self._knows_parts = lru_cache(maxsize=64)(self._probe_parts)
        self._knows_objects = lru_cache(maxsize=8)(self._probe_objects)
        self._thoughts_as_part = lru_cache(maxsize=8)(self._probe_thoughts)
        self.shows_calls = lru_cache(maxsize=8)(self._probe_calls)

    def render(
        self,
        messages: list[Message],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tags: Tags | None = None,
        **kwargs: Any,
    ) -> str:
        """The text of a conversation.

        `continue_final_message`: the text ends inside the last message, for the model to go on with it; nothing is
        added after. If that message has thoughts and no content, it ends inside them. Where the template leaves thoughts
        out that the model is to go on from, they are written by the `tags` of thoughts.
        Other keyword arguments are the template's own (`enable_thinking`, …).
        Raises TemplateError where the template refuses, TooSlow where it takes too long, ValueError for an argument that is not the template's.
        """
        self.check_kwargs(kwargs)
        name = self._chosen(tools, kwargs.get("documents"))
        fixed = {"tools": tools or None, "documents": None, **kwargs}
        if continue_final_message:
            return self._unfinished(name, messages, fixed, tags)
        return self._with_nulls(name, messages, fixed | {"add_generation_prompt": add_generation_prompt})

    def check_kwargs(self, kwargs: Iterable[str]) -> None:
        """Raises ValueError where one of these names is not the client's to set."""
        if taken := sorted(self.reserved.intersection(kwargs)):
            raise ValueError(f"chat_template_kwargs must not set {', '.join(taken)}")

    def _chosen(self, tools: Any, documents: Any) -> str:
        """The name of the template for a request."""
        wanted = ("tool_use",) * bool(tools) + ("rag",) * bool(documents) + ("default",)
        return next((name for name in wanted if name in self.sources), next(iter(self.sources)))

    def _render(self, name: str, messages: list[Message], fixed: dict[str, Any]) -> str:
        try:
            if any(f".{change}(" in self.sources[name] for change in CHANGES):
                messages = copy.deepcopy(messages)
            with self._budget.limited():
                return self._templates[name].render({**self.variables, **fixed, "messages": messages})
        except OutOfTime as error:
            raise TooSlow(str(error)) from None
        except OverBudget as error:
            raise TemplateError(str(error)) from None
        except jinja2.TemplateError as error:
            raise TemplateError(str(error.message or error)) from error
        except Exception as error:  # a template is a program: on data it does not expect, it can fail in any way
            raise TemplateError(f"the chat template failed on these messages: {error}") from error

    def _with_nulls(self, name: str, messages: list[Message], fixed: dict[str, Any]) -> str:
        """Messages in the template's shapes. Null contents as they are where it deals with them, else as ""."""
        messages = [self._fit(message, name) for message in messages]
        if all(message.get("content", "") is not None for message in messages):
            return self._render(name, messages, fixed)
        filled = [{**m, "content": ""} if m.get("content", "") is None else m for m in messages]
        try:
            text = self._render(name, messages, fixed)
        except TemplateError:
            return self._render(name, filled, fixed)
        if "None" not in text:
            return text
        other = self._render(name, filled, fixed)
        return other if other.count("None") < text.count("None") else text

    def _unfinished(self, name: str, messages: list[Message], fixed: dict[str, Any], tags: Tags | None) -> str:
        thoughts, content = _unsaid(messages[-1] if messages else {})
        if not thoughts and not content:
            raise ValueError("continue_final_message needs a last message with content")
        text, whole = self._cut(name, messages, fixed)
        if text is not None and (whole or not tags) and (content or not tags or _is_inside(text, tags)):
            return text
        if not (thoughts and tags):
            raise TemplateError("the chat template drops the message that continue_final_message is to continue")
        prompt = self._with_nulls(name, messages[:-1], fixed | {"add_generation_prompt": True})
        line = "" if "".join(tags) in self.sources[name] else "\n"
        return _gone_on(prompt, tags, thoughts, content, line)

    def _cut(self, name: str, messages: list[Message], fixed: dict[str, Any]) -> tuple[str | None, bool]:
        """Mark the end of the last message, render, and cut there; None where that does not come out. And whether
        thoughts before it did."""
        mark = private_char(chain(strings(messages), strings(fixed), self.sources.values()))
        last, end = messages[-1], f"{mark} "
        thoughts, content = _unsaid(last)
        if content:
            tagged = _with_thoughts(last, _marked_inside(thoughts, mark)) | {"content": _append(last["content"], end)}
        else:
            tagged = _with_thoughts(last, thoughts + end) | {"content": ""}
        text = self._with_nulls(name, [*messages[:-1], tagged], fixed | {"add_generation_prompt": False})
        if (at := text.rfind(mark)) < 0:
            return None, False
        # The space after the mark shows whether the template trims contents.
        cut = text[:at] if text.startswith(end, at) else text[:at].rstrip()
        return cut.replace(mark, ""), not (thoughts and content) or mark in cut

    def _fit(self, message: Message, name: str) -> Message:
        """The message in the shapes that the template can print."""
        changed: Message = {}
        content = message.get("content")
        if isinstance(content, list) and not self._knows_parts(name, str(message.get("role"))):
            changed["content"] = _joined(content)
        if isinstance(calls := message.get("tool_calls"), list):
            changed["tool_calls"] = [_with_arguments(c, self._knows_objects(name)) for c in calls]
        if (thoughts := _thoughts_of(message)) is not None:
            changed |= _with_thoughts({}, thoughts)
            if thoughts and (part := self._thoughts_as_part(name)):
                changed["content"] = _with_part(part(thoughts), message.get("content"))
        return {**message, **changed} if changed else message

    def _probe_calls(self, beside: str | None) -> bool:
        """Whether a call comes out, with a content `beside` it or none."""
        call = {"id": "call00000", "type": "function", "function": {"name": "PROBE", "arguments": "{}"}}
        tools = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}]
        conversation = _about("assistant", {"content": beside, "tool_calls": [call]})
        fixed = {"tools": tools, "add_generation_prompt": False}
        try:
            return "PROBE" in self._with_nulls(self._chosen(tools, None), conversation, fixed)
        except TemplateError:
            return False

    def _probe_thoughts(self, name: str) -> Callable[[str], Any] | None:
        """How a part of the content tells thoughts, where they come out only so."""
        if "'thinking'" not in (source := self.sources[name]) and '"thinking"' not in source:
            return None
        ways = (lambda text: None), (lambda text: text), (lambda text: [{"type": "text", "text": text}])
        for way in ways:
            thoughts = way("PROBE")
            message = (
                {"content": _with_part(thoughts, "hi")} if thoughts else _with_thoughts({"content": "hi"}, "PROBE")
            )
            try:
                text = self._render(name, _about("assistant", message), {"tools": None, "add_generation_prompt": False})
            except TemplateError:
                continue
            if "PROBE" in text and "'PROBE'" not in text:
                return way if thoughts else None
        return None

    def _probe_parts(self, name: str, role: str) -> bool:
        """Whether a list of parts comes out as its text, and not as a printed list."""
        probe = [{"type": "text", "text": "PROBE"}]
        try:
            text = self._render(name, _about(role, {"content": probe}), {"tools": None, "add_generation_prompt": True})
        except TemplateError:
            return False
        return "PROBE" in text and "'PROBE'" not in text and '"PROBE"' not in text

    def _probe_objects(self, name: str) -> bool:
        """Whether arguments given as an object come out, and not as Python would print them."""
        calls = [{"id": "call00000", "type": "function", "function": {"name": "f", "arguments": {"probe": "x"}}}]
        tools = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}]
        for content in (None, ""):  # templates may look for calls only in messages without content
            conversation = _about("assistant", {"content": content, "tool_calls": calls})
            try:
                text = self._render(name, conversation, {"tools": tools, "add_generation_prompt": False})
            except TemplateError:
                continue
            if "probe" in text:
                return "{'probe'" not in text
        return False


def _thoughts_of(message: Message) -> Any:
    return next((message[name] for name in _THOUGHTS if message.get(name) is not None), None)


def _with_thoughts(message: Message, thoughts: Any) -> Message:
    """The message with these by all their names; "": as it is."""
    return {**message, **dict.fromkeys(_THOUGHTS, thoughts)} if thoughts else message


def _with_part(thoughts: Any, content: Any) -> list[Any]:
    """Thoughts as the first part of a content."""
    rest = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    return [{"type": "thinking", "thinking": thoughts}, *rest]


def _unsaid(message: Message) -> tuple[str, str]:
    """Thoughts and content of a message that is to be gone on with. White space behind thoughts is no content."""
    thoughts, content = _thoughts_of(message) or "", message.get("content") or ""
    text = content if isinstance(content, str) else _joined(content)
    return thoughts, "" if thoughts and not text.strip() else text


def _marked_inside(text: str, mark: str) -> str:
    """With the mark behind the first letter: nothing that trims finds it."""
    at = len(text) - len(text.lstrip()) + 1
    return text[:at] + mark + text[at:] if text else ""


def _is_inside(text: str, tags: Tags) -> bool:
    """Whether a text ends within thoughts."""
    return text.rfind(tags[0]) > text.rfind(tags[1])


def _gone_on(prompt: str, tags: Tags, thoughts: str, content: str, line: str) -> str:
    """A generation prompt and thoughts, with a content behind them if there is one: as the model would have written it.

    `line`: a line end, if it writes thoughts on lines of their own. A prompt that opens thoughts, or opens and closes
    them, shows it better.
    """
    opener, closer = tags[0].rstrip(), tags[1]
    at = prompt.rfind(opener)
    behind = prompt[at + len(opener) :] if at >= 0 else ""
    if at >= 0 and behind.strip() in ("", closer):
        line = "\n" if "\n" in behind else ""
    else:
        at = prompt.rfind(closer) if prompt.rstrip().endswith(closer) else len(prompt)
    begun = f"{prompt[:at]}{opener}{line}{thoughts.lstrip()}"
    return f"{begun.rstrip()}{line}{closer}{line * 2}{content.lstrip()}" if content else begun


def strings(value: Any) -> Iterable[str]:
    """Every string in JSON-like data, keys included."""
    todo = [value]
    while todo:
        match todo.pop():
            case str(text):
                yield text
            case dict() as fields:
                todo += [*fields.keys(), *fields.values()]
            case list() | tuple() as items:
                todo += items


def private_char(texts: Iterable[str]) -> str:
    """A private-use character that none of `texts` has, nor JSON's way to write it in ASCII."""
    texts = list(texts)
    used = set().union(*texts)
    free = (
        c
        for c in map(chr, chain(range(0xE000, 0xF900), range(0xF0000, 0x10FFFE)))
        if c not in used and not any(in_ascii(c) in text for text in texts)
    )
    if (found := next(free, None)) is None:
        raise ValueError("the text uses every private-use character of Unicode")
    return found


def in_ascii(char: str) -> str:
    return json.dumps(char)[1:-1]


def _compile(environment: Sandbox, source: str, origin: str) -> jinja2.Template:
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        where = origin or "the chat template"
        raise BadModel(
            f"{where} is no template: line {error.lineno}: {error.message}", "Use --chat-template FILE"
        ) from None


def _constants(parsed: nodes.Template) -> Iterator[str]:
    """The texts that a template has of its own."""
    for node in parsed.find_all((nodes.TemplateData, nodes.Const)):
        text = node.data if isinstance(node, nodes.TemplateData) else getattr(node, "value", None)
        if isinstance(text, str) and text:
            yield text


def _words(parsed: nodes.Template) -> Iterator[str]:
    """What a template may look for in messages and tools: names of attributes, and all its constants."""
    for node in parsed.find_all((nodes.Getattr, nodes.Const)):
        yield node.attr if isinstance(node, nodes.Getattr) else str(getattr(node, "value", ""))


def _about(role: str, message: Message) -> list[Message]:
    """The shortest conversation with this message that templates accept."""
    opening = [] if role in ("user", "system", "developer") else [{"role": "user", "content": "hi"}]
    closing = [{"role": "user", "content": "hi"}] if role in ("system", "developer") else []
    return [*opening, {"role": role, **message}, *closing]


def _joined(parts: list[Any]) -> str:
    return "\n".join(part if isinstance(part, str) else str(part.get("text") or "") for part in parts)


def _append(content: Any, text: str) -> Any:
    if isinstance(content, str):
        return content + text
    last = max((i for i, part in enumerate(content) if isinstance(part, dict) and "text" in part), default=None)
    if last is None:
        raise ValueError("continue_final_message needs a last message with text")
    return [{**part, "text": part["text"] + text} if i == last else part for i, part in enumerate(content)]


def _with_arguments(call: Any, as_objects: bool) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    return {**call, "function": {**function, "arguments": _arguments(function["arguments"], as_objects)}}


def _arguments(given: Any, as_objects: bool) -> Any:
    if not as_objects:
        return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    if not isinstance(given, str):
        return given
    try:
        parsed = json.loads(given or "{}")
    except ValueError:
        return given
    return parsed if isinstance(parsed, dict) else given
