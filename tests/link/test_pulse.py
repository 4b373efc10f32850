"""Pages that processes read of one another, and the watch that reads them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from radixmill.observe.pulse import EnginePulse, FrontPulse
from radixmill.observe.watch import Watch


def test_one_writes_and_another_reads(tmp_path: Path) -> None:
    writer, reader = EnginePulse(tmp_path / "page"), EnginePulse(tmp_path / "page", read_only=True)
    assert reader.step_age() is None and not reader.flying() and not reader.busy
    writer.launched(4, [7, 1 << 41])
    writer.launched(5, [9])
    assert reader.flying() == {7, 1 << 41, 9} and reader.busy
    writer.landed(4)
    assert reader.flying() == {9} and reader.steps == 1
    age = reader.step_age()
    assert age is not None and 0 <= age < 5
    writer.load(busy=False, running=2, waiting=3, waiting_tokens=70)
    assert (reader.busy, reader.running, reader.waiting, reader.waiting_tokens) == (False, 2, 3, 70)


def test_while_a_grammar_is_built_who_waits_for_it_is_to_blame(tmp_path: Path) -> None:
    """Or whoever is taken in just then; but not those whose steps go on beside it."""
    writer, reader = EnginePulse(tmp_path / "page"), EnginePulse(tmp_path / "page", read_only=True)
    writer.launched(4, [7])
    writer.building([8, 9])
    assert reader.flying() == {8, 9}
    writer.landed(4)
    writer.launched(5, [7])
    assert reader.flying() == {8, 9}
    writer.hearing([10])
    assert reader.flying() == {7, 10}
    writer.hearing(())
    writer.building(())
    assert reader.flying() == {7}


def test_more_sequences_than_a_page_holds_are_cut_off(tmp_path: Path) -> None:
    pulse = EnginePulse(tmp_path / "page")
    pulse.launched(0, range(5000))
    assert 2000 < len(pulse.flying()) < 5000
    pulse.launched(1, [])
    pulse.landed(0)
    assert pulse.flying() == set()


def test_a_page_outlives_its_writer(tmp_path: Path) -> None:
    EnginePulse(tmp_path / "page").close()
    reader = EnginePulse(tmp_path / "page", read_only=True)
    if not (child := os.fork()):
        EnginePulse(tmp_path / "page").launched(0, [5])
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert reader.flying() == {5}


def test_a_reader_makes_nothing_and_wants_a_whole_page(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        EnginePulse(tmp_path / "none", read_only=True)
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(OSError, match="no page of"):
        EnginePulse(tmp_path / "short", read_only=True)


def test_a_page_is_for_its_owner_alone(tmp_path: Path) -> None:
    FrontPulse(tmp_path / "page").asked = 3
    assert FrontPulse(tmp_path / "page").asked == 3
    assert (tmp_path / "page").stat().st_mode & 0o777 == 0o600


def test_a_watch_sees_a_stall_once_it_is_one() -> None:
    watch = Watch(5.0)
    assert not watch.look(1, True, 100.0)
    times = [100.0 + i * watch.interval for i in range(1, 40)]
    stalled = [watch.look(1, True, at) for at in times]
    assert stalled.index(True) == round(5.0 / watch.interval) - 1 and all(stalled[stalled.index(True) :])
    assert not watch.look(2, True, times[-1] + 0.1)


def test_a_watch_forgives_what_it_did_not_see() -> None:
    watch = Watch(5.0)
    watch.look(1, True, 100.0)
    assert not watch.look(1, True, 400.0)  # we slept, not the engine
    assert not watch.look(1, True, 400.5)


def test_who_has_nothing_to_do_never_stalls() -> None:
    watch = Watch(1.0)
    assert not any(watch.look(1, False, i / 10) for i in range(100))
    assert not watch.look(1, True, 10.0)


def test_an_engine_is_not_blamed_for_the_one_before_it() -> None:
    watch = Watch(1.0)
    assert not any(watch.look(7, True, i / 20) for i in range(20))
    watch.begin()
    assert not any(watch.look(7, True, 1 + i / 20) for i in range(20))
