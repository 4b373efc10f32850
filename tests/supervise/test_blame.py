"""Whose fault a death is, and children that nobody waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from radixmill.core.config import Config
from radixmill.observe.watch import Watch
from radixmill.store import ModelFiles
from radixmill.supervise import blame
from radixmill.supervise.blame import WINDOW, Blame, stopped
from radixmill.supervise.child import bury_strangers
from radixmill.supervise.deployment import Deployment


def test_a_signal_from_outside_is_told_from_the_kernels_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = [3]
    monkeypatch.setattr(blame, "_ooms", lambda: kills[0])
    seen = Blame()
    assert seen.foreign(-signal.SIGKILL)
    assert not seen.foreign(-signal.SIGSEGV) and not seen.foreign(1) and not seen.foreign(0)
    kills[0] = 4
    assert not seen.foreign(-signal.SIGKILL)


def test_what_the_kernel_killed_long_ago_is_no_guilt(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = [3]
    monkeypatch.setattr(blame, "_ooms", lambda: kills[0])
    seen = Blame()
    seen.look(100.0)
    kills[0] = 4
    for now in (100.1, 100.0 + WINDOW, 100.1 + WINDOW):
        seen.look(now)
        assert not seen.foreign(-signal.SIGKILL), "it may have been ours, and takes a while to end"
    seen.look(100.0 + 2 * WINDOW)
    assert seen.foreign(-signal.SIGKILL)


def test_a_sequence_is_spared_while_tokens_come_and_once_where_none_do() -> None:
    deployment = Deployment(1, Config(), ModelFiles("m", Path("/m")), Watch(5.0))

    def struck(*flying: int, innocent: bool = True, progressed: bool = False) -> frozenset[int]:
        return deployment.struck(frozenset(flying), innocent=innocent, progressed=progressed)

    assert struck(1, 2) == frozenset()
    assert struck() == frozenset(), "killed before it computed anything"
    assert struck(2, 3) == {2}
    assert struck(2, 3) == {2, 3}
    assert [struck(2, 3, progressed=True) for _ in range(9)] == [frozenset()] * 9
    assert struck(2, 4) == {2}
    assert struck(4, 5, innocent=False, progressed=True) == {4, 5}


def test_a_start_may_stand_still_for_a_minute_whatever_the_settings() -> None:
    def patience(stall: float) -> float:
        return Deployment(1, Config(), ModelFiles("m", Path("/m")), Watch(stall)).start_watch.patience

    assert patience(0.1) == 60.0 and patience(5.0) == 120.0


def test_where_the_kernel_does_not_say_nobody_is_acquitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blame, "_ooms", lambda: None)
    assert not Blame().foreign(-signal.SIGKILL)


def test_a_stopped_process_is_seen_to_be_stopped() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert not stopped(child.pid)
        child.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while not stopped(child.pid):
            assert time.monotonic() < deadline
        child.kill()
    assert not stopped(child.pid)


def test_strangers_are_buried_and_our_own_left_to_us() -> None:
    ours, stranger = subprocess.Popen(["true"]), os.fork()
    if not stranger:
        os._exit(0)
    deadline = time.monotonic() + 10
    while True:
        bury_strangers([ours.pid])
        try:
            os.kill(stranger, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
    assert ours.wait(10) == 0
