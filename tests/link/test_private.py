"""The internal sockets and pages: for our own user alone."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from radixmill.core.config import Config
from radixmill.link import socket as engine_socket
from radixmill.link.socket import EngineSocket, Joined, is_ours
from radixmill.observe.pulse import EnginePulse, FrontPulse
from radixmill.store import ModelFiles
from radixmill.supervise import Supervisor


@pytest.fixture
def listener(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        yield listener


def joined(engine: EngineSocket, wait: float = 5.0) -> int:
    return sum(isinstance(incident, Joined) for incident in engine.poll(wait))


def test_our_own_user_is_let_in(listener):
    engine = EngineSocket(listener)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(listener.getsockname())
        assert joined(engine) == 1
    engine.close()


def test_another_user_is_not_served(listener, monkeypatch):
    """As if we ran as somebody else: the kernel tells who the peer is, not the peer."""
    monkeypatch.setattr(engine_socket.os, "geteuid", lambda: 12345)
    engine = EngineSocket(listener)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(listener.getsockname())
        assert joined(engine) == 0
        assert peer.recv(1) == b"", "closed, without a word"
    engine.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_a_process_of_another_user_is_not_served():
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o777)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path := folder / "s"))
            path.chmod(0o777)
            listener.listen()
            engine = EngineSocket(listener)
            if not (child := os.fork()):
                os._exit(_connect_as(65534, path))
            assert joined(engine, 20) == 0
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7, "it got through to us, and heard nothing"
            engine.close()
    finally:
        shutil.rmtree(folder)


def _connect_as(user: int, path: Path) -> int:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(path))
        return 7 if peer.recv(1) == b"" else 1


def test_socket_pairs_are_ours():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert is_ours(ours)


def test_the_folder_and_the_pages_are_private(tmp_path, monkeypatch):
    old = os.umask(0)
    try:
        supervisor = Supervisor(Config(), ModelFiles("m", tmp_path), started=0.0, front=False)
        folder = supervisor._folder.path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        pages = [EnginePulse(folder / "e.pulse"), FrontPulse(folder / "f.pulse")]
        for path in folder.glob("*.pulse"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for page in pages:
            page.close()
        supervisor.close()
        assert not folder.exists()
    finally:
        os.umask(old)
