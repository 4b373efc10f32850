"""The op contract: everything a model may ask of a backend, with shapes and units.

`reference/` implements all of it in plain NumPy and is the specification; `cpu/` speeds up what it can. Arrays are opaque
to everything above: allocate, pass, slice along the first axis, reshape.

Alphabet: T tokens of the step, R rows (one per sequence), N outputs, K inputs, H query heads, G key/value heads, D head
size, P page size, V vocabulary. Activations are float32, C-contiguous.

Batch invariance is part of the contract: the bits of a token's result depend on that token's own inputs alone, never on
T, R, its place in the batch, where a prefill was cut, or the number of threads. No op may choose its algorithm by T or R.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = Any  # a backend's buffer: numpy.ndarray on CPU
Mode = Literal["fast", "exact"]
Activation = Literal["silu", "gelu_tanh", "gelu", "clamped"]
KVType = Literal["f16", "f32", "int8"]
KV_SCALE_BYTES = 4


def kv_of_mode(mode: Mode) -> KVType:
    """What keys and values are kept as where nothing else is asked for."""
    return "f16" if mode == "fast" else "f32"


def kv_bytes(kv: KVType, values: int) -> int:
    """Bytes of one token's key or value of one head, `values` numbers."""
    return values + KV_SCALE_BYTES if kv == "int8" else values * (2 if kv == "f16" else 4)


@dataclass(frozen=True)
class KVShape:
    """What one layer keeps of a token."""

    heads: int  # G
    dim: int  # of a key
    value_dim: int
    latent: bool = False  # a value is the first `value_dim` numbers of its key, and is not kept a second time

    def nbytes(self, kv: KVType) -> int:
        """Per token, scales included; a backend may pad."""
        return self.heads * (kv_bytes(kv, self.dim) + (0 if self.latent else kv_bytes(kv, self.value_dim)))


@dataclass(frozen=True)
class Stored:
    """A matrix as its file stores it, row-major: N rows (outputs) of K values.

    `kind`: "F32", "F16", "BF16" (`data` is float32 / float16 / uint16, [N, K]), or a GGML block type such as "Q4_1",
    "Q8_0", "Q6_K" (`data` is uint8, [N, bytes per row]), or "F8B128" (uint8, [N, K/128 · 132]: for each 128 values of a
    row a float32 scale, then their codes of E4M3FN; a value is float32(code) · scale, rounded once). `data` may be a view
    of a memory map; pack() copies what it keeps.

    Where columns that share a scale do not lie together, `data` holds them in another order: its column j is column
    order[j] of the matrix.
    """

    kind: str
    shape: tuple[int, int]
    data: NDArray[Any]
    order: NDArray[np.intp] | None = None  # [K], a permutation; None: data is in the matrix's own order
    note: str = ""  # what was done to the matrix on its way here, if a user should know


@dataclass(frozen=True)
class Weight:
    """A matrix in a backend's compute format. Only the backend that packed it looks inside `parts`."""

    format: str  # "f32", "f16", "bf16", "f8", "w4", "w8", …; of several matrices joined, "w5+w8"
    shape: tuple[int, int]  # [N, K]
    parts: tuple[Any, ...]  # one per matrix joined
    nbytes: int


def joined(weights: Sequence[Weight]) -> Weight:
    """What Ops.join gives where a weight's parts can stand one below the other as they are."""
    rows, columns = sum(weight.shape[0] for weight in weights), {weight.shape[1] for weight in weights}
    assert len(columns) == 1, [weight.shape for weight in weights]
    return Weight(
        "+".join(weight.format for weight in weights),
        (rows, columns.pop()),
        tuple(part for weight in weights for part in weight.parts),
        sum(weight.nbytes for weight in weights),
    )


def beat(beats: NDArray[np.uint64] | None) -> None:
    """Count up Ops.beats."""
    if beats is not None:
        beats += np.uint64(1)


def in_place(rows: NDArray[np.float32], order: NDArray[np.intp]) -> NDArray[np.float32]:
    """Rows of a matrix stored in that order, [R, K], with every column back where the matrix has it."""
    out = np.empty_like(rows)
    out[:, order] = rows
    return out


@dataclass(frozen=True, eq=False)
class AttentionParams:
    """What differs between layers."""

    scale: float
    window: int | None = None  # a query at position t sees keys in (t − window, t]; None: all up to t
    softcap: float | None = None  # scores become softcap · tanh(score / softcap), before the mask
    # One logit per query head, [H], from Ops.array: the softmax of a head has one more term in its denominator,
    # exp(sink − max), that adds no value. Neither scaled nor capped.
    sinks: Array | None = None


