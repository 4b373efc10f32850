"""Attention over pages: right against float64, and a query's bits are its own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.device.kernels.contract import AttentionParams, Heads, Mode, Ops
from tests.device.kernel_kit import BACKENDS, COMPILED, MODES, PRESENT, Rows, backend, close, normal, same_bits

CASES = {  # page size, H, G, D, window, softcap
    "plain": (16, 9, 3, 64, None, None),
    "window": (16, 4, 4, 32, 21, None),
    "softcap": (64, 4, 1, 40, None, 8.0),
    "odd": (5, 6, 2, 20, 7, 30.0),
    "page of one": (1, 2, 1, 8, 3, None),
}


@pytest.fixture(params=[(b, m) for b in BACKENDS for m in MODES], ids="/".join)
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(*request.param)


def case(name: str, lengths: list[int]) -> tuple[Rows, AttentionParams]:
    page, heads, groups, dim, window, cap = CASES[name]
    return Rows.make(lengths, page, heads, groups, dim), AttentionParams(dim**-0.5, window, cap)


@pytest.mark.parametrize("name", CASES)
def test_attention_is_the_textbook_one(ops: Ops, name: str) -> None:
    rows, params = case(name, [37, 1, 70])
    spans = [(r, 0, len(rows.q[r])) for r in range(3)]
    got = rows.step(ops, rows.fresh(ops), spans, params)
    for row, out in enumerate(got):
        assert close(out, rows.rounded(ops.mode).oracle(row, params), 3e-6)


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


@pytest.mark.parametrize("which", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
def test_threads_change_no_bit(which: str, mode: Mode) -> None:
    rows, params = case("plain", [80, 33, 1])
    spans = [(r, 0, len(rows.q[r])) for r in range(3)]
    one, two = backend(which, mode, 1), backend(which, mode, 2)
    a, b = rows.step(one, rows.fresh(one), spans, params), rows.step(two, rows.fresh(two), spans, params)
    assert all(same_bits(x, y) for x, y in zip(a, b, strict=True))


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
    assert close(out, rows.rounded(ops.mode).oracle(0, params), 3e-6)


def test_values_may_be_narrower_than_keys(ops: Ops) -> None:
    rows, params = case("plain", [20])
    kv = ops.kv_alloc(rows.total_pages, 16, 3, 64, value_dim=12)
    narrow = np.ascontiguousarray(rows.v[0][..., :12])
    ragged = rows.batch([(0, 0, 20)])
    ops.kv_store(kv, rows.k[0], narrow, ragged)
    [whole] = rows.step(ops, rows.fresh(ops), [(0, 0, 20)], params)
    assert close(ops.attention(rows.q[0], kv, ragged, params), whole[..., :12], 1e-6)


@given(data=st.data(), which=st.sampled_from(PRESENT), mode=st.sampled_from(MODES))
@settings(max_examples=40, deadline=None)
def test_any_schedule_gives_the_same_rows(data: st.DataObject, which: str, mode: Mode) -> None:
    ops = backend(which, mode, 2)
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


@pytest.mark.parametrize("which", COMPILED)
def test_wrong_batches_are_refused(which: str) -> None:
    ops = backend(which, "fast")
    rows, params = case("plain", [20])
    kv, good = rows.fresh(ops), rows.batch([(0, 0, 20)])
    ops.kv_store(kv, rows.k[0], rows.v[0], good)
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


@pytest.mark.parametrize("normed", [False, True], ids=["plain", "normed"])
@pytest.mark.parametrize("name", CASES)
def test_qkv_is_norm_then_rope_then_store(ops: Ops, name: str, normed: bool) -> None:
    """Bit for bit, stacked or in three parts, whatever the step is made of."""
    rows, _ = case(name, [37, 1, 70])
    _, heads, groups, dim, *_ = CASES[name]
    half = dim // 4 if normed else dim // 2
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
            assert same_bits(kv.keys, expected.keys) and same_bits(kv.values, expected.values)


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
