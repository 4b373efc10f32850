"""Attention over pages: right against float64, and a query's bits are its own."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.device.kernels import isas
from radixmill.device.kernels.contract import AttentionParams, Heads, KVShape, KVType, Mode, Ops, Ragged, Stored
from tests.device.kernel_kit import (
    BACKENDS,
    COMPILED,
    KV_TYPES,
    PRESENT,
    Rows,
    arrays,
    backend,
    close,
    normal,
    rotated,
    same_bits,
)

CASES = {  # page size, H, G, D, window, softcap, sinks
    "plain": (16, 9, 3, 64, None, None, False),
    "window": (16, 4, 4, 32, 21, None, False),
    "softcap": (64, 4, 1, 40, None, 8.0, False),
    "sinks": (16, 8, 2, 64, None, None, True),
    "odd": (5, 6, 2, 20, 7, 30.0, True),
    "page of one": (1, 2, 1, 8, 3, None, False),
    "page of many": (300, 7, 1, 16, None, None, False),
    "window within a page": (16, 4, 2, 32, 5, None, True),
    "window of a page": (16, 4, 4, 32, 16, None, True),
    "window of many pages": (4, 6, 1, 32, 41, None, True),
}
KEPT: list[tuple[Mode, KVType]] = [("fast", "f16"), ("exact", "f32"), ("fast", "int8")]


@pytest.fixture(params=[(b, *kept) for b in BACKENDS for kept in KEPT], ids="/".join)
def ops(request: pytest.FixtureRequest) -> Ops:
    which, mode, kv = request.param
    return backend(which, mode, kv=kv)


def case(name: str, lengths: list[int]) -> tuple[Rows, AttentionParams]:
    page, heads, groups, dim, window, cap, sinks = CASES[name]
    drain = normal(heads, seed=5) if sinks else None
    return Rows.make(lengths, page, heads, groups, dim), AttentionParams(dim**-0.5, window, cap, drain)


@pytest.mark.parametrize("name", CASES)
def test_attention_is_the_textbook_one(ops: Ops, name: str) -> None:
    rows, params = case(name, [37, 1, 70])
    spans = [(r, 0, len(rows.q[r])) for r in range(3)]
    got = rows.step(ops, rows.fresh(ops), spans, params)
    for row, out in enumerate(got):
        assert close(out, rows.rounded(ops.kv_type).oracle(row, params), 3e-6)


@pytest.mark.parametrize("name", CASES)
def test_chunks_and_company_change_no_bit(ops: Ops, name: str) -> None:
    """One row whole, in chunks, and token by token, alone and beside others."""
    rows, params = case(name, [53, 29])
    [whole] = rows.step(ops, rows.fresh(ops), [(0, 0, 53)], params)
    for cuts in ([0, 1, 2, 3, 10, 26, 53], [0, 16, 32, 53], [0, 7, 53], list(range(54))):
        kv, at = rows.fresh(ops), 0
        for a, b in pairwise(cuts):
            beside = [(1, at, min(at + 3, 29))] if at < 29 else []
            at = min(at + 3, 29)
            first, *_ = rows.step(ops, kv, [(0, a, b), *beside], params)
            assert same_bits(first, whole[a:b]), (cuts, a, b)
            kv = kv if b < 53 else None


LONG = 700  # positions: several of the pieces in which a row is cut


@pytest.mark.parametrize("kv", KV_TYPES)
@pytest.mark.parametrize("which", BACKENDS)
def test_threads_change_no_bit(which: str, kv: KVType) -> None:
    """Nor does it whether a long row is alone, and so cut into pieces, or in a chunk of many queries."""
    ops = [backend(which, "fast", threads, kv) for threads in (1, 2, 5)]
    for name in ("sinks", "odd", "page of many"):
        rows, params = case(name, [LONG, 33, 1])
        outs, last = [], []
        for each in ops:
            pages = rows.fresh(each)
            outs.append(rows.step(each, pages, [(r, 0, len(rows.q[r])) for r in range(3)], params))
            steps = ([(0, LONG - 1, LONG)], [(0, LONG - 5, LONG)], [(0, LONG - 5, LONG), (1, 32, 33)])
            last += [rows.step(each, pages, spans, params)[0][-1] for spans in steps]
        for out in outs:
            assert all(same_bits(x, y) for x, y in zip(out, outs[0], strict=True))
        assert all(same_bits(x, outs[0][0][-1]) for x in last)


def test_long_rows_are_the_textbook_ones(ops: Ops) -> None:
    for name in ("sinks", "softcap", "odd", "page of many"):
        rows, params = case(name, [LONG])
        [out] = rows.step(ops, rows.fresh(ops), [(0, 0, LONG)], params)
        assert close(out, rows.rounded(ops.kv_type).oracle(0, params), 3e-6)


def test_sinks_take_what_they_are_due(ops: Ops) -> None:
    """None at −∞, half of a score's weight beside it, all of it far above."""
    rows, _ = case("plain", [20])
    some = [None, *(np.full(9, sink, np.float32) for sink in (-np.inf, 0, 200))]
    outs = [rows.step(ops, rows.fresh(ops), [(0, 0, 20)], AttentionParams(0.0, sinks=sinks))[0] for sinks in some]
    assert same_bits(outs[0], outs[1])
    assert close(outs[2][0] * 2, outs[0][0], 1e-6)  # scores are 0 like the sink: one key, so half
    assert close(outs[2][9] * 11 / 10, outs[0][9], 1e-6)
    assert np.abs(outs[3]).max() < 1e-30


