"""Receipts of one server before and after a front is killed, and after a restart: signed with one key as long as there is its file."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import Server, run_cli, serving
from tests.e2e.test_supervisor import wait_until

ASK = {"prompt": "Hello", "max_tokens": 9, "seed": 4, "ignore_eos": True, "record": True, "receipt": True}


def ask(server: Server) -> dict[str, Any]:
    """An answer with a receipt."""
    answer = server.post("/v1/completions", **ASK)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def kill_front(server: Server) -> None:
    """And wait for the next one to serve."""
    (old,) = server.pids("front")
    assert server.kill("front")
    wait_until(lambda: server.pids("front") not in ([], [old]))
    wait_until(lambda: server.get("/ready").status_code == 200)


def verified(answer: dict[str, Any], key: Path, folder: Path) -> bool:
    (folder / "answer.json").write_text(json.dumps(answer))
    done = run_cli("verify", str(folder / "answer.json"), "--key", str(key), "--no-model")
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def pem(server: Server, path: Path) -> Path:
    path.write_text(server.get("/receipt_key").json()["pem"])
    return path


def served(tiny: Path, folder: Path, *flags: str) -> AbstractContextManager[Server]:
    """With a cache folder of its own, `folder`/cache."""
    environment = {**os.environ, "RADIXMILL_CACHE": str(folder / "cache")}
    dummy = ("--load-format", "dummy", "--max-total-tokens", "8192")
    return serving(tiny, *dummy, *flags, folder=folder, environment=environment)


@pytest.mark.parametrize("named", [True, False], ids=["--receipt-key", "the cache folder's key"])
def test_a_key_outlives_the_front_that_used_it(tiny: Path, tmp_path: Path, named: bool) -> None:
    file = tmp_path / "named.pem" if named else tmp_path / "cache" / "receipt-key.pem"
    with served(tiny, tmp_path, *(("--receipt-key", str(file)) if named else ())) as server:
        assert file.exists() == named  # else it is made when it is first needed
        before, key = ask(server), pem(server, tmp_path / "pub.pem")
        kill_front(server)
        after = ask(server)
    with served(tiny, tmp_path, *(("--receipt-key", str(file)) if named else ())) as server:
        later = ask(server)
    for answer in (before, after, later):
        assert verified(answer, key, tmp_path)
        assert answer["receipt"]["key"] == before["receipt"]["key"]
        assert answer["receipt"]["prompts"] == before["receipt"]["prompts"]
    after["receipt"]["model"] = "another"
    assert not verified(after, key, tmp_path)


def test_without_its_file_a_front_signs_on_and_the_next_makes_another_key(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "cache" / "receipt-key.pem"
    with served(tiny, tmp_path) as server:
        before, old = ask(server), pem(server, tmp_path / "old.pem")
        file.unlink()
        assert verified(ask(server), old, tmp_path) and not file.exists()
        kill_front(server)
        after, new = ask(server), pem(server, tmp_path / "new.pem")
    assert file.exists() and after["receipt"]["key"] != before["receipt"]["key"]
    assert verified(after, new, tmp_path) and not verified(after, old, tmp_path)
    assert verified(before, old, tmp_path)
