"""What tests of dialects share: tools, ways to cut a text, and what must hold of any text's pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from radixmill.front.dialects import (
    FAMILIES,
    Called,
    Callee,
    Dialect,
    Passed,
    Piece,
    Rules,
    Said,
    Splitter,
    Thought,
    joined,
)
from radixmill.front.dialects.calls.base import Begun, Given, Whole
from radixmill.front.dialects.extent import SPACE, read_input
from radixmill.front.dialects.families import DeepSeekR1, Hermes, KimiK2, Llama4, Qwen3Coder, Qwen3Thinking
from radixmill.front.dialects.scan import Malformed, Scan

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
NOTHING = {"type": "object", "properties": {}}
TOOLS = {"get_weather": Callee("object", WEATHER), "now": Callee("object", NOTHING), "note": Callee("input")}
PARIS = ("get_weather", {"city": "Paris", "days": 3})
NOW = ("now", {})


class Qwen3ThinkingCoder(Dialect):
    """Thoughts and calls of two families, as users can name them."""

    think, calls = Qwen3Thinking.think, Qwen3Coder.calls


class DeepSeekR1Hermes(Dialect):
    think, calls = DeepSeekR1.think, Hermes.calls


class KimiK2Pythonic(Dialect):
    think, calls = KimiK2.think, Llama4.calls


MIXED = (Qwen3ThinkingCoder, DeepSeekR1Hermes, KimiK2Pythonic)


def families() -> list[Dialect]:
    """One of each, and some pairs."""
    return [family() for family in (*FAMILIES, *MIXED)]


def name_of(dialect: Dialect) -> str:
    return type(dialect).__name__


@dataclass(frozen=True, slots=True)
class Case:
    """A text and how it is read. `exact`: literals of control tokens; `marks`: where such tokens stand."""

    dialect: Dialect
    text: str
    tools: Mapping[str, Callee] = field(default_factory=lambda: TOOLS)
    rules: Mapping[str, Any] = field(default_factory=dict)
    exact: frozenset[str] = frozenset()
    marks: frozenset[int] = frozenset()

    def splitter(self) -> Splitter:
        return Splitter(self.dialect, self.tools, Rules(**self.rules), exact=self.exact)

    def read(self, cuts: Iterable[int] = ()) -> tuple[list[Piece], Splitter]:
        """Its pieces, pushed in parts that end at `cuts`."""
        splitter, pieces = self.splitter(), list[Piece]()
        for start, stop in pairwise(sorted({0, *cuts, len(self.text)})):
            for mark in self.marks:
                if start <= mark < stop:
                    splitter.mark(mark)
            pieces += splitter.push(self.text[start:stop])
        return together([*pieces, *splitter.finish()]), splitter


def every_char(text: str) -> range:
    return range(len(text))


def together(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces of one kind put together where nothing stands between them."""
    out: list[Piece] = []
    for piece in pieces:
        last = out[-1] if out else None
        if (
            last
            and not isinstance(piece, Called)
            and (isinstance(piece, Passed) or last.end == piece.end - len(piece.text))
        ):
            out[-1:] = joined([last, piece])
        else:
            out.append(piece)
    return out


def plain(pieces: Iterable[Piece]) -> list[tuple[str, ...]]:
    """Without places: ("said", …), ("thought", …), ("call", name, input)."""
    out: list[tuple[str, ...]] = []
    for piece in joined(pieces):
        match piece:
            case Said(text):
                out.append(("said", text))
            case Thought(text):
                out.append(("thought", text))
            case Called(index, name):
                assert index == sum(kind == "call" for kind, *_ in out)
                out.append(("call", name, ""))
            case Passed(_, text):
                out[-1] = (*out[-1][:2], out[-1][2] + text)
    return out


# --- what must hold of any text


def fault(case: Case, cuts: Sequence[Iterable[int]]) -> str:
    """What is wrong with how a text is read, whole and at each of the cuts; "": nothing."""
    pieces, splitter = case.read()
    if wrong := lost(case, pieces, over=splitter.over):
        return wrong
    seen = (pieces, splitter.thought_spans(), splitter.calls, splitter.over, splitter.inside_call)
    for cut in cuts:
        others, other = case.read(cut)
        again = (others, other.thought_spans(), other.calls, other.over, other.inside_call)
        if not other.over and other.scan.text[other.scan.at :]:
            return f"not read to its end: {other.scan.text[other.scan.at :]!r}"
        if again != seen:
            return f"cut at {list(cut)}:\n  {again}\nnot\n  {seen}"
    return ""


