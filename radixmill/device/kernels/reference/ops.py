"""ReferenceOps: the contract's ops, each as short as its definition.

Additions, products, quotients and square roots round the same everywhere (IEEE 754), so elementwise arithmetic is
invariant by itself; sums and matrix products go through `tiles`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Literal

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
from radixmill.device.kernels.reference import attention, routing
from radixmill.device.kernels.reference.blocks import as_blocks
from radixmill.device.kernels.reference.tiles import Each, Floats, matmul_rows, one_blas_thread, row_tile, tree_sum
from radixmill.device.kernels.reference.weights import FLOAT_FORMATS, FORMATS, as_int8, widen

OPS = (
    "blocks", "linear", "embed", "rms_norm", "layer_norm", "add", "scale", "softcap", "gated", "dimmed", "rope",
    "route", "experts", "linear_heads", "latents", "kv_store", "kv_copy", "attention", "gather", "columns",
)  # fmt: skip

_erf = np.frompyfunc(math.erf, 1, 1)
_ONE, _HALF, _CLAMP = np.float32(1), np.float32(0.5), np.float32(7)


class ReferenceOps:
    """Plain NumPy; matrix products run on `threads` threads, NumPy's BLAS itself on one (for the whole process)."""

    name = "reference"
    isa = "numpy"
    sampling = None

    def __init__(self, mode: Mode, threads: int = 1, kv: KVType | None = None) -> None:
        self.mode, self.threads, self.kv_type = mode, threads, kv or kv_of_mode(mode)
        one_blas_thread()
        self.version = _version()
        self.beats: NDArray[np.uint64] | None = None
        self._each: Each = ThreadPoolExecutor(threads, "reference").map if threads > 1 else map

    def table(self) -> dict[str, str]:
        return dict.fromkeys((*OPS, "draw", "rank"), "numpy")

    def packs(self, kind: str) -> str | None:
        return FORMATS.get(kind)

    def pack(self, stored: Stored) -> Weight:
        """Dequantised to float32 at once. Raises ValueError for a kind that `packs` refuses, or wrong data."""
        beat(self.beats)
        if (name := self.packs(stored.kind)) is None:
            raise ValueError(f"no compute format takes {stored.kind}; widen it to F32 first")
        values = widen(stored)
        return Weight(name, stored.shape, ((values, stored.order),), values.nbytes)

    def blocks(self, stored: Stored, kind: Literal["Q8_0", "Q4_1"]) -> Stored:
        return replace(stored, kind=kind, data=as_blocks(widen(stored), kind))

    def join(self, weights: Sequence[Weight]) -> Weight:
        return joined(weights)

    def array(self, values: NDArray[np.generic]) -> Array:
        return np.array(values, np.float32, order="C")

    def linear(self, x: Array, weight: Weight, bias: Array | None = None) -> Array:
        x = _contiguous(x)
        parts = zip(weight.format.split("+"), weight.parts, strict=True)
        products = [
            matmul_rows(
                self._seen(x if order is None else self.columns(x, order), name), values, self._each, self._beat
            )
            for name, (values, order) in parts
        ]
        y = products[0] if len(products) == 1 else np.concatenate(products, axis=1)
        return y if bias is None else y + bias

    def _beat(self) -> None:
        beat(self.beats)

    def _seen(self, x: Floats, format: str) -> Floats:
        """Activations as a product with weights of this format sees them."""
        return as_int8(x) if self.mode == "fast" and format not in FLOAT_FORMATS else x

    def embed(self, ids: NDArray[np.int64], weight: Weight, scale: float = 1.0) -> Array:
        ((values, order),) = weight.parts
        rows: Floats = values[ids] * np.float32(scale)
        return rows if order is None else in_place(rows, order)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        mean = tree_sum(_contiguous(x) ** 2) / np.float32(x.shape[-1])
        return x / np.sqrt(mean + np.float32(eps))[..., None] * weight

    def layer_norm(self, x: Array, weight: Array, eps: float) -> Array:
        groups, size = weight.shape
        runs = _contiguous(x).reshape(-1, groups, size)
        left = runs - (tree_sum(runs) / np.float32(size))[..., None]
        variance = tree_sum(left**2) / np.float32(size)
        return (left / np.sqrt(variance + np.float32(eps))[..., None] * weight).reshape(x.shape)

    def add(self, x: Array, y: Array) -> Array:
        return np.add(x, y, out=x)

    def scale(self, x: Array, by: float) -> Array:
        return x * np.float32(by)

    def softcap(self, x: Array, cap: float) -> Array:
        return np.tanh(x / np.float32(cap)) * np.float32(cap)

    def gated(self, gate_up: Array, activation: Activation) -> Array:
        half = _contiguous(gate_up).shape[-1] // 2
        gate, up = np.ascontiguousarray(gate_up[:, :half]), gate_up[:, half:]
        if activation == "clamped":
            gate, up = np.minimum(gate, _CLAMP), np.clip(up, -_CLAMP, _CLAMP) + _ONE
        with np.errstate(over="ignore"):
            return _ACTIVATIONS[activation](gate) * up

    def dimmed(self, x: Array, gate: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.multiply(x, _ONE / (_ONE + np.exp(-gate)), out=x)

    def route(self, logits: Array, routing_: Routing, bias: Array | None = None) -> Array:
        return routing.route(_contiguous(logits), routing_, bias)

    def mixture(self, experts: Experts) -> Array:
        return experts

    def experts(self, x: Array, routes: Array, mixture: Array) -> Array:
        top, found = routes.shape[1] // 2, {}
        chosen, weights = routes[:, :top].astype(np.intp), routes[:, top:]
        out = np.zeros((len(x), mixture.down[0].shape[0]), np.float32)
        for expert in np.unique(chosen).tolist():
            rows = np.flatnonzero((chosen == expert).any(axis=1))
            found[expert] = dict(zip(rows.tolist(), self._expert(x[rows], mixture, expert), strict=True))
        for place in range(top):
            of = [found[expert][token] for token, expert in enumerate(chosen[:, place].tolist())]
            out += np.stack(of) * weights[:, place, None] if of else np.float32(0)
        return out

    def _expert(self, x: Array, mixture: Experts, expert: int) -> Array:
        first, second = (
            None if biases is None else biases[expert] for biases in (mixture.gate_up_bias, mixture.down_bias)
        )
        inner = self.gated(self.linear(x, mixture.gate_up[expert], first), mixture.activation)
        return self.linear(inner, mixture.down[expert], second)

    def per_head(self, weights: Sequence[Weight]) -> Array:
        return tuple(weights)

    def linear_heads(self, x: Array, heads: Array) -> Array:
        products = [self.linear(np.ascontiguousarray(x[:, head]), weight) for head, weight in enumerate(heads)]
        return np.ascontiguousarray(np.stack(products, axis=1))

    def rope(self, x: Array, positions: NDArray[np.int32], cos: Array, sin: Array) -> Array:
        half = cos.shape[-1]
        c, s = cos[positions][:, None], sin[positions][:, None]
        out = _contiguous(x).copy()
        left, right = x[..., :half], x[..., half : 2 * half]
        out[..., :half] = left * c - right * s
        out[..., half : 2 * half] = right * c + left * s
        return out

    def kv_alloc(self, pages: int, page_size: int, shape: KVShape) -> Array:
        return attention.Pages.empty(self.kv_type, pages, page_size, shape)

    def kv_bytes_per_token(self, shape: KVShape, page_size: int) -> int:
        return shape.nbytes(self.kv_type)

    def kv_store(self, kv: Array, k: Array, v: Array, ragged: Ragged) -> None:
        attention.store(kv, _contiguous(k), v, ragged)

    def qkv(
        self, parts: tuple[Array, ...], heads: Heads, positions: NDArray[np.int32], kv: Array, ragged: Ragged
    ) -> Array:
        dim, queries = heads.dim, heads.heads * heads.dim
        if len(parts) == 1:
            parts = tuple(np.split(parts[0], [queries, queries + heads.kv_heads * dim], axis=1))
        q, k, v = (np.ascontiguousarray(part).reshape(len(part), -1, dim) for part in parts)
        if heads.norms:
            q_norm, k_norm, eps = heads.norms
            q, k = self.rms_norm(q, q_norm, eps), self.rms_norm(k, k_norm, eps)
        self.kv_store(kv, self.rope(k, positions, heads.cos, heads.sin), v, ragged)
        return self.rope(q, positions, heads.cos, heads.sin)

    def latents(
        self, q: Array, latent: Array, heads: LatentHeads, positions: NDArray[np.int32], kv: Array, ragged: Ragged
    ) -> Array:
        (norm, eps), rank = heads.norm, heads.rank
        q = _contiguous(q).reshape(len(q), heads.heads, heads.nope + heads.rope)
        plain, turned = (np.ascontiguousarray(part) for part in np.split(q, [heads.nope], axis=-1))
        kept, key = (np.ascontiguousarray(part) for part in np.split(_contiguous(latent), [rank], axis=-1))
        key = self.rope(key[:, None], positions, heads.cos, heads.sin)
        whole = np.concatenate([self.rms_norm(kept, norm, eps)[:, None], key], axis=-1)
        self.kv_store(kv, whole, np.ascontiguousarray(whole[..., :rank]), ragged)
        turned = self.rope(turned, positions, heads.cos, heads.sin)
        return np.concatenate([self.linear_heads(plain, heads.up), turned], axis=-1)

    def kv_copy(self, kv: Array, src: int, dst: int, tokens: int) -> None:
        for array in kv.arrays():
            array[dst, :tokens] = array[src, :tokens]

    def attention(self, q: Array, kv: Array, ragged: Ragged, params: AttentionParams) -> Array:
        return attention.attend(_contiguous(q), kv, ragged, params, self._beat)

    def columns(self, x: Array, order: NDArray[np.intp]) -> Array:
        return np.take(x, order, axis=1)

    def gather(self, x: Array, rows: NDArray[np.int32]) -> Array:
        return x[rows]

    def numpy(self, x: Array) -> NDArray[np.float32]:
        return x

    def capture(self, forward: Forward, groups: int) -> Forward:
        """As it is: one op after another."""
        return forward


def _silu(x: Array) -> Array:
    return x / (_ONE + np.exp(-x))


def _gelu_tanh(x: Array) -> Array:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * (x * x * x))
    return _HALF * x * (_ONE + np.tanh(inner))


def _gelu(x: Array) -> Array:
    curve: Floats = _erf(x * np.float32(math.sqrt(0.5))).astype(np.float32)
    return _HALF * x * (_ONE + curve)


def _swish(x: Array) -> Array:
    """x · sigmoid(1.702 x)"""
    return x / (_ONE + np.exp(np.float32(-1.702) * x))


_ACTIVATIONS = {"silu": _silu, "gelu_tanh": _gelu_tanh, "gelu": _gelu, "clamped": _swish}


def _contiguous(x: Array) -> Floats:
    if x.dtype != np.float32 or not x.flags.c_contiguous:
        raise ValueError(f"activations must be C-contiguous float32, not {x.dtype} with strides {x.strides}")
    return x


@cache
def _version() -> str:
    """The ops' own number, then a checksum of what this machine's NumPy and BLAS make of fixed inputs."""
    x = np.linspace(-3, 3, 16 * 576, dtype=np.float32).reshape(16, 576)
    seen = [matmul_rows(x, np.sin(x)), np.exp(x), np.tanh(x), np.float32(row_tile(576, 576))]
    return f"1-{zlib.crc32(b''.join(a.tobytes() for a in seen)):08x}"
