"""Conversations → token ids, such that no text of a user becomes a control token.

A request in whose texts no literal of a control token occurs is rendered and tokenised untouched. In the others a mark,
a private-use character that the request doesn't contain, is put before every such literal; then the template is
rendered, and the control tokens that stand there without a mark are its own. They alone become ids, by a tokenizer that
knows them with the mark before them; the users' literals lose the mark and are text like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar

from radixmill.front.text.literals import any_of
from radixmill.front.text.stack import TextStack
from radixmill.front.text.template import ChatTemplate, Message, Tags, TemplateError, in_ascii, private_char, strings
from radixmill.front.text.tokenizer import Added, Tokenizer

T = TypeVar("T")
Tools = list[dict[str, Any]] | None
Prepare = Callable[[list[Message], Tools], tuple[list[Message], Tools]]


class Literals(Protocol):
    """What keeping texts and control tokens apart needs of a tokenizer."""

    @property
    def control(self) -> Collection[str]:
        """Literals of control tokens."""

    @property
    def added(self) -> Iterable[Added]:
        """All that is found in text as a whole."""

    def __hash__(self) -> int: ...


class Rendered(NamedTuple):
    """The text of a conversation. `mark`: what stands before the template's own control tokens; "": all that stand there
    are."""

    text: str
    mark: str = ""


def encode_chat(stack: TextStack, messages: list[Message], /, **asked: Any) -> list[int]:
    """The prompt of a conversation: rendered as `render_chat` describes, with the model's begin token before it if the
    model wants one and the template didn't write it. No end token is added.

    Raises TemplateError and ValueError as `render` and `Tokenizer.encode` do.
    """
    if stack.template is None:
        raise TemplateError("this model has no chat template")
    return encode_rendered(stack.tokenizer, render_chat(stack.template, stack.tokenizer, messages, **asked))


def encode_rendered(tokenizer: Tokenizer, rendered: Rendered) -> list[int]:
    text, mark = rendered
    ids = tokenizer.encode_marked(text, mark) if mark else tokenizer.encode(text, add_special=False)
    before = list(tokenizer.before)
    return ids if ids[: len(before)] == before else before + ids


def render_chat(
    template: ChatTemplate,
    literals: Literals,
    messages: list[Message],
    /,
    *,
    tools: Tools = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    tags: Tags | None = None,
    prepare: Prepare | None = None,
    **kwargs: Any,
) -> Rendered:
    """A conversation as `ChatTemplate.render` describes, and which control tokens in it are the template's.

    `prepare` makes other messages and tools of these; what it writes counts as the template's own.
    Raises TemplateError and ValueError as `render` does.
    """
    guard = _guard(literals, template)
    template.check_kwargs(kwargs)
    ends: dict[str, Any] = {
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
        "tags": tags,
    }
    prepare = prepare or _as_they_are
    messages = _with_objects(messages, guard)
    asked = (messages, tools, kwargs)
    if not guard.concerns(asked):
        messages, tools = prepare(messages, tools)
        return Rendered(template.render(messages, tools=tools, **ends, **kwargs))
    mark = private_char(chain(strings(asked), template.sources.values()))
    messages, tools, kwargs = guard.marked(asked, mark)
    messages, tools = prepare(messages, tools)
    text = template.render(messages, tools=tools, **ends, **kwargs)
    return Rendered(guard.resolve(text, mark), mark)


def _as_they_are(messages: list[Message], tools: Tools) -> tuple[list[Message], Tools]:
    return messages, tools


def _with_objects(messages: list[Message], guard: Guard) -> list[Message]:
    """Arguments of calls as objects where their JSON writes a control literal in other letters: `\\u003c` for `<`."""
    return [
        {**message, "tool_calls": [_with_object(call, guard) for call in calls]}
        if isinstance(calls := message.get("tool_calls"), list)
        else message
        for message in messages
    ]


def _with_object(call: Any, guard: Guard) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    arguments = function.get("arguments")
    if not isinstance(arguments, str) or "\\" not in arguments:
        return call
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": parsed}} if guard.concerns(parsed) else call


class Guard:
    """Finds the literals of one tokenizer's control tokens in the texts of users, and where a template would make one of
    its own text and a user's: `<` and a name and `>`. The words of templates are left alone there, since they look for
    them; what they write around users' texts they write around no words of their own.
    """

    def __init__(self, tokenizer: Literals, template: ChatTemplate | None = None) -> None:
        self._control = frozenset(tokenizer.control)
        self._literal = re.compile(any_of(self._control))
        self._added = any_of(a.literal for a in tokenizer.added)
        self._begins = frozenset(text[:n] for text in self._control for n in range(1, len(text)))
        self._ends = frozenset(text[n:] for text in self._control for n in range(1, len(text)))
        self._longest = max(map(len, self._control), default=0)
        constants = template.constants if template else ()
        self._opens = any(map(self._is_begun, constants))  # the template's text before a user's may begin a literal
        self._closes = any(map(self._is_ended, constants))  # that behind one may end it
        self._words = template.words | _STRUCTURE if template else _STRUCTURE
        self._all = "\0".join(self._control)

    def concerns(self, data: Any) -> bool:
        """Whether a control literal stands in a text, or may arise where a template puts two texts side by side."""
        texts = [text for text in strings(data) if text]
        if any(self._literal.search(text) for text in texts):
            return True
        begun = any(map(self._is_begun, texts))
        if begun and (self._closes or any(map(self._is_ended, texts))):
            return True
        return self._opens and any(map(self._goes_on, texts))

    def marked(self, data: T, mark: str) -> T:
        """`data` with the mark before each place where a control literal begins, or begins and the text ends.

        Raises ValueError for data nested more deeply than Python can follow.
        """
        try:
            return _mapped(data, lambda text: self._mark(text, mark))
        except RecursionError:
            raise ValueError("the request's messages or tools are nested too deeply") from None

    def resolve(self, text: str, mark: str) -> str:
        """A rendered text with the marks moved: from the users' literals to the template's. Some templates write marks as
        JSON does for readers of ASCII."""
        escaped = re.escape(in_ascii(mark))

        def swap(match: re.Match[str]) -> str:
            if match["marked"] is not None:
                return match["marked"]
            return mark + match[0] if match[0] in self._control else match[0]

        return re.sub(f"(?:{mark}|{escaped})(?P<marked>.?)|{self._added}", swap, text, flags=re.DOTALL)

    def _mark(self, text: str, mark: str) -> str:
        places, at = [0] * (self._opens and self._goes_on(text)), 0
        while match := self._literal.search(text, at):
            places.append(match.start())
            at = match.start() + 1  # literals may overlap: each must lose its beginning
        tail = max(len(text) - self._longest + 1, at, 0)
        places += [i for i in range(tail, len(text)) if text[i:] in self._begins]
        places = sorted(set(places))
        ends = [*places[1:], len(text)]
        return (
            text[: places[0]] + "".join(mark + text[i:j] for i, j in zip(places, ends, strict=True)) if places else text
        )

    def _is_begun(self, text: str) -> bool:
        return any(text[-n:] in self._begins for n in range(1, min(self._longest, len(text) + 1)))

    def _is_ended(self, text: str) -> bool:
        return any(text[:n] in self._ends for n in range(1, min(self._longest, len(text) + 1)))

    def _goes_on(self, text: str) -> bool:
        """Whether a literal that was begun could go on with this text: its head is the end of one, or all is the inside."""
        if not text or text in self._words:
            return False
        return self._is_ended(text) or (len(text) < self._longest and text in self._all)


# What messages and tools are made of.
_STRUCTURE = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning"}
    | {"type", "text", "function", "id", "arguments", "parameters", "description", "properties", "required"}
    | {"system", "developer", "user", "assistant", "tool", "documents", "title"}
)


@lru_cache(maxsize=16)
def _guard(literals: Literals, template: ChatTemplate) -> Guard:
    return Guard(literals, template)


def _mapped(data: Any, change: Callable[[str], str]) -> Any:
    match data:
        case str():
            return change(data)
        case dict():
            return {_mapped(key, change): _mapped(value, change) for key, value in data.items()}
        case list() | tuple():
            return type(data)(_mapped(item, change) for item in data)
    return data
