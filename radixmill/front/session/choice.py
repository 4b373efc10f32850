"""One sequence's tokens → text and events. Knows nothing of requests, streams or HTTP.

tokens ──decoder──▶ text ──stop scanner──▶ released text ──▶ Content
   └──── held until the text they begin is released ────────────┘
"""

from __future__ import annotations

import math
from collections import deque

from radixmill.core.messages import End as EngineEnd
from radixmill.core.messages import TokenDelta, TokenLogprob
from radixmill.front.session.events import Content, End, Event, FinishReason, Token
from radixmill.front.text import StopScanner, TextDecoder


class Choice:
    """The fold of one sequence. `push` every delta; after `ended` there is nothing more to say."""

    def __init__(
        self,
        index: int,
        decoder: TextDecoder,
        scanner: StopScanner | None,
        *,
        scan_after: int = 0,
        keep_stop: bool = False,
        keep_tokens: bool = False,
    ) -> None:
        """`scan_after`: output tokens whose text is not searched for stop strings (min_tokens). `keep_stop`: a token
        that ends the sequence is shown; whether a stop string is, the scanner knows."""
        self.index, self.decoder, self.scanner = index, decoder, scanner
        self.scan_after, self.keep_stop, self.keep_tokens = scan_after, keep_stop, keep_tokens
        self.counted = 0  # output tokens, those that ended the text included
        self.cached: int | None = None  # prompt tokens found in the cache at the first admission
        self.ended = False
        self.logprob_sum = 0.0
        self.decoded = 0  # characters out of the decoder
        self.released = 0  # characters given to the client: decoded, less what the scanner holds or cut
        self.held: deque[Token] = deque()

    @property
    def mean_logprob(self) -> float:
        """Per counted token; best_of ranks by it."""
        return self.logprob_sum / self.counted if self.counted else -math.inf

    def push(self, delta: TokenDelta) -> tuple[Event, ...]:
        """Events of one delta: at most one Content, then at most one End."""
        if self.cached is None:
            self.cached = delta.cached
        text, matched = self._text_of(delta)
        if matched is not None:
            return self._close(text, "stop", matched)
        if delta.end is not None:
            return self._engine_end(text, delta.end)
        return self._content(text, flush=False)

    def _text_of(self, delta: TokenDelta) -> tuple[str, str | None]:
        """Text released by the delta's tokens, up to the one that completes a stop string."""
        parts: list[str] = []
        last = len(delta.tokens) - 1
        for i, token in enumerate(delta.tokens):
            self._count(token, delta.logprobs[i] if delta.logprobs else None)
            if i == last and self._is_unseen(token, delta.end):
                break
            text, matched = self._scan(self._decode(token))
            parts.append(text)
            if matched is not None:
                return "".join(parts), matched
        return "".join(parts), None

    def _is_unseen(self, token: int, end: EngineEnd | None) -> bool:
        """Whether this token ended the sequence and stays out of the text."""
        return end is not None and end.token == token and not self.keep_stop

    def _count(self, token: int, logprob: TokenLogprob | None) -> None:
        self.counted += 1
        if logprob is not None:
            self.logprob_sum += logprob.logprob
        if self.keep_tokens:
            self.held.append(Token(token, self.decoded, logprob))

    def _decode(self, token: int) -> str:
        text = self.decoder.push((token,))
        self.decoded += len(text)
        return text

    def _scan(self, text: str) -> tuple[str, str | None]:
        if self.scanner is None or not text or self.counted <= self.scan_after:
            return text, None
        return self.scanner.push(text)

    def _engine_end(self, text: str, end: EngineEnd) -> tuple[Event, ...]:
        if self.cached is None:
            self.cached = end.usage.cached
        self.counted = max(self.counted, end.usage.completion)
        tail = self.decoder.finish()
        self.decoded += len(tail)
        more, matched = self._scan(tail)
        text += more
        if matched is not None:
            return self._close(text, "stop", matched)
        if self.scanner is not None:
            text += self.scanner.finish()
        return self._close(text, _REASONS[end.reason], end.token)

    def _close(self, text: str, reason: FinishReason, matched: str | int | None) -> tuple[Event, ...]:
        self.ended = True
        return (*self._content(text, flush=True), End(self.index, reason, matched))

    def _content(self, text: str, *, flush: bool) -> tuple[Event, ...]:
        self.released += len(text)
        tokens: list[Token] = []
        while self.held and (flush or self.held[0].offset < self.released):
            tokens.append(self._clipped(self.held.popleft()))
        return (Content(self.index, text, tuple(tokens)),) if text or tokens else ()

    def _clipped(self, token: Token) -> Token:
        """A token that begins in what a stop string cut away begins where the text ends."""
        return token if token.offset <= self.released else Token(token.id, self.released, token.logprob)


_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "cancelled": "abort"}
