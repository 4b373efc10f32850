"""One row of logits → one token. Pure functions; knows nothing of slots, batches or history.

The half of the specification of `RowOps` that comes after `shape.py`. A row is float32, clean and shaped. A token's
weight is exp((logit − the largest) / temperature) in float64; its mass is that weight as a whole number of units of
2⁻⁴⁴. Whole numbers add up exactly, so that no order of summation can be seen in a token; and a token depends on its own
row alone. Selection is by (−logit, id), done with a partition or a threshold: the vocabulary is never sorted as a whole
unless the distribution is that flat.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Rule
from radixmill.device.sampling.exp import BLOCK, exp

Row = NDArray[np.float32]  # [V]
Ids = NDArray[np.int64]  # ascending
Weights = NDArray[np.float64]  # 1 for the most likely token
Masses = NDArray[np.int64]  # weights in units; Σ < 2⁶³ for fewer than 2¹⁹ tokens

HIGHEST = float(np.finfo(np.float32).max)
UNITS = 1 << 44  # the mass of the most likely token
FAINTEST = 32.0  # e⁻³² is less than half a unit


def clean(row: Row) -> Row:
    """NaN → −∞, +∞ → the largest float32; a row that is finite or −∞ comes back as it is."""
    top = row.max()  # NaN if there is one anywhere
    if top <= HIGHEST:
        return row
    return np.nan_to_num(row, nan=-np.inf, posinf=HIGHEST, neginf=-np.inf)


def draw(row: Row, rule: Rule) -> int:
    """The token at u of the distribution that temperature, top-k, top-p and min-p leave; ids in order.

    `row` has passed `clean`. Where nothing is above −∞: id 0.
    """
    best = int(row.argmax())
    if rule.temperature == 0.0 or row[best] == -np.inf:
        return best
    ids = top_k_ids(row, int(rule.top_k)) if 0 < rule.top_k < len(row) else likely_ids(row, rule.temperature)
    logits = row if ids is None else row[ids]
    masses = massed(tempered(logits, rule.temperature))
    kept = narrow(logits, masses, rule)
    if kept is not None:
        masses = masses[kept]
        ids = kept if ids is None else ids[kept]
    at = invert(masses, rule.u)
    return at if ids is None else int(ids[at])


def likely_ids(row: Row, temperature: float) -> Ids | None:
    """The tokens that may have a mass, where they are few (low temperatures, grammars); None: take all."""
    least = max(float(row.max()) - FAINTEST * temperature, -HIGHEST)
    near = row >= np.float32(least)
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


def massed(weights: Weights) -> Masses:
    """Weights in units, half to even."""
    return np.rint(weights * UNITS).astype(np.int64)


def top_k_ids(row: Row, k: int) -> Ids:
    """The k first by (−logit, id), 0 < k < V; as ascending ids."""
    edge = np.partition(row, len(row) - k)[len(row) - k]  # the k-th largest value
    above = np.flatnonzero(row > edge)
    level = np.flatnonzero(row == edge)[: k - len(above)]
    return np.sort(np.concatenate((above, level)))


def narrow(logits: Row, masses: Masses, rule: Rule) -> Ids | None:
    """Where top-p and then min-p keep a token; None where they keep all."""
    kept = top_p_ids(logits, masses, rule.top_p) if rule.top_p < 1.0 else None
    if rule.min_p <= 0.0:
        return kept
    # Relative to the most likely token, whose mass is UNITS and which top-p never drops.
    least = math.ceil(rule.min_p * UNITS)
    if kept is None:
        return np.flatnonzero(masses >= least)
    return kept[masses[kept] >= least]


def top_p_ids(logits: Row, masses: Masses, top_p: float) -> Ids:
    """The shortest head of the (−logit, id) order that holds at least top_p of the mass; as ascending indices.

    Only a head that is long enough is sorted: the logits from a cut on, which falls until there is mass enough.
    """
    goal = math.ceil(top_p * float(masses.sum()))
    for power in range(4, 44, 4):
        heavy = masses >= UNITS >> power
        if int(masses[heavy].sum()) >= goal:
            return _head(logits, masses, goal, np.flatnonzero(logits >= logits[heavy].min()))
    return _head(logits, masses, goal, np.arange(len(masses)))


def _head(logits: Row, masses: Masses, goal: int, among: Ids) -> Ids:
    ranked = ranking(logits[among], among)
    running = np.cumsum(masses[ranked])
    return np.sort(ranked[: int(np.searchsorted(running, goal, side="left")) + 1])


def ranking(logits: Row, ids: Ids) -> Ids:
    """`ids` in the order of (−logit, id). No logit is NaN; ids are below 2³¹.

    One integer holds both keys, the bits of a float32 being in its order once those of negative numbers are turned round:
    integers sort several times faster than a stable sort of floats.
    """
    bits = (0.0 - logits).view(np.int32).astype(np.int64)  # 0 − x: no −0
    keys = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits) << 32 | ids
    keys.sort()
    return keys & 0xFFFFFFFF


def invert(masses: Masses, u: float) -> int:
    """The first index whose running sum exceeds u of the whole; never one without mass."""
    running = np.cumsum(masses)
    total = int(running[-1])
    return int(np.searchsorted(running, min(int(u * float(total)), total - 1), side="right"))
