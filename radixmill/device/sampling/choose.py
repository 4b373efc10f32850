"""One row of logits → one token. Pure functions; knows nothing of slots, batches or history.

Logits are float32, as the model gives them; everything that is summed or compared with a probability is float64. The
sums run over one row in one fixed order, so a token depends on its own row alone. Selection is by (−logit, id), done
with a partition or a threshold: the vocabulary is never sorted as a whole unless the distribution is that flat.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixmill.core.request import SamplingParams
from radixmill.device.sampling.exp import exp

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
    ids = top_k_ids(row, params.top_k) if 0 < params.top_k < len(row) else None
    logits = row if ids is None else row[ids]
    weights = tempered(logits, params.temperature)
    kept = narrow(logits, weights, params)
    if kept is not None:
        weights = weights[kept]
        ids = kept if ids is None else ids[kept]
    at = invert(weights, u)
    return at if ids is None else int(ids[at])


def tempered(logits: Row, temperature: float) -> Weights:
    """exp((x − max x) / temperature): 1 for the most likely token."""
    scaled = logits.astype(np.float64)
    scaled -= scaled.max()
    if temperature != 1.0:
        with np.errstate(over="ignore"):  # a difference over a tiny temperature: −∞ is right
            scaled /= temperature
    return exp(scaled)


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

    Tokens of weight ≤ (1 − top_p)·total/V hold at most 1 − top_p together, so the head lies above that threshold. Half of
    it leaves room for rounding; if the head is still not complete there, all are sorted.
    """
    goal = top_p * weights.sum()
    threshold = (1.0 - top_p) * weights.sum() / len(weights) / 2
    head = _head(logits, weights, goal, np.flatnonzero(weights > threshold))
    if head is None:
        head = _head(logits, weights, goal, np.arange(len(weights)))
    return np.arange(len(weights)) if head is None else head


def _head(logits: Row, weights: Weights, goal: float, among: Ids) -> Ids | None:
    ranked = among[np.argsort(-logits[among], kind="stable")]
    mass = np.cumsum(weights[ranked])
    if mass[-1] < goal:
        return None
    return np.sort(ranked[: int(np.searchsorted(mass, goal, side="left")) + 1])


def invert(weights: Weights, u: float) -> int:
    """The first index whose running sum exceeds u of the whole; never one of weight 0."""
    mass = np.cumsum(weights)
    return int(np.searchsorted(mass, u * mass[-1], side="right"))
