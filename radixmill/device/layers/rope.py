"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864): tables of angles, and the ways to stretch them.

Pair i of a head of D dimensions turns at position p by p · f[i], with f[i] = theta^(−2i/D) before scaling. A scaling
changes the frequencies f and may multiply cos and sin by a magnitude. Frequencies and angles are float32, as the models
were trained; each is rounded once from float64, so that tables don't depend on a machine's float32 power or cosine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from radixmill.core.errors import BadModel
from radixmill.device.kernels.contract import Array
from radixmill.device.layers.build import Build, Order

Frequencies = NDArray[np.float64]  # [D / 2]


@dataclass(frozen=True)
class Linear:
    """Position interpolation (Chen et al., 2023, arXiv:2306.15595): positions are divided by `factor`."""

    factor: float

    def frequencies(self, base: Frequencies, theta: float) -> Frequencies:
        return base / self.factor

    @property
    def magnitude(self) -> float:
        return 1.0


@dataclass(frozen=True)
class Llama3:
    """Llama 3.1's scaling (Grattafiori et al., 2024, arXiv:2407.21783; the formula is in Meta's reference code).

    Wavelengths beyond original / low are stretched by `factor`, those below original / high stay, between them both mix.
    """

    factor: float
    low: float
    high: float
    original: int  # positions the model was pretrained on

    def frequencies(self, base: Frequencies, theta: float) -> Frequencies:
        turns = self.original * base / (2 * math.pi)  # turns of a pair within the original context
        keep = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return (1 - keep) * base / self.factor + keep * base

    @property
    def magnitude(self) -> float:
        return 1.0


@dataclass(frozen=True)
class Yarn:
    """YaRN (Peng et al., 2023, arXiv:2309.00071): a ramp over dimensions between interpolated and kept frequencies."""

    factor: float
    original: int  # positions the model was pretrained on
    beta_fast: float = 32.0  # turns within `original` above which a pair keeps its frequency
    beta_slow: float = 1.0  # turns below which it is interpolated
    attention_factor: float | None = None  # cos and sin are multiplied by it; None: the paper's 0.1 · ln(factor) + 1
    truncate: bool = True  # ramp bounds rounded outwards to whole dimensions

    def frequencies(self, base: Frequencies, theta: float) -> Frequencies:
        low, high = (self._dimension(turns, 2 * len(base), theta) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * len(base) - 1)
        ramp = np.clip((np.arange(len(base)) - low) / (high - low or 0.001), 0.0, 1.0)
        return ramp * base / self.factor + (1 - ramp) * base

    @property
    def magnitude(self) -> float:
        return yarn_magnitude(self.factor) if self.attention_factor is None else self.attention_factor

    def _dimension(self, turns: float, dim: int, theta: float) -> float:
        """The (fractional) pair that makes this many turns within the original context."""
        return dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """The paper's temperature correction, its logarithm weighted as DeepSeek's configurations do ("mscale")."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


@dataclass(frozen=True)
class Divided:
    """Each pair's frequency is divided by a number of its own."""

    factors: tuple[float, ...]  # [D / 2]
    magnitude: float

    def frequencies(self, base: Frequencies, theta: float) -> Frequencies:
        """Raises BadModel unless there are as many factors as pairs."""
        if len(self.factors) != len(base):
            raise BadModel(f"rope parameters give {len(self.factors)} factors for the {len(base)} pairs of a head")
        return base / np.array(self.factors)


@dataclass(frozen=True)
class LongRope:
    """LongRoPE (Ding et al., 2024, arXiv:2402.13753): one Divided within the original context, another beyond.

    Which of them is chosen once, by the longest sequence there may be: to change over as a sequence grows, as other
    programs do, would leave keys in the cache that were turned otherwise than those that follow.
    """

    short: Divided
    long: Divided
    original: int  # positions the model was pretrained on

    def within(self, positions: int) -> Divided:
        """For sequences of at most so many positions."""
        return self.long if positions > self.original else self.short


Scaling = Linear | Llama3 | Yarn | Divided


@dataclass(frozen=True)
class RopeSpec:
    """How a layer's heads turn."""

    theta: float
    scaling: Scaling | LongRope | None = None

    def settled(self, positions: int) -> RopeSpec:
        """The same, with what depends on the longest sequence there may be decided."""
        return replace(self, scaling=self.within(positions))

    def within(self, positions: int) -> Scaling | None:
        """The scaling for sequences of at most so many positions."""
        return self.scaling.within(positions) if isinstance(self.scaling, LongRope) else self.scaling


@dataclass(frozen=True)
class Growth:
    """Queries grow by 1 + beta · ln(1 + ⌊position / original⌋), as Llama 4's do beyond what the model was pretrained on."""

    beta: float
    original: int

    def factors(self, positions: int) -> NDArray[np.float64]:
        """[positions]"""
        return 1 + self.beta * np.log1p(np.arange(positions) // self.original)


class Grown:
    """q [T, H, D] → the same shape: a turn by no angle, with its magnitude. May reuse q's memory."""

    def __init__(self, build: Build, growth: Growth, dim: int) -> None:
        def make() -> tuple[Array, Array]:
            table = np.repeat(growth.factors(build.positions)[:, None], dim // 2, axis=1)
            return build.ops.array(table), build.ops.array(np.zeros_like(table))

        self.ops = build.ops
        self.cos, self.sin = build.shared((growth, dim), make)

    def __call__(self, q: Array, positions: NDArray[np.int32]) -> Array:
        return self.ops.rope(q, positions, self.cos, self.sin)


class Rope:
    """The tables that turn a layer's heads, [positions, dim / 2] each; layers that turn alike share them. None: of width 0."""

    def __init__(self, build: Build, spec: RopeSpec | None, dim: int) -> None:
        self.cos, self.sin = build.shared(
            (spec, dim), lambda: tuple(build.ops.array(t) for t in tables(spec, dim, build.positions))
        )


def turned_rows(heads: int, dim: int, first: int, count: int) -> Order:
    """Rows [heads · dim] of a projection whose neighbours turn together, within [first, first + count) of each head, in the
    order in which its halves do (the first `count`/2 with the second)."""
    rows: Order = np.arange(heads * dim).reshape(heads, dim)
    turned = rows[:, first : first + count].reshape(heads, -1, 2).swapaxes(1, 2).reshape(heads, -1)
    return np.concatenate([rows[:, :first], turned, rows[:, first + count :]], axis=1).reshape(-1)


def tables(spec: RopeSpec | None, dim: int, positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(cos, sin), each [positions, dim / 2]."""
    if spec is None:
        return np.zeros((positions, 0), np.float32), np.zeros((positions, 0), np.float32)
    base = spec.theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    scaling = spec.within(positions)
    freqs = base if scaling is None else scaling.frequencies(base, spec.theta)
    magnitude = 1.0 if scaling is None else scaling.magnitude
    angles = np.arange(positions, dtype=np.float32)[:, None] * freqs.astype(np.float32)
    wide = angles.astype(np.float64)
    return (np.cos(wide) * magnitude).astype(np.float32), (np.sin(wide) * magnitude).astype(np.float32)
