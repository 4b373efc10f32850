"""Which tensors a model of a configuration asks for, and of what shapes: found by building it of nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Array, Stored, Weight
from radixmill.device.layers import Build, Part
from radixmill.device.layers.build import Order
from radixmill.device.models.decoder import Decoder, DecoderConfig, Family

Shape = tuple[int, ...]


def outline(family: Family, config: DecoderConfig) -> dict[str, Shape]:
    """Every tensor, by its name in a checkpoint."""
    build = _Outline()
    Decoder(build, family, config, family.weights.wanted(config))
    return build.shapes


class _Outline(Build):
    """Notes what it is asked for; what it gives has a shape and no numbers."""

    def __init__(self) -> None:
        self.shapes: dict[str, Shape] = {}
        blank: Any = _Blank()
        super().__init__(blank, self, positions=1)

    norms_include_one = False

    def stored(self, part: Part | str, shape: tuple[int, int] | None = None) -> Stored:  # Build's, and the tensors'
        assert isinstance(part, Part) and shape is not None, "a layer reads matrices through Build"
        self.shapes[part.names[0]] = shape
        return Stored("F32", shape, np.broadcast_to(np.float32(0), shape))

    def weight(
        self,
        part: Part,
        rows: Sequence[int],
        columns: int,
        *,
        end: bool = False,
        order: Order | None = None,
        kept: bool = False,
    ) -> Weight:
        self.shapes |= {name: (n, columns) for name, n in zip(part.names, rows, strict=True)}
        return Weight("f32", (sum(rows), columns), (), 0)

    def bias(self, part: Part, rows: Sequence[int], order: Order | None = None) -> Array | None:
        if part.bias:
            self.shapes |= {f"{stem}.bias": (n,) for stem, n in zip(part.stems, rows, strict=True)}
        return None

    def vector(self, part: Part | str, size: int | None = None) -> NDArray[np.float32]:  # Build's, and the tensors'
        name = part if isinstance(part, str) else part.names[0]
        assert size is not None, name
        self.shapes[name] = (size,)
        return np.broadcast_to(np.float32(0), (size,))

    def matrix(self, part: Part, shape: tuple[int, int]) -> NDArray[np.float32]:
        self.shapes[part.names[0]] = shape
        return np.broadcast_to(np.float32(0), shape)

    def pack(self, tensor: Stored) -> Weight:
        return Weight("f32", tensor.shape, (), 0)

    def adds_nothing(self, name: str) -> bool:
        return False


class _Blank:
    """A backend that makes nothing."""

    def array(self, values: Any) -> Any:
        return values

    def mixture(self, experts: Any) -> Any:
        return experts

    def per_head(self, weights: Any) -> Any:
        return weights
