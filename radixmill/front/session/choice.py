"""One sequence's tokens → text and events. Knows nothing of requests, streams or HTTP.

tokens ──decoder──▶ text ──stop scanner──▶ released text ──splitter──▶ content, thoughts, calls
   └──── held until the piece that their text begins in is made ──────────┘

The text of tags belongs to no piece: its tokens ride on the next one, those of the last tags on the last event.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

from radixmill.core.messages import End as EngineEnd
from radixmill.core.messages import TokenDelta, TokenLogprob
from radixmill.front.dialects import Called, CallIds, Passed, Piece, Said, Splitter, Thought, joined
from radixmill.front.session.events import Arguments, Call, Content, End, Event, FinishReason, Reasoning, Token
from radixmill.front.text import StopScanner, TextDecoder


class Shown(Struct, frozen=True, kw_only=True):
    """What of a sequence is told, and how."""

    request: str = ""  # what ids of calls are made from
    scan_after: int = 0  # output tokens whose text is not searched for stop strings (min_tokens)
    keep_stop: bool = False  # a token that ends the sequence is shown; whether a stop string is, the scanner knows
    keep_tokens: bool = False  # events carry the tokens behind their text


class Trace:
    """What a record needs of one sequence: the tokens that count, what is known of them, and the engine's end if it told one
    before the text was over."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.end: EngineEnd | None = None


