"""Texts of models that came from elsewhere, read by a dialect: no request, no tokens, no state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from radixmill.core.errors import BadRequest
from radixmill.front.dialects import Called, Callee, Dialect, Passed, Rules, Said, Splitter, Thought
from radixmill.front.dialects.proof import Subject
from radixmill.front.session.ask import Tool
from radixmill.front.session.detect import AUTO, FIELDS, families_named, known_names
from radixmill.front.session.speech import shape_of
from radixmill.front.session.text import Text


class Block(NamedTuple):
    """A part of an answer."""

    type: Literal["reasoning", "text"]
    text: str


class Parsed(NamedTuple):
    """A text without its calls, and those: names and arguments, the latter as JSON, or a custom tool's text."""

    text: str
    calls: list[tuple[str, str]]


def dialects_named(text: Text, name: str | None, subject: Subject) -> list[Dialect]:
    """The dialects of a parser; without a name, or for "auto", that of the served model. Raises BadRequest."""
    if name in (None, AUTO):
        return [text.dialect]
    if not (named := families_named(str(name), subject)):
        field, known = FIELDS[subject], ", ".join((AUTO, *known_names(subject)))
        raise BadRequest(f"{field} must be one of {known}.", param=field)
    return [family() for family in named]


def blocks(dialect: Dialect, text: str) -> list[Block]:
    """Thoughts and what is said, in their order.

    Only the text is looked at: it began within thoughts if they close before they open, or where the family always
    begins with them.
    """
    splitter = Splitter(dialect, rules=Rules(opened=_begins_within(dialect, text)))
    pieces = splitter.push(text) + splitter.finish()
    return [Block(kind, "".join(words)) for kind, words in _grouped(pieces)]


def calls(dialects: Sequence[Dialect], tools: Sequence[Tool], text: str) -> Parsed:
    """Calls of these tools, and the rest of the text, thoughts included; by the first of the dialects that finds any."""
    read = [_calls(dialects[0], tools, text)]
    for dialect in dialects[1:]:
        if not read[-1].calls:
            read.append(_calls(dialect, tools, text))
    return read[-1] if read[-1].calls else read[0]


def _calls(dialect: Dialect, tools: Sequence[Tool], text: str) -> Parsed:
    callees = {tool.name: Callee(shape_of(tool), tool.parameters) for tool in tools}
    splitter = Splitter(dialect, callees, Rules(separate=False))
    said: list[str] = []
    made: list[tuple[str, str]] = []
    for piece in splitter.push(text) + splitter.finish():
        match piece:
            case Said(words) | Thought(words):
                said.append(words)
            case Called(name=name):
                made.append((name, ""))
            case Passed(text=more):
                made[-1] = (made[-1][0], made[-1][1] + more)
    return Parsed("".join(said), made)


def _begins_within(dialect: Dialect, text: str) -> bool:
    think = dialect.think
    if think is None or dialect.answer_opens:
        return False
    opens, closes = text.find(think.open), text.find(think.close)
    return think.assumed or (closes >= 0 and not 0 <= opens < closes)


def _grouped(pieces: Sequence[object]) -> Iterator[tuple[Literal["reasoning", "text"], list[str]]]:
    parts = [piece for piece in pieces if isinstance(piece, Said | Thought)]
    for thinks, run in groupby(parts, key=lambda piece: isinstance(piece, Thought)):
        yield "reasoning" if thinks else "text", [piece.text for piece in run]
