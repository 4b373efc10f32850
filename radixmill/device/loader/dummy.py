"""Random weights for a configuration: for measuring speed, and for tests that need a model but no particular one."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Stored
from radixmill.device.loader.checkpoint import Lying, check_shape, missing


class DummyCheckpoint:
    """See Checkpoint. Each tensor depends on the seed and its own name alone, so any part can be drawn again.

    Matrices are uniform with standard deviation 1 / sqrt(K), so that activations keep their size; kind by the
    configuration's dtype. Norms are near the value that changes nothing, biases small.
    """

    norms_include_one = False

    def __init__(
        self,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        seed: int = 0,
        eos_ids: tuple[int, ...] = (),
    ) -> None:
        """`shapes`: of every tensor; who builds the model knows them."""
        self.config, self.seed, self.eos_ids = dict(config), seed, eos_ids
        self._shapes = dict(shapes)
        self.names = frozenset(self._shapes)
        kind = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
        self._kind = {"bfloat16": "BF16", "float16": "F16"}.get(kind, "F32")
        text = json.dumps([self.config, seed], sort_keys=True, default=str)
        self.fingerprint = "dummy-" + hashlib.sha256(text.encode()).hexdigest()

    def shaped(self, shapes: Mapping[str, tuple[int, ...]]) -> DummyCheckpoint:
        """The same, with these tensors."""
        return DummyCheckpoint(self.config, shapes, self.seed, self.eos_ids)

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored:
        rows, columns = self._shape(name, shape, 2)
        values = self._uniform(name, rows * columns).reshape(rows, columns)
        values *= np.float32((3 / columns) ** 0.5)
        if self._kind == "F16":
            return Stored("F16", (rows, columns), values.astype(np.float16))
        if self._kind == "BF16":
            return Stored("BF16", (rows, columns), (values.view(np.uint32) >> 16).astype(np.uint16))
        return Stored("F32", (rows, columns), values)

    def vector(self, name: str, size: int | None = None) -> NDArray[np.float32]:
        (length,) = self._shape(name, None if size is None else (size,), 1)
        small = self._uniform(name, length) * np.float32(0.1)
        centre = 1.0 if name.endswith("norm.weight") and not _is_gemma(self.config) else 0.0
        return small + np.float32(centre)

    def lying(self) -> Iterable[Lying]:
        size = 4 if self._kind == "F32" else 2
        return (Lying(name, self._kind, shape, prod(shape) * size) for name, shape in self._shapes.items())

    def close(self) -> None:
        """Nothing is held."""

    def _shape(self, name: str, wanted: tuple[int, ...] | None, rank: int) -> tuple[int, ...]:
        found = self._shapes.get(name, wanted)
        if found is None:
            raise missing("a model of random weights", name)
        check_shape("random weights", name, found, wanted, rank)
        return found

    def _uniform(self, name: str, count: int) -> NDArray[np.float32]:
        """In (−1, 1), never 0."""
        draw = np.random.Generator(np.random.PCG64([self.seed, zlib.crc32(name.encode())]))
        values = draw.random(count, np.float32) * 2 - 1
        values[values == 0] = 0.5
        return values


def _is_gemma(config: Mapping[str, Any]) -> bool:
    return any(str(name).startswith("Gemma") for name in config.get("architectures") or ())
