"""Llama 3's rope scaling, read back from what GGUF keeps of it: one divisor per pair of dimensions.

With wavelength w and pretrained context c, a pair's frequency is divided by 1 where w < c / high, by `factor` where
w > c / low, and in between by 1 / ((1 − s) / factor + s) with s = (c / w − low) / (high − low). So low, high and c are
known up to a common scale, and two pairs in between tell them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.store import GGUFFile

Divisors = NDArray[np.float64]


def llama3_scaling(file: GGUFFile, theta: float) -> dict[str, Any] | None:
    """Hugging Face's `rope_scaling` that gives the divisors in `rope_freqs.weight`; None if they are all 1.

    Raises BadModel if they are no scaling of Llama 3's form.
    """
    found = file.data("rope_freqs.weight").astype(np.float64).reshape(-1)
    if np.allclose(found, 1.0):
        return None
    waves = 2 * np.pi * theta ** (np.arange(len(found)) / len(found))
    if found.size and np.isfinite(found).all() and found.min() > 0:
        for low, high, original in [(1.0, 4.0, 8192), *_fitted(found, waves)]:
            factor = round(float(found.max()), 4)
            if np.allclose(divisors(waves, factor, low, high, original), found, rtol=1e-3):
                names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
                return {"rope_type": "llama3", **dict(zip(names, (factor, low, high, original), strict=True))}
    raise BadModel(f"{file.path}: rope_freqs.weight is not Llama 3's rope scaling, and no other is supported")


def divisors(waves: Divisors, factor: float, low: float, high: float, original: int) -> Divisors:
    """What each pair's frequency is divided by."""
    s = np.clip((original / waves - low) / (high - low), 0.0, 1.0)
    return 1 / ((1 - s) / factor + s)


def _fitted(found: Divisors, waves: Divisors) -> list[tuple[float, float, int]]:
    """(low = 1, high, original) by a line through the pairs in between, or nothing where there are fewer than two."""
    factor = found.max()
    between = (found > 1 + 1e-4) & (found < factor * (1 - 1e-4))
    if between.sum() < 2:
        return []
    s = (1 / found[between] - 1 / factor) / (1 - 1 / factor)
    slope, offset = np.polyfit(1 / waves[between], s, 1)
    if slope <= 0 or offset >= 0:
        return []
    high = 1 - 1 / offset
    return [(1.0, round(float(high), 4), round(float(slope * (high - 1))))]