class Choice:
    """The fold of one sequence. `push` every delta; after `ended` there is nothing more to say."""

    def __init__(
        self,
        index: int,
        decoder: TextDecoder,
        scanner: StopScanner | None,
        splitter: Splitter | None = None,
        shown: Shown = Shown(),
        *,
        tags: Mapping[int, str] = MappingProxyType({}),
        trace: Trace | None = None,
    ) -> None:
        """`tags`: control tokens that tags of the splitter have in them → their literals. `trace`: None, if nobody wants
        a record."""
        self.index, self.decoder, self.scanner, self.splitter = index, decoder, scanner, splitter
        self.shown, self.tags, self.trace = shown, tags, trace
        self.counted = 0  # output tokens, those that ended the text included
        self.cached: int | None = None  # prompt tokens found in the cache at the first admission
        self.ended = False
        self.logprob_sum = 0.0
        self.decoded = 0  # characters out of the decoder
        self.released = 0  # characters out of the scanner: decoded, less what it holds or cut
        self.held: deque[Token] = deque()
        self._pieces: list[Piece] = []  # of the delta at hand
        self._last: Event = Content(index, "")
        self._begins: list[int] = []  # where tokens begin, if they may be of thoughts

    @property
    def mean_logprob(self) -> float:
        """Per counted token; best_of ranks by it."""
        return self.logprob_sum / self.counted if self.counted else -math.inf

    @property
    def reasoning(self) -> int:
        """Counted tokens of thoughts, their closing tag included."""
        if self.splitter is None:
            return 0
        spans = self.splitter.thought_spans()
        return sum(bisect_left(self._begins, end) - bisect_left(self._begins, start) for start, end in spans)

    def push(self, delta: TokenDelta) -> tuple[Event, ...]:
        """Events of one delta; the last of all is an End."""
        if self.cached is None:
            self.cached = delta.cached
        over, matched = self._read(delta)
        if over:
            return self._close("stop", matched)
        if delta.end is not None:
            return self._engine_end(delta.end)
        return self._events(flush=False)

    def _read(self, delta: TokenDelta) -> tuple[bool, str | None]:
        """Take the delta's tokens, up to the one that ends the text; whether one did, and the stop string if it was one."""
        last = len(delta.tokens) - 1
        for i, token in enumerate(delta.tokens):
            self._count(token, delta.logprobs[i] if delta.logprobs else None)
            if i == last and self._is_unseen(token, delta.end):
                break
            text, matched = self._scan(self._decode(token))
            self._release(text)
            if matched is not None or self._has_called():
                return True, matched
        return False, None

    def _is_unseen(self, token: int, end: EngineEnd | None) -> bool:
        """Whether this token ended the sequence and stays out of the text."""
        return end is not None and end.token == token and not self.shown.keep_stop

    def _has_called(self) -> bool:
        return self.splitter is not None and self.splitter.over

    def _count(self, token: int, logprob: TokenLogprob | None) -> None:
        self.counted += 1
        if logprob is not None:
            self.logprob_sum += logprob.logprob
        if self.trace is not None:
            self.trace.ids.append(token)
            self.trace.logprobs += () if logprob is None else (logprob,)
        if self.shown.keep_tokens:
            self.held.append(Token(token, self.decoded, logprob))
        if self.splitter is not None and self.splitter.dialect.think:
            self._begins.append(self.decoded)

    def _decode(self, token: int) -> str:
        text = self.decoder.push((token,))
        self.decoded += len(text)
        if self.splitter is not None and (literal := self.tags.get(token)):
            self.splitter.mark(self.decoded - len(literal))
        return text

    def _scan(self, text: str) -> tuple[str, str | None]:
        if self.scanner is None or not text or self.counted <= self.shown.scan_after:
            return text, None
        return self.scanner.push(text)

    def _release(self, text: str) -> None:
        self.released += len(text)
        if self.splitter is not None:
            self._pieces += self.splitter.push(text)
        elif text:
            self._pieces.append(Said(text, self.released))

    def _engine_end(self, end: EngineEnd) -> tuple[Event, ...]:
        if self.cached is None:
            self.cached = end.usage.cached
        if self.trace is not None:
            self.trace.end = end
        self.counted = max(self.counted, end.usage.completion)
        tail = self.decoder.finish()
        self.decoded += len(tail)
        text, matched = self._scan(tail)
        if matched is None and self.scanner is not None:
            text += self.scanner.finish()
        self._release(text)
        return self._close("stop", matched) if matched is not None else self._close(_REASONS[end.reason], end.token)

    def _close(self, reason: FinishReason, matched: str | int | None) -> tuple[Event, ...]:
        self.ended = True
        if self.splitter is not None:
            self._pieces += self.splitter.finish()
            called = self.splitter.calls > 0 and not self.splitter.inside_call
            reason = "tool_calls" if called and reason == "stop" else reason
        return (*self._events(flush=True), End(self.index, reason, matched))

    def _events(self, *, flush: bool) -> tuple[Event, ...]:
        """What the pieces at hand say, each with the tokens that begin in it; `flush`: the last one with all."""
        pieces, self._pieces = self._pieces, []
        if len(pieces) > 1:
            pieces = joined(pieces)
        events = [self._event(piece, flush=flush and piece is pieces[-1]) for piece in pieces]
        if events:
            self._last = events[-1]
        elif flush and self.held:
            events.append(_silent(self._last, self._tokens(0, flush=True)))
        return tuple(events)

    def _event(self, piece: Piece, *, flush: bool) -> Event:
        tokens = self._tokens(piece.end, flush=flush)
        match piece:
            case Said(text):
                return Content(self.index, text, tokens)
            case Thought(text):
                return Reasoning(self.index, text, tokens)
            case Called(call, name, custom, _, id):
                return Call(self.index, call, id or self._call_id(name, call), name, custom, tokens)
            case Passed(call, text):
                return Arguments(self.index, call, text, tokens)

    def _call_id(self, name: str, call: int) -> str:
        style = self.splitter.dialect.call_ids if self.splitter else "ours"
        return call_id(self.shown.request, self.index, call, style, name)

    def _tokens(self, end: int, *, flush: bool) -> tuple[Token, ...]:
        tokens: list[Token] = []
        while self.held and (flush or self.held[0].offset < end):
            tokens.append(self._clipped(self.held.popleft()))
        return tuple(tokens)

    def _clipped(self, token: Token) -> Token:
        """A token that begins in what a stop string cut away begins where the text ends."""
        return token if token.offset <= self.released else Token(token.id, self.released, token.logprob)


def call_id(request: str, choice: int, call: int, style: CallIds = "ours", name: str = "") -> str:
    """The same for the same call, streamed or not, before and after a resume."""
    if style == "indexed":
        return f"functions.{name}:{call}"
    digits = hashlib.sha256(f"{request}/{choice}/{call}".encode()).hexdigest()
    return digits[:9] if style == "nine" else f"call_{digits[:24]}"


def _silent(last: Event, tokens: tuple[Token, ...]) -> Event:
    """Tokens that have no text of their own, in an event of the kind of the last."""
    match last:
        case Reasoning(choice):
            return Reasoning(choice, "", tokens)
        case Call(choice, index) | Arguments(choice, index):
            return Arguments(choice, index, "", tokens)
        case _:
            return Content(last.choice, "", tokens)


_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "cancelled": "abort"}
