"""Raw text of a model → content, thoughts and tool calls, in any portions. Knows nothing of tokens or requests.

            ┌────────── thoughts ◀─┐ (opening tag)
            ▼                      │
    gap: nothing visible since the beginning, the thoughts or a call ──▶ content: the rest
            ▲                      │ (opening tag)                        │ (opening tag)
            └───────── calls ◀─────┴──────────────────────────────────────┘
                         └──▶ broken: raw text, to the closing tag or the next opening tag

- Thoughts end at the first closing tag; without one all is thought. Their opener counts only while nothing visible
  stands before it, and once, unless the family interleaves thoughts and content; a repeated one at the head of thoughts
  is dropped. A whole call within thoughts ends them where the family says so.
- A call counts if its form is right, its tool known, and its arguments an object. It is given when it is whole.
  Everything else in tags is content, exactly as it was written.
- Where a grammar guarantees calls (`guaranteed`), arguments are given while they come, and a call that is cut off before
  its name is whole is left out. Where it allows nothing else (`only_calls`), so is an opener that is cut off. Where it
  allows them only in place of content (`calls_first`), none are looked for once content was begun.
- Tags that a family puts around content are dropped, unless thoughts are content, too. One that stands between the parts
  of an answer ends the part before it.
- White space inside the tags, and between them and the next tag or the end, goes with them; all other stays.

What comes out does not depend on the portions that go in, but for where one kind of piece is cut.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from radixmill.front.dialects.calls.base import Begun, Callee, Found, Given, Known, Whole
from radixmill.front.dialects.dialect import Dialect
from radixmill.front.dialects.extent import behind_space, read_input
from radixmill.front.dialects.pieces import Called, Passed, Piece, Said, Thought
from radixmill.front.dialects.scan import Malformed, Scan, Steps

_Pieces = list[Piece]
_Kept = list[tuple[Found, int]]  # what a reader found, and where the raw text stood then


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How one answer is read."""

    opened: bool = False  # the prompt ended within thoughts
    separate: bool = True  # else thoughts are content, tags and all; what is a call does not depend on it
    whole_thoughts: bool = False  # they come in one piece
    guaranteed: bool = False  # a grammar sees to it that what begins like a call is one
    only_calls: bool = False  # and that nothing else is there
    calls_first: bool = False  # calls stand before all content, or nowhere
    one_call: bool = False  # nothing comes behind the first call


