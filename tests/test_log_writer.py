"""Logs that are read late, in part, or never: whoever writes them goes on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from radixmill.observe import log as logs
from radixmill.observe.log import Writer


class Pipe:
    """A pipe that has no room, and a logger that writes into it."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self.room = fill(writer)
        self.stream: TextIO = os.fdopen(writer, "w")
        self.writer = Writer(self.stream)
        self.logger = logging.Logger("test")
        self.logger.addHandler(self.writer)

    def read(self, until: str) -> str:
        """What comes behind what filled it."""
        text = b""
        while until.encode() not in text:
            text += os.read(self.reader, 1 << 16)
        return text.decode().lstrip(".")


def fill(number: int) -> int:
    """Write into a pipe until it takes no more; how much that was."""
    os.set_blocking(number, False)
    took = 0
    try:
        while True:
            took += os.write(number, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(number, True)
        return took


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.set_blocking(pipe.reader, False)
    try:
        while os.read(pipe.reader, 1 << 20):
            pass
    except BlockingIOError:
        pass
    pipe.writer.flush()
    os.close(pipe.reader)
    pipe.stream.close()


def test_who_logs_does_not_wait_and_every_line_comes_in_its_order(pipe: Pipe) -> None:
    def say() -> None:
        for number in range(50):
            pipe.logger.warning("line %d of it", number)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    thread.join(20)  # less than the patience of an end for each line
    assert not thread.is_alive(), "it waits for a reader"
    assert pipe.read("line 49 of it\n") == "".join(f"line {number} of it\n" for number in range(50))


def test_what_there_is_no_room_for_is_counted_and_that_is_said_in_its_place(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "HELD", 1000)
    for number in range(30):
        pipe.logger.warning("%03d%s", number, "x" * 96)  # ten are held
    lines = pipe.read("nobody read the log\n").splitlines()
    assert [line[:3] for line in lines[:-1]] == [f"{number:03}" for number in range(10)]
    assert lines[-1] == "20 lines are missing here: nobody read the log"
    pipe.logger.warning("all is well")
    assert pipe.read("\n") == "all is well\n"


def test_an_end_waits_for_what_was_said_but_not_for_ever(pipe: Pipe) -> None:
    pipe.logger.warning("said")
    began = time.monotonic()
    pipe.writer.flush()
    assert logs.PATIENCE * 0.9 <= time.monotonic() - began < logs.PATIENCE + 10
    threading.Timer(0.2, lambda: os.read(pipe.reader, 1 << 20)).start()
    pipe.writer.flush()
    assert pipe.read("said\n") == "said\n"


DYING = """
import logging
from radixmill.observe import log
log.setup({role!r})
logging.getLogger("radixmill").info("the last but one")
{end}
"""


@pytest.mark.parametrize("role", ["supervisor", "engine", "front"])
@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("log.tell('radixmill: error: no')", "radixmill: error: no"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(0)", "the last but one"),
    ],
)
def test_what_is_said_at_the_end_comes_out_in_order(role: str, end: str, last: str) -> None:
    done = subprocess.run([sys.executable, "-c", DYING.format(role=role, end=end)], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert lines[0].endswith(f"{role:<10} the last but one") and last in lines[-1]


def test_a_process_whose_log_nobody_reads_ends_all_the_same(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    fill(writer)
    argv = [sys.executable, "-c", DYING.format(role="supervisor", end="1 / 0")]
    process = subprocess.Popen(argv, stderr=writer)
    try:
        assert process.wait(60) == 1
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        os.close(reader)
        os.close(writer)
