"""Work in forks: what one of them does that means harm is no harm to the process that waits."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator

import pytest

from radixmill.sacrifice.forks import Bounds, Fate, Forks

Work = Callable[[str], bytes]
PROMPT = 8.0  # seconds, of a busy machine


class Bench:
    def __init__(self, work: Work, bounds: Bounds) -> None:
        self.found: list[tuple[str, bytes, Fate | None]] = []
        self.forks: Forks[str] = Forks(
            bounds, work, lambda job, answer, fate: self.found.append((job, bytes(answer), fate))
        )

    def run(self, job: str = "a") -> tuple[bytes, Fate | None]:
        """What came of one job."""
        self.forks.start(job)
        while not self.found:
            self.forks.wait()
        return self.found.pop()[1:]


@contextlib.contextmanager
def bench(work: Work, **bounds: float) -> Iterator[Bench]:
    made = Bench(work, Bounds(**bounds))  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.forks.close()
        made.forks.selector.close()


def all_closed() -> None:
    os.closerange(3, 256)


def lives_on(job: str) -> bytes:
    all_closed()
    time.sleep(20)
    return b""


def test_an_answer_comes_in_full() -> None:
    with bench(lambda job: b"x" * (3 << 20)) as made:
        began = time.monotonic()
        assert made.run() == (b"x" * (3 << 20), None)
        assert time.monotonic() - began < PROMPT


def test_who_closes_its_pipe_and_lives_on_is_killed_in_time() -> None:
    with bench(lives_on, patience=0.5) as made:
        began = time.monotonic()
        assert made.run() == (b"", "late")
        assert time.monotonic() - began < PROMPT


def test_others_do_not_wait_for_it() -> None:
    with bench(lambda job: lives_on(job) if job == "evil" else b"good", patience=10.0) as made:
        made.forks.start("evil")
        time.sleep(0.2)
        began = time.monotonic()
        assert made.run("b") == (b"good", None)
        assert time.monotonic() - began < PROMPT and len(made.forks) == 1


def test_who_says_too_much_is_killed() -> None:
    with bench(lambda job: b"x" * (4 << 20), answer=1 << 20) as made:
        assert made.run() == (b"", "killed")


def test_without_a_process_to_be_had_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> int:
        raise OSError(errno.EAGAIN, "no more processes")

    with bench(lambda job: b"good") as made:
        before = os.listdir("/proc/self/fd")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fork", none)
            with pytest.raises(OSError, match="no more"):
                made.forks.start("a")
        assert os.listdir("/proc/self/fd") == before and not len(made.forks)
        assert made.run() == (b"good", None)
