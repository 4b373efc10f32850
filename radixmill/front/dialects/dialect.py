"""How a family of models writes thoughts and tool calls: constants only; what reads and writes by them stands beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from radixmill.front.dialects.calls.base import Calls
from radixmill.front.dialects.calls.json_object import JsonObject

CallIds = Literal["ours", "nine", "indexed"]
"""What ids of calls look like.

ours      `call_` and 24 hexadecimal digits
nine      nine letters and digits, all that Mistral's templates take
indexed   `functions.NAME:INDEX`, counted through the conversation, as Kimi K2 writes them itself
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thoughts:
    """The tags of thoughts, and what a family does with them beyond that."""

    open: str = "<think>"
    close: str = "</think>"
    switch: str = ""  # the argument of its chat templates that turns them on and off; "": nothing does
    default: bool = True  # whether they are on where the switch is not set
    assumed: bool = False  # an answer begins with them even where neither prompt nor model opened them
    interleaved: bool = False  # an opening tag behind content begins others
    ended_by_call: bool = False  # a call within them ends them, as if it stood behind the closing tag


class Dialect:
    """One family: a subclass with its constants. Registered in families.py.

        <think>why</think>so<tool_call>
        {"name": "f", "arguments": {"a": 1}}
        </tool_call>

    `Dialect(think, calls)` is a pair of two families.
    """

    reasoning_parsers: tuple[str, ...] = ()  # what users call it: --reasoning-parser
    tool_call_parsers: tuple[str, ...] = ()  # and --tool-call-parser
    think: Thoughts | None = None
    calls: Calls = JsonObject()
    answer_opens: tuple[str, ...] = ()  # before content, where a family marks it; the first is the one of answers
    answer_bare: bool = False  # content stands without them, too
    aside: str = ""  # the one of those that begins content which other parts of the answer follow
    answer_close: str = ""  # behind content
    answer_end: str = ""  # behind the last: a token that ends the answer, in its text only where it was told not to
    turn: str = ""  # between the parts of one answer: thoughts, content and calls
    call_ids: CallIds = "ours"
    efforts: tuple[
        str, ...
    ] = ()  # all that its templates know of `reasoning_effort`; (): what they make of one is theirs
    one_call: bool = False  # a message of its templates has one call, and beside it thoughts or content: see history.py
    example: str = ""  # an answer in the words of the vendor's documentation: see proof.py

    def __init__(self, think: Thoughts | Literal["own"] | None = "own", calls: Calls | None = None) -> None:
        if think != "own":
            self.think = think
        if calls is not None:
            self.calls = calls

    def __repr__(self) -> str:
        return f"{type(self).__name__}(think={self.think}, calls={self.calls})"

    @property
    def tags(self) -> frozenset[str]:
        """What the model writes that splits its text."""
        thoughts = {self.think.open, self.think.close} if self.think else set()
        frames = {*self.answer_opens, self.answer_close, self.answer_end, self.turn}
        return frozenset(thoughts | self.calls.tags | frames) - {""}
