"""Widening against the reference, for every kind the `gguf` package knows; stacking."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Stored
from radixmill.device.quant import stack, widen
from radixmill.store.gguf import BLOCKS

RNG = np.random.default_rng(0)
UNREADABLE = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}  # never kinds of a weight matrix
READABLE = sorted(set(BLOCKS) - UNREADABLE - {"F32", "F16", "BF16", "Q1_0"})


def packed(kind: str, rows: int, blocks: int) -> Stored:
    """Random blocks; as scales are random bytes too, not every value is finite."""
    values, size = BLOCKS[kind]
    return Stored(kind, (rows, blocks * values), RNG.integers(0, 256, (rows, blocks * size), np.uint8))


@pytest.mark.parametrize("kind", READABLE)
def test_blocks_widen_as_the_reference_says(kind: str) -> None:
    stored = packed(kind, 5, 3)
    wide = widen(stored)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(stored.data, gguf.GGMLQuantizationType[kind])
    assert (wide.kind, wide.shape, wide.data.dtype) == ("F32", stored.shape, np.float32)
    np.testing.assert_array_equal(wide.data, expected)


@pytest.mark.parametrize(
    "kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"]
)
def test_what_is_quantised_comes_back_near(kind: str) -> None:
    values = RNG.standard_normal((4, 512)).astype(np.float32)
    quantised = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    data = quantised.view(np.uint16) if kind == "BF16" else quantised
    error = np.abs(widen(Stored(kind, values.shape, data)).data - values).mean()
    assert error < {"F32": 1e-9, "F16": 1e-3, "BF16": 5e-3, "Q8_0": 0.01, "TQ1_0": 0.9, "TQ2_0": 0.9}.get(kind, 0.15)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = packed("Q4_1", 7, 4)
    whole = widen(stored).data
    monkeypatch.setattr("radixmill.device.quant.widening._CHUNK", 256)
    np.testing.assert_array_equal(widen(stored).data, whole)


def test_one_bit_blocks() -> None:
    block = np.concatenate([np.array([0.5], np.float16).view(np.uint8), np.array([0b00000101] + [0] * 15, np.uint8)])
    wide = widen(Stored("Q1_0", (1, 128), block.reshape(1, -1))).data[0]
    assert wide[:4].tolist() == [0.5, -0.5, 0.5, -0.5] and (wide[3:] == -0.5).all()


def test_bfloat16() -> None:
    values = np.array([[1.0, -2.5, 3e38, 1e-40]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    assert widen(Stored("BF16", (1, 4), bits)).data[0, :2].tolist() == [1.0, -2.5]


@pytest.mark.parametrize("kind", ["Q8_K", "Q8_1", "ZZ"])
def test_a_kind_nobody_reads(kind: str) -> None:
    with pytest.raises(BadModel, match=f"type {kind} cannot be read"):
        widen(Stored(kind, (1, 256), np.zeros((1, BLOCKS.get(kind, (1, 9))[1]), np.uint8)))


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K"])
def test_stacking_packed_rows_is_stacking_values(kind: str) -> None:
    parts = [packed(kind, rows, 2) for rows in (3, 1, 4)]
    whole = stack(parts)
    assert whole.kind == kind and whole.shape == (8, parts[0].shape[1])
    np.testing.assert_array_equal(widen(whole).data, np.concatenate([widen(p).data for p in parts]))
    assert stack(parts[:1]) is parts[0]


def test_stacking_different_kinds_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        stack([packed("Q4_1", 1, 8), packed("Q8_0", 1, 8)])
