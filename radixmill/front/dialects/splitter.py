"""Raw text of a model → content, thoughts and tool calls, in any portions. Knows nothing of tokens or requests.

            ┌──────── think ◀── head ◀─┐ (opener)
            ▼                          │
    gap: nothing visible since the beginning, the thoughts or a call ──▶ content: the rest
            ▲                          │ (opener)                           │ (opener)
            └─ tail ◀─ object | text ◀─┴───────────── call ◀────────────────┘
                                                       └──▶ broken: raw text, to the closing tag or the next opener

- Thoughts end at the first closing tag; without one all is thought. Their opener counts only while nothing visible
  stands before it, and once; a repeated one at the head of thoughts is dropped.
- A call counts if it is JSON with the name of a known tool and, as far as it says, an object as arguments. It is given
  when it is whole. Everything else in tags is content, exactly as it was written.
- Where a grammar guarantees calls (`guaranteed`), arguments are given while they come, and a call that is cut off before
  they begin is left out. Where it allows nothing else (`only_calls`), so is an opener that is cut off.
- White space inside the tags, and between them and the next tag or the end, goes with them; all other stays.

What comes out does not depend on the portions that go in, but for where one kind of piece is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from radixmill.front.dialects.call import SPACE, Draft, Extent, Written, read_call, read_input
from radixmill.front.dialects.dialect import Dialect, ToolShape


class Said(NamedTuple):
    """Content. `end`, as of every piece: characters of the raw text up to here."""

    text: str
    end: int


class Thought(NamedTuple):
    """Thoughts, without their tags."""

    text: str
    end: int


class Called(NamedTuple):
    """Call number `call` begins. `custom`: its input is text, not JSON."""

    call: int
    name: str
    custom: bool
    end: int


class Passed(NamedTuple):
    """More of the input of that call."""

    call: int
    text: str
    end: int


Piece = Said | Thought | Called | Passed


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces of one kind that follow each other put together."""
    out: list[Piece] = []
    for piece in pieces:
        last = out[-1] if out else None
        match last, piece:
            case (Said(text), Said(more, end)):
                out[-1] = Said(text + more, end)
            case (Thought(text), Thought(more, end)):
                out[-1] = Thought(text + more, end)
            case (Passed(call, text), Passed(same, more, end)) if call == same:
                out[-1] = Passed(call, text + more, end)
            case _:
                out.append(piece)
    return out


_Pieces = list[Piece]


