"""How the answer to one Ask is read, and the grammar that binds it: thoughts, tools and the client's own constraint.

The grammar, where one is needed, says all that may stand behind the thoughts:

    tools      constraint   what binds
    required   none         calls, nothing else; with a constraint: BadRequest
    auto       none         free text and calls if a tool is strict or has a format, else nothing
    auto       given        calls, or an answer that matches it
    none       given        an answer that matches it

Where calls and an answer that matches it are alternatives, calls stand first or nowhere: what looks like one within the
answer is its text.

A tool that is not strict may be called with any object where "auto" needs a grammar, and only with what its schema
allows where a call is required: see arguments.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NoReturn

from msgspec.structs import replace

from radixmill.core.errors import BadRequest
from radixmill.core.request import Constraint, ThinkingBudget
from radixmill.front.dialects import Callee, Dialect, Rules, Splitter, Thoughts, ToolShape
from radixmill.front.dialects.calls.base import (
    INPUT,
    NO_ARGUMENTS,
    Format,
    Target,
    constant,
    either,
    sequence,
)
from radixmill.front.dialects.calls.unread import Unread
from radixmill.front.dialects.grammar import (
    ANY_ARGUMENTS,
    after_thoughts,
    answer,
    behind_content,
    json_text,
    only_calls,
    text_and_calls,
)
from radixmill.front.dialects.messages import THOUGHTS, text_of
from radixmill.front.dialects.turns import thoughts_apart
from radixmill.front.session.arguments import bound_schema
from radixmill.front.session.ask import Ask, ChatPrompt, Tool, ToolRule
from radixmill.front.session.text import Text

Thinking = Literal["opened", "may", "not"]
"""Whether the prompt ends within thoughts, leaves it to the model to begin some, or has closed them."""

TAIL_TOKENS = 16  # of a prompt: enough for a tag and the space around it


class Speech:
    """What the sequences of one Ask have in common; each gets its own splitter."""

    def __init__(self, ask: Ask, dialect: Dialect, thinking: Thinking) -> None:
        """Raises BadRequest where tools and constraint can't both hold."""
        self.ask, self.dialect, self.thinking = ask, dialect, thinking
        self.tools = callable_tools(ask.tools)
        self.calls = self._calls()
        self.constraint = self._constraint()

    @property
    def splits(self) -> bool:
        return bool(self.tools or self.dialect.think or self.dialect.answer_opens)

    @property
    def tags(self) -> frozenset[str]:
        """What must stay in the text to be read, even where the tokenizer takes it for control tokens."""
        return self.dialect.tags if self.tools else self.dialect.tags - self.dialect.calls.tags

    def splitter(self, exact: Iterable[str] = ()) -> Splitter | None:
        """None where nothing is to be split. `exact`: literals of control tokens."""
        if not self.splits:
            return None
        return Splitter(self.dialect, {tool.name: self._callee(tool) for tool in self.tools}, self._rules, exact=exact)

    @property
    def _rules(self) -> Rules:
        rule = self.ask.tools
        return Rules(
            opened=self.thinking == "opened",
            separate=self.ask.separate_reasoning,
            whole_thoughts=not self.ask.stream_reasoning,
            guaranteed=self.calls is not None,
            only_calls=self.calls is not None and rule is not None and rule.choice == "required",
            calls_first=self.calls is not None and self.ask.constraint is not None,
            one_call=rule is not None and not rule.parallel,
        )

    def budget(self, text: Text) -> ThinkingBudget | None:
        """How the Ask's limit of thoughts is kept. None where there is none, or nothing that it could limit."""
        most, think = self.ask.max_thinking_tokens, self.dialect.think
        if most is None or think is None:
            return None
        called = think.ended_by_call and self.tools and self.calls is None
        return ThinkingBudget(
            tokens=most,
            close=spelled(text, think.close),
            open=think.open,
            ends=tuple(filter(None, (think.close, self.dialect.calls.closer if called else ""))),
            opened=self.thinking == "opened",
            again=think.interleaved,
        )

    def sources(self) -> Iterator[tuple[str, Constraint]]:
        """The client's own parts of the grammar, each with the field that it came in."""
        if self.ask.constraint is not None:
            yield self.ask.constraint_field, self.ask.constraint
        for tool in self.tools if self.calls is not None else ():
            if tool.format is not None:
                yield tool.field, tool.format
            elif self._is_bound(tool) and tool.parameters is not None:
                yield tool.field, Constraint(kind="json_schema", text=json.dumps(bound_schema(tool.parameters)))

    def _calls(self) -> Format | None:
        """The grammar of calls, and of the text around them; None where calls are free."""
        rule = self.ask.tools
        if rule is None or not self.tools:
            return None
        targets = [self._target(tool) for tool in self.tools]
        bound = any(tool.strict or tool.format for tool in self.tools)
        if isinstance(self.dialect.calls, Unread):
            return (
                _refuse_calls("tool_choice") if rule.choice == "required" else _refuse_calls("tools") if bound else None
            )
        own = self.ask.constraint is not None
        only = rule.choice == "required" or own
        if not only and not bound:
            return None
        if only or self._goes_on:
            calls = only_calls(self.dialect, targets, parallel=rule.parallel, instead=own)
            return behind_content(self.dialect, calls, free=not only) if self._goes_on else calls
        return text_and_calls(self.dialect, targets, parallel=rule.parallel)

    @property
    def _goes_on(self) -> bool:
        """Whether the prompt ends within content that the family always marks."""
        prompt = self.ask.prompts[0]
        begun = isinstance(prompt, ChatPrompt) and prompt.continue_final_message and self.thinking == "not"
        return begun and bool(self.dialect.answer_opens) and not self.dialect.answer_bare

    def _target(self, tool: Tool) -> Target:
        shape = shape_of(tool)
        if tool.format is not None:
            return Target(tool.name, shape, text=as_format(tool.format))
        if tool.custom:
            return Target(tool.name, shape, INPUT)
        if not self._is_bound(tool):
            return Target(tool.name, shape, ANY_ARGUMENTS)
        return Target(tool.name, shape, NO_ARGUMENTS if tool.parameters is None else bound_schema(tool.parameters))

    def _callee(self, tool: Tool) -> Callee:
        """NOTE: its parameters are those of `_target`: a reader must know how the grammar had them written."""
        bound = self.calls is not None and self._is_bound(tool)
        return Callee(shape_of(tool), NO_ARGUMENTS if bound and tool.parameters is None else tool.parameters, bound)

    def _is_bound(self, tool: Tool) -> bool:
        return tool.strict or (self.ask.tools is not None and self.ask.tools.choice == "required")

    def _constraint(self) -> Constraint | None:
        bound, think = self._answer(), self.dialect.think
        if bound is None or think is None or self.thinking == "not":
            return bound
        if self.thinking == "opened":
            if self.dialect.turn:
                bound = structural(sequence(constant(self.dialect.turn), as_format(bound)))
            return replace(bound, after=think.close)
        return structural(after_thoughts(self.dialect, as_format(bound)))

    def _answer(self) -> Constraint | None:
        """What binds the answer behind its thoughts."""
        own, rule = self.ask.constraint, self.ask.tools
        raw = not isinstance(self.ask.prompts[0], ChatPrompt) and self.thinking != "opened"
        if own is not None and self.dialect.answer_opens and not self._goes_on and not raw:
            own = structural(answer(self.dialect, as_format(own)))
        if self.calls is None:
            return own
        if own is None:
            return structural(self.calls)
        if rule is not None and rule.choice == "required":
            field = self.ask.constraint_field
            raise BadRequest(
                f"{field} binds the answer, but tool_choice asks for a tool call: choose one.", param=field
            )
        return structural(either(self.calls, as_format(own)))


