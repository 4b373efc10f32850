"""Floats in fewer bits: every backend gives the same bytes, and they are near to what was there."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixmill.device.kernels.contract import Ops, Stored
from radixmill.device.kernels.reference.blocks import as_blocks
from tests.device.kernel_kit import BACKENDS, backend, normal, stored, values_of

Kind = Literal["Q8_0", "Q4_1"]
KINDS: tuple[Kind, ...] = ("Q8_0", "Q4_1")


@pytest.fixture(params=BACKENDS)
def ops(request: pytest.FixtureRequest) -> Ops:
    return backend(request.param, "fast")


def error(found: Stored, meant: np.ndarray) -> float:
    return float(np.linalg.norm(values_of(found) - meant) / np.linalg.norm(meant))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ("F32", "F16", "BF16"))
def test_the_bytes_are_the_references(ops: Ops, source: str, kind: Kind) -> None:
    matrix = stored(source, 37, 160)
    found = ops.blocks(matrix, kind)
    assert (found.kind, found.shape) == (kind, matrix.shape)
    np.testing.assert_array_equal(found.data, as_blocks(values_of(matrix), kind))


@given(
    exponent=st.integers(-130, 13), spread=st.integers(0, 12), zeros=st.floats(0, 1), offset=st.floats(-4, 4),
    seed=st.integers(0, 999),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_blocks_of_any_size_and_shape(exponent: int, spread: int, zeros: float, offset: float, seed: int) -> None:
    """Subnormal, constant, empty, one-sided blocks, and some with a few values far out."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((8, 64)) + offset
    x *= 2.0 ** (exponent - draw.integers(0, spread + 1, x.shape))
    x[draw.random(x.shape) < zeros] = 0
    x[0], x[1, :32] = x[0, 0], 0
    matrix = Stored("F32", x.shape, x.astype(np.float32))
    for kind in KINDS:
        wanted = as_blocks(matrix.data, kind)
        for which in BACKENDS[1:]:
            np.testing.assert_array_equal(backend(which, "fast").blocks(matrix, kind).data, wanted)


@pytest.mark.parametrize("which", BACKENDS)
def test_threads_change_nothing(which: str) -> None:
    matrix = stored("BF16", 300, 96)
    for kind in KINDS:
        one, two = (backend(which, "fast", threads).blocks(matrix, kind) for threads in (1, 2))
        np.testing.assert_array_equal(one.data, two.data)


def test_eight_bits_are_the_nearest_codes(ops: Ops) -> None:
    x = normal(16, 256)
    found = values_of(ops.blocks(Stored("F32", x.shape, x), "Q8_0"))
    scale = np.abs(x.reshape(16, 8, 32)).max(axis=2).repeat(32, axis=1) / 127
    assert (np.abs(found - x) <= scale * (0.5 + 127 * 2**-11)).all()


def test_four_bits_are_nearer_than_minimum_and_maximum_are(ops: Ops) -> None:
    """7 % nearer on normal values (measured), and never further."""
    x = normal(64, 512)
    groups = x.reshape(-1, 32)
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    plain = np.rint((groups - low) / (high - low) * 15) / 15 * (high - low) + low
    found = values_of(ops.blocks(Stored("F32", x.shape, x), "Q4_1")).reshape(-1, 32)
    mine, theirs = (np.linalg.norm(y - groups, axis=1) for y in (found, plain))
    assert np.linalg.norm(mine) < 0.94 * np.linalg.norm(theirs)
    assert (mine < 1.01 * theirs).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_blocks_can_say_stays_what_it_is(ops: Ops, kind: Kind) -> None:
    """Blocks that use their whole range come back as they were."""
    draw = np.random.default_rng(1)
    if kind == "Q8_0":
        codes = draw.integers(-127, 128, (8, 4, 32))
        codes[..., 5] = 127
        values = codes * 2.0**-9
    else:
        codes = draw.integers(0, 16, (8, 4, 32))
        codes[..., :2] = 0, 15
        values = codes * 2.0**-7 - 0.0625
    x = values.reshape(8, 128).astype(np.float32)
    np.testing.assert_array_equal(values_of(ops.blocks(Stored("F32", x.shape, x), kind)), x)


def test_nothing_but_floats_in_whole_blocks(ops: Ops) -> None:
    with pytest.raises(ValueError, match="33"):
        ops.blocks(Stored("F32", (2, 33), normal(2, 33)), "Q8_0")
