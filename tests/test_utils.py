"""The notebook helpers, with Python's own HTTP server in the server's part."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from radixmill import utils

# Answers 503 three times, then 200; /v1/models asks for a key if one is set. Takes --port last, as a server does.
SERVER = """
import itertools, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
answers = itertools.count(1)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        key = os.environ.get("KEY")
        ok = not key or self.headers["Authorization"] == f"Bearer {key}"
        self.send_response(401 if not ok else 503 if next(answers) <= 3 else 200)
        self.end_headers()
    def log_message(self, *args): pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def command(tmp_path: Path) -> str:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    return f"python {shlex.quote(str(script))}"


@pytest.fixture
def server(command: str) -> Iterator[tuple[utils.ServerProcess, int]]:
    process, port = utils.launch_server_cmd(command, host="127.0.0.1")
    yield process, port
    utils.terminate_process(process)


def test_launch_wait_terminate(server: tuple[utils.ServerProcess, int]) -> None:
    process, port = server
    assert 30000 <= port < 40000
    utils.wait_for_server(f"http://127.0.0.1:{port}", timeout=60, process=process)
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.request("GET", "/")
    assert line.getresponse().status == 200  # no 503 was taken for ready
    line.close()
    utils.wait_for_server(f"http://127.0.0.1:{port}/v1/", timeout=60)
    utils.terminate_process(process)
    assert process.poll() is not None
    with pytest.raises(OSError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=1).request("GET", "/")
    utils.terminate_process(process)  # again: nothing happens
    reserve_again = socket.socket()
    reserve_again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserve_again.bind(("127.0.0.1", port))
    reserve_again.close()


def test_a_given_port_is_used(command: str) -> None:
    port, lock = utils.reserve_port("127.0.0.1")
    utils.release_port(lock)
    process, given = utils.launch_server_cmd(f"{command} \\\n  --ignored", port=port)
    try:
        assert given == port
        utils.wait_for_http_ready(f"http://127.0.0.1:{port}/health", timeout=60, process=process)
    finally:
        utils.terminate_process(process)


def test_waiting_ends_when_the_process_does() -> None:
    process = utils.execute_shell_command("python -c 'import sys; sys.exit(3)'")
    with pytest.raises(RuntimeError, match="exit code 3"):
        utils.wait_for_server("http://127.0.0.1:9", timeout=60, process=process)


def test_waiting_ends_at_the_timeout() -> None:
    port, lock = utils.reserve_port("127.0.0.1")
    with pytest.raises(TimeoutError, match=r"not ready after 0\.3 s: no answer"):
        utils.wait_for_server(f"http://127.0.0.1:{port}", timeout=0.3)
    utils.release_port(lock)


def test_a_server_with_a_key(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "k1")
    process, port = utils.launch_server_cmd(command, host="127.0.0.1")
    try:
        with pytest.raises(PermissionError, match="API key"):
            utils.wait_for_server(f"http://127.0.0.1:{port}", timeout=60, process=process)
        utils.wait_for_server(f"http://127.0.0.1:{port}", timeout=60, process=process, api_key="k1")
    finally:
        utils.terminate_process(process)


def test_proxies_of_the_environment_are_ignored(
    server: tuple[utils.ServerProcess, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    utils.wait_for_server(f"http://127.0.0.1:{server[1]}", timeout=60)


def test_reserved_ports_differ_and_release_gives_them_back() -> None:
    first, lock = utils.reserve_port("127.0.0.1", 29990, 29992)
    second, other = utils.reserve_port("127.0.0.1", 29990, 29992)
    assert {first, second} == {29990, 29991}
    with pytest.raises(RuntimeError, match="no free port"):
        utils.reserve_port("127.0.0.1", 29990, 29992)
    utils.release_port(lock)
    again, third = utils.reserve_port("127.0.0.1", 29990, 29992)
    assert again == first
    for held in (other, third):
        utils.release_port(held)


# A parent, a child and a grandchild that all ignore SIGTERM where told to; prints the pids.
FAMILY = """
import os, signal, subprocess, sys, time
depth, stubborn = int(sys.argv[1]), sys.argv[2]
if stubborn == "yes":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
path = sys.argv[3]
with open(path, "a") as f:
    f.write(f"{os.getpid()}\\n")
if depth:
    subprocess.Popen([sys.executable, __file__, str(depth - 1), stubborn, path], start_new_session=depth == 1)
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("stubborn", ["no", "yes"])
def test_the_whole_tree_ends_and_nothing_else(stubborn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "_GRACE_SECONDS", 0.5)
    script, pids = tmp_path / "family.py", tmp_path / "pids"
    script.write_text(FAMILY)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process = utils.execute_shell_command(f"python {script} 2 {stubborn} {pids}")
    members = _wait_for_pids(pids, 3)
    utils.terminate_process(process)
    assert not [pid for pid in members if utils._look(pid)]
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_children_of_a_process_that_has_died_are_found(tmp_path: Path) -> None:
    script, pids = tmp_path / "family.py", tmp_path / "pids"
    script.write_text(FAMILY)
    process = utils.execute_shell_command(f"python {script} 2 no {pids}")
    members = _wait_for_pids(pids, 3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    utils.terminate_process(process)
    assert not [pid for pid in members if utils._look(pid)]


def _wait_for_pids(path: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pids = path.read_text().split() if path.exists() else []
        if len(pids) == count:
            return [int(pid) for pid in pids]
        time.sleep(0.02)
    raise AssertionError("the family did not start")


def test_print_highlight_is_plain_outside_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    utils.print_highlight("a < b")
    assert capsys.readouterr().out == "a < b\n"