@dataclass(frozen=True)
class Ragged:
    """Which queries of the batch belong to which row, and where each row's keys lie.

    Row r has queries [query_starts[r], query_starts[r + 1]) at positions starts[r], starts[r] + 1, …; its keys at
    position p are slot p mod P of page page_ids[page_starts[r] + p // P]. A query sees keys up to its own position.
    """

    query_starts: NDArray[np.int32]  # [R + 1]
    starts: NDArray[np.int32]  # [R]
    page_ids: NDArray[np.int32]
    page_starts: NDArray[np.int32]  # [R + 1]
    page_size: int


@dataclass(frozen=True)
class Heads:
    """How one layer's projections become queries, keys and values: made once, when the layer is built."""

    heads: int  # H
    kv_heads: int  # G
    dim: int  # D
    cos: Array  # [positions, r/2], see Ops.rope
    sin: Array
    norms: tuple[Array, Array, float] | None = None  # weight [D] for query heads, for key heads; eps


@dataclass(frozen=True)
class LatentHeads:
    """How one layer of latent attention makes queries and keys of its projections: made once, when the layer is built.

    DeepSeek-AI, 2024, arXiv:2405.04434, section 2.1, in the absorbed form: what would make a head's keys of the latent
    is multiplied into its queries instead, so that all heads share one key.
    """

    heads: int  # H
    nope: int  # numbers of a query head that are not rotated
    rope: int  # … and that are
    rank: int  # of the latent
    up: Array  # from Ops.per_head: of each head [rank, nope]
    cos: Array  # [positions, rope/2], see Ops.rope
    sin: Array
    norm: tuple[Array, float]  # of the latent: weight [rank], eps


@dataclass(frozen=True)
class Routing:
    """How a token chooses among E experts.

    Scores are the softmax or the sigmoid of the router's logits. `bias` is added for the choice alone. Where there are
    groups (neighbours of equal number), only the experts of the `top_groups` best take part; a group is as good as its
    best expert, or as the sum of its best two. Of equals, experts and groups alike, the lower number wins.
    """

    experts: int  # E
    top: int  # k, how many are chosen
    score: Literal["softmax", "sigmoid"]
    renormalise: bool  # the chosen weights are divided by their sum
    scaling: float = 1.0  # … and multiplied by this
    groups: int = 1
    top_groups: int = 1
    group_score: Literal["max", "top2"] = "max"


@dataclass(frozen=True, eq=False)
class Experts:
    """E gated feed-forward blocks of the same sizes: down(activation(gate(x)) · up(x))."""

    gate_up: tuple[Weight, ...]  # [E] of [2F, K]: gate, then up
    down: tuple[Weight, ...]  # [E] of [N, F]
    activation: Activation
    gate_up_bias: Array | None = None  # [E, 2F]
    down_bias: Array | None = None  # [E, N]


class Rule(NamedTuple):
    """How to draw from one row. A column each, in this order, of the rules that RowOps.draw takes."""

    temperature: float  # 0 takes the most likely token, the lower id of equals
    top_k: float = 0  # 0: all
    top_p: float = 1.0  # above 0
    min_p: float = 0.0
    u: float = 0.0  # in [0, 1)


Bits = NDArray[np.uint32]  # [⌈V/32⌉], bit i of word w: whether token 32·w + i is allowed


class Penalties(NamedTuple):
    """What a row's history takes from its logits: repetition, then frequency and presence, in float64."""

    ids: NDArray[np.int64]  # [n] distinct tokens of prompt and output, within [0, V)
    counts: NDArray[np.int64]  # [n] how often each was put out
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0


class Shaping(NamedTuple):
    """What is done to a row's logits before its rule draws, in this order. None: nothing."""

    penalties: Penalties | None = None
    bias: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None  # distinct ids within [0, V), and what is added
    mask: Bits | None = None  # tokens without a bit become −∞
    banned: NDArray[np.int64] | None = None  # so do these, within [0, V)


class Ranks(NamedTuple):
    """What log-probabilities of N rows are made of; NaN has become −∞ and +∞ the largest float32."""

    peaks: NDArray[np.float32]  # [N] the largest logit
    masses: NDArray[np.int64]  # [N] Σ exp(logit − peak), each in whole units of 2⁻⁴⁴; 0 where all are −∞
    ids: NDArray[np.int64]  # [N, k] the first by (−logit, id)
    logits: NDArray[np.float32]  # [N, k] theirs


