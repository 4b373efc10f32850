"""A plan, made into what the model takes. Pure: arrays in, arrays out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixmill.core.plan import LAST_SAMPLED, StepPlan
from radixmill.device.kernels.contract import Array, Ragged
from radixmill.device.layers import ForwardBatch


def build_batch(
    plan: StepPlan, last_sampled: NDArray[np.int64], page_size: int, kv: tuple[Array, ...] = ()
) -> ForwardBatch:
    """`last_sampled` [slots] fills the placeholders; logits are wanted for the last token of each row that samples."""
    ends = np.cumsum(plan.counts, dtype=np.int32)
    query_starts = np.concatenate([np.zeros(1, np.int32), ends])
    row = np.repeat(np.arange(plan.rows), plan.counts)
    positions = plan.starts[row] + np.arange(len(row), dtype=np.int32) - query_starts[row]
    ids = np.where(plan.tokens == LAST_SAMPLED, last_sampled[plan.slots[row]], plan.tokens)
    ragged = tuple(Ragged(query_starts, plan.starts, table.ids, table.starts, page_size) for table in plan.pages)
    return ForwardBatch(ids, positions.astype(np.int32), (ends - 1)[plan.samples].astype(np.int32), ragged, kv)
