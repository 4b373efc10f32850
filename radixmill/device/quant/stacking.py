"""Several matrices as one, one below the other; packed blocks stay packed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from radixmill.device.kernels.contract import Stored


def likeness(part: Stored) -> Hashable:
    """Equal for matrices that can be stacked: of one kind, and of one order of columns."""
    return part.kind, part.shape[1], None if part.order is None else part.order.tobytes()


def stack(parts: Sequence[Stored]) -> Stored:
    """Rows of all `parts`, in order. They must be alike. One part is returned as it is."""
    first = parts[0]
    if len(parts) == 1:
        return first
    assert len({likeness(part) for part in parts}) == 1, [(part.kind, part.shape) for part in parts]
    rows = sum(part.shape[0] for part in parts)
    return replace(first, shape=(rows, first.shape[1]), data=np.concatenate([part.data for part in parts]))
