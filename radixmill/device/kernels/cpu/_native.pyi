from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def isas() -> list[str]: ...
def probe(isa: str, threads: int, nbytes: int, seconds: float, /) -> tuple[str, float, float, float]: ...

class Matrix:
    @property
    def format(self) -> str: ...
    @property
    def nbytes(self) -> int: ...

class Pages:
    @property
    def keys(self) -> NDArray[Any]: ...
    @property
    def values(self) -> NDArray[Any] | None: ...
    @property
    def key_scales(self) -> NDArray[Any] | None: ...
    @property
    def value_scales(self) -> NDArray[Any] | None: ...
    @property
    def dim(self) -> int: ...
    @property
    def value_dim(self) -> int: ...

def pages(
    engine: Engine,
    type: str,
    keys: NDArray[Any],
    values: NDArray[Any] | None,
    key_scales: NDArray[Any] | None,
    value_scales: NDArray[Any] | None,
    pages: int,
    page_size: int,
    groups: int,
    dim: int,
    value_dim: int,
    latent: bool,
    /,
) -> Pages: ...

# Of one weight: its matrices, and for each the order of the columns that it sees.
Parts = tuple[Sequence[Matrix], Sequence[NDArray[np.intp] | None]]

class Stacks:
    """Weights of one size, each for rows of its own."""

    def __init__(self, weights: Sequence[Parts], /) -> None: ...
    @property
    def width(self) -> int:
        """Of all results together."""

class Mixture:
    def __init__(
        self, gate_up: Sequence[Parts], down: Sequence[Parts], gate_up_bias: Any, down_bias: Any, activation: int, /
    ) -> None: ...
    @property
    def width(self) -> int: ...

class Routing:
    def __init__(
        self,
        experts: int,
        top: int,
        sigmoid: bool,
        renormalise: bool,
        scaling: float,
        groups: int,
        top_groups: int,
        top2: bool,
        /,
    ) -> None: ...

class Engine:
    def __init__(self, isa: str, threads: int, fast: bool, /) -> None: ...
    def pack(self, kind: str, data: NDArray[Any], n: int, k: int, /) -> Matrix: ...
    @property
    def lanes(self) -> int: ...
    def watch(self, word: NDArray[np.uint64] | None, /) -> None: ...
    def linear(self, x: Any, matrices: Sequence[Matrix], orders: Sequence[Any], bias: Any, y: Any, /) -> None: ...
    def blocks(self, source: str, x: NDArray[Any], n: int, k: int, kind: str, out: NDArray[Any], /) -> None: ...
    def embed(self, ids: Any, weight: Matrix, scale: float, y: Any, /) -> None: ...
    def rms_norm(self, x: Any, weight: Any, eps: float, y: Any, /) -> None: ...
    def layer_norm(self, x: Any, weight: Any, groups: int, eps: float, y: Any, /) -> None: ...
    def add(self, x: Any, y: Any, /) -> None: ...
    def scale(self, x: Any, by: float, y: Any, /) -> None: ...
    def softcap(self, x: Any, cap: float, y: Any, /) -> None: ...
    def gated(self, gate_up: Any, activation: int, f: int, y: Any, /) -> None: ...
    def dimmed(self, x: Any, gate: Any, /) -> None: ...
    def route(self, logits: Any, routing: Routing, bias: Any, y: Any, /) -> None: ...
    def experts(self, x: Any, routes: Any, mixture: Mixture, top: int, y: Any, /) -> None: ...
    def heads(self, x: Any, weights: Stacks, y: Any, /) -> None: ...
    def rope(self, x: Any, heads: int, dim: int, positions: Any, cos: Any, sin: Any, half: int, /) -> None: ...
    def qkv(
        self,
        kv: Pages,
        q: Any,
        k: Any,
        v: Any,
        y: Any,
        heads: int,
        positions: Any,
        cos: Any,
        sin: Any,
        half: int,
        q_norm: Any,
        k_norm: Any,
        eps: float,
        query_starts: Any,
        starts: Any,
        page_ids: Any,
        page_starts: Any,
        /,
    ) -> None: ...
    def latents(
        self,
        kv: Pages,
        q: Any,
        latent: Any,
        up: Stacks,
        y: Any,
        positions: Any,
        cos: Any,
        sin: Any,
        half: int,
        norm: Any,
        eps: float,
        query_starts: Any,
        starts: Any,
        page_ids: Any,
        page_starts: Any,
        /,
    ) -> None: ...
    def kv_store(
        self, kv: Pages, k: Any, v: Any, query_starts: Any, starts: Any, page_ids: Any, page_starts: Any, /
    ) -> None: ...
    def kv_copy(self, kv: Pages, src: int, dst: int, tokens: int, /) -> None: ...
    def attention(
        self,
        kv: Pages,
        q: Any,
        y: Any,
        heads: int,
        query_starts: Any,
        starts: Any,
        page_ids: Any,
        page_starts: Any,
        scale: float,
        window: int,
        softcap: float,
        sinks: Any,
        /,
    ) -> None: ...

