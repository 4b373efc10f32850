"""Helpers for notebooks and scripts: launch a server, wait for it, stop it.

Names and signatures are those of SGLang's `sglang.utils`, so that its examples run with the import changed.
"""

from __future__ import annotations

import contextlib
import html
import http.client
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 15.0  # between asking a process to end and killing it


class ServerProcess(subprocess.Popen[str]):
    """A process that leads a session of its own and may hold a reserved port."""

    reservation: socket.socket | None = None
    terminated: bool = False


def launch_server_cmd(command: str, host: str = "0.0.0.0", port: int | None = None) -> tuple[ServerProcess, int]:
    """Start a server from its command line, on a free port unless one is given. Returns (process, port).

    `--port` is appended to the command. `python` means this interpreter, and `radixmill` this installation. `host` is used to
    look for a free port and for nothing else: where the server listens stands in the command.
    """
    lock = None
    if port is None:
        port, lock = reserve_port(host)
    process = execute_shell_command(f"{command} --port {port}")
    process.reservation = lock
    return process, port


def execute_shell_command(command: str) -> ServerProcess:
    """Start a command line (without a shell; lines may end in a backslash). Its output goes where ours goes."""
    words = shlex.split(command.replace("\\\n", " "))
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    elif words[0] == "radixmill" and shutil.which("radixmill") is None:
        words[:1] = [sys.executable, "-m", "radixmill"]
    # A session of its own: an interrupt meant for the notebook does not reach the server.
    return ServerProcess(words, text=True, stderr=subprocess.STDOUT, start_new_session=True)


def reserve_port(host: str, start: int = 30000, end: int = 40000) -> tuple[int, socket.socket]:
    """A free port in [start, end), and the bound socket that keeps others who reserve off it.

    The socket does not listen and allows reuse, so the server itself can still bind the port.
    """
    for port in random.sample(range(start, end), end - start):
        probe = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            probe.bind((host, port))  # without reuse: fails where anyone holds the port
        except OSError:
            probe.close()
            continue
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return port, probe
    raise RuntimeError(f"no free port on {host} from {start} to {end - 1}")


def release_port(lock_socket: socket.socket) -> None:
    """Give a reserved port back."""
    lock_socket.close()


def wait_for_server(
    base_url: str,
    timeout: float | None = None,
    process: subprocess.Popen[Any] | None = None,
    *,
    api_key: str | None = None,
) -> None:
    """Return as soon as the server at `base_url` answers GET /v1/models with 200.

    Raises TimeoutError after `timeout` seconds, RuntimeError where `process` ends first, PermissionError where the server wants
    a key that was not given.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    wait_for_http_ready(base_url.rstrip("/").removesuffix("/v1") + "/v1/models", timeout, process, headers=headers)


def wait_for_http_ready(
    url: str,
    timeout: float | None = None,
    process: subprocess.Popen[Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Return as soon as GET `url` answers 200. Raises as `wait_for_server` does."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the server process ended (exit code {process.returncode}) before {url} answered")
        status = _status(url, headers or {})
        if status == 200:
            return
        if status in (401, 403):
            raise PermissionError(f"{url} answers {status}: it wants an API key")
        if deadline is not None and time.monotonic() >= deadline:
            seen = "no answer" if status is None else f"status {status}"
            raise TimeoutError(f"{url} is not ready after {timeout:g} s: {seen}")
        time.sleep(_POLL_SECONDS)


def _status(url: str, headers: Mapping[str, str]) -> int | None:
    """The status of a GET, straight to the host whatever proxies are configured; None where nobody answers."""
    parts = urlsplit(url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=5)
    try:
        connection.request("GET", parts.path or "/", headers=dict(headers))
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def print_highlight(html_content: str) -> None:
    """Print so that it stands out: bold and blue in a notebook, plain elsewhere."""
    text = str(html_content)
    if _in_notebook():
        from IPython.display import HTML, display  # there, but no dependency of ours

        display(HTML(f"<strong style='color: #1f5fa8'>{html.escape(text).replace(chr(10), '<br>')}</strong>"))
    else:
        print(text)


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code; IPython being imported alone says nothing."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def terminate_process(process: subprocess.Popen[Any]) -> None:
    """End a process and everything it started, and give its reserved port back. Idempotent.

    It is asked to end and given time to see to its children; what remains of them is asked, then killed.
    """
    if isinstance(process, ServerProcess):
        if process.terminated:
            return
        process.terminated = True
    family = _family(process)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            family += _family(process)
            process.kill()
            process.wait()
    _end(family)
    if isinstance(process, ServerProcess) and process.reservation is not None:
        release_port(process.reservation)


def trim_overlap(existing_text: str, new_chunk: str) -> str:
    """`new_chunk` without the part, at its beginning, with which `existing_text` ends already."""
    longest = min(len(existing_text), len(new_chunk))
    overlap = next((n for n in range(longest, 0, -1) if existing_text.endswith(new_chunk[:n])), 0)
    return new_chunk[overlap:]


def stream_and_merge(llm: Any, prompt: Any, sampling_params: Mapping[str, Any]) -> str:
    """The text of a stream of `llm`, an Engine, whose chunks each hold all that was said so far."""
    text = ""
    for chunk in llm.generate(prompt, sampling_params, stream=True):
        text += trim_overlap(text, chunk["text"])
    return text


async def async_stream_and_merge(llm: Any, prompt: Any, sampling_params: Mapping[str, Any]) -> AsyncIterator[str]:
    """What each chunk of such a stream adds."""
    text = ""
    async for chunk in await llm.async_generate(prompt, sampling_params, stream=True):
        new = trim_overlap(text, chunk["text"])
        text += new
        yield new


class _Process(NamedTuple):
    pid: int
    parent: int
    session: int
    started: str  # with the pid, names one process for good


def _family(process: subprocess.Popen[Any]) -> list[_Process]:
    """Children, their children, and so on; orphans too if the process leads a session of its own.

    Empty where there is no /proc: there the server has to see to its children itself.
    """
    everyone = list(_processes())
    family = [one for one in everyone if one.session == process.pid and isinstance(process, ServerProcess)]
    waiting = [process.pid, *(one.pid for one in family)]
    while waiting:
        parent = waiting.pop()
        below = [one for one in everyone if one.parent == parent and one not in family]
        family += below
        waiting += [one.pid for one in below]
    return [one for one in family if one.pid != process.pid]


def _processes() -> Iterable[_Process]:
    for entry in Path("/proc").glob("[0-9]*"):
        if (one := _look(int(entry.name))) is not None:
            yield one


def _look(pid: int) -> _Process | None:
    """The process as it is now; None where it has ended (a zombie counts as ended)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else _Process(pid, int(fields[1]), int(fields[3]), fields[19])


def _end(family: Iterable[_Process]) -> None:
    for sign, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        family = [one for one in family if _lives(one)]
        for one in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, sign)
        deadline = time.monotonic() + seconds
        while any(_lives(one) for one in family) and time.monotonic() < deadline:
            time.sleep(0.02)


def _lives(one: _Process) -> bool:
    now = _look(one.pid)
    return now is not None and now.started == one.started
