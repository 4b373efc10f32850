"""What a model's files offer to those who build the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Stored


class Lying(NamedTuple):
    """A tensor as it lies in its file; of packed layers, the parts that it is made from."""

    name: str
    kind: str
    shape: tuple[int, ...]
    nbytes: int


class Checkpoint(Protocol):
    """An open model. Arrays may be views of a memory map that lives until the last of them is gone."""

    config: dict[str, Any]  # in the words of Hugging Face's config.json
    names: frozenset[str]  # of all tensors, as Hugging Face names them
    norms_include_one: bool  # the norms of the Gemma families are stored as 1 + w
    eos_ids: tuple[int, ...]
    fingerprint: str  # equal for equal weights

    def stored(self, name: str, shape: tuple[int, int] | None = None) -> Stored:
        """A matrix. Raises BadModel if there is none of that name, or if its shape is not `shape`."""

    def vector(self, name: str, size: int | None = None) -> NDArray[np.float32]:
        """A vector, float32 [size]. Raises BadModel as `stored` does."""

    def lying(self) -> Iterable[Lying]:
        """What the files' headers say of every tensor."""

    def close(self) -> None:
        """Let go of the files."""


def check_shape(where: object, name: str, found: Sequence[int], wanted: Sequence[int] | None, rank: int) -> None:
    """Raises BadModel unless a tensor has `rank` dimensions and, if given, the `wanted` shape."""
    if wanted is not None and tuple(found) != tuple(wanted):
        raise BadModel(
            f"{where}: tensor {name} has shape {list(found)}, but the model's configuration needs {list(wanted)}"
        )
    if len(found) != rank:
        raise BadModel(f"{where}: tensor {name} has shape {list(found)}, not {rank} dimension{'s' * (rank > 1)}")


def missing(where: object, name: str) -> BadModel:
    return BadModel(f"{where} has no tensor {name}", "The file may be incomplete, or of another architecture")
