"""`radixmill serve 2>&1 | less`: a log that nobody reads holds nothing up."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kit import same, serving, stream
from tests.e2e.test_recovery import body, killed_at
from tests.test_log_writer import fill


@pytest.fixture
def unread(tmp_path: Path) -> Iterator[Path]:
    """A pipe that is full, and stays so."""
    path = tmp_path / "log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    fill(writer)
    yield path
    os.close(writer)
    os.close(reader)


def test_an_engine_dies_while_nobody_reads_the_log(tiny: Path, tmp_path: Path, unread: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ("--load-format", "dummy", "--max-total-tokens", "2048")
    with serving(tiny, *flags, folder=tmp_path, patience=120, log_to=str(unread), port=port) as server:
        request = body(3, 300)
        undisturbed = asyncio.run(stream(server.url, request))
        folded, kills = asyncio.run(killed_at(server, request, {1, 40}))
        assert kills and same(folded, undisturbed)
    assert server.process.returncode == 0