def lost(case: Case, pieces: Sequence[Piece], *, over: bool) -> str:
    """What of the text is neither in its pieces nor rightly out of sight, or in them twice."""
    at = 0
    for calls, shown in _parts(pieces):
        start = shown.end - len(shown.text) if shown else len(case.text)
        if shown and case.text[start : shown.end] != shown.text:
            return f"{shown} is not what stands there: {case.text[start : shown.end]!r}"
        if start < at:
            return f"{shown} begins before {at}"
        if any(not at <= call.end <= start for call in calls):
            return f"calls out of place: {calls}"
        if wrong := _hidden(case, at, start, calls, over=over and shown is None):
            return wrong
        at = shown.end if shown else start
    return ""


def _parts(pieces: Sequence[Piece]) -> Iterator[tuple[list[Called | Passed], Said | Thought | None]]:
    """Calls, and the text behind them; None at the end."""
    calls: list[Called | Passed] = []
    for piece in pieces:
        if isinstance(piece, (Called, Passed)):
            calls.append(piece)
        else:
            yield calls, piece
            calls = []
    yield calls, None


def _hidden(case: Case, start: int, stop: int, calls: list[Called | Passed], *, over: bool) -> str:
    """What is wrong where the text has no pieces but calls: there may be nothing but those calls, tags, and white space
    beside them."""
    text, told = case.text[start:stop], [(name, "".join(passed)) for name, passed in _told(calls)]
    scan = Scan(case.exact)
    scan.text, scan.base, scan.last = text, start, True
    for mark in case.marks:
        scan.mark(mark)
    found, tags = _reread(case, scan, told, over=over)
    if over and found[: len(told)] == told:
        return ""
    if found != told or scan.at < len(text):
        return f"{text[scan.at :]!r} of {text!r} is lost, or {found} are not {told}"
    if text and not (tags or found):
        return f"{text!r} is lost"
    if stop < len(case.text) and text[-1:] and text[-1] in SPACE and not _ends_in_tag(case, text):
        return f"the end of {text!r} is lost"
    return ""


def _told(calls: Iterable[Called | Passed]) -> list[tuple[str, list[str]]]:
    told: list[tuple[str, list[str]]] = []
    for piece in calls:
        if isinstance(piece, Called):
            told.append((piece.name, []))
        else:
            told[-1][1].append(piece.text)
    return told


def _ends_in_tag(case: Case, text: str) -> bool:
    return any(text.endswith(tag) for tag in case.dialect.tags)


def _reread(case: Case, scan: Scan, told: list[Any], *, over: bool) -> tuple[list[tuple[str, str]], int]:
    """Calls and how many tags stand from here on, up to where something else does."""
    found: list[tuple[str, str]] = []
    tags, gaps = 0, SPACE + case.dialect.calls.between
    closers = case.dialect.tags | ({case.dialect.calls.run_close} - {""})
    while scan.at < len(scan.text) and not (over and len(found) >= len(told)):
        at = scan.at
        if len(found) < len(told) and (more := _calls(case, scan) or _calls(case, scan, inside=True)):
            found += more
        elif tag := max((tag for tag in closers if scan.stands(tag, at)), key=len, default=""):
            tags, scan.at = tags + 1, at + len(tag)
        elif scan.text[at] in gaps:
            scan.at += 1
        elif _half_closed(case, scan):
            scan.at = len(scan.text)
        else:
            break
    return found, tags


def _half_closed(case: Case, scan: Scan) -> bool:
    """Whether the answer ends within what closes its last call."""
    rest = scan.text[scan.at :]
    calls = case.dialect.calls
    ended = scan.base + len(scan.text) == len(case.text)
    return ended and any(tag.startswith(rest) for tag in (calls.call.close, calls.run_close) if tag)


def _calls(case: Case, scan: Scan, *, inside: bool = False) -> list[tuple[str, str]]:
    """The calls that stand here, read again; the scan is behind them. [], and it has not moved: none. `inside`: behind
    others of their section."""
    start = end = scan.at
    whole: list[tuple[str, str]] = []
    kept: list[tuple[str, str]] = []
    try:
        for found in case.dialect.calls.read(scan, case.tools, inside=inside):
            match found:
                case Begun(name):
                    kept.append((name, ""))
                case Given(text):
                    kept[-1] = (kept[-1][0], kept[-1][1] + text)
                case Whole():
                    if any(name not in case.tools for name, _ in kept):
                        break
                    whole, kept, end = [*whole, *(_input(case, *call) for call in kept)], [], scan.at
        else:
            end = scan.at
    except Malformed:
        pass
    scan.at = end if whole else start
    return whole


def _input(case: Case, name: str, text: str) -> tuple[str, str]:
    return name, (read_input(text) or "") if case.tools[name].shape == "input" else text
