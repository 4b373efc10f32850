"""Paged attention, one tile of queries against one page of keys at a time.

Online softmax (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"): per query a running maximum,
a running sum and an unnormalised output, rescaled whenever a page raises the maximum. Every product has the same shape
whatever the batch, and a page that a query does not see leaves that query's state untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import AttentionParams, KVShape, KVType, Ragged
from radixmill.device.kernels.reference.tiles import Beat, Floats, row_tile, tree_sum

TILE = 8  # queries; also rows in a product


@dataclass(frozen=True)
class Pages:
    """One layer's keys and values: [pages, P, G, D] each, in their storage type; int8 with scales [pages, P, G]."""

    keys: NDArray[Any]
    values: NDArray[Any]  # of latent pages a view of the keys
    latent: bool
    key_scales: NDArray[np.float32] | None = None
    value_scales: NDArray[np.float32] | None = None  # of latent pages the keys'

    @classmethod
    def empty(cls, kv: KVType, pages: int, page_size: int, shape: KVShape) -> Pages:
        kept, places = (
            np.dtype({"f16": np.float16, "f32": np.float32, "int8": np.int8}[kv]),
            (pages, page_size, shape.heads),
        )
        scales = [np.zeros(places, np.float32) for _ in range(2)] if kv == "int8" else [None, None]
        keys = np.zeros((*places, shape.dim), kept)
        if shape.latent:
            return cls(keys, keys[..., : shape.value_dim], True, scales[0], scales[0])
        return cls(keys, np.zeros((*places, shape.value_dim), kept), False, *scales)

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All there are; the first axis is the page, the second the slot."""
        found = (self.keys, self.key_scales, *(() if self.latent else (self.values, self.value_scales)))
        return tuple(array for array in found if array is not None)


@dataclass
class _State:
    """The softmax of a tile so far; H heads as [G, tile · H/G]."""

    peak: Floats  # [G, M]
    total: Floats  # [G, M]
    out: Floats  # [G, M, Dv]


def store(pages: Pages, k: Floats, v: Floats, ragged: Ragged) -> None:
    """Write k, v [T, G, D] at the positions of the batch."""
    at = _places(ragged)
    with np.errstate(over="ignore", invalid="ignore"):
        if pages.key_scales is not None and pages.value_scales is not None:
            pages.keys[at], pages.key_scales[at] = _codes(k if pages.latent else _rotate(k))
            if not pages.latent:
                pages.values[at], pages.value_scales[at] = _codes(v)
        else:
            pages.keys[at] = k.astype(pages.keys.dtype)
            if not pages.latent:
                pages.values[at] = v.astype(pages.values.dtype)


def _rotate(x: Floats) -> Floats:
    """x [..., D] through a Walsh–Hadamard transform, see Ops.kv_alloc; its square is the size of a block."""
    shape, block, reach = x.shape, _block(x.shape[-1]), 1
    while reach < block:
        pairs = x.reshape(*shape[:-1], -1, 2, reach)
        x = np.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], axis=-2)
        reach *= 2
    return x.reshape(shape)


def _block(dim: int) -> int:
    return dim & -dim


def _codes(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """x [..., D] → int8 codes [..., D] and scales [...], see Ops.kv_alloc."""
    most = np.abs(x).max(axis=-1)
    scale = np.where(np.isfinite(most), most / np.float32(127), np.float32(np.nan))
    none = ~(scale > 0)[..., None]
    turned = np.where(none, np.float32(0), x / np.where(none, np.float32(1), scale[..., None]))
    return np.rint(np.clip(turned, -127, 127)).astype(np.int8), scale


def attend(q: Floats, pages: Pages, ragged: Ragged, params: AttentionParams, beat: Beat = lambda: None) -> Floats:
    """q [T, H, D] → [T, H, Dv]. `beat` is called with every page that a tile sees."""
    tokens, heads, dim = q.shape
    value_dim = pages.values.shape[-1]
    out = np.empty((tokens, heads, value_dim), np.float32)
    if pages.key_scales is not None and not pages.latent:
        q = _rotate(q) / np.float32(_block(dim))
    with np.errstate(all="ignore"):
        for row in range(len(ragged.starts)):
            first, last = int(ragged.query_starts[row]), int(ragged.query_starts[row + 1])
            for at in range(first, last, TILE):
                count = min(TILE, last - at)
                position = int(ragged.starts[row]) + at - first
                padded = np.zeros((TILE, heads, dim), np.float32)
                padded[:count] = q[at : at + count]
                ids = ragged.page_ids[ragged.page_starts[row] : ragged.page_starts[row + 1]]
                result = _tile(padded, position, count, pages, ids, params, beat)
                out[at : at + count] = result[:count]
    return out


def _tile(
    q: Floats,
    position: int,
    count: int,
    pages: Pages,
    ids: NDArray[np.int32],
    params: AttentionParams,
    beat: Beat,
) -> Floats:
    """Queries q [tile, H, D] at `position` and on, of which the first `count` are real."""
    (tile, heads, dim), page_size = q.shape, pages.keys.shape[1]
    groups, value_dim = pages.values.shape[2:]
    rep = heads // groups
    queries = np.ascontiguousarray(q.reshape(tile, groups, rep, dim).transpose(1, 0, 2, 3)).reshape(groups, -1, dim)
    at = position + np.minimum(np.arange(tile), count - 1)  # a padding row repeats the last query's mask
    oldest = 0 if params.window is None else max(position - params.window + 1, 0)
    state = _State(
        np.full((groups, tile * rep), -np.inf, np.float32),
        np.zeros((groups, tile * rep), np.float32),
        np.zeros((groups, tile * rep, value_dim), np.float32),
    )
    for page in range(oldest // page_size, int(at[-1]) // page_size + 1):
        seen = _visible(at, page * page_size + np.arange(page_size), params.window)
        _page(state, queries, np.repeat(seen, rep, axis=0), pages, int(ids[page]), params)
        beat()
    if params.sinks is not None:
        _drain(state, np.tile(np.asarray(params.sinks, np.float32).reshape(groups, rep), tile))
    result = state.out / state.total[..., None]
    return result.reshape(groups, tile, rep, value_dim).transpose(1, 0, 2, 3).reshape(tile, heads, value_dim)


def _page(
    state: _State, queries: Floats, seen: NDArray[np.bool_], pages: Pages, page: int, params: AttentionParams
) -> None:
    """Add one page's keys to the state; `seen` [M, P] says which of them each query sees."""
    keys = _floats(pages.keys, pages.key_scales, page)  # [G, P, D]
    values = _floats(pages.values, pages.value_scales, page)  # [G, P, Dv]
    scores = _product(queries, keys.transpose(0, 2, 1)) * np.float32(params.scale)  # [G, M, P]
    if params.softcap is not None:
        cap = np.float32(params.softcap)
        scores = np.tanh(scores / cap) * cap
    scores = np.where(seen, scores, np.float32(-np.inf))
    peak = np.maximum(state.peak, scores.max(axis=-1))
    around = np.where(np.isneginf(peak), np.float32(0), peak)
    weights = np.exp(scores - around[..., None])
    faded = np.exp(state.peak - around)
    total = state.total * faded + tree_sum(weights)
    out = state.out * faded[..., None] + _weighted(weights, values, seen)
    live = seen.any(axis=-1)
    state.peak = np.where(live, peak, state.peak)
    state.total = np.where(live, total, state.total)
    state.out = np.where(live.reshape(-1, 1), out, state.out)