class Splitter:
    """Cuts one raw text. `push` every portion, then `finish` once.

    `tools`: the names that may be called; none: calls are text. `exact`: literals of control tokens; tags that have one in
    them are found only where such a token was marked.
    """

    def __init__(
        self,
        dialect: Dialect,
        tools: Mapping[str, Callee] | None = None,
        rules: Rules = Rules(),
        *,
        exact: Iterable[str] = (),
    ) -> None:
        self.dialect, self.tools = dialect, dict(tools or {})
        self.calls = 0  # begun
        self.over = False  # nothing more will be given
        self.inside_call = False  # one was begun, and its input is not all there
        self.spans: list[tuple[int, int]] = []  # of thoughts in the raw text, tags included
        self.thinking = False
        self.scan = Scan(exact)
        self.mark = self.scan.mark
        self.rules = rules
        self._content_begun = False
        self._behind_calls = False  # whether a call is the last that was read, besides tags and space
        self._since = 0  # where the thoughts at hand begin
        self._pieces: _Pieces = []
        self._thoughts: list[str] = []  # kept until they are whole
        self._thought_at = 0  # where the last of them ends
        self._parts = self._answer()

    def thought_spans(self) -> list[tuple[int, int]]:
        """Where thoughts stand in the raw text, those at hand included."""
        end = self.scan.base + len(self.scan.text)
        return [*self.spans, (self._since, end)] if self.thinking else self.spans

    def push(self, text: str) -> _Pieces:
        """Pieces that are certain."""
        if not self.over:
            self.scan.push(text)
            next(self._parts, None)
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> _Pieces:
        """What is left when no more comes."""
        self.scan.last = True
        return self.push("")

    # --- the parts of an answer

    def _answer(self) -> Generator[None, None, None]:
        if self.rules.opened and self.dialect.think:
            yield from self._think()
            yield from self._gap(again=True)
        else:
            yield from self._gap(again=False)
        while not self._at_end:
            yield from self._content()
            yield from self._gap(again=True)

    @property
    def _at_end(self) -> bool:
        return self.over or (self.scan.last and self.scan.at == len(self.scan.text))

    def _gap(self, *, again: bool) -> Steps[None]:
        """Thoughts and calls that nothing visible stands before; to where content begins."""
        opener = self._reopener if again else self._opener
        frames = {*self.dialect.answer_opens, self.dialect.turn}
        while not self.over:
            at, tag = yield from self._behind_space((opener, *frames, *self._call_openers(start=True)))
            if not tag:
                return
            if tag == opener:
                yield from self._open_thoughts(at)
            elif tag in frames:
                self._frame(at + len(tag) - self.scan.at)
                if tag != self.dialect.turn:
                    return
            elif not (yield from self._calls(tag, gap=at - self.scan.at)):
                return
            opener = self._reopener

    def _content(self) -> Steps[None]:
        closers, turn = (self.dialect.answer_close, self.dialect.answer_end), self.dialect.turn
        calls = () if self.rules.calls_first else self._call_openers()
        openers = [tag for tag in (*closers, turn, self._reopener, *calls) if tag]
        while not self.over:
            at, tag = self.scan.seek(openers, self.scan.at)
            self._content_begun |= at > self.scan.at
            self._said(at - self.scan.at)
            if tag and tag in (*closers, turn):
                return self._frame(len(tag)) if tag in closers else None
            if tag == self._reopener and tag:
                return (yield from self._open_thoughts(self.scan.at))
            if tag and (yield from self._calls(tag)):
                return None
            if not tag and self.scan.last:
                return None
            if not tag:
                yield
        return None

    # --- thoughts

    @property
    def _opener(self) -> str:
        return self.dialect.think.open if self.dialect.think else ""

    @property
    def _reopener(self) -> str:
        """What begins thoughts behind something else."""
        return self.dialect.think.open if self.dialect.think and self.dialect.think.interleaved else ""

    def _open_thoughts(self, at: int) -> Steps[None]:
        """Their opening tag stands at `at`, behind white space."""
        self._since = self.scan.position
        self._frame(at + len(self._opener) - self.scan.at)
        yield from self._think()

    def _think(self) -> Steps[None]:
        """Behind their opening tag, to behind what ends them."""
        think = self.dialect.think
        assert think is not None
        self.thinking, self._behind_calls = True, False
        if self.rules.separate:
            yield from self._skip_openers(think.open)
        enders = self._call_openers() if think.ended_by_call and not self.rules.guaranteed else ()
        enders = tuple(filter(None, (think.close, self.dialect.turn, *enders)))
        while self.thinking:
            at, tag = self.scan.seek(enders, self.scan.at)
            self._thought(at - self.scan.at)
            if tag and tag in (think.close, self.dialect.turn):
                self._close_thoughts(len(tag) if tag == think.close else 0)
            elif tag:
                yield from self._call_within(tag)
            elif self.scan.last:
                self._thoughts_kept()
                return
            else:
                yield

    def _skip_openers(self, opener: str) -> Steps[None]:
        """Behind opening tags that repeat the first."""
        while True:
            at, tag = yield from self._behind_space((opener,))
            if not tag:
                return
            self._skip(at + len(tag) - self.scan.at)

    def _close_thoughts(self, length: int) -> None:
        """Their closing tag, `length` characters of the text, or what else ends them, is next."""
        self._thoughts_kept()
        self._frame(length)
        self.thinking = False
        self.spans.append((self._since, self.scan.position))

    def _call_within(self, tag: str) -> Steps[None]:
        """What begins like a call ends the thoughts if it is one; else it is of them."""
        end, begun = self.scan.position, self.calls
        if (yield from self._calls(tag, within=True)) or self.calls > begun:
            self.thinking = False
            self.spans.append((self._since, end))
        else:
            self._thought(len(tag))

    def _thought(self, length: int) -> None:
        if not self.rules.separate:
            return self._said(length)
        text, self._thought_at = self._take(length), self.scan.position
        if self.rules.whole_thoughts:
            self._thoughts.append(text)
        elif text:
            self._pieces.append(Thought(text, self.scan.position))
        return None

    def _thoughts_kept(self) -> None:
        kept, self._thoughts = "".join(self._thoughts), []
        if kept:
            self._pieces.append(Thought(kept, self._thought_at))

    # --- calls

    def _call_openers(self, *, start: bool = False) -> tuple[str, ...]:
        """What begins calls; `start`: where nothing visible stands before."""
        calls = self.dialect.calls
        if not self.tools or (self.rules.calls_first and self._content_begun):
            return ()
        return (*calls.openers, *self._first_openers()) if start else calls.openers

    def _first_openers(self) -> tuple[str, ...]:
        """Where a grammar guarantees calls, only what it has written."""
        calls = self.dialect.calls
        if not self.rules.guaranteed:
            return calls.first_openers
        return () if self.rules.calls_first else tuple(filter(calls.head("").startswith, calls.first_openers))

    def _calls(self, tag: str, *, gap: int = 0, within: bool = False) -> Steps[bool]:
        """The calls that begin here with `tag`; whether what follows stands behind calls, not behind text.

        `gap`: white space before them, which goes with them; it is text if the first is none. `within` thoughts: if the
        first is none, nothing is given and the scan has not moved.
        """
        self.scan.at += gap
        inside = False
        while True:
            begun, before = self.calls, self.scan.position
            broken = yield from self._run(inside)
            if broken is None:
                if self.rules.only_calls and self.scan.last:
                    self._leaves_out()
                return not inside or self.scan.position > before
            if within and begun == self.calls:
                return False
            if self._leaves_out():
                return False
            moved = inside or begun < self.calls
            if not moved:
                self.scan.at -= gap
            self._said(broken.length if moved else gap + max(broken.length, len(tag)))
            if not broken.whole:
                yield from self._broken()
            inside = moved
            if not inside or not self.dialect.calls.run_close:
                return False

    def _run(self, inside: bool) -> Steps[_Broken | None]:
        """Read calls and give those that are whole. The scan stands behind the last of them."""
        kept: _Kept = []
        start = self.scan.at
        try:
            for found in self.dialect.calls.read(self.scan, self.tools, inside=inside):
                if found is None:
                    yield
                    continue
                whole = isinstance(found, Whole)
                _keep(kept, found, self.scan.position)
                if whole or self._streams(kept):
                    if not self._give(kept):
                        return self._back_to(start, whole=True)
                    start, kept, self.inside_call, self._behind_calls = self.scan.at, [], not whole, whole
                if whole and self.rules.one_call:
                    self.over = True
                    break
        except Malformed:
            return self._back_to(start, whole=False)
        return None

    def _back_to(self, start: int, *, whole: bool) -> _Broken:
        length, self.scan.at = self.scan.at - start, start
        return _Broken(length, whole)

    def _streams(self, kept: _Kept) -> bool:
        """Whether this part of a call can be given before it is whole."""
        if not (self.rules.guaranteed and kept):
            return False
        match kept[0][0]:
            case Begun(name):
                return name in self.tools and self.tools[name].shape != "input"
            case _:
                return True

    def _give(self, kept: _Kept) -> bool:
        """Give calls, or a part of one; False, and nothing is given, where one is none of ours."""
        pieces: list[Called | Passed] = []
        call, shape = self.calls - 1, ""
        for found, end in _together(kept):
            match found:
                case Given(text):
                    given = read_input(text) if shape == "input" else text
                    if given is None:
                        return False
                    if given:
                        pieces.append(Passed(call, given, end))
                case Begun(name, id):
                    if name not in self.tools:
                        return False
                    call, shape = call + 1, self.tools[name].shape
                    pieces.append(Called(call, name, shape != "object", end, id))
        if self.rules.one_call:
            pieces, call = [piece for piece in pieces if piece.call == 0], 0
        self._thoughts_kept()
        self._pieces += pieces
        self.calls = call + 1
        return True

    def _leaves_out(self) -> bool:
        """At the end, where a grammar guaranteed calls: drop what was begun of one and never came."""
        if not (self.rules.guaranteed and self.scan.last):
            return False
        rest = self.scan.text[self.scan.at :]
        begun = self.dialect.calls.is_begun
        if not self.inside_call and not any(begun(rest, name, tool.shape) for name, tool in self.tools.items()):
            return False
        self._skip(len(rest))
        return True

    def _broken(self) -> Steps[None]:
        """Raw text of what is no call: to behind its closing tag, or to where another begins."""
        calls = self.dialect.calls
        if not calls.closer:
            return
        stops = {*calls.openers, calls.call.open or calls.closer, self.dialect.turn or calls.closer}
        while True:
            at, tag = self.scan.seek((calls.closer, *stops), self.scan.at)
            self._said(at - self.scan.at)
            if tag == calls.closer:
                self._said(len(tag))
            if tag or self.scan.last:
                return
            yield

    # --- the text

    def _behind_space(self, tags: Iterable[str]) -> Steps[tuple[int, str]]:
        """Where the white space here ends, and which of the tags stands there; "": none, the scan has not moved."""
        tags, at = [tag for tag in tags if tag], self.scan.at
        while tags:
            at = behind_space(self.scan.text, at)
            if not any(self.scan.may_stand(tag, at) for tag in tags):
                tag = max((tag for tag in tags if self.scan.stands(tag, at)), key=len, default="")
                if not tag and self.scan.last:
                    self._skip_rest(self.scan.text[at:], tags)
                return at, tag
            yield
        return self.scan.at, ""

    def _skip_rest(self, rest: str, tags: list[str]) -> None:
        """At the end: white space behind calls, and where nothing but calls may stand the beginning of one."""
        begun = self.rules.only_calls and any(tag.startswith(rest) for tag in tags)
        if (not rest and self._behind_calls) or begun:
            self._skip(len(self.scan.text) - self.scan.at)

    def _frame(self, length: int) -> None:
        """A tag around thoughts or content, or between the parts of an answer."""
        if self.rules.separate:
            self._skip(length)
        else:
            self._said(length)

    def _skip(self, length: int) -> None:
        self.scan.at += length
        self.scan.drop()

    def _take(self, length: int) -> str:
        scan = self.scan
        text = scan.text[scan.at : scan.at + length]
        scan.at += length
        scan.drop()
        return text

    def _said(self, length: int) -> None:
        if length:
            self._behind_calls = False
            text = self._take(length)
            self._pieces.append(Said(text, self.scan.position))


class _Broken(NamedTuple):
    """The text from here is no call. `length`: characters up to what was wrong; `whole`: they are a call, but not ours."""

    length: int
    whole: bool


def _keep(kept: _Kept, found: Found, end: int) -> None:
    match found:
        case Given() | Begun():
            kept.append((found, end))
        case Known(id):
            _know(kept, id)


def _together(kept: _Kept) -> _Kept:
    """Texts of one call put together."""
    if len(kept) == 1:  # as where they are given while they come
        return kept
    out: _Kept = []
    for given, group in groupby(kept, lambda one: isinstance(one[0], Given)):
        ones = list(group)
        if given:
            ones = [(Given("".join(found.text for found, _ in ones if isinstance(found, Given))), ones[-1][1])]
        out += ones
    return out


def _know(kept: _Kept, id: str) -> None:
    """The last call that was begun has this id; if it was given already, the one that it has stays."""
    for i, (found, end) in reversed(list(enumerate(kept))):
        if isinstance(found, Begun):
            kept[i] = found._replace(id=id), end
            return
