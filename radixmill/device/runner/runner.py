"""Runs plans on a model: admissions, page copies, the forward pass, the draw. Knows slots and pages; not why they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from radixmill.core.messages import TokenLogprob
from radixmill.core.plan import NO_TOKEN, Masks, PageCopy, StepPlan, StepResult
from radixmill.device.kernels.contract import Array, Ops, Ragged
from radixmill.device.layers import ForwardBatch
from radixmill.device.models import Decoder
from radixmill.device.runner.batch import build_batch, draws, wanted
from radixmill.device.sampling import Sampler


@dataclass(frozen=True)
class PagedKV:
    """Keys and values of all layers, in pages of `page_size` positions; as many pages as each layer's group has."""

    layers: tuple[Array, ...]
    groups: tuple[tuple[int, ...], ...]  # the layers of each
    page_size: int
    nbytes: int

    @classmethod
    def allocate(cls, model: Decoder, pages: Sequence[int], page_size: int) -> PagedKV:
        """`pages`: of each group. Raises MemoryError where the machine has no room."""
        ops, config = model.ops, model.config
        of = {layer: count for group, count in zip(config.groups, pages, strict=True) for layer in group.layers}
        shapes = [config.kv(layer) for layer in range(config.layers)]
        layers = tuple(ops.kv_alloc(of[layer], page_size, shape) for layer, shape in enumerate(shapes))
        tokens = [
            of[layer] * page_size * ops.kv_bytes_per_token(shape, page_size) for layer, shape in enumerate(shapes)
        ]
        return cls(layers, tuple(group.layers for group in config.groups), page_size, sum(tokens))

    def copy(self, ops: Ops, copy: PageCopy) -> None:
        for layer in self.groups[copy.group]:
            ops.kv_copy(self.layers[layer], copy.src, copy.dst, copy.tokens)


class Runner:
    """One model, its KV pages and its sampler."""

    def __init__(self, model: Decoder, kv: PagedKV, sampler: Sampler, *, captured: bool = True) -> None:
        """`captured`: run the forward pass as the backend's `capture` makes it; else one op after another."""
        self.model, self.kv, self.sampler = model, kv, sampler
        self.logits = model.ops.capture(self._logits, groups=len(kv.groups)) if captured else self._logits

    def forward(self, plan: StepPlan) -> NDArray[np.float32]:
        """Everything up to the logits [S, V] of the S tokens that want them: one of each row that samples, or more.

        Overwritten by the next call.
        """
        ops = self.model.ops
        for admit in plan.admits:
            self.sampler.admit(admit)
        for slot, tokens in plan.forced:
            self.sampler.note(slot, tokens)
        for copy in plan.copies:
            self.kv.copy(ops, copy)
        batch = build_batch(plan, self.sampler.last, self.kv.page_size)
        return ops.numpy(self.logits(batch.ids, batch.positions, batch.wanted, batch.ragged))

    def _logits(
        self,
        ids: NDArray[np.int64],
        positions: NDArray[np.int32],
        wanted: NDArray[np.int32],
        ragged: tuple[Ragged, ...],
    ) -> Array:
        batch = ForwardBatch(ids, positions, wanted, ragged, self.kv.layers)
        return self.model.logits(self.model.forward(batch), batch)

    def sample(self, plan: StepPlan, logits: NDArray[np.float32], masks: Masks | None) -> StepResult:
        """Draw what each row that samples wants, and score. A token drawn from logits at position p stands at p + 1."""
        places = wanted(plan)  # [S] token of the step whose logits these are
        if plan.scores is None:
            return self._draw(plan, logits, places, masks)
        ends = np.cumsum(plan.counts)
        row = np.searchsorted(ends, places, side="right")  # [S]
        drawn = places >= (ends - draws(plan))[row]
        result = self._draw(plan, logits[drawn], places[drawn], masks)
        row, places = row[~drawn], places[~drawn]
        positions = ((plan.starts + plan.counts - ends)[row] + places + 1).astype(np.int64)  # of the tokens scored
        return replace(result, scores=self.sampler.score(logits[~drawn], plan.slots[row], positions))

    def _draw(
        self, plan: StepPlan, logits: NDArray[np.float32], places: NDArray[np.int32], masks: Masks | None
    ) -> StepResult:
        """`logits` [S, V] of the tokens at `places` [S], which are drawn from."""
        rows = np.arange(plan.rows) if plan.guesses is None else np.repeat(np.arange(plan.rows), plan.guesses + 1)
        tokens = np.full(len(rows), NO_TOKEN, np.int64)
        where = np.flatnonzero(plan.samples[rows])
        if not len(where):
            return StepResult(plan.step, tokens)
        rows = rows[where]  # [S] row of the plan
        behind = np.cumsum(plan.counts)[rows] - places  # tokens of the row from this one on
        positions = ((plan.starts + plan.counts)[rows] - behind + 1).astype(np.int64)
        assumed = None
        if plan.guesses is not None:
            assumed = np.where(behind > 1, np.append(plan.tokens, NO_TOKEN)[places + 1], NO_TOKEN)
        tokens[where], drawn = self.sampler.sample(logits, plan.slots[rows], positions, _by_place(masks, rows), assumed)
        return StepResult(plan.step, tokens, _spread(drawn, where, len(tokens)))

    def step(self, plan: StepPlan, masks: Masks | None = None) -> StepResult:
        """One whole step; `seconds` is what it took."""
        began = time.perf_counter()
        result = self.sample(plan, self.forward(plan), masks)
        return replace(result, seconds=time.perf_counter() - began)


def _spread(
    logprobs: Sequence[TokenLogprob | None], where: NDArray[np.intp], count: int
) -> tuple[TokenLogprob | None, ...]:
    """`logprobs` at their places among `count`; empty where nobody wants any."""
    if not logprobs:
        return ()
    spread: list[TokenLogprob | None] = [None] * count
    for at, logprob in zip(where.tolist(), logprobs, strict=True):
        spread[at] = logprob
    return tuple(spread)


def _by_place(masks: Masks | None, rows: NDArray[np.intp]) -> Masks | None:
    """Masks keyed by row of the plan → keyed by place among the logits; `rows` [S] is the row of each place."""
    if masks is None:
        return None
    return Masks({at: masks.rows[row] for at, row in enumerate(rows.tolist()) if row in masks.rows})
