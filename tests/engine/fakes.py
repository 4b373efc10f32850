"""Fakes for the engine's tests: a device whose "KV" is a hash of the prefix, so that wrong pages give wrong tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from radixmill.core.messages import SeqStart, Submit
from radixmill.core.plan import Masks, StepPlan, StepResult
from radixmill.core.request import GenerateRequest, SamplingParams
from radixmill.core.spec import KVGroup, ModelSpec

VOCAB = 50


def mix(state: int, token: int) -> int:
    """The KV of a token after a prefix whose last KV is `state`."""
    return (state * 6364136223846793005 + (token + 1) * 1442695040888963407) % (1 << 61)


def next_token(kv: Sequence[int], seed: int) -> int:
    """What the "model" says after positions with these KVs."""
    return mix(sum(kv) % (1 << 61), seed) % VOCAB


def spec(
    pages: int = 64,
    page_size: int = 4,
    slots: int = 8,
    context: int | None = None,
    groups: int = 1,
    eos: tuple[int, ...] = (),
) -> ModelSpec:
    """A model of `groups` KV groups with as much context as the pool holds for one sequence."""
    return ModelSpec(
        name="fake",
        architecture="hash",
        vocab_size=VOCAB,
        context=context or (pages - 2) * page_size,
        eos_ids=eos,
        page_size=page_size,
        slots=slots,
        kv_groups=tuple(KVGroup((g,), 1, pages) for g in range(groups)),
        numerics="hash-1",
    )


def submit(
    prompt: Sequence[int],
    *ids: int,
    seed: int = 7,
    output: tuple[int, ...] = (),
    max_tokens: int = 4,
    tenant: str = "",
    priority: int = 0,
    **more: Any,
) -> Submit:
    """Sequences `ids` of one prompt; choice i has seed + i."""
    sampling = SamplingParams(max_tokens=max_tokens, **more)
    request = GenerateRequest(id="r", prompt=tuple(prompt), sampling=sampling, tenant=tenant, priority=priority)
    return Submit(request, tuple(SeqStart(i, seed + n, output) for n, i in enumerate(ids)))


class HashTicket:
    """A step that has run."""

    def __init__(self, result: StepResult) -> None:
        self._result = result

    def sample(self, masks: Masks | None) -> None: ...

    def result(self) -> StepResult:
        return self._result


class HashExecutor:
    """Reads and writes KV through the page tables, and checks every position against the slot's own tokens."""

    def __init__(self, spec: ModelSpec, seconds: float = 0.0) -> None:
        self.spec, self.seconds = spec, seconds
        self.kv = [np.full((g.pages, spec.page_size), -1, np.int64) for g in spec.kv_groups]
        self.tokens: dict[int, list[int]] = {}  # by slot
        self.seeds: dict[int, int] = {}
        self.plans: list[StepPlan] = []

    def launch(self, plan: StepPlan) -> HashTicket:
        self.plans.append(plan)
        for card in plan.admits:
            self.tokens[card.slot] = [*card.prompt, *card.output]
            self.seeds[card.slot] = card.seed
        for copy in plan.copies:
            self.kv[copy.group][copy.dst] = -1
            self.kv[copy.group][copy.dst, : copy.tokens] = self.kv[copy.group][copy.src, : copy.tokens]
        bounds = np.concatenate([[0], np.cumsum(plan.counts)])
        sampled = [self._row(plan, r, plan.tokens[bounds[r] : bounds[r + 1]].tolist()) for r in range(plan.rows)]
        return HashTicket(StepResult(plan.step, np.array(sampled), (), self.seconds))

    def _row(self, plan: StepPlan, row: int, given: list[int]) -> int:
        slot, start = int(plan.slots[row]), int(plan.starts[row])
        history = self.tokens[slot]
        end = start + len(given)
        assert [t if t >= 0 else history[start + i] for i, t in enumerate(given)] == history[start:end]
        for group, table in enumerate(plan.pages):
            pages = table.ids[table.starts[row] : table.starts[row + 1]]
            size = self.spec.page_size
            assert len(pages) == -(-end // size)
            where = pages.repeat(size)[:end], np.arange(end) % size
            state = int(self.kv[group][where[0][start - 1], where[1][start - 1]]) if start else 0
            for p in range(start, end):
                state = self.kv[group][where[0][p], where[1][p]] = mix(state, history[p])
            read = self.kv[group][where].tolist()
            assert read == prefix_kv(history[:end]), f"group {group}: wrong KV"
        if not plan.samples[row]:
            return -1
        history.append(next_token(read, self.seeds[slot]))
        return history[-1]

    def stats(self) -> dict[str, Any]:
        return {}

    def close(self) -> None: ...


def prefix_kv(tokens: Sequence[int]) -> list[int]:
    """The KV of each position, from the tokens alone."""
    kv, state = [], 0
    for token in tokens:
        state = mix(state, token)
        kv.append(state)
    return kv


def alone(prompt: Sequence[int], seed: int, most: int, stop: frozenset[int] = frozenset()) -> list[int]:
    """The output of a sequence that runs by itself, without pages."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + most:
        tokens.append(next_token(prefix_kv(tokens), seed))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]