def _floats(kept: NDArray[Any], scales: Floats | None, page: int) -> Floats:
    """One page's keys or values, [G, P, D]."""
    values = kept[page].astype(np.float32)
    if scales is not None:
        values *= scales[page][..., None]
    return np.ascontiguousarray(values.transpose(1, 0, 2))


def _drain(state: _State, sinks: Floats) -> None:
    """Add the sinks [G, M] to the sums, as scores of keys without a value."""
    peak = np.maximum(state.peak, sinks)
    faded = np.exp(state.peak - peak)
    state.total = state.total * faded + np.exp(sinks - peak)
    state.out = state.out * faded[..., None]


def _weighted(weights: Floats, values: Floats, seen: NDArray[np.bool_]) -> Floats:
    """weights [G, M, P] · values [G, P, Dv]; a value that a query does not see cannot reach it, not even as 0 · NaN."""
    values = np.where(seen.any(axis=0).reshape(-1, 1), values, np.float32(0))  # stale slots
    if seen.all() or np.isfinite(values).all():
        return _product(weights, values)
    out = np.empty((*weights.shape[:2], values.shape[-1]), np.float32)
    for row in range(weights.shape[1]):
        out[:, row] = _product(weights, np.where(seen[row, :, None], values, np.float32(0)))[:, row]
    return out


def _product(x: Floats, y: Floats) -> Floats:
    """x [G, M, K] · y [G, K, N], M a multiple of TILE, in products of one shape."""
    groups, rows, k = x.shape
    block = row_tile(k, y.shape[-1], (TILE,))
    return np.matmul(x.reshape(groups, -1, block, k), y[:, None]).reshape(groups, rows, -1)


def _visible(queries: NDArray[np.int_], keys: NDArray[np.int_], window: int | None) -> NDArray[np.bool_]:
    behind = queries[:, None] - keys[None, :]
    return (behind >= 0) & (behind < (np.inf if window is None else window))


def _places(ragged: Ragged) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(page, slot) of every token of the batch."""
    counts = np.diff(ragged.query_starts)
    row = np.repeat(np.arange(len(counts)), counts)
    position = ragged.starts[row].astype(np.int64) + np.arange(int(ragged.query_starts[-1])) - ragged.query_starts[row]
    page = ragged.page_ids[ragged.page_starts[row] + position // ragged.page_size]
    return page.astype(np.int64), position % ragged.page_size