class Splitter:
    """Cuts one raw text. `push` every portion, then `finish` once.

    `tools`: the names that may be called, and how each takes its input; none: calls are text. `opened`: the prompt
    ended within thoughts. `separate=False`: thoughts are content, tags and all. `whole_thoughts`: they come in one piece.
    """

    def __init__(
        self,
        dialect: Dialect,
        tools: Mapping[str, ToolShape] | None = None,
        *,
        opened: bool = False,
        separate: bool = True,
        whole_thoughts: bool = False,
        guaranteed: bool = False,
        only_calls: bool = False,
    ) -> None:
        self.dialect, self.tools = dialect, dict(tools or {})
        self.calls = 0  # begun
        self.thinking = opened
        self.thoughts_end: int | None = None if dialect.think_close else 0  # raw characters, closing tag included
        self._opener = dialect.think_open
        self._call_open = dialect.call_open if self.tools else ""
        self._separate, self._whole_thoughts = separate, whole_thoughts and separate
        self._thoughts: list[str] = []  # kept until they are whole
        self._heads = _heads(dialect, self.tools) if guaranteed else {}
        self._begun = [dialect.head(name, shape) for name, shape in self.tools.items()] if guaranteed else []
        self._only_calls = guaranteed and only_calls
        self._held, self._at = "", 0  # text not yet given, and where it begins in the raw text
        self._draft, self._extent = Draft(0), Extent()
        self._last = False
        self._state: Callable[[], _Pieces | None] = self._in_head if opened else self._in_gap

    @property
    def between_calls(self) -> bool:
        """Whether a call has ended and nothing stands behind it yet."""
        return self.calls > 0 and self._state == self._in_gap

    @property
    def inside_call(self) -> bool:
        """Whether a call was begun and its input is not all there."""
        return self._state in (self._in_object, self._in_text)

    def push(self, text: str) -> _Pieces:
        """Pieces that are certain."""
        self._held += text
        pieces: _Pieces = []
        while (self._held or self._last) and (more := self._state()) is not None:
            pieces += more
        return pieces

    def finish(self) -> _Pieces:
        """What is left when no more comes."""
        self._last = True
        pieces = self.push("")
        if self.thoughts_end is None:
            self.thoughts_end = self._at if self.thinking else 0
        return pieces

    # Each state gives pieces and has moved on, or None: it needs more text.

    def _in_gap(self) -> _Pieces | None:
        body = self._held.lstrip(SPACE)
        space = len(self._held) - len(body)
        if self._opener and body.startswith(self._opener):
            return self._open_thoughts(space)
        if self._call_open and body.startswith(self._call_open):
            self._skip(space)
            return self._open_call()
        if not self._last and (body == "" or self._may_become(body, self._opener, self._call_open)):
            return None if self._opener or self._call_open else self._go(self._in_content)
        if self._last and self._only_calls and self._may_become(body, self._opener, self._call_open):
            return self._leave_out()
        if body == "" and self.calls:
            self._skip(space)
        return self._go(self._in_content)

    def _in_head(self) -> _Pieces | None:
        if not self._separate or not self._opener:
            return self._go(self._in_thoughts)
        body = self._held.lstrip(SPACE)
        if body.startswith(self._opener):
            self._skip(len(self._held) - len(body) + len(self._opener))
            return []
        if not self._last and (body == "" or self._may_become(body, self._opener)):
            return None
        return self._go(self._in_thoughts)

    def _in_thoughts(self) -> _Pieces | None:
        close = self.dialect.think_close
        at = self._held.find(close)
        if at < 0:
            return self._thought(self._free(close))
        pieces = (self._thought(at) or []) + self._thoughts_kept()
        if self._separate:
            self._skip(len(close))
        else:
            pieces += self._said(len(close))
        self._end_thoughts(self._at)
        return pieces

    def _in_content(self) -> _Pieces | None:
        if self.thoughts_end is None:
            self._end_thoughts(0)
        if not self._call_open:
            return self._said(len(self._held)) or None
        at = self._held.find(self._call_open)
        if at < 0:
            return self._said(self._free(self._call_open)) or None
        return self._said(at) + self._open_call()

    def _in_call(self) -> _Pieces | None:
        if self._heads:
            for head, name in self._heads.items():
                if self._held.startswith(head):
                    return self._begin(name, head)
            if not self._last and self._may_become(self._held, *self._heads):
                return None
        if self._last and self._may_become(self._held, *self._begun):
            return self._leave_out()
        return self._whole_call()

    def _in_object(self) -> _Pieces | None:
        if not self._extent.depth:
            self._skip(len(self._held) - len(self._held.lstrip(SPACE)))
        at, verdict = self._extent.feed(self._held)
        pieces = self._passed(at)
        if verdict == "more":
            return pieces or None
        return pieces + self._go(self._in_tail if verdict == "done" else self._in_content)

    def _in_text(self) -> _Pieces | None:
        close = self.dialect.tail("text")
        at = self._held.find(close)
        if at < 0:
            return self._passed(self._free(close)) or None
        pieces = self._passed(at)
        self._skip(len(close))
        return pieces + self._go(self._in_gap)

    def _in_tail(self) -> _Pieces | None:
        """Behind arguments that were given while they came: the rest of the call's JSON and its closing tag."""
        rest, close = self._held.lstrip(SPACE), self.dialect.call_close
        if rest.startswith("}"):
            rest = rest[1:].lstrip(SPACE)
        if not self._last and (rest == "" or self._may_become(rest, close)):
            return None
        if rest.startswith(close) or (self._last and close.startswith(rest)):
            self._skip(len(self._held) - len(rest[len(close) :]))
            return self._go(self._in_gap)
        return self._go(self._in_content)

    def _in_broken(self) -> _Pieces | None:
        opener, close = self.dialect.call_open, self.dialect.call_close
        at, end = (self._held.find(tag) for tag in (opener, close))
        if end >= 0 and not 0 <= at < end:
            return self._said(end + len(close)) + self._go(self._in_content)
        if at >= 0:
            return self._said(at) + self._open_call()
        return self._said(self._free(opener, close)) or None

    # What the states do.

    def _go(self, state: Callable[[], _Pieces | None]) -> _Pieces:
        self._state = state
        return []

    def _skip(self, length: int) -> None:
        self._held, self._at = self._held[length:], self._at + length

    def _leave_out(self) -> _Pieces:
        """All that is held, at the end: the beginning of a call that never came."""
        self._skip(len(self._held))
        return self._go(self._in_content)

    def _take(self, length: int) -> str:
        text = self._held[:length]
        self._skip(length)
        return text

    def _free(self, *tags: str) -> int:
        """How much of the held text can't be the beginning of a tag."""
        held = self._held
        if self._last:
            return len(held)
        return min(_beginning(held, tag) for tag in tags)

    @staticmethod
    def _may_become(text: str, *tags: str) -> bool:
        return any(len(text) < len(tag) and tag.startswith(text) for tag in tags)

    def _said(self, length: int) -> _Pieces:
        return [Said(self._take(length), self._at)] if length else []

    def _passed(self, length: int) -> _Pieces:
        return [Passed(self.calls - 1, self._take(length), self._at)] if length else []

    def _thought(self, length: int) -> _Pieces | None:
        if not self._separate:
            return self._said(length) or None
        if self._whole_thoughts:
            self._thoughts.append(self._take(length))
            return self._thoughts_kept() or None if self._last else None
        return [Thought(self._take(length), self._at)] if length else None

    def _thoughts_kept(self) -> _Pieces:
        kept, self._thoughts = "".join(self._thoughts), []
        return [Thought(kept, self._at)] if kept else []

    def _open_thoughts(self, space: int) -> _Pieces:
        self.thinking = True
        self._state = self._in_head
        if not self._separate:
            return self._said(space + len(self._opener))
        self._skip(space + len(self._opener))
        return []

    def _end_thoughts(self, end: int) -> None:
        self.thinking, self.thoughts_end, self._opener = False, end, ""
        if end:
            self._state = self._in_gap

    def _open_call(self) -> _Pieces:
        if self.thoughts_end is None:
            self._end_thoughts(0)
        self._draft = Draft(len(self._call_open))
        return self._go(self._in_call)

    def _begin(self, name: str, head: str) -> _Pieces:
        self._skip(len(head))
        self._extent = Extent()
        self._state = self._in_text if self.tools[name] == "text" else self._in_object
        return [self._called(name, self._at)]

    def _called(self, name: str, end: int) -> Called:
        self.calls += 1
        return Called(self.calls - 1, name, self.tools[name] != "object", end)

    def _whole_call(self) -> _Pieces | None:
        """A call that is given when all of it is there."""
        verdict = self._draft.read(self._held)
        if verdict == "more":
            return self._break(len(self._held)) if self._last else None
        end = self._draft.at
        written = None
        if verdict == "done":
            names = self.dialect.name_key, self.dialect.arguments_key
            written = read_call(self._held[self._draft.start : end], *names)
        if written is None or (shape := self.tools.get(written.name)) is None:
            return self._break(end)
        if shape == "text" and written.start is None:
            return self._open_text(written.name, end)
        return self._close_call(written, shape, end)

    def _open_text(self, name: str, end: int) -> _Pieces | None:
        gap = self.dialect.gap
        if self._held.startswith(gap, end):
            return self._begin(name, self._held[: end + len(gap)])
        return None if self._may_become(self._held[end:], gap) and not self._last else self._break(end)

    def _close_call(self, written: Written, shape: ToolShape, end: int) -> _Pieces | None:
        rest, close = self._held[end:].lstrip(SPACE), self.dialect.call_close
        if not rest.startswith(close) and not (self._last and close.startswith(rest)):
            return None if not rest or self._may_become(rest, close) else self._break(end)
        start = end if written.start is None else self._draft.start + written.start
        stop = end if written.end is None else self._draft.start + written.end
        given = self._held[start:stop] or "{}"
        text = given if shape == "object" else read_input(given)
        if text is None:
            return self._break(end)
        pieces: _Pieces = [self._called(written.name, self._at + start)]
        if text:
            pieces.append(Passed(self.calls - 1, text, self._at + stop))
        self._skip(len(self._held) - len(rest[len(close) :]))
        return pieces + self._go(self._in_gap)

    def _break(self, end: int) -> _Pieces:
        """The held text up to `end` is no call."""
        self._state = self._in_broken
        return self._said(end)


def _beginning(text: str, tag: str) -> int:
    """Where a part of `tag` begins that ends with the text; the text's length if none does."""
    at = text.find(tag[0], max(len(text) - len(tag) + 1, 0))
    while at >= 0 and not tag.startswith(text[at:]):
        at = text.find(tag[0], at + 1)
    return len(text) if at < 0 else at


def _heads(dialect: Dialect, tools: Mapping[str, ToolShape]) -> dict[str, str]:
    """What begins a call whose input can be given while it comes → its name."""
    return {dialect.head(name, shape): name for name, shape in tools.items() if shape != "input"}
