"""Processes: they start, die and end as they should, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.data import ROOT
from tests.e2e.kit import Server, folder_of, run_cli, serving, stream

LONG = {"prompt": "a long way", "max_tokens": 400, "ignore_eos": True, "seed": 1}


def wait_until(what: object, patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it has been reaped meanwhile
        return True


def test_sigterm_finishes_live_requests_and_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    with serving(tiny, "--load-format", "dummy", folder=tmp_path) as server:
        pids, own = [*server.pids("engine"), *server.pids("front")], folder_of(server)
        assert len(pids) == 2

        async def drained() -> dict[str, object]:
            started = asyncio.Event()
            task = asyncio.create_task(stream(server.url, LONG, on_chunk=started.set))
            await started.wait()
            server.process.send_signal(signal.SIGTERM)
            return await task

        assert asyncio.run(drained())["finish"] == {0: "length"}
        assert server.process.wait(60) == 0
    assert all(map(gone, pids)) and not own.exists()


def test_a_second_signal_ends_at_once(tiny: Path, tmp_path: Path) -> None:
    with serving(tiny, "--load-format", "dummy", "--drain-timeout", "300", folder=tmp_path) as server:

        async def cut() -> None:
            started = asyncio.Event()
            task = asyncio.create_task(stream(server.url, {**LONG, "max_tokens": 4000}, on_chunk=started.set))
            await started.wait()
            server.process.send_signal(signal.SIGINT)
            while "finishing live requests" not in server.log.read_text():
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGINT)
            with pytest.raises(AssertionError, match="error in the stream"):  # it does not come to its end
                await task

        asyncio.run(cut())
        assert server.process.wait(60) == 0


def test_while_draining_no_new_work_is_taken(tiny: Path, tmp_path: Path) -> None:
    with serving(tiny, "--load-format", "dummy", folder=tmp_path) as server:

        async def refused() -> int:
            started = asyncio.Event()
            task = asyncio.create_task(stream(server.url, {**LONG, "max_tokens": 4000}, on_chunk=started.set))
            await started.wait()
            server.process.send_signal(signal.SIGTERM)
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                while (await client.get(f"{server.url}/ready")).status_code == 200:
                    await asyncio.sleep(0.005)
                answer = await client.post(f"{server.url}/v1/completions", json={"model": "default", "prompt": "x"})
            server.process.send_signal(signal.SIGTERM)  # it need not be waited for
            await asyncio.gather(task, return_exceptions=True)
            return answer.status_code

        assert asyncio.run(refused()) == 503


def test_children_do_not_outlive_a_killed_supervisor(tiny: Path, tmp_path: Path) -> None:
    with serving(tiny, "--load-format", "dummy", folder=tmp_path) as server:
        pids, own = [*server.pids("engine"), *server.pids("front")], folder_of(server)
        server.process.kill()
        wait_until(lambda: all(map(gone, pids)))
        wait_until(lambda: not own.exists())


def test_an_engine_that_never_comes_up_is_given_up_truthfully(tiny: Path, tmp_path: Path) -> None:
    with serving(tiny, "--load-format", "dummy", folder=tmp_path) as server:
        config = tiny / "config.json"
        text = config.read_text()
        try:
            config.write_text("{")  # the model's files are damaged while the server runs
            server.kill()
            answer = server.post("/v1/completions", model="default", prompt="x", max_tokens=2)
            assert answer.status_code in (500, 503) and answer.json()["error"]["type"] == "server_error"
            wait_until(lambda: server.get("/ready").status_code == 503)
            told = server.get("/ready").json()["error"]["message"]
            assert "config.json changed" in told and str(tiny) not in told and "Traceback" not in told
            server.kill("front")  # its successor knows it too
            wait_until(lambda: "config.json changed" in told_of(server))  # at first it only says that it loads
            assert server.get("/ready").status_code == 503
        finally:
            config.write_text(text)


def told_of(server: Server) -> str:
    """What /ready says; nothing where nobody answers."""
    try:
        return server.get("/ready").text
    except httpx.HTTPError:
        return ""


def test_an_engine_that_dies_while_starting_ends_the_command(tiny: Path, tmp_path: Path) -> None:
    # It would be up before it is found, were we kept from looking for long enough.
    (tmp_path / "sitecustomize.py").write_text("import sys, time\nif 'engine' in sys.orig_argv:\n    time.sleep(300)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "radixmill", "serve", str(tiny), "--load-format", "dummy", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            server = Server(process, tmp_path)  # type: ignore[arg-type]
            wait_until(server.kill)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()  # it would wait for its engine, and we for it
    assert process.returncode == 1
    assert "the engine ended while it was starting (SIGKILL)" in said and "Traceback" not in said


def test_without_compiled_kernels_the_server_says_so(tiny: Path, tmp_path: Path) -> None:
    """As after an install without a compiler: NumPy serves, and the log says so."""
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text("import sys\nsys.modules['radixmill.device.kernels.cpu._native'] = None\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with serving(tiny, "--load-format", "dummy", folder=tmp_path, environment=environment) as server:
        assert "no compiled kernels, NumPy instead" in server.log.read_text()
        assert asyncio.run(stream(server.url, {**LONG, "max_tokens": 3}))["finish"] == {0: "length"}


def test_an_idle_server_uses_no_processor(tiny_server: Server) -> None:
    pids = [tiny_server.process.pid, *tiny_server.pids("engine"), *tiny_server.pids("front")]

    def ticks() -> int:
        return sum(
            sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) for pid in pids
        )

    asyncio.run(stream(tiny_server.url, {**LONG, "max_tokens": 4}))
    found = []
    for _ in range(5):  # what it does for others may not be over at once, and a busy machine makes waking up dear
        time.sleep(0.2)
        before = ticks()
        time.sleep(2)
        found.append(ticks() - before)
        if found[-1] <= 4:  # hundredths of a second
            break
    assert min(found) <= 4, found


def test_what_the_command_line_says() -> None:
    assert run_cli("--version").stdout.startswith("radixmill ")
    usage = run_cli("--help").stdout
    assert all(command in usage for command in ("serve", "chat", "complete", "bench", "pull", "models", "doctor"))
    assert run_cli().returncode == 2
    doctor = run_cli("doctor")
    assert doctor.returncode == 0 and "linear" in doctor.stdout and "cores" in doctor.stdout
    assert "smollm2-135m-instruct" in run_cli("models").stdout
    assert run_cli("pull", "no-such-model").returncode == 2


def test_sglangs_command_starts_the_same_server(tiny: Path, tmp_path: Path) -> None:
    flags = ["--model-path", str(tiny), "--load-format", "dummy", "--mem-fraction-static", "0.8", "--tp", "1"]
    with serving("", *flags, folder=tmp_path, command=[sys.executable, "-m", "radixmill.launch_server"]) as server:
        assert asyncio.run(stream(server.url, {**LONG, "max_tokens": 3}))["finish"] == {0: "length"}
        assert server.get("/get_model_info").json()["model_path"] == str(tiny)
    command = [sys.executable, "-m", "radixmill.launch_server", *flags[:-1], "2"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and "--tp" in refused.stderr and "Traceback" not in refused.stderr


def test_talking_from_the_command_line(tiny_server: Server) -> None:
    said = run_cli("complete", "one two", "--url", tiny_server.url, "--max-tokens", "5", "--seed", "1")
    assert (
        said.returncode == 0
        and said.stdout
        == run_cli("complete", "one two", "--url", tiny_server.url, "--max-tokens", "5", "--seed", "1").stdout
    )
    assert run_cli("chat", "hello", "--url", tiny_server.url, "--max-tokens", "3").returncode == 0
    nobody = run_cli("chat", "hello", "--url", "http://127.0.0.1:9")
    assert nobody.returncode == 2 and "radixmill serve" in nobody.stderr


@pytest.mark.slow
def test_without_a_compiler_the_install_is_plain_python(tmp_path: Path) -> None:
    environment = {**os.environ, "CC": "/bin/false", "CXX": "/bin/false"}
    source = tmp_path / "source"  # a copy: a failed configuration must not stay in the tree's build folder
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv*", "build", "*.so", "__pycache__", ".*_cache")
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
        str(source),
    ]
    installed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if installed.returncode and "No matching distribution" in installed.stderr:
        pytest.skip("the build requirements cannot be fetched here")
    assert installed.returncode == 0, installed.stderr
    assert not list((tmp_path / "site").rglob("_native*.so"))
    code = "from radixmill.device.kernels import native_isa; import radixmill; print(repr(native_isa()), radixmill.__file__)"
    asked = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            f"import sys; sys.path[:0] = {[str(tmp_path / 'site')]!r} + {[p for p in sys.path if p]!r}\n{code}",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert asked.stdout.startswith(f"'' {tmp_path}"), asked.stdout + asked.stderr