def _refuse_calls(field: str) -> NoReturn:
    raise BadRequest(
        f"{field} asks for tool calls of a certain form, but this server was told to read none (--tool-call-parser none).",
        param=field,
    )


def callable_tools(rule: ToolRule | None) -> tuple[Tool, ...]:
    """The tools that the answer may call."""
    if rule is None or rule.choice == "none":
        return ()
    return tuple(tool for tool in rule.tools if rule.allowed is None or tool.name in rule.allowed)


def template_tools(rule: ToolRule | None) -> tuple[dict[str, Any], ...]:
    """The tools as chat templates see them: none if none may be called, one if it is the only one that may."""
    may = callable_tools(rule)
    shown = may if rule is None or len(may) < 2 else rule.tools
    return tuple(_shown(tool) for tool in shown)


def shape_of(tool: Tool) -> ToolShape:
    if not tool.custom:
        return "object"
    return "input" if tool.format is None else "text"


def as_format(constraint: Constraint) -> Format:
    """Any constraint as a part of a structural tag."""
    match constraint.kind:
        case "json_schema":
            return json_text(json.loads(constraint.text))
        case "json_object":
            return json_text({"type": "object"})
        case "regex":
            return {"type": "regex", "pattern": constraint.text}
        case "ebnf":
            return {"type": "grammar", "grammar": constraint.text}
        case "structural_tag":
            tag = json.loads(constraint.text)
            return tag["format"] if "format" in tag else _triggered(tag)


