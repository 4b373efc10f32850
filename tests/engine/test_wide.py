"""Requests of very many sequences: a step takes no longer for those that only wait."""

from __future__ import annotations

import tracemalloc

import pytest

from radixmill.engine.schedule import admission
from radixmill.engine.schedule.queue import LOOK
from tests.engine.drive import Drive
from tests.engine.fakes import spec, submit

WAITING = 20_000


def crowd(drive: Drive, prompt: list[int], width: int = 1000) -> None:
    for start in range(0, WAITING, width):
        drive.submit(submit(prompt, *range(start, start + width), max_tokens=8))


def test_a_step_copies_no_queue() -> None:
    drive = Drive(spec(slots=8), check=False)
    crowd(drive, [1])
    drive.step()
    tracemalloc.start()
    try:
        for _ in range(20):
            drive.step()
        assert tracemalloc.get_traced_memory()[1] < 8 * WAITING
    finally:
        tracemalloc.stop()
    assert drive.ends and len(drive.scheduler.queue) > WAITING - 100


def test_a_step_asks_only_so_many_whether_they_wait_for_anothers_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ask = [0], admission.should_wait

    def counted(*args: object) -> bool:
        asked[0] += 1
        return ask(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(admission, "should_wait", counted)
    drive = Drive(spec(60, 16, slots=8), check=False, step_tokens=40)  # what a page leaves of it could be another's
    crowd(drive, [3] * 300)
    for _ in range(4):
        asked[0] = 0
        drive.step()
        assert asked[0] <= 2 * LOOK
    assert len(drive.scheduler.running.rows) == 1, "all others wait for its prompt"


def test_those_that_wait_have_their_prompt_in_common() -> None:
    tracemalloc.start()
    try:
        drive = Drive(spec(200, slots=8), check=False)
        drive.submit(submit([3] * 700, *range(1000), max_tokens=8))
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()