class RowOps(Protocol):
    """Rows of logits on the host → tokens. `device/sampling/rows.py` is the specification: equal tokens and equal bits.

    logits [S, V] float32, V < 2¹⁹, left as they are; rows [N]: which of them, any number of times.
    """

    def draw(
        self,
        logits: NDArray[np.float32],
        rows: NDArray[np.int32],
        rules: NDArray[np.float64],
        shapings: Sequence[Shaping | None] | None = None,
    ) -> NDArray[np.int64]:
        """The token of each row by its rule; rules [N, 5], see Rule; shapings [N], or None where no row has one.

        Where nothing is left above −∞: the lowest id of the mask that is not banned, else the lowest of the mask, else 0.
        """

    def rank(self, logits: NDArray[np.float32], rows: NDArray[np.int32], k: int) -> Ranks:
        """0 ≤ k ≤ V."""


# (ids [T], positions [T], wanted [S] indices into the T tokens, one Ragged per KV group) → [S, N]
Forward = Callable[[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], tuple[Ragged, ...]], Array]


class Ops(Protocol):
    """One backend, opened in one compute mode."""

    name: str  # "reference", "cpu"
    isa: str  # "numpy", or one of the compiled kernels' instruction sets
    version: str  # changes whenever any op's bits do; part of the numerics id
    mode: Mode
    kv_type: KVType
    threads: int
    # [1], counted up as a load or a forward pass gets on: within each matrix and each op, before any takes long.
    beats: NDArray[np.uint64] | None

    @property
    def sampling(self) -> RowOps | None:
        """None: the sampler's own NumPy serves."""

    def table(self) -> dict[str, str]:
        """Which implementation serves which op, for `radixmill doctor`."""

    def packs(self, kind: str) -> str | None:
        """The compute format that takes this stored kind without loss; None: it must be widened to F32 first."""

    def pack(self, stored: Stored) -> Weight: ...

    def blocks(self, stored: Stored, kind: Literal["Q8_0", "Q4_1"]) -> Stored:
        """A matrix of floats (F32, F16, BF16; finite, K a multiple of 32) in fewer bits: not without loss.

        Q8_0: scale = max|x| / 127 of each 32 values. Q4_1: the scale and minimum that fit them best of a few. Every
        backend gives the bytes of `reference/blocks.py`.
        """

    def join(self, weights: Sequence[Weight]) -> Weight:
        """Matrices of the same K, one below the other, each in its own format: for linear() alone."""

    def array(self, values: NDArray[Any]) -> Array:
        """A vector or table (norm weight, bias, rope table) as this backend's float32 buffer."""

    def linear(self, x: Array, weight: Weight, bias: Array | None = None) -> Array:
        """x [T, K] · weightᵀ → [T, N], the sum over K in one fixed order.

        In `fast` mode, formats with quantised codes see x as int8: per group of 32 values, scale = max|x| / 127 and
        codes round half to even. In `exact` mode, and for f32, f16 and f8 always, x is float32 and so is the sum. bf16
        weights in `fast` mode may see x rounded to bf16, where the instruction set multiplies pairs of them.
        A matrix that was stored with an `order` sees columns(x, order), and its groups and its sum are in that order.
        """

    def columns(self, x: Array, order: NDArray[np.intp]) -> Array:
        """x [T, K] → [T, K], whose column j is column order[j] of x."""

    def embed(self, ids: NDArray[np.int64], weight: Weight, scale: float = 1.0) -> Array:
        """ids [T] → rows of weight, times scale, [T, K], dequantised exactly."""

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """x / sqrt(mean(x²) + eps) · weight over the last axis; x [..., K], weight [K]."""

    def layer_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """(x − mean) / sqrt(variance + eps) · weight; x [T, G · K], each of its G runs of K numbers for itself; weight
        [G, K]. The mean is taken first, the variance of what is left."""

    def add(self, x: Array, y: Array) -> Array:
        """x + y; may reuse x's memory."""

    def scale(self, x: Array, by: float) -> Array: ...

    def softcap(self, x: Array, cap: float) -> Array:
        """cap · tanh(x / cap)."""

    def gated(self, gate_up: Array, activation: Activation) -> Array:
        """gate_up [T, 2F] → activation(gate) · up, [T, F]; gate is the first half.

        clamped (gpt-oss): g · sigmoid(1.702 · g) · (u + 1) with g = min(gate, 7) and u = up within [−7, 7].
        """

    def dimmed(self, x: Array, gate: Array) -> Array:
        """x [T, K] · sigmoid(gate), gate [T, 1]; may reuse x's memory."""

    def route(self, logits: Array, routing: Routing, bias: Array | None = None) -> Array:
        """logits [T, E] → [T, 2k]: the numbers of the chosen experts, ascending, then their weights. bias [E]."""

    def mixture(self, experts: Experts) -> Array:
        """Experts as `experts` takes them. Opaque; made once, when the layer is built."""

    def experts(self, x: Array, routes: Array, mixture: Array) -> Array:
        """x [T, K], routes [T, 2k] from route() → [T, N]: the chosen experts' results times their weights, added up from
        zero in the order of the experts' numbers.

        Each product is linear()'s, to the bit; only the chosen experts' weights are read.
        """

    def per_head(self, weights: Sequence[Weight]) -> Array:
        """H matrices [N, K], one for each head, as linear_heads() takes them. Opaque; made once."""

    def linear_heads(self, x: Array, heads: Array) -> Array:
        """x [T, H, K] → [T, H, N], each head by its own matrix; each product is linear()'s, to the bit."""

    def rope(self, x: Array, positions: NDArray[np.int32], cos: Array, sin: Array) -> Array:
        """Rotate halves: x [T, H, D]; cos and sin [positions, r/2] with r ≤ D rotated dimensions (the first r).

        Pair (i, i + r/2) of a head turns by its angle at positions[t]. May reuse x's memory.
        """

    def kv_alloc(self, pages: int, page_size: int, shape: KVShape) -> Array:
        """One layer's key and value pages, as `kv_type`. Opaque.

        int8: codes, and a float32 scale for each token and head, of its key and of its value: scale = max|x| / 127,
        codes round half to even; a value that is not finite makes the scale NaN. No token's bytes depend on another's.
        Keys, and queries when they meet them, first pass through a Walsh–Hadamard transform over blocks of the largest
        power of two that divides D: products stay the same, and a few large values no longer cost the others their bits.
        Latent pages have one scale per token and no transform.
        """

    def kv_bytes_per_token(self, shape: KVShape, page_size: int) -> int:
        """Bytes one layer's pages of such a size take per token, rounded up: keys and values, scales and padding."""

    def kv_store(self, kv: Array, k: Array, v: Array, ragged: Ragged) -> None:
        """Write k, v [T, G, D] at the batch's own positions."""

    def qkv(
        self, parts: tuple[Array, ...], heads: Heads, positions: NDArray[np.int32], kv: Array, ragged: Ragged
    ) -> Array:
        """Queries ready for attention, [T, H, D]; keys and values are stored at the batch's own positions.

        parts: q, k and v side by side in one array [T, (H + 2G) · D], or three arrays [T, H · D], [T, G · D],
        [T, G · D]. Bit for bit what rms_norm (where there are norms), rope and kv_store give one after the other.
        """

    def latents(
        self, q: Array, latent: Array, heads: LatentHeads, positions: NDArray[np.int32], kv: Array, ragged: Ragged
    ) -> Array:
        """Queries ready for attention over latent pages, [T, H, rank + rope]; the latents are stored.

        q [T, H · (nope + rope)]: of each head what is not rotated comes first. latent [T, rank + rope]: stored as one key,
        its first `rank` numbers normed, the rest rotated. Bit for bit what rms_norm, rope, linear_heads and kv_store give.
        """

    def kv_copy(self, kv: Array, src: int, dst: int, tokens: int) -> None:
        """Copy the first `tokens` positions of page src to page dst."""

    def attention(self, q: Array, kv: Array, ragged: Ragged, params: AttentionParams) -> Array:
        """q [T, H, D] against the row's stored keys → [T, H, Dv]. Head h reads key head h // (H / G).

        Pages of positions that no query of the row may see, because of the window, may be any: they are not read.

        Keys are walked in the order of their positions, page by page; the softmax is float32. Where it is taken in
        several pieces, their bounds and the order in which they are joined follow from positions alone. Stale slots
        beyond a query's position, whatever they hold (NaN too, in codes' scales as well), never reach the result.

        In `fast` mode, over latent pages of f16 or int8, where the instruction set multiplies pairs of integers: the first
        Dv numbers of a query (one scale each), those of a key (one scale, for f16 a power of two) and the weights of each
        32 keys of a page (one scale) may be seen as integers of 11 to 13 bits and a sign. What that costs is what float16
        costs where numbers are of one size.
        """

    def gather(self, x: Array, rows: NDArray[np.int32]) -> Array:
        """x [T, K], rows [R] → [R, K]."""

    def numpy(self, x: Array) -> NDArray[np.float32]:
        """The values on the host."""

    def capture(self, forward: Forward, groups: int) -> Forward:
        """The same function, to the same bits, made faster where the backend can: its ops recorded once and run in one go.

        `forward` must be a fixed sequence of this backend's ops: embed its `ids`, gather its `wanted`, and never look at a
        value or at T. What it returns for one call may be overwritten by the next.
        """
