"""SHA-256 of a model's weights: of the catalogue, else of the files themselves, read once and remembered.

One .gguf file: the file's own. A folder, or a GGUF in several parts: that of the lines `HASH  NAME` of the files that hold
its tensors, in the order of their names, which is what `sha256sum *.safetensors | sha256sum` prints.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from radixmill.core.spec import FileMark
from radixmill.store.files import ModelFiles, cache_folder
from radixmill.store.safetensors import weight_parts
from radixmill.store.split import present

log = logging.getLogger("radixmill.front")

DUMMY = "dummy"  # stands for the hash of weights that are in no file
KEPT = 1000  # entries of the cache
_BLOCK = 8 << 20
_NICE = 15


class Unhashed(Exception):
    """The weights' hash can't be had; the text says why."""


class WeightDigest:
    """The hash of one model's weights. Nothing is read before it is first asked for."""

    def __init__(self, files: ModelFiles, loaded: Sequence[FileMark] | None = None, *, dummy: bool = False) -> None:
        """`loaded`: marks that were taken when the files were loaded; others than those have no hash. None: as they are
        now."""
        self._known = DUMMY if dummy else files.sha256
        self._files = files
        self._marks = () if self._known else marks(files) if loaded is None else tuple(loaded)
        self._work: Future[str] | None = None
        self._lock = threading.Lock()

    def start(self) -> Future[str]:
        """Have it made in the background, on a thread of low priority; the same work for everybody who asks. A failure
        (Unhashed) is not remembered: who asks next has it tried again."""
        with self._lock:
            if self._work is None or (self._work.done() and self._work.exception()):
                self._work = self._begin()
            return self._work

    def _begin(self) -> Future[str]:
        work: Future[str] = Future()
        work.set_running_or_notify_cancel()
        if self._known:
            work.set_result(self._known)
        else:  # a daemon: a server that ends does not wait for it
            threading.Thread(target=self._run, args=(work,), name="radixmill-digest", daemon=True).start()
        return work

    def _run(self, work: Future[str]) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # Linux: of this thread
        try:
            work.set_result(self._whole())
        except Unhashed as error:
            work.set_exception(error)
        except Exception as error:
            work.set_exception(Unhashed(f"the weights cannot be read: {error}"))

    def _whole(self) -> str:
        if not self._marks:
            raise Unhashed("it is not known which files were loaded")
        with _alone():
            hashes = {mark.name: self._one(mark) for mark in self._marks}
        return _combined(self._files, hashes)

    def _one(self, mark: FileMark) -> str:
        path = _path(self._files, mark)
        key = str(path.resolve())
        if _mark(path) != mark:
            raise Unhashed(f"{path.name} has changed since the model was loaded")
        if (kept := _cached(key, mark)) is not None:
            return kept
        log.info("hashing %s for receipts", path)
        found = _sha256(path)
        if _mark(path) != mark:
            raise Unhashed(f"{path.name} has changed while it was read")
        _remember(key, mark, found)
        return found


def marks(files: ModelFiles) -> tuple[FileMark, ...]:
    """Of the files that hold a model's weights, in the order of their names. Raises BadModel, OSError."""
    return tuple(map(_mark, present(files.root) if files.is_gguf else weight_parts(files.root)))


def same_bytes(
    files: ModelFiles, before: Sequence[FileMark], now: Sequence[FileMark], beat: Callable[[], None]
) -> bool:
    """Whether the weights are what they were `before`, though some files' times may differ: by a hash that is known of them
    then, the catalogue's or one that was made for receipts. False where none is. `beat`: called as reading gets on."""
    if [(mark.name, mark.size) for mark in before] != [(mark.name, mark.size) for mark in now]:
        return False
    touched = [old for old, new in zip(before, now, strict=True) if not old.same_as(new)]
    if touched and files.sha256:
        return _combined(files, {mark.name: _sha256(_path(files, mark), beat) for mark in now}) == files.sha256
    known = [_cached(str(_path(files, mark).resolve()), mark) for mark in touched]
    return None not in known and known == [_sha256(_path(files, mark), beat) for mark in touched]


def _path(files: ModelFiles, mark: FileMark) -> Path:
    return files.folder / mark.name


def _combined(files: ModelFiles, hashes: dict[str, str]) -> str:
    """Of the hashes of all files."""
    if files.is_gguf and len(hashes) == 1:
        return hashes[files.root.name]
    lines = "".join(f"{found}  {name}\n" for name, found in hashes.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def _mark(path: Path) -> FileMark:
    at = path.stat()
    return FileMark(path.name, at.st_size, at.st_mtime_ns, at.st_ino)


def _numbers(mark: FileMark) -> list[int]:
    return [mark.size, mark.mtime_ns, mark.inode]


def _sha256(path: Path, beat: Callable[[], None] = lambda: None) -> str:
    """Read in order, in blocks: the lock of the interpreter is free while one is hashed."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while block := file.read(_BLOCK):
            digest.update(block)
            beat()
    return digest.hexdigest()


# The cache: {path: {"mark": [size, mtime_ns, inode], "sha256"}}. It may be lost, damaged or unwritable: then files are
# hashed again.


def _cache() -> Path:
    return cache_folder() / "digests.json"


def _read_cache() -> dict[str, Any]:
    try:
        found = json.loads(_cache().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _cached(key: str, mark: FileMark) -> str | None:
    entry = _read_cache().get(key)
    if isinstance(entry, dict) and entry.get("mark") == _numbers(mark) and isinstance(entry.get("sha256"), str):
        return str(entry["sha256"])
    return None


def _remember(key: str, mark: FileMark, found: str) -> None:
    known = {name: entry for name, entry in _read_cache().items() if name != key}
    kept = dict(list(known.items())[-KEPT + 1 :]) | {key: {"mark": _numbers(mark), "sha256": found}}
    with contextlib.suppress(OSError):
        write_whole(_cache(), json.dumps(kept).encode())


def write_whole(path: Path, data: bytes) -> None:
    """All of a file, or nothing, readable by its owner only. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # its mode is 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Of all processes that would hash, one; the others find its result. Where no lock can be had, go without."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((cache_folder() / "digests.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
