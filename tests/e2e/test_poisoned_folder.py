"""A server that is started inside a folder of a stranger's files, such as a model's: none of them is executed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from radixmill.store import wheel
from tests.e2e.kit import serving
from tests.front.kit import CHAT
from tests.front.test_guest import ASKS, SIMPLE

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}  # nothing relative
NAMES = (
    *("json", "logging", "socket", "subprocess", "typing", "random", "sitecustomize"),
    *("msgspec", "numpy", "uvicorn", "uvloop", "fastapi", "jinja2", "tokenizers", "llguidance", "pip", "radixmill"),
)


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """A folder with modules that say so when they are imported."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text("open(__file__ + '.run', 'w').close()\nraise ImportError('a stranger')\n")
    return folder


def executed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.run"))


def test_no_child_of_a_server_imports_what_lies_there(tiny: Path, poisoned: Path, tmp_path: Path) -> None:
    flags = ("--load-format", "dummy", "--trust-request-chat-template")
    # As the installed command is started: its own folder comes first on the path, not the current one.
    command = ("env", "-C", str(poisoned), sys.executable, "-P", "-m", "radixmill", "serve")
    with serving(tiny, *flags, folder=tmp_path, command=command, environment=ENVIRONMENT) as server:
        body = {"model": "default", "max_tokens": 2, **ASKS}
        rendered = server.post(CHAT, **body, chat_template=SIMPLE)  # by the guest
        assert rendered.status_code == 200, rendered.text
        bound = server.post(
            CHAT, **{**body, "max_tokens": 40}, response_format={"type": "json_object"}
        )  # by the builder
        assert bound.status_code == 200, bound.text
    assert not executed(poisoned)


def test_pip_is_our_own(poisoned: Path, tmp_path: Path) -> None:
    wanted = wheel.WheelFile(package="tiny", version="1", member="x", sha256="0" * 64, nbytes=1, download_bytes=1)
    command = wheel._command(wanted, tmp_path)
    asked = [*command[: command.index("pip") + 1], "--version"]
    done = subprocess.run(asked, cwd=poisoned, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not executed(poisoned), done.stderr
