"""Several matrices as one, one below the other; packed blocks stay packed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from radixmill.device.kernels.contract import Stored


def stack(parts: Sequence[Stored]) -> Stored:
    """Rows of all `parts`, in order. They must agree in kind and columns. One part is returned as it is."""
    first = parts[0]
    if len(parts) == 1:
        return first
    assert len({(part.kind, part.shape[1]) for part in parts}) == 1, [(part.kind, part.shape) for part in parts]
    rows = sum(part.shape[0] for part in parts)
    return Stored(first.kind, (rows, first.shape[1]), np.concatenate([part.data for part in parts]))
