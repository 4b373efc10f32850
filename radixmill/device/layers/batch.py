"""What a layer is given at call time: the tokens of one step, where they stand, and where their keys and values lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radixmill.device.kernels.contract import Array, Ragged


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One step for the model: T tokens of R sequences, S of them asked for logits, L layers, one Ragged per KV group."""

    ids: NDArray[np.int64]  # [T]
    positions: NDArray[np.int32]  # [T]
    wanted: NDArray[np.int32]  # [S] indices into the T tokens whose logits are asked for, ascending
    ragged: tuple[Ragged, ...]  # per KV group
    kv: tuple[Array, ...]  # per layer
