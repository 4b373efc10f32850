"""Latent pages: one copy of each token, attention over them, and what makes queries and latents of projections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from radixmill.device.kernels.contract import AttentionParams, KVShape, KVType, LatentHeads, Mode, Ops
from tests.device.kernel_kit import (
    BACKENDS,
    COMPILED,
    KV_TYPES,
    Rows,
    arrays,
    backend,
    close,
    normal,
    same_bits,
    stored,
)

CASES = {  # page size, H, key, value, window, softcap, sinks
    "plain": (16, 16, 48, 32, None, None, False),
    "all of the key": (64, 4, 32, 32, None, None, False),
    "odd": (5, 6, 20, 13, 7, 30.0, True),
    "page of one": (1, 2, 9, 8, 3, None, False),
    "page of many": (300, 7, 24, 16, None, None, True),
    "many heads": (32, 80, 24, 9, 50, None, False),  # more than are looked at together
    "heads of a prime": (16, 67, 24, 9, None, None, True),  # of which no two blocks of equal size are made
    "one head": (16, 1, 40, 24, None, 8.0, False),
    "window within a page": (100, 5, 150, 100, 40, None, False),  # which is larger than what has one scale
}
KEPT: list[tuple[Mode, KVType]] = [("fast", "f16"), ("exact", "f32"), ("fast", "int8")]


@pytest.fixture(params=[(b, *kept) for b in BACKENDS for kept in KEPT], ids="/".join)
def ops(request: pytest.FixtureRequest) -> Ops:
    which, mode, kv = request.param
    return backend(which, mode, kv=kv)


CODES = ("avx2", "avxvnni", "avx512", "avx512bf16")  # instruction sets that take latents as integers in `fast` mode


def tolerance(ops: Ops) -> float:
    return 3e-4 if ops.mode == "fast" and ops.kv_type != "f32" and ops.isa in CODES else 3e-6


def case(name: str, lengths: list[int]) -> tuple[Rows, AttentionParams]:
    page, heads, dim, value, window, cap, sinks = CASES[name]
    drain = normal(heads, seed=5) if sinks else None
    return Rows.latents(lengths, page, heads, dim, value), AttentionParams(dim**-0.5, window, cap, drain)


@pytest.mark.parametrize("name", CASES)
def test_attention_over_latents_is_the_textbook_one(ops: Ops, name: str) -> None:
    """In pages full of what must not be read."""
    rows, params = case(name, [37, 1, 70])
    got = rows.step(ops, rows.fresh(ops), [(r, 0, len(rows.q[r])) for r in range(3)], params)
    for row, out in enumerate(got):
        assert out.shape == (len(rows.q[row]), *rows.q[row].shape[1:2], rows.v[0].shape[2])
        assert close(out, rows.rounded(ops.kv_type).oracle(row, params), tolerance(ops))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", BACKENDS)
def test_latents_are_keys_and_values_written_out(which: str, name: str) -> None:
    ops = backend(which, "exact")
    rows, params = case(name, [53])
    dim, value = rows.k[0].shape[2], rows.v[0].shape[2]
    plain = replace(rows, latent=False, v=[np.pad(v, ((0, 0), (0, 0), (0, dim - value))) for v in rows.v])
    outs = [each.step(ops, each.fresh(ops), [(0, 0, 53)], params)[0] for each in (rows, plain)]
    assert close(outs[0], outs[1][..., :value], 2e-6)


@pytest.mark.parametrize("name", CASES)
def test_chunks_and_company_change_no_bit(ops: Ops, name: str) -> None:
    rows, params = case(name, [53, 29])
    [whole] = rows.step(ops, rows.fresh(ops), [(0, 0, 53)], params)
    for cuts in ([0, 1, 2, 3, 10, 26, 53], [0, 16, 32, 53], [0, 7, 53], list(range(54))):
        kv, at = rows.fresh(ops), 0
        for a, b in pairwise(cuts):
            beside = [(1, at, min(at + 3, 29))] if at < 29 else []
            at = min(at + 3, 29)
            first, *_ = rows.step(ops, kv, [(0, a, b), *beside], params)
            assert same_bits(first, whole[a:b]), (cuts, a, b)


LONG = 700  # positions: several of the pieces in which a row is cut


@pytest.mark.parametrize("kv", KV_TYPES)
@pytest.mark.parametrize("which", BACKENDS)
def test_threads_change_no_bit(which: str, kv: KVType) -> None:
    ops = [backend(which, "fast", threads, kv) for threads in (1, 2, 5)]
    for name in ("plain", "odd", "page of many", "many heads"):
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
        assert close(outs[0][0], rows.rounded(kv).oracle(0, params), tolerance(ops[0]))


def of_one_size(rows: Rows) -> None:
    pass


def one_is_large(rows: Rows) -> None:
    rows.k[0][..., 5] *= 30


def large_when_turned(rows: Rows) -> None:
    rows.k[0][..., 512:] *= 30
    rows.q[0][..., 512:] /= 10


def one_key_counts(rows: Rows) -> None:
    rows.q[0] *= 6


def of_every_size(rows: Rows) -> None:
    rows.k[0][..., :512] *= np.exp(1.5 * normal(512, seed=3))


def far_from_one(rows: Rows) -> None:
    rows.k[0] *= np.where(np.arange(len(rows.k[0])) % 2, 3e-4, 900)[:, None, None].astype(np.float32)
    rows.q[0] *= 1e-3


@pytest.mark.parametrize("which", COMPILED)
@pytest.mark.parametrize(
    ("shape", "most"),
    [
        (of_one_size, 1.5),
        (one_is_large, 4.5),
        (large_when_turned, 1.5),
        (one_key_counts, 1.5),
        (of_every_size, 6),
        (far_from_one, 1.5),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_integers_cost_about_what_float16_does(which: str, shape: Callable[[Rows], None], most: float) -> None:
    """Times what rounding latents to float16 costs; bfloat16 would be 8."""
    ops, n, params = backend(which, "fast"), 300, AttentionParams(192**-0.5)
    rows = Rows.latents([n], 64, 16, 512 + 64, 512)
    shape(rows)
    rows.v[0][...] = rows.k[0][..., :512]
    true, stored = (each.oracle(0, params) for each in (rows, rows.rounded("f16")))
    [got] = rows.step(ops, rows.fresh(ops), [(0, 0, n)], params)

    def error(a: Any, b: Any) -> float:
        return float(np.sqrt(np.square(a - b)[200:].mean()))

    assert error(got, stored) <= most * error(stored, true), (error(got, stored), error(stored, true))
    assert error(got, stored) > 0.1 * error(stored, true) or ops.isa not in CODES, "no integers"


@pytest.mark.parametrize("which", COMPILED)
def test_latents_and_queries_of_nothing(which: str) -> None:
    """Zeros, the smallest numbers there are, and one next to the largest."""
    ops, n, params = backend(which, "fast"), 70, AttentionParams(0.1)
    rows = Rows.latents([n], 16, 3, 48, 32)
    rows.k[0][:10] = 0
    rows.k[0][10:20, :, :32] = 0
    rows.k[0][20:30] *= 1e-7
    rows.k[0][69, 0, 3] = 65504
    rows.q[0][40:50] = 0
    rows.q[0][50:60, :, :32] = 0
    rows.q[0][60:] *= 1e-30
    rows.v[0][...] = rows.k[0][..., :32]
    [got] = rows.step(ops, rows.fresh(ops), [(0, 0, n)], params)
    expected = rows.rounded("f16").oracle(0, params)
    for some in (slice(30), slice(30, 69), slice(69, 70)):
        assert close(got[some], expected[some], 1e-3)
    assert not got[:20, :, :32].any()


@pytest.mark.parametrize("which", COMPILED)
def test_turned_dimensions_of_a_query_of_almost_nothing_stay_finite(which: str) -> None:
    ops, n, params = backend(which, "fast"), 40, AttentionParams(1e-9)
    rows = Rows.latents([n], 16, 4, 512 + 64, 512)
    rows.q[0][..., :512] *= np.logspace(-30, -1, n)[:, None, None].astype(np.float32)
    rows.q[0][..., 512:] = 1e3
    rows.k[0][..., :512] *= np.where(np.arange(n) % 3, 1e-7, 0)[:, None, None].astype(np.float32)
    rows.k[0][..., 512:] *= 1e3
    rows.v[0][...] = rows.k[0][..., :512]
    [got] = rows.step(ops, rows.fresh(ops), [(0, 0, n)], params)
    assert close(got, rows.rounded("f16").oracle(0, params), 1e-3)


@pytest.mark.parametrize("where", ["query", "tail"])
def test_one_that_is_not_a_number_spoils_those_that_see_it(ops: Ops, where: str) -> None:
    rows, params = case("plain", [40])
    [clean] = rows.step(ops, rows.fresh(ops), [(0, 0, 40)], params)
    if where == "query":
        rows.q[0][7, 3, 40] = np.nan
    else:
        rows.k[0][20, 0, 40] = np.nan  # beyond what is also a value
    with np.errstate(all="ignore"):
        [spoiled] = rows.step(ops, rows.fresh(ops), [(0, 0, 40)], params)
    bad = np.zeros(spoiled.shape[:2], bool)
    bad[(7, 3) if where == "query" else slice(20, None)] = True
    assert np.isnan(spoiled[bad]).all() and same_bits(spoiled[~bad], clean[~bad])


def test_codes_are_near_floats() -> None:
    rows, params = case("plain", [60])
    outs = {}
    for kv in KV_TYPES:
        ops = backend("reference", "fast", kv=kv)
        [outs[kv]] = rows.step(ops, rows.fresh(ops), [(0, 0, 60)], params)
    assert close(outs["int8"], outs["f32"], 0.02) and not close(outs["int8"], outs["f32"], 1e-4)


def test_later_and_stale_latents_never_reach_a_query(ops: Ops) -> None:
    rows, params = case("plain", [40])
    params = replace(params, window=9)
    [clean] = rows.step(ops, rows.fresh(ops), [(0, 0, 40)], params)
    rows.k[0][20:] = np.nan
    rows.k[0][3] = np.inf
    rows.v[0][...] = rows.k[0][..., :32]
    with np.errstate(all="ignore"):
        [spoiled] = rows.step(ops, rows.fresh(ops), [(0, 0, 40)], params)
    assert same_bits(spoiled[:3], clean[:3]) and same_bits(spoiled[12:20], clean[12:20])
    assert np.isnan(spoiled[20:]).all() and np.isnan(spoiled[3:12]).all(axis=(1, 2)).all()


@pytest.mark.parametrize("name", CASES)
def test_a_copied_page_reads_the_same(ops: Ops, name: str) -> None:
    rows, params = case(name, [53])
    kv, last = rows.fresh(ops), 52
    [whole] = rows.step(ops, kv, [(0, 0, 53)], params)
    page, spare = last // rows.page_size, next(i for i in range(rows.total_pages) if i not in rows.pages[0])
    ops.kv_copy(kv, int(rows.pages[0][page]), spare, last % rows.page_size)
    for array in arrays(kv):
        array[rows.pages[0][page]] = 77 if array.dtype == np.int8 else np.nan
    rows.pages[0][page] = spare
    [again] = rows.step(ops, kv, [(0, last, 53)], params)
    assert same_bits(again[0], whole[last])


@pytest.mark.parametrize("which", COMPILED)
def test_one_copy_of_a_token(which: str) -> None:
    for kv in KV_TYPES:
        ops, most = backend(which, "fast", kv=kv), {"f16": 2, "f32": 4, "int8": 1}[kv]
        shape = KVShape(1, 512 + 64, 512, latent=True)
        pages = ops.kv_alloc(4, 64, shape)
        scales = 4 if kv == "int8" else 0
        assert sum(array.nbytes for array in arrays(pages)) == 4 * 64 * (576 * most + scales)
        assert ops.kv_bytes_per_token(shape, 64) == 576 * most + scales
        assert ops.kv_bytes_per_token(replace(shape, dim=577), 64) > 577 * most + scales  # padded


# --- from projections

H, NOPE, TURNED, RANK = 6, 32, 8, 32


def heads(ops: Ops, kind: str) -> LatentHeads:
    up = ops.per_head([ops.pack(stored(kind, RANK, NOPE, seed=i)) for i in range(H)])
    angles = normal(80, TURNED // 2, seed=7)
    cos, sin = ops.array(np.cos(angles)), ops.array(np.sin(angles))
    return LatentHeads(H, NOPE, TURNED, RANK, up, cos, sin, (ops.array(normal(RANK, seed=8)), 1e-5))


def projections(spans: list[tuple[int, int, int]]) -> tuple[Any, Any, Any]:
    """q, latent and positions of the spans."""
    positions = np.concatenate([np.arange(a, b, dtype=np.int32) for _, a, b in spans])
    q, latent = normal(3 * 80, H * (NOPE + TURNED), seed=1), normal(3 * 80, RANK + TURNED, seed=2)
    at = np.concatenate([np.arange(a, b) + 80 * r for r, a, b in spans])
    return q[at], latent[at], positions


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_latents_are_norm_rope_product_and_store(ops: Ops, kind: str) -> None:
    """Bit for bit, whatever the step is made of."""
    shape = heads(ops, kind)
    rows = Rows.latents([37, 1, 70], 16, H, RANK + TURNED, RANK)
    for spans in ([(0, 0, 37), (1, 0, 1), (2, 0, 70)], [(2, 3, 4)], [(0, 20, 37), (2, 69, 70)]):
        ragged = rows.batch(spans)
        q, latent, positions = projections(spans)
        got = rows.fresh(ops)
        y = ops.latents(q, latent, shape, positions, got, ragged)
        each = q.reshape(-1, H, NOPE + TURNED)
        plain, turned = (np.ascontiguousarray(x) for x in (each[..., :NOPE], each[..., NOPE:]))
        key = ops.rope(np.ascontiguousarray(latent[:, None, RANK:]), positions, shape.cos, shape.sin)
        kept = ops.rms_norm(np.ascontiguousarray(latent[:, :RANK]), *shape.norm)
        assert same_bits(y[..., :RANK].copy(), ops.linear_heads(plain, shape.up))
        assert same_bits(y[..., RANK:].copy(), ops.rope(turned, positions, shape.cos, shape.sin))
        expected = rows.fresh(ops)
        whole = np.concatenate([kept[:, None], key], axis=-1)
        ops.kv_store(expected, whole, np.ascontiguousarray(whole[..., :RANK]), ragged)
        assert all(same_bits(a, b) for a, b in zip(arrays(got), arrays(expected), strict=True))


@pytest.mark.parametrize("which", COMPILED)
def test_latents_agree_with_the_reference(which: str) -> None:
    outs = []
    for ops in (backend(which, "exact"), backend("reference", "exact")):
        rows = Rows.latents([50], 16, H, RANK + TURNED, RANK)
        ragged, kv = rows.batch([(0, 0, 50)]), rows.fresh(ops)
        q, latent, positions = projections([(0, 0, 50)])
        queries = ops.latents(q, latent, heads(ops, "F32"), positions, kv, ragged)
        outs.append(ops.attention(queries, kv, ragged, AttentionParams(0.1)))
    assert close(outs[0], outs[1], 1e-5)


def test_latents_in_a_recorded_pass(ops: Ops) -> None:
    """Recorded and op by op, to the same bits; both projections pass through what is put off."""
    rows, params = Rows.latents([37, 1, 300], 16, H, RANK + TURNED, RANK), AttentionParams(0.2, 100)
    angles = normal(300, TURNED // 2, seed=7)
    shape = replace(heads(ops, "Q8_0"), cos=ops.array(np.cos(angles)), sin=ops.array(np.sin(angles)))
    values = ops.per_head([ops.pack(stored("F16", 16, RANK, seed=20 + i)) for i in range(H)])
    table, norm = ops.pack(stored("F32", 30, 64)), ops.array(normal(64, seed=3))
    down, up = ops.pack(stored("F16", RANK + TURNED, 64)), ops.pack(stored("Q8_0", H * (NOPE + TURNED), 64))
    outs = []
    for record in (False, True):
        kv = rows.fresh(ops)

        def forward(ids: Any, positions: Any, wanted: Any, ragged: Any, kv: Any = kv) -> Any:
            x = ops.rms_norm(ops.embed(ids, table), norm, 1e-5)
            q = ops.latents(ops.linear(x, up), ops.linear(x, down), shape, positions, kv, ragged[0])
            y = ops.linear_heads(ops.attention(q, kv, ragged[0], params), values)
            return ops.gather(y.reshape(-1, H * 16), wanted)

        run = ops.capture(forward, 1) if record else forward
        assert (run is forward) == (not record or ops.name == "reference")
        for spans in ([(0, 0, 37), (2, 0, 299)], [(1, 0, 1), (2, 299, 300)]):
            ids = np.concatenate([np.arange(a, b) % 30 for _, a, b in spans])
            positions = np.concatenate([np.arange(a, b, dtype=np.int32) for _, a, b in spans])
            wanted = np.arange(len(ids), dtype=np.int32)
            outs.append(run(ids, positions, wanted, (rows.batch(spans),)).copy())
    assert same_bits(outs[0], outs[2]) and same_bits(outs[1], outs[3])


def test_latents_that_are_not_turned(ops: Ops) -> None:
    """Rotated dimensions there need not be, recorded or not."""
    norm, n = ops.array(normal(RANK, seed=8)), 5
    none = ops.array(np.empty((80, 0), np.float32))
    shape = replace(heads(ops, "F16"), rope=0, cos=none, sin=none, norm=(norm, 1e-5))
    rows = Rows.latents([n], 16, H, RANK, RANK)
    kv, ragged, at = rows.fresh(ops), rows.batch([(0, 0, n)]), np.arange(n, dtype=np.int32)
    table = ops.pack(stored("F32", n, RANK + H * NOPE))
    down, up = ops.pack(stored("F32", RANK, RANK + H * NOPE)), ops.pack(stored("F32", H * NOPE, RANK + H * NOPE))

    def forward(ids: Any, positions: Any, wanted: Any, ragged: Any) -> Any:
        x = ops.embed(ids, table)
        y = ops.latents(ops.linear(x, up), ops.linear(x, down), shape, positions, kv, ragged[0])
        return ops.gather(y.reshape(-1, H * RANK), wanted)

    got = forward(at.astype(np.int64), at, at, (ragged,))
    x = ops.embed(at.astype(np.int64), table)
    assert same_bits(got.reshape(n, H, RANK), ops.linear_heads(ops.linear(x, up).reshape(n, H, NOPE), shape.up))
    assert same_bits(ops.capture(forward, 1)(at.astype(np.int64), at, at, (ragged,)), got)
    other = rows.fresh(ops)
    latent = ops.rms_norm(ops.linear(x, down), norm, 1e-5).reshape(n, 1, RANK)
    ops.kv_store(other, latent, latent, ragged)
    assert all(same_bits(a, b) for a, b in zip(arrays(kv), arrays(other), strict=True))


@pytest.mark.parametrize("which", COMPILED)
def test_wrong_latents_are_refused(which: str) -> None:
    ops = backend(which, "exact")
    rows, shape = Rows.latents([4], 16, H, RANK + TURNED, RANK), heads(ops, "F16")
    q, latent, positions = projections([(0, 0, 4)])
    ragged, kv = rows.batch([(0, 0, 4)]), rows.fresh(ops)
    ops.latents(q, latent, shape, positions, kv, ragged)
    for bad in ((q[:, 1:].copy(), latent, positions), (q, latent[:3].copy(), positions), (q, latent, positions + 78)):
        with pytest.raises((ValueError, IndexError)):
            ops.latents(bad[0], bad[1], shape, bad[2], kv, ragged)
    for other in (KVShape(1, 40, 32), KVShape(1, 48, 32, latent=True), KVShape(1, 40, 24, latent=True)):
        with pytest.raises(ValueError):
            ops.latents(q, latent, shape, positions, ops.kv_alloc(8, 16, other), ragged)
    with pytest.raises(ValueError, match="value"):
        ops.kv_alloc(1, 16, KVShape(1, 8, 9, latent=True))