def structural(format: Format) -> Constraint:
    tag = {"type": "structural_tag", "format": format}
    return Constraint(kind="structural_tag", text=json.dumps(tag, ensure_ascii=False))


def speech_of(text: Text, ask: Ask, prompts: Sequence[Sequence[int]]) -> Speech:
    """The speech of an Ask whose prompts are these token ids. Prompts that are no chats are raw text, and so is what
    follows them, but for the thoughts that the Ask may look for in it."""
    dialect, prompt = text.dialect, ask.prompts[0]
    if not isinstance(prompt, ChatPrompt):
        think = None if ask.raw_thoughts == "no" else dialect.think
        opened = think is not None and (ask.raw_thoughts == "first" or _at_end(text, think, prompts[0]) == "opened")
        family = type(dialect) if think else Dialect  # what a family puts around content goes with its thoughts
        return Speech(ask, family(think=think, calls=dialect.calls), "opened" if opened else "not")
    return Speech(ask, dialect, _thinking(text, dialect.think, prompt, prompts[0]) if dialect.think else "not")


def _thinking(text: Text, think: Thoughts, prompt: ChatPrompt, ids: Sequence[int]) -> Thinking:
    if prompt.continue_final_message:
        last = thoughts_apart(text.dialect, prompt.messages[-1])
        if text_of(last.get("content")).strip():
            return "not"
        return "opened" if any(last.get(name) for name in THOUGHTS) else "may"
    said = _at_end(text, think, ids) if prompt.add_generation_prompt else "may"
    return "opened" if said == "may" and think.assumed else said


def _at_end(text: Text, think: Thoughts, ids: Sequence[int]) -> Thinking:
    """What the last tokens of a prompt say."""
    tail = text.decode(ids[-TAIL_TOKENS:], skip_special=False).rstrip()
    if tail.endswith(think.close):
        return "not"
    return "opened" if tail.endswith(think.open.rstrip()) else "may"


def spelled(text: Text, tag: str) -> tuple[int, ...]:
    """A tag's tokens. Some tokenizers put a space before what begins a text, so it is looked at behind something, too."""
    found = tuple(text.encode(tag, add_special=False))
    for before in ("", ".", "\n"):
        head, ids = text.encode(before, add_special=False), text.encode(before + tag, add_special=False)
        rest = tuple(ids[len(head) :])
        if ids[: len(head)] == head and b"".join(map(text.token_bytes, rest)) == tag.encode():
            return rest
    return found


def _shown(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": _described(tool), "parameters": _shown_parameters(tool)}
    return {"type": "function", "function": function}


def _described(tool: Tool) -> str:
    if tool.format is None:
        return tool.description
    return f"{tool.description}\nThe input must match this {tool.format.kind}:\n{tool.format.text}".strip()


def _shown_parameters(tool: Tool) -> Any:
    if tool.custom:
        return INPUT
    return {"type": "object", "properties": {}} if tool.parameters is None else tool.parameters


def _triggered(tag: dict[str, Any]) -> Format:
    """The older form of structural tags in the newer."""
    tags = [
        {"type": "tag", "begin": one["begin"], "content": json_text(one["schema"]), "end": one["end"]}
        for one in tag["structures"]
    ]
    return {"type": "triggered_tags", "triggers": tag["triggers"], "tags": tags}
