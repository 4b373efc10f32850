"""Fronts whose event loop stands still, by a clock of our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from radixmill.observe.pulse import FrontPulse
from radixmill.supervise.fronts import Fronts

STALL = 5.0  # so a front that serves has 30 s, and one that starts 120 s


@dataclass(eq=False)
class FakeFront:
    pulse: FrontPulse
    number: int = 1
    up: bool = False
    progressed: bool = False
    verdict: str = ""
    told: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, **event: Any) -> None:
        self.told.append(event)

    def kill(self, why: str) -> None:
        assert not self.verdict, "once is enough"
        self.verdict = why


class Clock:
    """Looks at fronts as often as the supervisor does."""

    def __init__(self, fronts: Fronts) -> None:
        self.fronts, self.now = fronts, 1000.0

    def run(self, seconds: float, each: Callable[[], None] = lambda: None) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += self.fronts.interval
            each()
            self.fronts.look(self.now)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Clock, FakeFront, FakeFront]:
    fronts = Fronts(2, STALL)
    made = [FakeFront(FrontPulse(tmp_path / str(number)), number) for number in (1, 2)]
    for front in made:
        fronts.add(front)  # type: ignore[arg-type]
    return Clock(fronts), made[0], made[1]


def up(clock: Clock, *fronts: FakeFront) -> None:
    for front in fronts:
        front.pulse.beat()
        clock.fronts.came_up(front)  # type: ignore[arg-type]


def test_one_that_stands_still_is_killed_and_one_that_turns_is_not(two: tuple[Clock, FakeFront, FakeFront]) -> None:
    clock, hung, other = two
    up(clock, hung, other)
    clock.run(29, each=other.pulse.beat)
    assert not hung.verdict
    clock.run(3, each=other.pulse.beat)
    assert hung.verdict == "no progress for 30 s" and not other.verdict
    clock.run(100, each=other.pulse.beat)  # it is not killed again
    assert not other.verdict


def test_a_pause_is_forgiven(two: tuple[Clock, FakeFront, FakeFront]) -> None:
    clock, *both = two
    up(clock, *both)
    for _ in range(4):
        clock.run(28)
        for front in both:
            front.pulse.beat()
    assert not any(front.verdict for front in both)


def test_time_that_nobody_saw_counts_for_nobody(two: tuple[Clock, FakeFront, FakeFront]) -> None:
    clock, *both = two
    up(clock, *both)
    clock.run(1)
    for _ in range(20):
        clock.now += 3600
        clock.fronts.look(clock.now)
    assert not any(front.verdict for front in both)
    clock.run(30)
    assert all(front.verdict for front in both)


def test_one_that_starts_has_as_long_as_an_engine_that_starts(two: tuple[Clock, FakeFront, FakeFront]) -> None:
    clock, slow, other = two
    up(clock, other)
    clock.run(119, each=other.pulse.beat)
    assert not slow.verdict
    up(clock, slow)
    clock.run(29, each=other.pulse.beat)
    assert not slow.verdict, "it came up only then"
    clock.run(3, each=other.pulse.beat)
    assert slow.verdict == "no progress for 30 s"


def test_one_that_never_starts_is_killed(two: tuple[Clock, FakeFront, FakeFront]) -> None:
    clock, dead, waiting = two
    clock.run(3600, each=waiting.pulse.beat)  # for its engine, which loads
    assert dead.verdict == "no progress for 120 s" and not waiting.verdict


def test_who_gives_engines_longer_gives_fronts_longer(tmp_path: Path) -> None:
    fronts, front = Fronts(1, 60.0), FakeFront(FrontPulse(tmp_path / "page"))
    fronts.add(front)  # type: ignore[arg-type]
    clock = Clock(fronts)
    up(clock, front)
    clock.run(359)
    assert not front.verdict
    clock.run(3)
    assert front.verdict
