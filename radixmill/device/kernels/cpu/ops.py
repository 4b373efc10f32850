"""CpuOps: the contract over the compiled module `_native`. Python allocates and checks shapes' product; C++ does the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import (
    Activation,
    Array,
    AttentionParams,
    Experts,
    Forward,
    Heads,
    KVShape,
    KVType,
    LatentHeads,
    Mode,
    Ragged,
    Routing,
    Stored,
    Weight,
    beat,
    in_place,
    joined,
    kv_of_mode,
)
from radixmill.device.kernels.cpu.record import ACTIVATIONS, Recorder, capture
from radixmill.device.kernels.cpu.rows import CpuRows
from radixmill.device.kernels.exp_table import INVERSE, TABLE, WIDTH

try:
    from radixmill.device.kernels.cpu import _native
except ImportError:  # installed without a compiler
    _native = None  # type: ignore[assignment]

# Part of the numerics id. Raise it with every change that moves a bit of any op's result.
VERSION = "6"

NATIVE = (
    "blocks", "linear", "embed", "rms_norm", "layer_norm", "add", "scale", "softcap", "gated", "dimmed", "route",
    "experts", "linear_heads", "rope", "qkv", "latents", "kv_store", "kv_copy", "attention", "draw",
    "rank",
)  # fmt: skip
CACHE_LINE = 64  # bytes
KEPT = {"f16": np.float16, "f32": np.float32, "int8": np.int8}
FORMATS = {
    "F32": "f32", "F16": "f16", "BF16": "bf16", "Q4_0": "w4", "Q4_1": "w4", "Q5_0": "w5", "Q5_1": "w5", "Q8_0": "w8",
    "Q2_K": "w2k", "Q3_K": "w3k", "Q4_K": "w4k", "Q5_K": "w5k", "Q6_K": "w6k",
    "IQ4_NL": "w4n", "IQ4_XS": "w4nk", "MXFP4": "w4f", "F8B128": "f8",
}  # fmt: skip
BLOCK_BYTES = {"Q8_0": 34, "Q4_1": 20}  # of 32 values


def native_isa() -> str:
    """The best instruction set that the compiled module and this machine share; "" where there is no module."""
    return isas()[0] if isas() else ""


def isas() -> tuple[str, ...]:
    """All of them, the best first: "avx512", "avx2" or "neon-dotprod", "neon"; "portable" always."""
    return () if _native is None else tuple(_native.isas())


class CpuOps:
    """C++ on `threads` threads (the caller is one of them) with instruction set `isa`, one of isas().

    One call at a time. The threads sleep when there is nothing to do and end with the object.
    Raises ValueError if the module is not installed, or has no such instruction set here.
    """

    name = "cpu"
    version = VERSION

    def __init__(self, mode: Mode, threads: int, isa: str, kv: KVType | None = None) -> None:
        if _native is None:
            raise ValueError("the compiled kernels are not installed")
        self.mode, self.threads, self.isa, self.kv_type = mode, max(threads, 1), isa, kv or kv_of_mode(mode)
        self._engine = _native.Engine(isa, self.threads, mode == "fast")
        self.sampling = CpuRows(self._engine, _native.Rows(isa, self.threads, TABLE, WIDTH, INVERSE))
        self._beats: NDArray[np.uint64] | None = None
        self._calls: Any = Calls(self._engine)  # a Recorder during capture()

    @property
    def beats(self) -> NDArray[np.uint64] | None:
        return self._beats

    @beats.setter
    def beats(self, word: NDArray[np.uint64] | None) -> None:
        self._beats = word
        self._engine.watch(word)

    def table(self) -> dict[str, str]:
        return dict.fromkeys(NATIVE, f"c++ {self.isa}") | {"gather": "numpy; c++ when captured", "columns": "numpy"}

    def packs(self, kind: str) -> str | None:
        return FORMATS.get(kind)

    def pack(self, stored: Stored) -> Weight:
        """Raises ValueError for a kind that `packs` refuses, data of another size, or K no whole number of blocks."""
        beat(self.beats)
        n, k = stored.shape
        matrix = self._engine.pack(stored.kind, np.ascontiguousarray(stored.data), n, k)
        return Weight(matrix.format, stored.shape, ((matrix, stored.order),), matrix.nbytes)

    def blocks(self, stored: Stored, kind: Literal["Q8_0", "Q4_1"]) -> Stored:
        (n, k), size = stored.shape, BLOCK_BYTES[kind]
        out = np.empty((n, k // 32 * size), np.uint8)
        self._engine.blocks(stored.kind, np.ascontiguousarray(stored.data), n, k, kind, out)
        return replace(stored, kind=kind, data=out)

    def join(self, weights: Sequence[Weight]) -> Weight:
        return joined(weights)

    def array(self, values: NDArray[Any]) -> Array:
        return np.array(values, np.float32, order="C")

    def linear(self, x: Array, weight: Weight, bias: Array | None = None) -> Array:
        return self._calls.linear(x, weight, bias)

    def embed(self, ids: NDArray[np.int64], weight: Weight, scale: float = 1.0) -> Array:
        return self._calls.embed(ids, weight, scale)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        return self._calls.rms_norm(x, weight, eps)

    def add(self, x: Array, y: Array) -> Array:
        return self._calls.add(x, y)

    def scale(self, x: Array, by: float) -> Array:
        return self._calls.scale(x, by)

    def softcap(self, x: Array, cap: float) -> Array:
        return self._calls.softcap(x, cap)

    def gated(self, gate_up: Array, activation: Activation) -> Array:
        return self._calls.gated(gate_up, activation)

    def layer_norm(self, x: Array, weight: Array, eps: float) -> Array:
        return self._calls.layer_norm(x, weight, eps)

    def dimmed(self, x: Array, gate: Array) -> Array:
        """In place."""
        return self._calls.dimmed(x, gate)

    def route(self, logits: Array, routing: Routing, bias: Array | None = None) -> Array:
        """Raises ValueError where there are not as many to choose among as are to be chosen."""
        native = _native.Routing(
            routing.experts, routing.top, routing.score == "sigmoid", routing.renormalise, routing.scaling,
            routing.groups, routing.top_groups, routing.group_score == "top2",
        )  # fmt: skip
        return self._calls.route(logits, native, routing.top, bias)

    def mixture(self, experts: Experts) -> Array:
        """Raises ValueError for matrices whose sizes do not fit."""
        return _native.Mixture(
            _stacks(experts.gate_up), _stacks(experts.down), experts.gate_up_bias, experts.down_bias,
            ACTIVATIONS[experts.activation],
        )  # fmt: skip

    def experts(self, x: Array, routes: Array, mixture: Array) -> Array:
        return self._calls.experts(x, routes, mixture)

    def per_head(self, weights: Sequence[Weight]) -> Array:
        return _native.Stacks(_stacks(weights))

    def linear_heads(self, x: Array, heads: Array) -> Array:
        return self._calls.linear_heads(x, heads)

    def latents(
        self, q: Array, latent: Array, heads: LatentHeads, positions: NDArray[np.int32], kv: Array, ragged: Ragged
    ) -> Array:
        return self._calls.latents(q, latent, heads, positions, kv, ragged)

    def rope(self, x: Array, positions: NDArray[np.int32], cos: Array, sin: Array) -> Array:
        """In place."""
        return self._calls.rope(x, positions, cos, sin)

    def kv_alloc(self, pages: int, page_size: int, shape: KVShape) -> Array:
        """Keys [pages, G, D, P] (transposed: neighbouring keys are one vector) and values [pages, G, P, D], P and the
        values' D padded to whole vectors; int8 with scales [pages, G, P]. Latents [pages, G, P, D], D padded. Zeroed
        lazily."""
        heads, stride, latent = shape.heads, self._padded(page_size), shape.latent
        kept, scale = np.dtype(KEPT[self.kv_type]), np.dtype(np.float32)
        width = self._padded(shape.dim if latent else shape.value_dim)
        rows = _zeros((pages, heads, page_size, width), kept)
        keys, values = (rows, None) if latent else (_zeros((pages, heads, shape.dim, stride), kept), rows)
        coded = self.kv_type == "int8"
        key_scales = _zeros((pages, heads, stride), scale) if coded else None
        value_scales = _zeros((pages, heads, stride), scale) if coded and not latent else None
        return _native.pages(
            self._engine, self.kv_type, keys, values, key_scales, value_scales,
            pages, page_size, heads, shape.dim, shape.value_dim, latent,
        )  # fmt: skip

    def kv_bytes_per_token(self, shape: KVShape, page_size: int) -> int:
        stride, each = self._padded(page_size), np.dtype(KEPT[self.kv_type]).itemsize
        rows = page_size * self._padded(shape.dim if shape.latent else shape.value_dim)
        columns = 0 if shape.latent else shape.dim * stride
        scales = (1 if shape.latent else 2) * 4 * stride if self.kv_type == "int8" else 0
        return -(-shape.heads * ((rows + columns) * each + scales) // page_size)

    def kv_store(self, kv: Array, k: Array, v: Array, ragged: Ragged) -> None:
        self._engine.kv_store(kv, k, v, ragged.query_starts, ragged.starts, ragged.page_ids, ragged.page_starts)

    def qkv(
        self, parts: tuple[Array, ...], heads: Heads, positions: NDArray[np.int32], kv: Array, ragged: Ragged
    ) -> Array:
        return self._calls.qkv(parts, heads, positions, kv, ragged)

    def kv_copy(self, kv: Array, src: int, dst: int, tokens: int) -> None:
        self._engine.kv_copy(kv, src, dst, tokens)

    def attention(self, q: Array, kv: Array, ragged: Ragged, params: AttentionParams) -> Array:
        beat(self.beats)
        return self._calls.attention(q, kv, ragged, params)

    def gather(self, x: Array, rows: NDArray[np.int32]) -> Array:
        return self._calls.gather(x, rows)

    def columns(self, x: Array, order: NDArray[np.intp]) -> Array:
        return np.take(x, order, axis=1)

    def numpy(self, x: Array) -> NDArray[np.float32]:
        return x

    def capture(self, forward: Forward, groups: int) -> Forward:
        program = _native.Program(self._engine)
        calls, recorder = self._calls, Recorder(program)
        self._calls = recorder
        try:
            return capture(program, recorder, forward, groups)
        finally:
            self._calls = calls

    def _padded(self, n: int) -> int:
        return -(-n // self._engine.lanes) * self._engine.lanes


class Calls:
    """The same ops on arrays, one native call each."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def linear(self, x: Array, weight: Weight, bias: Array | None = None) -> Array:
        y = np.empty((x.shape[0], weight.shape[0]), np.float32)
        matrices, orders = zip(*weight.parts, strict=True)
        self._engine.linear(x, matrices, orders, bias, y)
        return y

    def embed(self, ids: NDArray[np.int64], weight: Weight, scale: float) -> Array:
        y = np.empty((len(ids), weight.shape[1]), np.float32)
        ((matrix, order),) = weight.parts
        self._engine.embed(ids, matrix, scale, y)
        return y if order is None else in_place(y, order)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        y = np.empty(x.shape, np.float32)
        self._engine.rms_norm(x, weight, eps, y)
        return y

    def layer_norm(self, x: Array, weight: Array, eps: float) -> Array:
        y = np.empty(x.shape, np.float32)
        self._engine.layer_norm(x, weight, len(weight), eps, y)
        return y

    def add(self, x: Array, y: Array) -> Array:
        self._engine.add(x, y)
        return x

    def scale(self, x: Array, by: float) -> Array:
        y = np.empty(x.shape, np.float32)
        self._engine.scale(x, by, y)
        return y

    def softcap(self, x: Array, cap: float) -> Array:
        y = np.empty(x.shape, np.float32)
        self._engine.softcap(x, cap, y)
        return y

    def gated(self, gate_up: Array, activation: str) -> Array:
        tokens, both = gate_up.shape
        y = np.empty((tokens, both // 2), np.float32)
        self._engine.gated(gate_up, ACTIVATIONS[activation], both // 2, y)
        return y

    def dimmed(self, x: Array, gate: Array) -> Array:
        self._engine.dimmed(x, gate)
        return x

    def route(self, logits: Array, routing: Any, top: int, bias: Array | None) -> Array:
        y = np.empty((len(logits), 2 * top), np.float32)
        self._engine.route(logits, routing, bias, y)
        return y

    def experts(self, x: Array, routes: Array, mixture: Any) -> Array:
        y = np.empty((len(x), mixture.width), np.float32)
        self._engine.experts(x, routes, mixture, routes.shape[1] // 2, y)
        return y

    def linear_heads(self, x: Array, heads: Any) -> Array:
        y = np.empty((*x.shape[:2], heads.width // x.shape[1]), np.float32)
        self._engine.heads(x, heads, y)
        return y

    def rope(self, x: Array, positions: NDArray[np.int32], cos: Array, sin: Array) -> Array:
        self._engine.rope(x, x.shape[1], x.shape[2], positions, cos, sin, cos.shape[1])
        return x

    def qkv(
        self, parts: tuple[Array, ...], heads: Heads, positions: NDArray[np.int32], kv: Array, ragged: Ragged
    ) -> Array:
        q, k, v = parts if len(parts) == 3 else (parts[0], None, None)
        y = np.empty((len(q), heads.heads, heads.dim), np.float32)
        q_norm, k_norm, eps = heads.norms or (None, None, 0.0)
        self._engine.qkv(
            kv, q, k, v, y, heads.heads, positions, heads.cos, heads.sin, heads.cos.shape[1], q_norm, k_norm, eps,
            ragged.query_starts, ragged.starts, ragged.page_ids, ragged.page_starts,
        )  # fmt: skip
        return y

    def latents(
        self, q: Array, latent: Array, heads: LatentHeads, positions: NDArray[np.int32], kv: Array, ragged: Ragged
    ) -> Array:
        y = np.empty((len(q), heads.heads, heads.rank + heads.rope), np.float32)
        norm, eps = heads.norm
        self._engine.latents(
            kv, q, latent, heads.up, y, positions, heads.cos, heads.sin, heads.cos.shape[1], norm, eps,
            ragged.query_starts, ragged.starts, ragged.page_ids, ragged.page_starts,
        )  # fmt: skip
        return y

    def attention(self, q: Array, kv: Array, ragged: Ragged, params: AttentionParams) -> Array:
        tokens, heads, _ = q.shape
        y = np.empty((tokens, heads, kv.value_dim), np.float32)
        self._engine.attention(
            kv, q, y, heads, ragged.query_starts, ragged.starts, ragged.page_ids, ragged.page_starts,
            params.scale, params.window or 0, params.softcap or 0.0, params.sinks,
        )  # fmt: skip
        return y

    def gather(self, x: Array, rows: NDArray[np.int32]) -> Array:
        return x[rows]


def _stacks(weights: Sequence[Weight]) -> list[tuple[Any, ...]]:
    """Of each weight its matrices, and their orders of columns."""
    return [tuple(zip(*weight.parts, strict=True)) for weight in weights]


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros that begin on a cache line, so that no vector crosses one; pages of memory are taken when first written."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)
