"""Which experts a token goes to, and with what weights; see Ops.route and Routing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Routing
from radixmill.device.kernels.reference.tiles import Floats, tree_sum

_ONE = np.float32(1)


def route(logits: Floats, routing: Routing, bias: Floats | None) -> Floats:
    """[T, E] → [T, 2k]. Raises ValueError where there are not as many to choose among as are to be chosen."""
    if not 0 < routing.top <= routing.top_groups * (routing.experts // routing.groups):
        raise ValueError(f"{routing.top} experts to be chosen, more than there are in {routing.top_groups} groups")
    scores = _scores(logits, routing)
    wanted = scores if bias is None else scores + bias
    if routing.groups > 1:
        wanted = _within(wanted, routing)
    chosen = np.sort(_best(wanted, routing.top), axis=1)
    weights = np.take_along_axis(scores, chosen, axis=1)
    if routing.renormalise:
        with np.errstate(all="ignore"):
            weights = weights / (_total(weights) + np.float32(1e-20))[:, None]
    return np.concatenate([chosen.astype(np.float32), weights * np.float32(routing.scaling)], axis=1)


def _scores(logits: Floats, routing: Routing) -> Floats:
    with np.errstate(all="ignore"):
        if routing.score == "sigmoid":
            return _ONE / (_ONE + np.exp(-logits))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / tree_sum(powers)[:, None]


def _within(wanted: Floats, routing: Routing) -> Floats:
    """The scores, with −∞ outside each token's best groups."""
    grouped = wanted.reshape(len(wanted), routing.groups, -1)
    ordered = np.sort(grouped, axis=-1)[..., ::-1]
    worth = ordered[..., 0] if routing.group_score == "max" else ordered[..., 0] + ordered[..., 1]
    open_ = np.zeros(worth.shape, np.bool_)
    np.put_along_axis(open_, _best(worth, routing.top_groups), True, axis=1)
    return np.where(open_[..., None], grouped, np.float32(-np.inf)).reshape(wanted.shape)


def _best(scores: Floats, count: int) -> NDArray[np.intp]:
    """[T, count] the places of the largest, best first; of equals the first, NaN last."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _total(weights: Floats) -> Floats:
    """Sum over the last axis, one after another."""
    total = np.zeros(len(weights), np.float32)
    for place in range(weights.shape[1]):
        total += weights[:, place]
    return total
