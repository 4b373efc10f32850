"""linear and embed: right against float64, and the same bits for a row whatever the batch, the threads, the neighbours."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.device.kernels.contract import Mode, Ops, Stored
from tests.device.kernel_kit import (
    BACKENDS,
    COMPILED,
    HEADERS,
    KINDS,
    MODES,
    PRESENT,
    QUANTISED,
    backend,
    close,
    f8,
    normal,
    same_bits,
    seen,
    stored,
    values_of,
    whole,
)


@pytest.fixture(params=[(b, m) for b in BACKENDS for m in MODES], ids="/".join)
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(*request.param)


@pytest.fixture(params=COMPILED)
def native(request: pytest.FixtureRequest) -> str:
    backend(request.param, "fast")
    return request.param


def shapes(kind: str) -> list[tuple[int, int]]:
    if whole(kind, 1) == 1:
        return [(1, 1), (7, 5), (64, 130), (77, 257)]
    return [(n, whole(kind, k)) for n, k in ((1, 32), (13, 96), (64, 160), (75, 576))]


@pytest.mark.parametrize("kind", KINDS)
def test_linear_is_the_product(ops: Ops, kind: str) -> None:
    for n, k in shapes(kind):
        matrix, x, bias = stored(kind, n, k), normal(5, k, seed=9), normal(n, seed=8)
        wanted = seen(ops, kind, x) @ values_of(matrix).astype(np.float64).T
        weight = ops.pack(matrix)
        assert close(ops.linear(x, weight), wanted, 2e-6), (n, k)
        assert close(ops.linear(x, weight, ops.array(bias)), wanted + bias, 2e-6), (n, k)
        assert weight.format == ops.packs(kind) and weight.shape == (n, k) and weight.nbytes > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_know_its_batch(ops: Ops, kind: str) -> None:
    for n, k in [(576, whole(kind, 576)), (43, 1536)]:
        weight, x = ops.pack(stored(kind, n, k)), normal(130, k, seed=3)
        together = ops.linear(x, weight)
        for rows in (1, 2, 3, 7, 16, 33, 64, 100):
            for at in (0, 5, 130 - rows):
                assert same_bits(ops.linear(x[at : at + rows], weight), together[at : at + rows]), (n, k, rows, at)


def test_a_row_does_not_know_its_neighbours_values(ops: Ops) -> None:
    for kind in ("F32", "Q4_1", "Q8_0", "Q4_K", "Q6_K"):
        k = whole(kind, 64)
        weight, x = ops.pack(stored(kind, 40, k)), normal(9, k)
        alone = ops.linear(x, weight)
        x[[0, 4]] = np.nan
        x[[2, 8]] = np.inf
        with np.errstate(all="ignore"):
            crowd = ops.linear(x, weight)
        assert same_bits(crowd[[1, 3, 5, 6, 7]], alone[[1, 3, 5, 6, 7]])
        assert not np.isfinite(crowd[[0, 2, 4, 8]]).any(), kind


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", BACKENDS)
def test_threads_change_no_bit(which: str, mode: Mode) -> None:
    one, two = backend(which, mode, 1), backend(which, mode, 2)
    for kind in KINDS:
        k = whole(kind, 288)
        matrix, x = stored(kind, 300, k), normal(19, k)
        assert same_bits(one.linear(x, one.pack(matrix)), two.linear(x, two.pack(matrix))), kind


@pytest.mark.parametrize("kind", KINDS)
def test_embed_is_exact(ops: Ops, kind: str) -> None:
    matrix = stored(kind, 45, whole(kind, 160))
    weight, ids = ops.pack(matrix), np.array([44, 0, 7, 8, 7, 31], np.int64)
    assert np.array_equal(ops.embed(ids, weight), values_of(matrix)[ids])
    assert np.array_equal(ops.embed(ids, weight, 3.7), values_of(matrix)[ids] * np.float32(3.7))


def test_every_code_of_eight_bit_floats(ops: Ops) -> None:
    """Alone in its row, with scales of all sizes: each value rounds once, subnormal codes and not-a-numbers included."""
    codes = np.arange(256, dtype=np.uint8).reshape(1, 2, 128)
    codes = np.concatenate([codes, codes[:, ::-1]])
    for scales in ([1, 1], [0.3, -7e-4], [1e-38, 3e-43], [3.3e38, 2.5e37], [0, np.inf], [np.nan, 1]):
        matrix = f8(np.array([scales, scales], np.float32), codes)
        with np.errstate(all="ignore"):
            wanted = values_of(matrix)
        weight = ops.pack(matrix)
        assert weight.format == "f8" and np.array_equal(ops.embed(np.arange(2), weight), wanted, equal_nan=True)
        with np.errstate(all="ignore"):
            assert np.isnan(ops.linear(np.ones((1, 256), np.float32), weight)).all()
    clean = np.where(codes & 127 == 127, 0, codes).astype(np.uint8)
    matrix = f8(np.array([[0.3, 1e-38], [-2, 3e4]], np.float32), clean)
    assert np.array_equal(ops.linear(np.eye(256, dtype=np.float32), ops.pack(matrix)).T, values_of(matrix))


def test_eight_bit_floats_cost_their_bytes(ops: Ops) -> None:
    weight = ops.pack(stored("F8B128", 64, 512))
    assert ops.name == "reference" or weight.nbytes == 64 * 4 * 132


@pytest.mark.parametrize("kind", ("F16", "BF16", "F8B128", *QUANTISED))
def test_exact_mode_is_f32_on_the_dequantised_weights(native: str, kind: str) -> None:
    ops = backend(native, "exact")
    k = whole(kind, 576)
    matrix, x = stored(kind, 75, k), normal(6, k)
    wide = Stored("F32", matrix.shape, values_of(matrix))
    assert same_bits(ops.linear(x, ops.pack(matrix)), ops.linear(x, ops.pack(wide)))


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("sign", (1, -1))
def test_extreme_codes_do_not_saturate(ops: Ops, kind: str, sign: int) -> None:
    """All codes at one end, all activations at ±127: the largest sums there are."""
    k = whole(kind, 64)
    for byte in (0x00, 0x7F, 0x80, 0xFF):
        matrix = stored(kind, 9, k)
        matrix.data[:] = byte
        blocks = matrix.data.reshape(9, k // whole(kind, 1), -1)
        for at in HEADERS[kind]:
            blocks[..., at : at + 2] = np.array([1], np.float16).view(np.uint8)
        if kind == "MXFP4":
            blocks[..., 0] = 128
        x = np.full((3, k), sign * 127, np.float32)
        wanted = x @ values_of(matrix).astype(np.float64).T
        found = ops.linear(x, ops.pack(matrix))
        # Sums of super-blocks are too large for float32 to hold each of them; a saturated one would be far off.
        assert close(found, wanted, 2e-5) if k == 256 else same_bits(found, wanted.astype(np.float32)), byte


def test_groups_of_zeros_and_tiny_values(ops: Ops) -> None:
    weight = ops.pack(stored("Q4_1", 8, 96))
    x = np.zeros((3, 96), np.float32)
    assert not ops.linear(x, weight).any()
    x[1, 40], x[2, :32] = 1e-44, 1e-45
    assert np.isfinite(ops.linear(x, weight)).all()


def test_nothing_to_do(ops: Ops) -> None:
    weight = ops.pack(stored("Q8_0", 8, 32))
    assert ops.linear(np.empty((0, 32), np.float32), weight).shape == (0, 8)
    assert ops.embed(np.empty(0, np.int64), weight).shape == (0, 32)


def test_unknown_kinds_are_refused(ops: Ops) -> None:
    assert ops.packs("IQ1_S") is None
    with pytest.raises(ValueError, match="IQ1_S"):
        ops.pack(Stored("IQ1_S", (1, 256), np.zeros((1, 50), np.uint8)))


def test_wrong_arrays_are_refused(native: str) -> None:
    ops = backend(native, "exact")
    weight, x = ops.pack(stored("F32", 8, 32)), normal(4, 32)
    for bad in (normal(4, 31), normal(4, 64)[:, :32], np.asfortranarray(x)):
        with pytest.raises(ValueError):
            ops.linear(bad, weight)
    with pytest.raises(ValueError):
        ops.linear(x, weight, normal(7))
    with pytest.raises(IndexError):
        ops.embed(np.array([8]), weight)
    with pytest.raises(ValueError):
        ops.pack(Stored("F32", (8, 33), x))
    with pytest.raises(ValueError, match="33"):
        ops.pack(Stored("Q8_0", (8, 33), np.zeros((8, 34), np.uint8)))
    with pytest.raises(ValueError, match="128"):
        ops.pack(Stored("Q4_K", (8, 128), np.zeros((8, 72), np.uint8)))


def test_packing_takes_views_at_any_alignment(native: str) -> None:
    ops, matrix = backend(native, "exact"), stored("Q4_1", 16, 64)
    raw = np.frombuffer(b"x" + matrix.data.tobytes(), np.uint8)[1:].reshape(matrix.data.shape)
    x = normal(2, 64)
    assert same_bits(ops.linear(x, ops.pack(Stored("Q4_1", (16, 64), raw))), ops.linear(x, ops.pack(matrix)))


@pytest.mark.parametrize("kind", ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"))
def test_what_the_package_quantises_stays_what_it_was(ops: Ops, kind: str) -> None:
    values = normal(32, 256, seed=4) * np.float32(0.02)
    data = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    weight = ops.pack(Stored(kind, (32, 256), data))
    assert np.array_equal(
        ops.embed(np.arange(32), weight), gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    )
    assert ops.name == "reference" or weight.nbytes <= 1.07 * data.nbytes


def test_every_exponent_of_microscaling_blocks(ops: Ops) -> None:
    data = np.tile(np.arange(17, dtype=np.uint8) * 7 % 251, (250, 1))
    data[:, 0] = np.arange(250)
    matrix = Stored("MXFP4", (250, 32), data)
    assert np.array_equal(ops.embed(np.arange(250), ops.pack(matrix)), values_of(matrix))


@pytest.mark.parametrize("kind", ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"))
def test_packed_is_no_larger_than_stored_by_much(native: str, kind: str) -> None:
    matrix = stored(kind, 64, 512)
    assert backend(native, "fast").pack(matrix).nbytes <= 1.2 * matrix.data.nbytes


def test_matrices_of_different_kinds_joined(ops: Ops) -> None:
    """One product, the same bits as one product each."""
    parts = [ops.pack(stored(kind, n, 256)) for kind, n in (("Q5_0", 13), ("F32", 8), ("Q6_K", 21))]
    x, bias = normal(7, 256), normal(42)
    both = ops.join(parts)
    assert both.shape == (42, 256) and both.nbytes == sum(part.nbytes for part in parts)
    assert both.format == "w5+f32+w6k"
    alone = np.concatenate([ops.linear(x, part) for part in parts], axis=1)
    assert same_bits(ops.linear(x, both), alone)
    assert same_bits(ops.linear(x, both, bias), alone + bias)


@given(
    tokens=st.integers(1, 9), n=st.integers(1, 40), groups=st.integers(1, 5), kind=st.sampled_from(KINDS),
    mode=st.sampled_from(MODES), which=st.sampled_from(PRESENT), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_linear_agrees_with_float64(
    tokens: int, n: int, groups: int, kind: str, mode: Mode, which: str, seed: int
) -> None:
    ops, k = backend(which, mode, 1), whole(kind, 32 * groups - seed % 31)
    matrix, x = stored(kind, n, k, seed), normal(tokens, k, seed=seed + 1)
    rows = seen(ops, kind, x)
    terms = np.abs(rows) @ np.abs(values_of(matrix)).T.astype(np.float64)
    error = np.abs(ops.linear(x, ops.pack(matrix)) - rows @ values_of(matrix).T.astype(np.float64))
    assert (error <= 4e-6 * terms).all()
