"""A whole server with keys: what its processes, its log and its cache tell."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.e2e.kit import Server, serving, tiny_model

PROMPT = "a canary sings in the mine. " * 12  # several pages of the cache
CHAT = {"model": "default", "max_tokens": 4, "temperature": 0, "messages": [{"role": "user", "content": PROMPT}]}


def ask(server: Server, key: str, status: int = 200) -> int:
    """Its tokens that were found in the cache."""
    answer = server.client.post(
        f"{server.url}/v1/chat/completions", json=CHAT, headers={"authorization": f"Bearer {key}"}
    )
    assert answer.status_code == status, answer.text
    return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] if status == 200 else 0


def command_lines(server: Server) -> list[str]:
    """Of the server and all its children, as `ps` shows them."""
    found, waiting = [], [server.process.pid]
    while waiting:
        pid = waiting.pop()
        found.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " "))
        for task in Path(f"/proc/{pid}/task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    return found


@pytest.mark.slow
def test_a_server_with_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-canary-ann\nsk-canary-bob\n")
    keys.chmod(0o600)
    environment = {**os.environ, "RADIXMILL_ADMIN_API_KEY": "sk-canary-root"}
    flags = ("--load-format", "dummy", "--api-key-file", str(keys), "--log-requests", "--log-level", "debug")
    with serving(tiny_model(tmp_path / "tiny"), *flags, folder=tmp_path, environment=environment) as server:
        assert ask(server, "sk-canary-ann") == 0
        assert ask(server, "sk-canary-ann") > 128, "its own prompt is met again"
        assert ask(server, "sk-canary-bob") == 0, "another key's is not"
        assert ask(server, "sk-canary-bob") > 128
        ask(server, "sk-canary-eve", 401)
        keys.with_suffix(".new").write_text("sk-canary-bob\nsk-canary-eve\n")
        keys.with_suffix(".new").rename(keys)
        time.sleep(1.1)
        ask(server, "sk-canary-ann", 401)
        assert ask(server, "sk-canary-eve") == 0 and ask(server, "sk-canary-bob") > 128
        for key, status in (("sk-canary-bob", 403), ("sk-canary-root", 200)):
            order = server.client.post(f"{server.url}/flush_cache", headers={"x-api-key": key})
            assert order.status_code == status
        info = server.client.get(f"{server.url}/server_info", headers={"x-api-key": "sk-canary-bob"})
        assert info.status_code == 200 and "canary" not in info.text
        assert len(lines := command_lines(server)) >= 3 and not any("canary" in line for line in lines)
        server.kill("engine")
        assert ask(server, "sk-canary-bob") == 0
        log = server.log.read_text()
    assert "canary" not in log, [line for line in log.splitlines() if "canary" in line][:5]
    assert "POST /v1/chat/completions, key " in log and "read 2 keys" in log


def test_a_server_whose_keys_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    from tests.e2e.kit import run_cli

    flags = ("--load-format", "dummy", "--port", "0", "--api-key-file", str(tmp_path / "none"))
    done = run_cli("serve", str(tiny_model(tmp_path / "tiny")), *flags)
    assert done.returncode == 2 and "none: No such file" in done.stderr and "Traceback" not in done.stderr
