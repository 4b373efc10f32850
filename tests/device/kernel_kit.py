"""What the kernel tests share: every backend there is, stored matrices of every kind, and batches over scattered pages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from radixmill.device.kernels import isas, open_backend
from radixmill.device.kernels.contract import AttentionParams, KVShape, KVType, Mode, Ops, Ragged, Stored

BACKENDS = (
    "reference", "cpu/portable", "cpu/avx2", "cpu/avxvnni", "cpu/avx512", "cpu/avx512bf16", "cpu/neon", "cpu/neon-dotprod",
)  # fmt: skip
COMPILED = tuple(b for b in BACKENDS if b != "reference")
# Where one test draws among them: to skip one would be to skip all.
PRESENT = ("reference", *(b for b in COMPILED if b.removeprefix("cpu/") in isas()))
MODES: tuple[Mode, ...] = ("fast", "exact")
KV_TYPES: tuple[KVType, ...] = ("f16", "f32", "int8")
# Where each kind's blocks keep their float16 scale and minimum (MXFP4: one byte, an exponent).
HEADERS = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": (),
}  # fmt: skip
QUANTISED = tuple(HEADERS)
F8_BLOCK = 128  # values of F8B128 under one scale
KINDS = ("F32", "F16", "BF16", "F8B128", *QUANTISED)

Floats = NDArray[np.float32]


def backend(which: str, mode: Mode, threads: int = 2, kv: KVType | None = None) -> Ops:
    """Open it, or skip with the reason."""
    name, _, isa = which.partition("/")
    if name == "cpu" and not isas():
        pytest.skip("the compiled kernels are not installed")
    if name == "cpu" and isa not in isas():
        pytest.skip(f"this machine or build has no {isa}")
    return open_backend(name, mode, threads, isa, kv)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> Floats:
    return rng(seed).standard_normal(shape, dtype=np.float32)


def whole(kind: str, k: int) -> int:
    """k, or the next whole number of the kind's blocks."""
    block = F8_BLOCK if kind == "F8B128" else gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
    return -(-k // block) * block


def stored(kind: str, n: int, k: int, seed: int = 0) -> Stored:
    """A matrix of `kind`. Quantised ones have random block bytes, so every code occurs; scales and minima are finite.
    So are the codes of F8B128."""
    values = normal(n, k, seed=seed)
    match kind:
        case "F32":
            return Stored(kind, (n, k), values)
        case "F16":
            return Stored(kind, (n, k), values.astype(np.float16))
        case "BF16":
            return Stored(kind, (n, k), (values.view(np.uint32) >> 16).astype(np.uint16))
        case "F8B128":
            codes = rng(seed).integers(0, 127, (n, k // F8_BLOCK, F8_BLOCK), dtype=np.uint8) | np.signbit(
                values
            ).reshape(n, -1, F8_BLOCK).astype(np.uint8) << np.uint8(7)
            return f8(normal(n, k // F8_BLOCK, seed=seed + 1), codes)
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = rng(seed).integers(0, 256, (n, k // block, size), dtype=np.uint8)
    for i, at in enumerate(HEADERS[kind]):
        halves = normal(n, k // block, 1, seed=seed + 1 + i).astype(np.float16)
        blocks[..., at : at + 2] = halves.view(np.uint8)
    if kind == "MXFP4":
        blocks[..., 0] = rng(seed).integers(110, 130, blocks.shape[:2])  # powers of two
    return Stored(kind, (n, k), blocks.reshape(n, -1))


def f8(scales: Floats, codes: NDArray[np.uint8]) -> Stored:
    """F8B128 of scales [N, blocks] and codes [N, blocks, 128]."""
    n, blocks, size = codes.shape
    data = np.concatenate([scales[..., None].view(np.uint8), codes], axis=-1)
    return Stored("F8B128", (n, blocks * size), data.reshape(n, -1))


def e4m3(code: int) -> float:
    """By the words of the specification: sign, four bits of exponent less 7, three of mantissa."""
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def values_of(matrix: Stored) -> Floats:
    """What the matrix holds, by the gguf package or NumPy's own conversion."""
    if matrix.kind == "F8B128":
        blocks = matrix.data.reshape(matrix.shape[0], -1, 4 + F8_BLOCK)
        codes = np.array([e4m3(code) for code in range(256)], np.float32)[blocks[..., 4:]]
        return (codes * blocks[..., :4].copy().view(np.float32)).reshape(matrix.shape)
    if matrix.kind in ("F32", "F16"):
        return matrix.data.astype(np.float32)
    if matrix.kind == "BF16":
        return (matrix.data.astype(np.uint32) << 16).view(np.float32)
    return gguf.quants.dequantize(matrix.data, gguf.GGMLQuantizationType[matrix.kind])


def as_int8(x: Floats) -> NDArray[np.float64]:
    """Activations as the quantised formats see them in `fast` mode, written from the contract."""
    groups = x.reshape(len(x), -1, 32)
    scale = np.abs(groups).max(-1, keepdims=True) / np.float32(127)
    codes = np.rint(groups / np.where(scale == 0, np.float32(1), scale))
    return (codes.astype(np.float64) * scale).reshape(x.shape)


def seen(ops: Ops, kind: str, x: Floats) -> NDArray[np.float64]:
    """Activations as a product with weights of `kind` sees them."""
    if ops.mode == "fast" and kind in QUANTISED:
        return as_int8(x)
    if ops.mode == "fast" and kind == "BF16" and ops.isa.endswith("bf16"):
        wide = x.view(np.uint32).astype(np.uint64)
        return ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


def same_bits(a: Any, b: Any) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def close(a: Floats, b: NDArray[Any], tolerance: float) -> bool:
    """Within `tolerance` of the largest value."""
    return bool(np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), 1e-30))


@dataclass(frozen=True)
class Rows:
    """Sequences with all their queries, keys and values, and the pages they lie in."""

    q: list[Floats]  # [n, H, D] each
    k: list[Any]  # [n, G, D]
    v: list[Any]
    pages: list[NDArray[np.int32]]
    page_size: int
    total_pages: int
    latent: bool = False  # a value is the beginning of its key

    @staticmethod
    def latents(lengths: list[int], page_size: int, heads: int, dim: int, value_dim: int, seed: int = 0) -> Rows:
        """One key head, and values of `value_dim`."""
        rows = Rows.make(lengths, page_size, heads, 1, dim, seed)
        return replace(rows, v=[np.ascontiguousarray(k[..., :value_dim]) for k in rows.k], latent=True)

    @staticmethod
    def make(lengths: list[int], page_size: int, heads: int, groups: int, dim: int, seed: int = 0) -> Rows:
        r = rng(seed)
        counts = [-(-n // page_size) for n in lengths]
        ids = r.permutation(sum(counts) + 3).astype(np.int32)
        ends = np.cumsum(counts)
        return Rows(
            [r.standard_normal((n, heads, dim), dtype=np.float32) for n in lengths],
            [r.standard_normal((n, groups, dim), dtype=np.float32) for n in lengths],
            [r.standard_normal((n, groups, dim), dtype=np.float32) for n in lengths],
            [ids[end - count : end] for end, count in zip(ends, counts, strict=True)],
            page_size,
            sum(counts) + 3,
        )

    def fresh(self, ops: Ops) -> Any:
        """Pages full of what must not be read: NaN, or random codes with scales of NaN."""
        groups, dim = self.k[0].shape[1:]
        shape = KVShape(groups, dim, self.v[0].shape[2], self.latent)
        kv = ops.kv_alloc(self.total_pages, self.page_size, shape)
        for array in arrays(kv):
            array[...] = rng(1).integers(-128, 128, array.shape) if array.dtype == np.int8 else np.nan
        return kv

    def batch(self, spans: list[tuple[int, int, int]]) -> Ragged:
        """A step that computes positions [from, to) of row r for each (r, from, to)."""
        pages = [self.pages[r] for r, _, _ in spans]
        return Ragged(
            _starts([to - at for _, at, to in spans]),
            np.array([at for _, at, _ in spans], np.int32),
            np.concatenate(pages),
            _starts([len(p) for p in pages]),
            self.page_size,
        )

    def step(self, ops: Ops, kv: Any, spans: list[tuple[int, int, int]], params: AttentionParams) -> list[Floats]:
        """Store and attend, as a layer does; the outputs of each span."""
        ragged = self.batch(spans)

        def cut(rows: list[Floats]) -> Floats:
            return np.concatenate([rows[r][at:to] for r, at, to in spans])

        ops.kv_store(kv, cut(self.k), cut(self.v), ragged)
        out = ops.attention(cut(self.q), kv, ragged, params)
        return np.split(out, ragged.query_starts[1:-1])

    def rounded(self, kv: KVType) -> Rows:
        """With keys and values as they are stored."""
        if kv == "f32":
            return self
        if kv == "f16":
            half = lambda rows: [x.astype(np.float16).astype(np.float32) for x in rows]  # noqa: E731
            return replace(self, k=half(self.k), v=half(self.v))
        if self.latent:
            keys = [_coded(x) for x in self.k]
            return replace(self, k=keys, v=[x[..., : self.v[0].shape[-1]] for x in keys])
        block = self.k[0].shape[-1] & -self.k[0].shape[-1]
        keys = [rotated(_coded(rotated(x, block)), block) / block for x in self.k]
        return replace(self, k=keys, v=[_coded(x) for x in self.v])

    def oracle(self, row: int, params: AttentionParams) -> NDArray[np.float64]:
        """Textbook attention of one whole row in float64: [n, H, D]."""
        q, k, v = (x[row].astype(np.float64) for x in (self.q, self.k, self.v))
        rep = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, rep, axis=1), np.repeat(v, rep, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) * params.scale
        if params.softcap:
            scores = params.softcap * np.tanh(scores / params.softcap)
        behind = np.arange(len(q))[:, None] - np.arange(len(q))[None, :]
        scores = np.where((behind >= 0) & (behind < (params.window or len(q))), scores, -np.inf)
        sinks = np.full(q.shape[1], -np.inf) if params.sinks is None else np.asarray(params.sinks, np.float64)
        peak = np.maximum(scores.max(-1, keepdims=True), sinks[:, None, None])
        weights = np.exp(scores - peak)
        total = weights.sum(-1, keepdims=True) + np.exp(sinks[:, None, None] - peak)
        return np.einsum("hqk,khd->qhd", weights / total, v)


def arrays(kv: Any) -> list[NDArray[Any]]:
    """All that a backend on NumPy arrays keeps of a layer's keys and values."""
    return [a for a in (kv.keys, kv.values, kv.key_scales, kv.value_scales) if a is not None]


def rotated(x: NDArray[Any], block: int) -> NDArray[Any]:
    """The Walsh–Hadamard transform of each `block` values of the last axis, halves first."""
    if block == 1:
        return x
    halves = rotated(x, block // 2).reshape(*x.shape[:-1], -1, 2, block // 2)
    a, b = halves[..., 0, :], halves[..., 1, :]
    return np.concatenate([a + b, a - b], axis=-1).reshape(x.shape)


def _coded(x: Floats) -> NDArray[np.float64]:
    """[n, G, D] through int8 codes, one scale per token and head."""
    scale = np.abs(x).max(-1, keepdims=True) / np.float32(127)
    return np.rint(x / np.where(scale == 0, np.float32(1), scale)) * scale.astype(np.float64)


def _starts(counts: list[int]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
