"""One row of logits → one token. Pure functions; knows nothing of slots, batches or history.

Logits are float32, as the model gives them; everything that is summed or compared with a probability is float64. The
sums run over one row in one fixed order, so a token depends on its own row alone. Selection is by (−logit, id), done
with a partition or a threshold: the vocabulary is never sorted as a whole unless the distribution is that flat.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixmill.core.request import SamplingParams
from radixmill.device.sampling.exp import BLOCK, exp

Row = NDArray[np.float32]  # [V]
Ids = NDArray[np.int64]  # ascending
Weights = NDArray[np.float64]  # probabilities, up to one common factor

HIGHEST = float(np.finfo(np.float32).max)


def clean(row: Row) -> Row:
    """NaN → −∞, +∞ → the largest float32; a row that is finite or −∞ comes back as it is."""
    top = row.max()  # NaN if there is one anywhere
    if top <= HIGHEST:
        return row
    return np.nan_to_num(row, nan=-np.inf, posinf=HIGHEST, neginf=-np.inf)


def draw(row: Row, params: SamplingParams, u: float) -> int:
    """The token at u ∈ [0, 1) of the distribution that temperature, top-k, top-p and min-p leave; ids in order.

    `row` has passed `clean` and holds at least one value above −∞.
    """
    ids = top_k_ids(row, params.top_k) if 0 < params.top_k < len(row) else likely_ids(row, params.temperature)
    logits = row if ids is None else row[ids]
    weights = tempered(logits, params.temperature)
    kept = narrow(logits, weights, params)
    if kept is not None:
        weights = weights[kept]
        ids = kept if ids is None else ids[kept]
    at = invert(weights, u)
    return at if ids is None else int(ids[at])


def likely_ids(row: Row, temperature: float) -> Ids | None:
    """The tokens that matter, where most do not (low temperatures, grammars); None: take all.

    Left out is what has less than e⁻⁴⁵ of the most likely token's weight: for any vocabulary that is, together, less than the
    rounding of the sum in float64.
    """
    near = row >= float(row.max()) - 45.0 * temperature
    return np.flatnonzero(near) if 2 * np.count_nonzero(near) < len(row) else None


def tempered(logits: Row, temperature: float) -> Weights:
    """exp((x − max x) / temperature): 1 for the most likely token."""
    weights = np.empty(len(logits))
    top = float(logits.max())
    with np.errstate(over="ignore"):  # a difference over a tiny temperature: −∞ is right
        for start in range(0, len(logits), BLOCK):
            scaled = logits[start : start + BLOCK].astype(np.float64)
            scaled -= top
            if temperature != 1.0:
                scaled /= temperature
            weights[start : start + BLOCK] = exp(scaled)
    return weights


def top_k_ids(row: Row, k: int) -> Ids:
    """The k first by (−logit, id), 0 < k < V; as ascending ids."""
    edge = np.partition(row, len(row) - k)[len(row) - k]  # the k-th largest value
    above = np.flatnonzero(row > edge)
    level = np.flatnonzero(row == edge)[: k - len(above)]
    return np.sort(np.concatenate((above, level)))


def narrow(logits: Row, weights: Weights, params: SamplingParams) -> Ids | None:
    """Where top-p and then min-p keep a token; None where they keep all."""
    kept = top_p_ids(logits, weights, params.top_p) if params.top_p < 1.0 else None
    if params.min_p <= 0.0:
        return kept
    # Relative to the most likely token, whose weight is 1 and which top-p never drops.
    if kept is None:
        return np.flatnonzero(weights >= params.min_p)
    return kept[weights[kept] >= params.min_p]


def top_p_ids(logits: Row, weights: Weights, top_p: float) -> Ids:
    """The shortest head of the (−logit, id) order that holds at least top_p of the mass; as ascending indices.

    Only what outweighs a cut is sorted; the cut falls until there is mass enough above it. (Sorted is what lies above half the
    cut: so the head ends well inside, and neither rounding nor an edge through equals can touch it.)
    """
    goal = top_p * float(weights.sum())
    for power in range(4, 68, 4):
        cut = 2.0**-power
        if float(weights[weights > cut].sum()) >= goal:
            return _head(logits, weights, goal, np.flatnonzero(weights > cut / 2))
    return _head(logits, weights, goal, np.arange(len(weights)))


def _head(logits: Row, weights: Weights, goal: float, among: Ids) -> Ids:
    ranked = ranking(logits[among], among)
    mass = np.cumsum(weights[ranked])
    return np.sort(ranked[: int(np.searchsorted(mass, goal, side="left")) + 1])


def ranking(logits: Row, ids: Ids) -> Ids:
    """`ids` in the order of (−logit, id). No logit is NaN; ids are below 2³¹.

    One integer holds both keys, the bits of a float32 being in its order once those of negative numbers are turned round:
    integers sort several times faster than a stable sort of floats.
    """
    bits = (0.0 - logits).view(np.int32).astype(np.int64)  # 0 − x: no −0
    keys = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits) << 32 | ids
    keys.sort()
    return keys & 0xFFFFFFFF


def invert(weights: Weights, u: float) -> int:
    """The first index whose running sum exceeds u of the whole; never one of weight 0.

    Block by block: the running sum of the blocks' sums, and inside one block the running sum of its weights.
    """
    starts = range(0, len(weights), BLOCK)
    sums = np.cumsum([weights[start : start + BLOCK].sum() for start in starts])
    goal = u * sums[-1]
    number = int(np.searchsorted(sums, goal, side="right"))
    block = weights[starts[number] : starts[number] + BLOCK]
    mass = np.cumsum(block)
    at = int(np.searchsorted(mass, goal - (sums[number - 1] if number else 0.0), side="right"))
    if at == len(block):  # the two sums of the block differ in their last bits
        at = int(np.flatnonzero(block)[-1])
    return starts[number] + at
