"""The keys that let requests in: from flags, from the environment, and from files that are read again when they change.

Only digests are kept, and compared in constant time, each with every one that is known. No key is ever in an error or a log.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from radixmill.core.config import ServerOptions
from radixmill.core.errors import CannotStart
from radixmill.front.session import ANYONE, Caller

log = logging.getLogger("radixmill.front")

LOOK_SECONDS = 1.0  # how often a file is looked at, at most
SETTLED_SECONDS = 2.0  # a file that changed this lately may change once more without showing it
MAX_FILE = 1 << 20  # bytes
KEY_VARIABLE, ADMIN_VARIABLE = "RADIXMILL_API_KEY", "RADIXMILL_ADMIN_API_KEY"


class BadKeys(ValueError):
    """What is given as keys is none; the message says why, and tells nothing of them."""


class Mark(NamedTuple):
    """By what a file that has changed is known."""

    inode: int
    size: int
    changed: int  # ns


class KeyFile:
    """Keys in a file, one a line; blank lines and those that begin with # are skipped.

    It is looked at when it is asked, at most once a second. One that cannot be read, or has no key, leaves the last good set.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self._clock = path, clock
        self._digests: tuple[bytes, ...] = ()
        self._mark: Mark | None = None
        self._next = clock()
        self._fault = ""
        self._warned: int | None = None  # inode of the file that others can read

    def load(self) -> None:
        """Read it. Raises BadKeys."""
        try:
            raw, status = _read(self.path)
        except OSError as error:
            raise BadKeys(f"{self.path}: {error.strerror or 'cannot be read'}") from None
        self._digests = tuple(map(digest, _keys(self.path, raw)))
        settled = abs(time.time() - status.st_mtime) > SETTLED_SECONDS  # a clock may be wrong
        self._mark = _mark(status) if settled else None
        if status.st_mode & (stat.S_IRGRP | stat.S_IROTH) and status.st_ino != self._warned:
            self._warned = status.st_ino
            log.warning("%s holds keys and can be read by others; chmod 600 it", self.path)

    def digests(self) -> tuple[bytes, ...]:
        if (now := self._clock()) >= self._next:
            self._next = now + LOOK_SECONDS
            self._look()
        return self._digests

    def _look(self) -> None:
        before = self._digests
        try:
            if self._mark is not None and _mark(self.path.stat()) == self._mark:
                return
            self.load()
        except (OSError, BadKeys) as error:
            fault = str(error) if isinstance(error, BadKeys) else f"{self.path}: {error.strerror}"
            if fault != self._fault:
                log.error("%s; the %d keys read before stay good", fault, len(before))
            self._fault, self._mark = fault, None
            return
        if self._fault or self._digests != before:
            log.info("read %d keys from %s", len(self._digests), self.path)
        self._fault = ""


class Ring:
    """Some keys that open the same doors."""

    def __init__(self, given: Iterable[str], file: KeyFile | None = None) -> None:
        """Raises BadKeys."""
        self._given = tuple(digest(_checked(key, "a key")) for key in given)
        self._file = file

    def __bool__(self) -> bool:
        """Whether there are any, or may be: a file counts also while nothing good has been read."""
        return bool(self._given or self._file)

    def holds(self, wanted: bytes) -> bool:
        known = (*self._given, *(self._file.digests() if self._file else ()))
        return bool(sum(hmac.compare_digest(wanted, each) for each in known))  # looks at every key, always


class Keyring:
    """Who a key makes one. Without keys, everyone is anyone."""

    def __init__(self, users: Ring, admins: Ring) -> None:
        self.users, self.admins = users, admins

    def caller(self, key: bytes) -> Caller | None:
        """None: no such key here."""
        wanted = digest(key)
        admin, user = self.admins.holds(wanted), self.users.holds(wanted)
        return Caller(wanted.hex(), admin) if admin or user else None

    def stranger(self) -> Caller | None:
        """Who comes without a key, or with none of ours; None: nobody may."""
        return None if self.users else ANYONE


def open_keys(server: ServerOptions, environment: Mapping[str, str] = os.environ, *, lenient: bool = False) -> Keyring:
    """The keys that the settings name. `lenient`: files that cannot be read now may be read later, and open nothing until
    then. Raises CannotStart."""
    found = []
    for flag, given, file, variable in (
        ("--api-key", server.api_key, server.api_key_file, KEY_VARIABLE),
        ("--admin-api-key", server.admin_api_key, server.admin_api_key_file, ADMIN_VARIABLE),
    ):
        more = (environment[variable],) if environment.get(variable) else ()
        try:
            found.append(Ring((*given, *more), _open_file(file, lenient)))
        except BadKeys as error:
            raise CannotStart(f"{flag}: {error}", "Give each key as one line of text") from None
    users, admins = found
    if admins and not users:
        log.warning("there is an admin key but no API key: only orders need one, everything else is open")
    return Keyring(users, admins)


def _open_file(path: str | None, lenient: bool) -> KeyFile | None:
    if path is None:
        return None
    file = KeyFile(Path(path))
    if not lenient:
        file.load()
    return file


def digest(key: bytes) -> bytes:
    return hashlib.sha256(b"radixmill key\0" + key).digest()


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    """Raises OSError, BadKeys."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe without a writer would wait for one
    with open(number, "rb") as file:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise BadKeys(f"{path} is no regular file")
        raw = file.read(MAX_FILE + 1)
    if len(raw) > MAX_FILE:
        raise BadKeys(f"{path} is larger than {MAX_FILE} bytes")
    return raw, status


def _keys(path: Path, raw: bytes) -> list[bytes]:
    try:
        lines = [line.strip() for line in raw.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError:
        raise BadKeys(f"{path} is not UTF-8") from None
    found = [_checked(line, f"line {i} of {path}") for i, line in enumerate(lines, 1) if line and line[0] != "#"]
    if not found:
        raise BadKeys(f"{path} has no key in it")
    return found


def _checked(key: str, what: str) -> bytes:
    if not key.strip():
        raise BadKeys(f"{what} is empty")
    if key != key.strip() or not key.isprintable():
        raise BadKeys(f"{what} has characters that no header can carry")
    return key.encode()


def _mark(status: os.stat_result) -> Mark:
    return Mark(status.st_ino, status.st_size, status.st_mtime_ns)