@pytest.mark.parametrize("name", ["sinks", "window within a page", "window of a page", "window of many pages"])
def test_sinks_far_from_the_scores(ops: Ops, name: str) -> None:
    """Below all of them they change nothing, above all they take all; beside them their share."""
    rows, params = case(name, [70])
    count = rows.q[0].shape[1]
    alone = rows.step(ops, rows.fresh(ops), [(0, 0, 70)], replace(params, sinks=None))[0]
    far = np.resize(np.array([-1e4, -95, 95, 1e4, 3, -3], np.float32), count)
    params = replace(params, sinks=far)
    [out] = rows.step(ops, rows.fresh(ops), [(0, 0, 70)], params)
    assert close(out, rows.rounded(ops.kv_type).oracle(0, params), 3e-6)
    for head in range(count):
        if far[head] < -90:
            assert same_bits(out[:, head].copy(), alone[:, head].copy())
        if far[head] > 90:
            assert np.isfinite(out[:, head]).all() and np.abs(out[:, head]).max() < 1e-30


@pytest.mark.parametrize("latent", [False, True], ids=["plain", "latent"])
@pytest.mark.parametrize("page, window", [(16, 5), (16, 16), (4, 41), (300, 290), (8, 300)])
def test_pages_that_slid_out_are_not_read(ops: Ops, page: int, window: int, latent: bool) -> None:
    """Their ids may be any: here all are 0, a page of what must not be read."""
    length = 700
    made = Rows.latents([length], page, 6, 32, 24) if latent else Rows.make([length], page, 6, 2, 32)
    rows = replace(made, pages=[made.pages[0] + 1], total_pages=made.total_pages + 1)
    params, kv = AttentionParams(0.2, window, None, normal(6, seed=5)), rows.fresh(ops)
    [whole] = rows.step(ops, kv, [(0, 0, length)], params)
    for at, to in ((length - 1, length), (length - 40, length), (window, window + 1), (333, 390)):
        rows.pages[0] = made.pages[0] + 1
        rows.pages[0][: max(at - window + 1, 0) // page] = 0
        [again] = rows.step(ops, kv, [(0, at, to)], params)
        assert same_bits(again, whole[at:to])


def test_pages_may_lie_anywhere(ops: Ops) -> None:
    params, outs = AttentionParams(0.1), []
    for seed in (1, 2):
        rows = Rows.make([45], 8, 4, 2, 16)
        order = np.random.default_rng(seed).permutation(rows.total_pages).astype(np.int32)
        rows = Rows(rows.q, rows.k, rows.v, [order[rows.pages[0]]], 8, rows.total_pages)
        outs.append(rows.step(ops, rows.fresh(ops), [(0, 0, 45)], params)[0])
    assert same_bits(*outs)


def test_later_positions_never_reach_a_query(ops: Ops) -> None:
    """Even infinite or NaN keys and values of the same row, stored in the same step."""
    rows, params = case("plain", [40])
    [clean] = rows.step(ops, rows.fresh(ops), [(0, 0, 40)], params)
    for poison in (np.nan, np.inf):
        rows.k[0][25], rows.v[0][25] = poison, poison
        with np.errstate(all="ignore"):
            [dirty] = rows.step(ops, rows.fresh(ops), [(0, 0, 40)], params)
        assert same_bits(dirty[:25], clean[:25])
        assert np.isnan(dirty[25:]).all()


def test_a_window_forgets_entirely(ops: Ops) -> None:
    rows, params = case("window", [60])
    [clean] = rows.step(ops, rows.fresh(ops), [(0, 0, 60)], params)
    rows.k[0][5], rows.v[0][5] = np.nan, np.nan
    with np.errstate(all="ignore"):
        [dirty] = rows.step(ops, rows.fresh(ops), [(0, 0, 60)], params)
    assert same_bits(dirty[5 + 21 :], clean[5 + 21 :]) and np.isnan(dirty[5 : 5 + 21]).all()


def test_a_copied_page_is_as_good(ops: Ops) -> None:
    rows, params = case("odd", [9])
    kv = rows.fresh(ops)
    [whole] = rows.step(ops, kv, [(0, 0, 9)], params)
    spare = min(set(range(rows.total_pages)) - set(rows.pages[0].tolist()))
    ops.kv_copy(kv, int(rows.pages[0][1]), spare, 3)  # positions 5, 6, 7
    moved = Rows(rows.q, rows.k, rows.v, [np.array([rows.pages[0][0], spare], np.int32)], 5, rows.total_pages)
    ragged = moved.batch([(0, 7, 8)])
    assert same_bits(ops.attention(rows.q[0][7:8], kv, ragged, params), whole[7:8])
    with np.errstate(all="ignore"):
        assert np.isnan(ops.attention(rows.q[0][8:9], kv, moved.batch([(0, 8, 9)]), params)).all()


def test_large_scores(ops: Ops) -> None:
    """A softmax that is all on one key, and one where the maximum grows page after page."""
    rows, params = case("plain", [50])
    rows.q[0][:] = 30
    rows.k[0][:] = np.arange(50, dtype=np.float32)[:, None, None] / 4
    [out] = rows.step(ops, rows.fresh(ops), [(0, 0, 50)], params)
    assert close(out, rows.rounded(ops.kv_type).oracle(0, params), 3e-6)


def test_values_may_be_narrower_than_keys(ops: Ops) -> None:
    rows, params = case("plain", [20])
    rows.v[0][..., 0] = 6  # the largest: int8 scales are the same for both
    kv = ops.kv_alloc(rows.total_pages, 16, KVShape(3, 64, 12))
    narrow = np.ascontiguousarray(rows.v[0][..., :12])
    ragged = rows.batch([(0, 0, 20)])
    ops.kv_store(kv, rows.k[0], narrow, ragged)
    [whole] = rows.step(ops, rows.fresh(ops), [(0, 0, 20)], params)
    assert close(ops.attention(rows.q[0], kv, ragged, params), whole[..., :12], 1e-6)


@given(data=st.data(), which=st.sampled_from(PRESENT), kv=st.sampled_from(KV_TYPES))
@settings(max_examples=40, deadline=None)
def test_any_schedule_gives_the_same_rows(data: st.DataObject, which: str, kv: KVType) -> None:
    ops = backend(which, "fast", 2, kv)
    name = data.draw(st.sampled_from(sorted(CASES)))
    lengths = data.draw(st.lists(st.integers(1, 24), min_size=1, max_size=3))
    rows, params = case(name, lengths)
    kv, computed = rows.fresh(ops), [0] * len(lengths)
    got: list[list[np.ndarray]] = [[] for _ in lengths]
    while any(c < n for c, n in zip(computed, lengths, strict=True)):
        live = [r for r, n in enumerate(lengths) if computed[r] < n]
        chosen = data.draw(st.lists(st.sampled_from(live), min_size=1, unique=True))
        spans = [(r, computed[r], data.draw(st.integers(computed[r] + 1, lengths[r]))) for r in chosen]
        for (r, _, to), out in zip(spans, rows.step(ops, kv, spans, params), strict=True):
            computed[r] = to
            got[r].append(out)
    for r, n in enumerate(lengths):
        [alone] = rows.step(ops, rows.fresh(ops), [(r, 0, n)], params)
        assert same_bits(np.concatenate(got[r]), alone)


@pytest.mark.parametrize("which", COMPILED)
def test_half_precision_rounds_as_numpy_does(which: str) -> None:
    """Random bit patterns, every float16 and the midpoints between them."""
    ops = backend(which, "fast")
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = halves[np.isfinite(halves)]
    middles = (np.sort(halves)[1:] + np.sort(halves)[:-1]) / 2
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 15, dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        x = np.concatenate([halves, middles, random[~np.isnan(random)], np.float32([65519.99, 65520, np.inf, -np.inf])])
        x = np.resize(x, (-(-len(x) // 64), 1, 64)).astype(np.float32)
        wanted = x.astype(np.float16)
    rows = Rows.make([len(x)], len(x), 1, 1, 64)
    kv = rows.fresh(ops)
    ops.kv_store(kv, x, x, rows.batch([(0, 0, len(x))]))
    page = int(rows.pages[0][0])
    assert same_bits(kv.values[page, 0], wanted[:, 0])
    assert same_bits(kv.keys[page, 0, :, : len(x)], np.ascontiguousarray(wanted[:, 0].T))


def codes(ops: Ops, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Keys x [n, 1, D], and values, as the backend keeps them: codes [n, D] and scales [n]."""
    n, _, dim = x.shape
    rows = Rows.make([n], n, 1, 1, dim)
    kv, page = rows.fresh(ops), int(rows.pages[0][0])
    ops.kv_store(kv, x, x, rows.batch([(0, 0, n)]))
    if ops.name == "reference":
        return kv.keys[page, :, 0], kv.key_scales[page, :, 0], kv.values[page, :, 0], kv.value_scales[page, :, 0]
    return (
        np.ascontiguousarray(kv.keys[page, 0, :, :n].T), kv.key_scales[page, 0, :n],
        kv.values[page, 0, :, :dim], kv.value_scales[page, 0, :n],
    )  # fmt: skip


@pytest.mark.parametrize("dim", [8, 20, 64])
@pytest.mark.parametrize("which", BACKENDS)
def test_int8_codes_are_the_contracts(which: str, dim: int) -> None:
    """The same bytes on every backend: ties, zeros, huge and tiny values; a NaN or an infinity makes the scale NaN."""
    x = normal(40, 1, dim) * np.float32(10.0) ** np.arange(-20, 20, dtype=np.float32)[:, None, None]
    x[3] = 0
    x[4, 0, :3] = 127, 0.5, 1.5  # scale 1: ties go to the even code
    x[4, 0, 3:] = 2.5
    x[5] = 1e-44
    for which_key, bad in ((6, np.nan), (7, np.inf), (8, -np.inf)):
        x[which_key, 0, dim - 1] = bad
    keys, key_scales, values, value_scales = codes(backend(which, "fast", kv="int8"), x)
    good = [i for i in range(40) if i not in (6, 7, 8)]
    for seen, kept, scales in ((x, values, value_scales), (rotated(x, dim & -dim), keys, key_scales)):
        scale = np.abs(seen[good, 0]).max(-1) / np.float32(127)
        assert same_bits(scales[good], scale)
        safe = np.where(scale == 0, np.float32(1), scale)[:, None]
        assert np.array_equal(kept[good], np.rint(np.where(scale[:, None] == 0, 0, seen[good, 0] / safe)))
        assert np.isnan(scales[[6, 7, 8]]).all() and not kept[[6, 7, 8]].any()
    assert values[4, :4].tolist() == [127, 0, 2, 2]


def test_one_large_value_does_not_cost_the_others_their_bits() -> None:
    """Keys whose third value is large and nearly the same for all, as biases make them."""
    rows, params = case("plain", [60])
    rows.k[0][..., 2] = rows.k[0][..., 2] * 0.1 + 100
    rows.v[0][:] = rows.rounded("int8").v[0].astype(np.float32)  # so that keys alone differ
    ops = backend("reference", "fast", kv="int8")
    [out] = rows.step(ops, rows.fresh(ops), [(0, 0, 60)], params)
    scale = np.abs(rows.k[0]).max(-1, keepdims=True) / 127
    plain = replace(rows, k=[np.rint(rows.k[0] / scale) * scale])
    exact = rows.oracle(0, params)
    assert np.abs(out - exact).max() < np.abs(plain.oracle(0, params) - exact).max() / 3


@pytest.mark.parametrize("which", COMPILED)
def test_wrong_batches_are_refused(which: str) -> None:
    ops = backend(which, "fast")
    rows, params = case("plain", [20])
    kv, good = rows.fresh(ops), rows.batch([(0, 0, 20)])
    ops.kv_store(kv, rows.k[0], rows.v[0], good)
    with pytest.raises(ValueError):
        ops.attention(rows.q[0], kv, good, AttentionParams(0.1, sinks=normal(8)))
    with pytest.raises(ValueError):
        ops.attention(normal(19, 9, 64), kv, good, params)
    with pytest.raises(ValueError):
        ops.attention(normal(20, 8, 64), kv, good, params)
    with pytest.raises(ValueError, match="pages"):
        ops.attention(rows.q[0], kv, rows.batch([(0, 20, 40)]), params)
    rows.pages[0][1] = rows.total_pages
    with pytest.raises(IndexError, match="page"):
        ops.attention(rows.q[0], kv, rows.batch([(0, 0, 20)]), params)
    with pytest.raises(IndexError):
        ops.kv_copy(kv, 0, rows.total_pages, 1)


@pytest.mark.parametrize("kind", ["plain", "normed", "unturned"])
@pytest.mark.parametrize("name", CASES)
def test_qkv_is_norm_then_rope_then_store(ops: Ops, name: str, kind: str) -> None:
    """Bit for bit, stacked or in three parts, whatever the step is made of."""
    rows, _ = case(name, [37, 1, 70])
    _, heads, groups, dim, *_ = CASES[name]
    normed, half = kind == "normed", {"plain": dim // 2, "normed": dim // 4, "unturned": 0}[kind]
    angles = normal(80, half, seed=7)
    norms = (ops.array(normal(dim, seed=8)), ops.array(normal(dim, seed=9)), 1e-5) if normed else None
    shape = Heads(heads, groups, dim, ops.array(np.cos(angles)), ops.array(np.sin(angles)), norms)
    for spans in ([(0, 0, 37), (1, 0, 1), (2, 0, 70)], [(2, 3, 4)], [(0, 20, 37), (2, 69, 70)]):
        ragged = rows.batch(spans)
        positions = np.concatenate([np.arange(a, b, dtype=np.int32) for _, a, b in spans])
        q, k, v = (np.concatenate([x[r][a:b] for r, a, b in spans]) for x in (rows.q, rows.k, rows.v))
        flat = [np.ascontiguousarray(x.reshape(len(x), -1)) for x in (q, k, v)]
        if norms:
            q, k = ops.rms_norm(q, norms[0], norms[2]), ops.rms_norm(k, norms[1], norms[2])
        q, k = (ops.rope(x.copy(), positions, shape.cos, shape.sin) for x in (q, k))
        expected = rows.fresh(ops)
        ops.kv_store(expected, k, v, ragged)
        for parts in ((np.ascontiguousarray(np.concatenate(flat, axis=1)),), tuple(flat)):
            kv = rows.fresh(ops)
            assert same_bits(ops.qkv(parts, shape, positions, kv, ragged), q)
            assert all(same_bits(a, b) for a, b in zip(arrays(kv), arrays(expected), strict=True))


@pytest.mark.parametrize("name", ["sinks", "odd"])
def test_attention_in_a_recorded_pass(ops: Ops, name: str) -> None:
    """A pass of embedding, heads and attention, recorded and op by op, to the same bits."""
    rows, params = case(name, [37, 1, 300])
    _, heads, groups, dim, *_ = CASES[name]
    table = ops.pack(Stored("F32", (30, (heads + 2 * groups) * dim), normal(30, (heads + 2 * groups) * dim)))
    shape = Heads(heads, groups, dim, ops.array(normal(300, dim // 2)), ops.array(normal(300, dim // 2)))
    outs = []
    for record in (False, True):
        kv = rows.fresh(ops)

        def forward(ids: Any, positions: Any, wanted: Any, ragged: Any, kv: Any = kv) -> Any:
            q = ops.qkv((ops.embed(ids, table),), shape, positions, kv, ragged[0])
            y = ops.attention(q, kv, ragged[0], params)
            return ops.gather(y.reshape(-1, heads * dim), wanted)

        run = ops.capture(forward, 1) if record else forward
        for spans in ([(0, 0, 37), (2, 0, 299)], [(1, 0, 1), (2, 299, 300)]):
            ids = np.concatenate([np.arange(a, b) % 30 for _, a, b in spans])
            positions = np.concatenate([np.arange(a, b, dtype=np.int32) for _, a, b in spans])
            wanted = np.arange(len(ids), dtype=np.int32)
            outs.append(run(ids, positions, wanted, (rows.batch(spans),)).copy())
    assert same_bits(outs[0], outs[2]) and same_bits(outs[1], outs[3])


@pytest.mark.skipif(not isas(), reason="the compiled kernels are not installed")
@pytest.mark.parametrize(
    ("latent", "queries", "count", "threads", "end", "window"), [(False, 6, 14, 4, 800, 540), (True, 1, 84, 24, 515, 8)]
)
def test_spans_visited_in_several_runs(
    latent: bool, queries: int, count: int, threads: int, end: int, window: int
) -> None:
    """What so many rows, heads and threads find in their spans is more than is kept at once; one thread cuts nothing."""
    which, heads, wide = f"cpu/{isas()[0]}", 64, 512
    dim = wide if latent else 16
    rows = replace(Rows.make([end], 16, heads, 1, dim), v=[normal(end, 1, wide)], latent=latent)
    one = rows.batch([(0, end - queries, end)])
    many = Ragged(
        np.arange(count + 1, dtype=np.int32) * queries, np.tile(one.starts, count), np.tile(one.page_ids, count),
        np.arange(count + 1, dtype=np.int32) * len(one.page_ids), 16,
    )  # fmt: skip
    q, params, outs = normal(count * queries, heads, dim, seed=9), AttentionParams(dim**-0.5, window), []
    for used in (1, threads):
        ops = backend(which, "exact", used, "f16")
        kv = rows.fresh(ops)
        ops.kv_store(kv, rows.k[0], rows.v[0], rows.batch([(0, 0, end)]))
        outs.append(ops.attention(q, kv, many, params))
    assert np.isfinite(outs[0]).all() and same_bits(outs[0], outs[1])


def test_what_was_put_off_reads_heads_before_they_turn(ops: Ops) -> None:
    """A product of queries, recorded late, and rope on them in place."""
    rows, params = case("plain", [9])
    _, heads, groups, dim, *_ = CASES["plain"]
    table = ops.pack(Stored("F32", (30, (heads + 2 * groups) * dim), normal(30, (heads + 2 * groups) * dim)))
    wide = ops.pack(Stored("F32", (heads * dim, heads * dim), normal(heads * dim, heads * dim)))
    cos, sin = ops.array(normal(9, dim // 2)), ops.array(normal(9, dim // 2, seed=1))
    shape, kv = Heads(heads, groups, dim, cos, sin), rows.fresh(ops)

    def forward(ids: Any, positions: Any, wanted: Any, ragged: Any) -> Any:
        q = ops.qkv((ops.embed(ids, table),), shape, positions, kv, ragged[0])
        before = ops.linear(q.reshape(-1, heads * dim), wide)
        y = ops.attention(ops.rope(q, positions, cos, sin), kv, ragged[0], params)
        return ops.gather(ops.add(y.reshape(-1, heads * dim), before), wanted)

    at = np.arange(9, dtype=np.int32)
    step = at.astype(np.int64), at, at, (rows.batch([(0, 0, 9)]),)
    assert same_bits(ops.capture(forward, 1)(*step), forward(*step))


def test_qkv_refuses_what_would_leave_its_arrays(ops: Ops) -> None:
    rows, _ = case("plain", [4])
    shape = Heads(9, 3, 64, ops.array(normal(4, 32)), ops.array(normal(4, 32)))
    ragged, kv = rows.batch([(0, 0, 4)]), rows.fresh(ops)
    good = (normal(4, 15 * 64),)
    ops.qkv(good, shape, np.arange(4, dtype=np.int32), kv, ragged)
    with pytest.raises((ValueError, IndexError)):
        ops.qkv(good, shape, np.arange(1, 5, dtype=np.int32), kv, ragged)
    with pytest.raises((ValueError, IndexError)):
        ops.qkv((normal(4, 14 * 64),), shape, np.arange(4, dtype=np.int32), kv, ragged)
