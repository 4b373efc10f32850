"""Norms, activations, rotation: right against float64, and the same bits for a value wherever it stands."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from radixmill.device.kernels.contract import KVShape, Mode, Ops
from tests.device.kernel_kit import BACKENDS, COMPILED, KV_TYPES, Floats, arrays, backend, close, normal, same_bits

_erf = np.vectorize(math.erf)
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x * math.sqrt(0.5))),
}
EVERY = (*ACTIVATIONS, "clamped")


@pytest.fixture(params=BACKENDS)
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(request.param, "fast")


def axis(limit: float, n: int = 4001) -> Floats:
    """Values from −limit to limit, dense at zero."""
    line = np.linspace(-1, 1, n)
    return (np.sign(line) * line**2 * limit).astype(np.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(ops: Ops, activation: str) -> None:
    x = axis(30)
    got = ops.gated(np.concatenate([x, np.ones_like(x)])[None], activation)[0]  # type: ignore[arg-type]
    wanted = ACTIVATIONS[activation](x.astype(np.float64))
    assert (np.abs(got - wanted) <= 5e-7 * np.maximum(np.abs(x), 1e-3)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_far_out(ops: Ops, activation: str) -> None:
    x = np.float32([-1e4, -200, -90, -88, 88, 90, 200, 1e4, np.nan])
    with np.errstate(all="ignore"):
        got = ops.gated(np.concatenate([x, np.ones_like(x)])[None], activation)[0]  # type: ignore[arg-type]
    assert np.abs(got[:4]).max() < 1e-30 and same_bits(got[4:8], x[4:8]) and np.isnan(got[8])


def test_clamped(ops: Ops) -> None:
    gate, up = axis(30), axis(20)[::-1]
    g, u = np.minimum(gate, 7).astype(np.float64), np.clip(up, -7, 7).astype(np.float64)
    got = ops.gated(np.concatenate([gate, up])[None], "clamped")[0]
    assert (np.abs(got - g / (1 + np.exp(-1.702 * g)) * (u + 1)) <= 1e-6 * np.maximum(np.abs(g * (u + 1)), 1e-3)).all()
    far = np.float32([-1e4, 1e4, 1e4, np.inf, np.nan, 1, -np.inf, 1e4, -1e4, 1, np.inf, 2])
    with np.errstate(all="ignore"):
        low, high, both, most, odd, one = ops.gated(far[None], "clamped")[0]
    assert low == 0 and close(np.float32([high, both]), np.array([56, -42]), 1e-5)
    assert close(np.float32([most, one]), np.array([14, 3 / (1 + np.exp(-1.702))]), 1e-5) and np.isnan(odd)


@pytest.mark.parametrize("activation", EVERY)
def test_an_element_does_not_know_its_place(ops: Ops, activation: str) -> None:
    gate, up = normal(9, 77) * 4, normal(9, 77, seed=1)
    whole = ops.gated(np.concatenate([gate, up], axis=1), activation)  # type: ignore[arg-type]
    for a, b in ((0, 1), (1, 9), (3, 77), (70, 77), (8, 24)):
        part = np.ascontiguousarray(np.concatenate([gate[:, a:b], up[:, a:b]], axis=1))
        assert same_bits(ops.gated(part, activation), np.ascontiguousarray(whole[:, a:b]))  # type: ignore[arg-type]
        assert same_bits(ops.gated(part[4:5], activation)[0], whole[4, a:b])  # type: ignore[arg-type]


def test_softcap(ops: Ops) -> None:
    x = axis(200)
    got = ops.softcap(x, 30.0)
    assert (np.abs(got - 30 * np.tanh(x.astype(np.float64) / 30)) <= 5e-7 * np.maximum(np.abs(x), 1e-3)).all()
    assert same_bits(ops.softcap(x[17:18], 30.0), got[17:18]) and same_bits(ops.softcap(x[5:26], 30.0), got[5:26])


@pytest.mark.parametrize("k", (1, 7, 8, 16, 20, 64, 576, 1001))
def test_rms_norm(ops: Ops, k: int) -> None:
    x, w = normal(37, 3, k), normal(k, seed=2)
    got, wide = ops.rms_norm(x, ops.array(w), 1e-5), x.astype(np.float64)
    assert close(got, wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * w, 1e-6)
    assert same_bits(ops.rms_norm(x[11:12], ops.array(w), 1e-5), got[11:12])


@pytest.mark.parametrize("k", (1, 7, 8, 16, 20, 64, 576, 1001))
@pytest.mark.parametrize("groups", (1, 3))
def test_layer_norm(ops: Ops, k: int, groups: int) -> None:
    x, w = normal(37, groups, k) + np.float32(3), normal(groups, k, seed=2)
    flat = np.ascontiguousarray(x.reshape(37, -1))
    got, left = ops.layer_norm(flat, ops.array(w), 1e-5), x - x.mean(-1, keepdims=True, dtype=np.float64)
    wanted = left / np.sqrt((left**2).mean(-1, keepdims=True) + 1e-5) * w
    assert close(got, wanted.reshape(37, -1), 3e-6) and got.shape == flat.shape
    assert same_bits(ops.layer_norm(flat[11:12], ops.array(w), 1e-5), got[11:12])


@pytest.mark.parametrize("k", (1, 7, 64, 577))
def test_dimmed(ops: Ops, k: int) -> None:
    x, gate = normal(41, k), normal(41, 1, seed=1) * np.float32(5)
    gate[3], gate[4], gate[5] = 200, -200, np.nan
    with np.errstate(all="ignore"):
        got = ops.dimmed(x.copy(), gate)
        wanted = x / (1 + np.exp(-gate.astype(np.float64)))
    assert close(got[:5], wanted[:5], 1e-6) and close(got[6:], wanted[6:], 1e-6) and np.isnan(got[5]).all()
    assert same_bits(got[3], x[3]) and np.abs(got[4]).max() < 1e-30
    assert same_bits(ops.dimmed(x[9:10].copy(), gate[9:10]), got[9:10])
    assert ops.dimmed(x[:0].copy(), gate[:0]).shape == (0, k)


def test_arithmetic_is_ieee(ops: Ops) -> None:
    x, y = normal(300, 77), normal(300, 77, seed=1)
    assert same_bits(ops.scale(x, 0.3), x * np.float32(0.3))
    assert same_bits(ops.add(x.copy(), y), x + y)
    assert same_bits(ops.gather(x, np.array([5, 5, 0], np.int32)), x[[5, 5, 0]])


@pytest.mark.parametrize(("heads", "dim", "rotated"), [(3, 64, 64), (2, 20, 18), (1, 16, 6), (9, 64, 32), (2, 16, 0)])
def test_rope(ops: Ops, heads: int, dim: int, rotated: int) -> None:
    half = rotated // 2
    angles = np.outer(np.arange(50), 100.0 ** -(np.arange(half) / half))
    cos, sin = ops.array(np.cos(angles)), ops.array(np.sin(angles))
    x, at = normal(21, heads, dim), np.random.default_rng(0).integers(0, 50, 21).astype(np.int32)
    got = ops.rope(x.copy(), at, cos, sin)
    turned = (x[..., :half] + 1j * x[..., half:rotated]) * np.exp(1j * angles[at])[:, None]
    assert close(got, np.concatenate([turned.real, turned.imag, x[..., rotated:]], axis=-1), 3e-7)
    assert same_bits(ops.rope(x[4:5].copy(), at[4:5], cos, sin), got[4:5])


def test_rope_refuses_positions_outside_its_table() -> None:
    ops, table = backend("cpu/portable", "fast"), np.ones((4, 4), np.float32)
    for bad in (-1, 4):
        with pytest.raises(IndexError):
            ops.rope(normal(1, 2, 8), np.array([bad], np.int32), table, table)


@pytest.mark.parametrize("size", [1, 4, 64, 100])
@pytest.mark.parametrize("which", COMPILED)
def test_what_a_token_takes_is_what_its_pages_have(which: str, size: int) -> None:
    """Padding too: columns and scales are padded to whole vectors along the page, rows along the head."""
    for kv in KV_TYPES:
        ops = backend(which, "fast", kv=kv)
        for shape in (KVShape(2, 64, 64), KVShape(2, 80, 20), KVShape(1, 90, 64, latent=True)):
            taken = sum(array.nbytes for array in arrays(ops.kv_alloc(3, size, shape)))
            assert ops.kv_bytes_per_token(shape, size) == math.ceil(taken / (3 * size)), (kv, shape)


@pytest.mark.parametrize("mode", ("fast", "exact"))
@pytest.mark.parametrize("which", BACKENDS)
def test_what_a_backend_says_of_itself(which: str, mode: Mode) -> None:
    ops = backend(which, mode)
    assert ops.mode == mode and which == (ops.name if ops.name == "reference" else f"{ops.name}/{ops.isa}")
    assert ops.version == backend(which, mode, 1).version
    assert {"linear", "attention", "gated"} <= ops.table().keys()
    assert (ops.kv_type, ops.kv_bytes_per_token(KVShape(3, 64, 64), 64)) == (
        ("f16", 768) if mode == "fast" else ("f32", 1536)
    )
    assert backend(which, mode, kv="int8").kv_bytes_per_token(KVShape(3, 64, 64), 64) == 2 * 3 * (64 + 4)
    assert ops.array(np.arange(3)).dtype == np.float32
    assert ops.numpy(ops.array(np.arange(3.0)))[2] == 2
