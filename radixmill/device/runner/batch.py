"""A plan, made into what the model takes. Pure: arrays in, arrays out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixmill.core.plan import LAST_SAMPLED, StepPlan
from radixmill.device.kernels.contract import Array, Ragged
from radixmill.device.layers import ForwardBatch


def wanted(plan: StepPlan) -> NDArray[np.int32]:
    """Which of the step's T tokens want logits: the last of each row that samples, those before a guess, and those that
    score the next. Ascending."""
    lasts = np.cumsum(plan.counts, dtype=np.int32) - 1
    if plan.guesses is None and plan.scores is None:
        return lasts[plan.samples]
    widths = draws(plan) + (0 if plan.scores is None else plan.scores)
    after = np.repeat(np.cumsum(widths), widths) - np.arange(1, widths.sum() + 1)  # how many more its row has
    return (np.repeat(lasts, widths) - after).astype(np.int32)


def draws(plan: StepPlan) -> NDArray[np.int32]:
    """[R] how many tokens each row may draw: its last so many want logits for that."""
    most = 1 if plan.guesses is None else plan.guesses + 1
    return np.where(plan.samples, most, 0).astype(np.int32)


def build_batch(
    plan: StepPlan, last_sampled: NDArray[np.int64], page_size: int, kv: tuple[Array, ...] = ()
) -> ForwardBatch:
    """`last_sampled` [slots] fills the placeholders."""
    ends = np.cumsum(plan.counts, dtype=np.int32)
    query_starts = np.concatenate([np.zeros(1, np.int32), ends])
    row = np.repeat(np.arange(plan.rows), plan.counts)
    positions = plan.starts[row] + np.arange(len(row), dtype=np.int32) - query_starts[row]
    ids = np.where(plan.tokens == LAST_SAMPLED, last_sampled[plan.slots[row]], plan.tokens)
    ragged = tuple(Ragged(query_starts, plan.starts, table.ids, table.starts, page_size) for table in plan.pages)
    return ForwardBatch(ids, positions.astype(np.int32), wanted(plan), ragged, kv)