class Program:
    """Recording calls give the number of the register that holds the result."""

    def __init__(self, engine: Engine, /) -> None: ...
    def embed(self, table: Matrix, scale: float, /) -> int: ...
    def product(
        self,
        x: int,
        matrices: Sequence[Matrix],
        orders: Sequence[Any],
        bias: Any,
        source: str,
        weight: Any,
        eps: float,
        activation: int,
        into: int,
        /,
    ) -> int: ...
    def rms_norm(self, x: int, weight: Any, eps: float, /) -> int: ...
    def layer_norm(self, x: int, weight: Any, groups: int, eps: float, /) -> int: ...
    def add(self, x: int, y: int, /) -> None: ...
    def dimmed(self, x: int, gate: int, /) -> None: ...
    def rope(self, x: int, heads: int, cos: Any, sin: Any, half: int, /) -> None: ...
    def route(self, logits: int, routing: Routing, bias: Any, /) -> int: ...
    def experts(self, x: int, routes: int, mixture: Mixture, /) -> int: ...
    def heads(self, x: int, weights: Stacks, /) -> int: ...
    def scale(self, x: int, by: float, /) -> int: ...
    def softcap(self, x: int, cap: float, /) -> int: ...
    def gated(self, x: int, activation: int, /) -> int: ...
    def qkv(
        self,
        parts: Sequence[int],
        kv: Pages,
        heads: int,
        cos: Any,
        sin: Any,
        half: int,
        q_norm: Any,
        k_norm: Any,
        eps: float,
        group: int,
        /,
    ) -> int: ...
    def latents(
        self,
        q: int,
        latent: int,
        kv: Pages,
        up: Stacks,
        cos: Any,
        sin: Any,
        half: int,
        norm: Any,
        eps: float,
        group: int,
        /,
    ) -> int: ...
    def attention(
        self, q: int, kv: Pages, heads: int, group: int, scale: float, window: int, softcap: float, sinks: Any, /
    ) -> int: ...
    def gather(self, x: int, /) -> int: ...
    def finish(self, out: int, /) -> None: ...
    @property
    def width(self) -> int: ...
    def run(self, ids: Any, positions: Any, wanted: Any, ragged: Sequence[Sequence[Any]], out: Any, /) -> None: ...

class Rows:
    def __init__(self, isa: str, threads: int, steps: Any, width: float, inverse: float, /) -> None: ...
    def draw(
        self, engine: Engine, logits: Any, v: int, rows: Any, rules: Any, shapings: Any, tokens: Any, /
    ) -> None: ...
    def rank(
        self, engine: Engine, logits: Any, v: int, rows: Any, k: int, peaks: Any, masses: Any, ids: Any, best: Any, /
    ) -> None: ...
