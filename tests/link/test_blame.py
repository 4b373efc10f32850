"""Whose fault a death is, and children that nobody waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from radixmill.supervise import blame
from radixmill.supervise.blame import Blame, stopped
from radixmill.supervise.child import bury_strangers


def test_a_signal_from_outside_is_told_from_the_kernels_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = [3]
    monkeypatch.setattr(blame, "_ooms", lambda: kills[0])
    seen = Blame()
    assert seen.foreign(-signal.SIGKILL)
    assert not seen.foreign(-signal.SIGSEGV) and not seen.foreign(1) and not seen.foreign(0)
    kills[0] = 4
    assert not seen.foreign(-signal.SIGKILL)


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
