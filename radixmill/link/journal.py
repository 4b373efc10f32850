"""The records of live requests: prompt, parameters, seed, output so far. All that a respawned engine needs to go on.

Knows nothing of sockets. One writer: the client half of the link.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from radixmill.core.messages import End, EndReason, SeqStart, Submit, TokenDelta, Usage
from radixmill.core.request import GenerateRequest

ISOLATED = 2  # strikes after which a sequence runs by itself
CONDEMNED = 3  # strikes after which it is not tried again: the last engine died over it and nothing else


@dataclass(slots=True)
class Progress:
    """Of a request, whose records have it in common."""

    begun: bool = False  # one of its sequences, live or not, has said something


@dataclass(slots=True)
class Record:
    """One live sequence."""

    request: GenerateRequest
    seq: int
    seed: int
    output: list[int] = field(default_factory=list)
    cached: int | None = None  # what the first admission found; later ones, after a respawn, don't count
    score: bool = False  # the prompt's log-probabilities are still to come
    strikes: int = 0  # engines that died while they computed it, since it last said something
    progress: Progress = field(default_factory=Progress)

    @property
    def paid(self) -> int:
        """Tokens of the prompt that were computed for it, as far as can be seen from here: all, once it has said something."""
        return len(self.request.prompt) - (self.cached or 0) if self.output else 0

    def ended(self, reason: EndReason, detail: str = "") -> TokenDelta:
        """The end of this sequence as seen from here, without asking the engine."""
        usage = Usage(len(self.request.prompt), len(self.output), self.cached or 0)
        return TokenDelta(self.seq, len(self.output), end=End(reason, usage, detail=detail))


class Gap(Exception):
    """The engine skipped tokens of a sequence: a bug, never the client's fault."""


class Journal:
    """Records by sequence id."""

    def __init__(self) -> None:
        self._live: dict[int, Record] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, seq: int) -> bool:
        return seq in self._live

    def open(self, request: GenerateRequest, starts: Sequence[SeqStart]) -> None:
        progress = Progress(any(start.output for start in starts))
        for start in starts:
            self._live[start.seq] = Record(
                request, start.seq, start.seed, list(start.output), score=start.score, progress=progress
            )

    def close(self, seq: int) -> Record | None:
        """Forget a sequence; None if it has ended already."""
        return self._live.pop(seq, None)

    def apply(self, delta: TokenDelta) -> TokenDelta | None:
        """Record what is new in a delta, and return just that; None for what is held already or has ended.

        Raises Gap where tokens are missing between what is held and what came.
        """
        record = self._live.get(delta.seq)
        if record is None:
            return None
        news = _trim(delta, len(record.output))
        if news.cached is not None:
            news = news if record.cached is None else _with(news, cached=None)
            record.cached = delta.cached if record.cached is None else record.cached
        if news.prompt_logprobs is not None:
            news, record.score = news if record.score else _with(news, prompt_logprobs=None), False
        record.output += news.tokens
        if news.tokens:
            record.strikes, record.progress.begun = 0, True
        if news.end:
            del self._live[delta.seq]
            if record.cached is not None and news.end.usage.cached != record.cached:
                usage = Usage(news.end.usage.prompt, news.end.usage.completion, record.cached)
                return _with(news, end=replace(news.end, usage=usage))
        elif not news.tokens and news.cached is None:
            return None
        return news

    def resubmissions(self) -> Iterator[Submit]:
        """One Submit per live request, with the outputs so far, in the order they first came."""
        requests: dict[int, tuple[Record, list[SeqStart]]] = {}
        for record in self._live.values():
            _, starts = requests.setdefault(id(record.request), (record, []))
            alone = record.strikes >= ISOLATED
            output = tuple(record.output)
            starts.append(SeqStart(record.seq, record.seed, output, record.score, alone, record.paid))
        for record, starts in requests.values():
            # What has begun never expires, even where all that was said was said by choices that have ended since.
            request = record.request
            if record.progress.begun and request.wait is not None:
                request = replace(request, wait=None)
            yield Submit(request, tuple(starts))

    def strike(self, seqs: Iterable[int]) -> list[Record]:
        """An engine died while it computed these. Takes out whatever belongs to a request that is condemned by that."""
        condemned = set()
        for seq in seqs:
            if record := self._live.get(seq):
                record.strikes += 1
                if record.strikes >= CONDEMNED:
                    condemned.add(id(record.request))
        records = [record for record in self._live.values() if id(record.request) in condemned]
        for record in records:
            del self._live[record.seq]
        return records

    def drain(self) -> list[Record]:
        """Take everything out."""
        records = list(self._live.values())
        self._live.clear()
        return records


def _trim(delta: TokenDelta, held: int) -> TokenDelta:
    """The delta without the tokens that are held already."""
    if delta.at == held:
        return delta
    if delta.at > held:
        raise Gap(f"sequence {delta.seq}: {held} tokens held, next delta starts at {delta.at}")
    skip = held - delta.at
    logprobs = delta.logprobs[skip:] if delta.logprobs is not None else None
    return replace(delta, at=held, tokens=delta.tokens[skip:], logprobs=logprobs)


def _with(delta: TokenDelta, **changes: object) -> TokenDelta:
    return replace(delta, **changes)
