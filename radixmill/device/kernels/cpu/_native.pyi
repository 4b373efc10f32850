from typing import Any

from numpy.typing import NDArray

def best_isa() -> str: ...

class Matrix:
    @property
    def format(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def n(self) -> int: ...

class Pages:
    @property
    def keys(self) -> NDArray[Any]: ...
    @property
    def values(self) -> NDArray[Any]: ...
    @property
    def value_dim(self) -> int: ...

def pages(
    keys: NDArray[Any],
    values: NDArray[Any],
    half: bool,
    pages: int,
    page_size: int,
    groups: int,
    dim: int,
    value_dim: int,
    /,
) -> Pages: ...

class Engine:
    def __init__(self, isa: str, threads: int, fast: bool, /) -> None: ...
    def pack(self, kind: str, data: NDArray[Any], n: int, k: int, /) -> Matrix: ...
    def blocks(self, source: str, x: NDArray[Any], n: int, k: int, kind: str, out: NDArray[Any], /) -> None: ...
    def linear(self, x: Any, weight: Matrix, bias: Any, y: Any, width: int, column: int, /) -> None: ...
    def embed(self, ids: Any, weight: Matrix, scale: float, y: Any, /) -> None: ...
    def rms_norm(self, x: Any, weight: Any, eps: float, y: Any, /) -> None: ...
    def add(self, x: Any, y: Any, /) -> None: ...
    def scale(self, x: Any, by: float, y: Any, /) -> None: ...
    def softcap(self, x: Any, cap: float, y: Any, /) -> None: ...
    def gated(self, gate_up: Any, activation: int, f: int, y: Any, /) -> None: ...
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
        /,
    ) -> None: ...
