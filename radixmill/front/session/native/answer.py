"""Events → answers in SGLang's shape. Every answer is cumulative: what a choice has said so far, so a stream's last one
is the answer without a stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from radixmill.core.messages import TokenLogprob
from radixmill.core.record import Record
from radixmill.front.session.batch import Batch
from radixmill.front.session.events import Content, End, Event, Token
from radixmill.front.session.generation import Generation
from radixmill.front.session.native.items import Item

UNLIKELY = -9999.0  # JSON has no infinity
WEIGHTS = "default"  # weight_version: they never change while a server runs

Logprob = tuple[float | None, int, str | None]  # log-probability, token id, its text if wanted
Known = tuple[int, TokenLogprob | None]  # a token, and what is known of it


class MetaInfo(Struct, kw_only=True):
    """`finish_reason`: null while more is to come; else {"type": "stop", "matched"}, {"type": "length", "length"} or
    {"type": "abort", "message"}."""

    id: str
    finish_reason: dict[str, Any] | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0
    weight_version: str = WEIGHTS
    seed: int
    e2e_latency: float  # seconds since the request was read
    input_token_logprobs: list[Logprob] | UnsetType = UNSET
    output_token_logprobs: list[Logprob] | UnsetType = UNSET
    output_token_logprobs_length: int | UnsetType = UNSET
    input_top_logprobs: list[list[Logprob] | None] | UnsetType = UNSET
    output_top_logprobs: list[list[Logprob] | None] | UnsetType = UNSET
    input_token_ids_logprobs: list[list[Logprob] | None] | UnsetType = UNSET
    output_token_ids_logprobs: list[list[Logprob] | None] | UnsetType = UNSET


class Generated(Struct, kw_only=True):
    """What one choice has said. `index`: which of a batch, in a stream."""

    text: str
    output_ids: list[int]
    meta_info: MetaInfo
    prompt_token_ids: list[int] | UnsetType = UNSET
    index: int | UnsetType = UNSET
    record: Record | UnsetType = UNSET  # of this choice, once it has ended
    receipt: dict[str, Any] | UnsetType = UNSET


class _Said:
    """One choice so far, and how much of it an incremental stream has told."""

    def __init__(self, item: Item, generation: Generation, choice: int) -> None:
        self.item, self.generation, self.choice = item, generation, choice
        self.texts: list[str] = []
        self.tokens: list[Token] = []
        self.end: End | None = None
        self.told_texts = self.told_tokens = 0
        self.greeted = False


class Answers:
    """The answers of a batch while they are being made."""

    def __init__(
        self, items: Sequence[Item], batch: Batch, token_bytes: Callable[[int], bytes], *, incremental: bool = False
    ) -> None:
        """`incremental`: an answer has only what the choice's last one had not, and the prompt's part the first time."""
        self._bytes, self._incremental = token_bytes, incremental
        self._began = time.monotonic()
        self.said = [
            _Said(item, generation, choice)
            for item, generation in zip(items, batch.generations, strict=True)
            for choice in range(len(generation.choices))
        ]

    def push(self, events: tuple[Event, ...]) -> list[int]:
        """The choices that these events are about, in order."""
        touched: dict[int, None] = {}
        for event in events:
            said = self.said[event.choice]
            match event:
                case Content(_, text, tokens):
                    said.texts.append(text)
                    said.tokens.extend(tokens)
                case End():
                    said.end = event
                case _:
                    raise AssertionError(f"raw text has no {type(event).__name__}")
            touched[event.choice] = None
        return list(touched)

    def answer(self, choice: int) -> Generated:
        """What the choice has said."""
        said = self.said[choice]
        texts, tokens, first = said.texts, said.tokens, True
        if self._incremental:
            texts, tokens, first = texts[said.told_texts :], tokens[said.told_tokens :], not said.greeted
            said.told_texts, said.told_tokens, said.greeted = len(said.texts), len(said.tokens), True
        prompt = list(said.generation.facts.prompts[0]) if said.item.prompt_ids and first else UNSET
        proof = said.generation.proofs.get(said.choice) if said.end else None
        return Generated(
            text="".join(texts),
            output_ids=[token.id for token in tokens],
            meta_info=self._meta(said, tokens, first),
            prompt_token_ids=prompt,
            record=(proof.record if proof else None) or UNSET,
            receipt=(proof.receipt if proof else None) or UNSET,
        )

    def _meta(self, said: _Said, tokens: list[Token], first: bool) -> MetaInfo:
        facts, choice = said.generation.facts, said.generation.choices[said.choice]
        meta = MetaInfo(
            id=facts.id,
            finish_reason=None if said.end is None else _reason(said.end, choice.counted),
            prompt_tokens=len(facts.prompts[0]),
            completion_tokens=choice.counted,
            cached_tokens=choice.cached or 0,
            reasoning_tokens=choice.reasoning,
            seed=facts.seed,
            e2e_latency=time.monotonic() - self._began,
        )
        if said.item.logprobs:
            outputs = [(token.id, token.logprob) for token in tokens]
            inputs = self._inputs(said) if first else []
            self._add_logprobs(said.item, meta, inputs, outputs)
        return meta

    def _inputs(self, said: _Said) -> list[Known]:
        """The prompt's tokens from the first wanted on, with what is known of each."""
        start = said.item.start
        scores = said.generation.scores.get(0)
        if start < 0 or scores is None:
            return []
        ids = said.generation.facts.prompts[0][start:]
        return list(zip(ids, scores if start else (None, *scores), strict=True))

    def _add_logprobs(self, item: Item, meta: MetaInfo, inputs: list[Known], outputs: list[Known]) -> None:
        own = self._entry if item.texts else _bare
        meta.input_token_logprobs = [own(id, entry.logprob if entry else None) for id, entry in inputs]
        meta.output_token_logprobs = [own(id, entry.logprob if entry else None) for id, entry in outputs]
        meta.output_token_logprobs_length = len(outputs)
        if item.top:
            meta.input_top_logprobs = [_all(own, entry.top) if entry else None for _, entry in inputs]
            meta.output_top_logprobs = [_all(own, entry.top) if entry else None for _, entry in outputs]
        if item.named:
            meta.input_token_ids_logprobs = [_all(own, entry.named) if entry else None for _, entry in inputs]
            meta.output_token_ids_logprobs = [_all(own, entry.named) if entry else None for _, entry in outputs]

    def _entry(self, id: int, logprob: float | None) -> Logprob:
        return _finite(logprob), id, self._bytes(id).decode("utf-8", "replace")


def _all(own: Callable[[int, float], Logprob], pairs: Sequence[tuple[int, float]]) -> list[Logprob]:
    return [own(id, logprob) for id, logprob in pairs]


def _bare(id: int, logprob: float | None) -> Logprob:
    return _finite(logprob), id, None


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, UNLIKELY)


def _reason(end: End, length: int) -> dict[str, Any]:
    match end.reason:
        case "length":
            return {"type": "length", "length": length}
        case "abort":
            return {"type": "abort", "message": "The request was aborted.", "status_code": None, "err_type": None}
        case _:
            return {"type": "stop", "matched": end.matched}
