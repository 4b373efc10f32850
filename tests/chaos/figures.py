"""The figures of a run, and whether zeros stand where zeros belong."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

SPARE = 3.0  # seconds that a stream may pause beside recomputing what was lost
SLACK = 1.3
RESPAWN = 2.0  # seconds from a death to /ready 200 that the median may take


@dataclass
class Gap:
    """A pause of a stream around one or several deaths: what it was, and what recomputing would explain."""

    seconds: float
    recompute: float  # tokens to recompute ÷ prefill rate, of all deaths in it
    deaths: int = 1
    of: str = ""  # which kind of request
    stood: float = 0.0  # how long an engine that did not die but stood still may do so before it is killed

    @property
    def ratio(self) -> float:
        """To what is promised; above 1 the promise is broken."""
        return self.seconds / (SLACK * self.recompute + SPARE * self.deaths + self.stood)


@dataclass
class Figures:
    """Of one scene, or of all together."""

    faults: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: int = 0
    different: list[str] = field(default_factory=list)
    respawns: list[float] = field(default_factory=list)  # seconds from a death to /ready 200
    gaps: list[Gap] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # what else should not be
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # scenes, and why: they have shown nothing
    seconds: float = 0.0
    respawn: float | None = None  # what the median of the respawns may be; None: they are too few for a median

    def __iadd__(self, other: Figures) -> Figures:
        self.faults += other.faults
        for name in ("accepted", "doubled", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("lost", "different", "respawns", "gaps", "leaks", "wrong", "notes", "skipped"):
            getattr(self, name).extend(getattr(other, name))
        return self

    @property
    def broken(self) -> list[Gap]:
        """Pauses longer than promised."""
        return [gap for gap in self.gaps if gap.ratio > 1]

    @property
    def missing(self) -> list[str]:
        """What has not happened: zeros say nothing where nothing was tried."""
        if self.skipped:
            return []
        return [
            f"no {name}" for name, count in (("fault", self.faults), ("request accepted", self.accepted)) if not count
        ]

    @property
    def late(self) -> bool:
        """Whether engines take too long to come back."""
        if self.respawn is None:
            return False
        return not self.respawns or percentile(self.respawns, 0.5) > self.respawn

    @property
    def good(self) -> bool:
        zeros = not (self.lost or self.doubled or self.different or self.leaks or self.wrong or self.broken)
        return zeros and not self.missing and not self.late

    def line(self) -> str:
        """One scene in one line."""
        parts = [f"{sum(self.faults.values())} faults", f"{self.accepted} accepted", f"{self.seconds:.0f} s"]
        bad = {
            "lost": len(self.lost), "doubled": self.doubled, "different": len(self.different),
            "leaks": len(self.leaks), "wrong": len(self.wrong), "gaps too long": len(self.broken),
        }  # fmt: skip
        parts += [f"{name} {count}" for name, count in bad.items() if count]
        if self.respawns:
            parts.append(f"respawn {percentile(self.respawns, 0.5):.2f} s")
        word = "BROKEN" if not self.good else "skipped" if self.skipped else "ok"
        return f"{word:<8}" + " · ".join(parts)

    def complaints(self) -> list[str]:
        long = [f"{gap.of}: a pause of {gap.seconds:.2f} s, {gap.ratio:.2f} of what is promised" for gap in self.broken]
        lists = {"lost": self.lost, "different": self.different, "leak": self.leaks, "wrong": self.wrong, "gap": long}
        lists["nothing shown"] = self.missing
        if self.late:
            lists["late"] = [f"respawn p50 {_seconds(self.respawns)}, at most {self.respawn:g} s are promised"]
        return [f"{name}: {each}" for name, items in lists.items() for each in items]

    def table(self) -> str:
        rows = [("faults injected", f"{sum(self.faults.values())}")]
        rows += [(f"  {name}", f"{count}") for name, count in sorted(self.faults.items())]
        rows += [
            ("requests accepted", f"{self.accepted}"),
            ("lost", f"{len(self.lost)}"),
            ("doubled tokens", f"{self.doubled}"),
            ("byte differences", f"{len(self.different)}"),
            ("respawn, death to /ready 200, p50 / p99", _seconds(self.respawns)),
            ("stream gap, p50 / p99", _seconds([gap.seconds for gap in self.gaps])),
            ("  tokens to recompute ÷ prefill rate, p50 / p99", _seconds([gap.recompute for gap in self.gaps])),
            ("  gap ÷ (1.3 × that + 3 s), p50 / worst", _ratios([gap.ratio for gap in self.gaps])),
            ("leaks", f"{len(self.leaks)}"),
            ("other wrongs", f"{len(self.wrong)}"),
            ("scenes skipped", f"{len(self.skipped)}"),
            ("seconds", f"{self.seconds:.0f}"),
        ]
        rows += [(f"  {why}", "") for why in self.skipped]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value:>15}".rstrip() for name, value in rows)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "faults": dict(self.faults), "good": self.good}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed (nearest rank); NaN of none."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else math.nan


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Of the least-squares line, per unit of time."""
    count = len(times)
    mean_time, mean_value = sum(times) / count, sum(values) / count
    spread = sum((time - mean_time) ** 2 for time in times)
    shared = sum((time - mean_time) * (value - mean_value) for time, value in zip(times, values, strict=True))
    return shared / spread if spread else 0.0


def auc(ones: Sequence[float], others: Sequence[float]) -> float:
    """The area under the curve of the classifiers by a threshold that call the greater ones `ones`: 0.5 tells nothing."""
    ordered = sorted(others)
    wins = 0.0
    for one in ones:
        below, upto = _below(ordered, one)
        wins += below + (upto - below) / 2
    return wins / (len(ones) * len(others))


@dataclass(frozen=True)
class Area:
    """`auc` of the best threshold classifier, whichever side of its threshold it takes: 0.5 or more; and the interval in
    which 95 of 100 samples drawn anew from these have it."""

    value: float
    low: float
    high: float

    @classmethod
    def between(cls, ones: Sequence[float], others: Sequence[float], draws: int = 1000) -> Self:
        rng, area = random.Random(0), auc(ones, others)
        ones, others = (ones, others) if area >= 0.5 else (others, ones)
        drawn = [auc(rng.choices(ones, k=len(ones)), rng.choices(others, k=len(others))) for _ in range(draws)]
        return cls(max(area, 1 - area), percentile(drawn, 0.025), percentile(drawn, 0.975))

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"


def _below(ordered: Sequence[float], value: float) -> tuple[int, int]:
    """How many are less, and how many at most so much."""
    return bisect_left(ordered, value), bisect_right(ordered, value)


def _seconds(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5):.2f} / {percentile(values, 0.99):.2f} s" if values else "–"


def _ratios(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5):.2f} / {max(values):.2f}" if values else "–"
