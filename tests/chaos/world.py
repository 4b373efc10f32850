"""Scenes in which the machine misbehaves: a full disk, a clock that jumps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from radixmill.store.catalogue import pull
from tests.chaos import footprint
from tests.chaos.kit import EMBEDDED, SMALL, House, scene
from tests.chaos.mix import mixed
from tests.e2e.kit import SERVE

SHIM = r"""
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
// The clock that people set, shifted by the seconds that stand in a file; the monotonic clock is let be.
static volatile int64_t* shift() {
  static volatile int64_t* at = nullptr;
  if (!at) {
    int file = open(getenv("CLOCK_SHIFT"), O_RDONLY | O_CLOEXEC);
    at = (volatile int64_t*)mmap(nullptr, 8, PROT_READ, MAP_SHARED, file, 0);
    close(file);
  }
  return at;
}
extern "C" int clock_gettime(clockid_t which, struct timespec* out) {
  static auto real = (int (*)(clockid_t, struct timespec*))dlsym(RTLD_NEXT, "clock_gettime");
  int status = real(which, out);
  if (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE) out->tv_sec += *shift();
  return status;
}
extern "C" time_t time(time_t* out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
extern "C" int gettimeofday(struct timeval* __restrict out, void* __restrict) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""
JUMPS = (-86400 * 365 * 20, 0, 3600, -3600, 86400 * 365 * 20, 0)  # seconds


@scene("clock jumps", own_server=True)
async def clock_jumps(house: House) -> None:
    if (compiler := shutil.which("g++") or shutil.which("c++")) is None:
        house.figures.skipped.append("clock jumps: no C++ compiler for the shim that shifts the clock")
        return
    folder = house.folder
    (folder / "shim.cpp").write_text(SHIM)
    shift, shim = folder / "shift", folder / "shim.so"
    shift.write_bytes(struct.pack("<q", 0))
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, folder / "shim.cpp", "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(shim), "CLOCK_SHIFT": str(shift)}
    with house.another(*SMALL, environment=environment):
        wishes = mixed(4 if house.quick else 12, 31, (60, 90))
        twins = await house.twins(wishes)
        await house.settle()
        engine = house.engine()
        for jump in JUMPS:
            running = asyncio.gather(*(house.run(wish, twin) for wish, twin in zip(wishes, twins, strict=True)))
            await asyncio.sleep(0.2)
            shift.write_bytes(struct.pack("<q", jump))
            house.figures.faults["clock jump"] += 1
            status, model = await house.ask(
                "POST", "/v1/completions", {"model": "default", "prompt": "x", "max_tokens": 1}
            )
            if status == 200 and abs(model["created"] - (time.time() + jump)) > 300:
                house.figures.wrong.append(f"the shim does not shift: created {model['created']}")
            house.judge(await running)
        if house.engine() != engine:
            house.figures.wrong.append("a clock jump cost an engine")
        await house.check_leaks()


@scene("full disk for caches, logs and the private folder", own_server=True)
async def full_disk(house: House) -> None:
    """First all that a server writes to disk; then the memory in which its private folder lies."""
    if reason := no_file_systems():
        house.figures.skipped.append(f"full disk: {reason}")
        return
    with small_disk() as disk:
        environment = {
            **os.environ,
            "TMPDIR": str(disk),
            "RADIXMILL_CACHE": str(disk / "cache"),
            "XDG_CACHE_HOME": str(disk / "cache"),
        }
        model = house.model if house.tiny else pull(EMBEDDED).root  # its own cache is elsewhere
        with house.another(*SMALL, environment=environment, folder=disk, model=model):
            await on_full(house, disk, "kill -9 on a full disk")
    with house.another(*SMALL, command=IN_SMALL_MEMORY):
        folder = footprint.folder_of(house.server)
        assert str(folder).startswith(f"/proc/{house.server.process.pid}/root/dev/shm/"), folder
        await on_full(house, folder.parent, "kill -9 while the private folder is full")


async def on_full(house: House, disk: Path, name: str) -> None:
    """Requests and kills when `disk` has no byte left."""
    wishes = mixed(6, 33, (60, 90))
    twins = await house.twins(wishes)
    await house.settle()
    fill(disk)
    house.figures.faults["full disk"] += 1
    for round in range(2 if house.quick else 6):
        running = asyncio.gather(*(house.run(wish, twin) for wish, twin in zip(wishes, twins, strict=True)))
        await asyncio.sleep(0.3)
        if round % 2:
            house.kill(name, watch=False)
        house.judge(await running)
        fill(disk)  # what was let go of has not made room
        assert shutil.disk_usage(disk).free == 0, "the disk was not full"
    await house.until(lambda: house.engine() is not None)
    await house.check_leaks()


def fill(disk: Path) -> None:
    """To the last byte."""
    for size in (1 << 20, 4096, 1):
        with contextlib.suppress(OSError), (disk / f"filler-{size}").open("ab", buffering=0) as file:
            while True:
                file.write(b"x" * size)


SIZE = "size=4m"
# The command that starts a server, with a /dev/shm of its own that is soon full.
IN_SMALL_MEMORY = (
    "unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o {SIZE} tmpfs /dev/shm && exec "$0" "$@"', *SERVE,
)  # fmt: skip


def no_file_systems() -> str:
    """Why we may not make file systems; "": we may."""
    if not (shutil.which("unshare") and shutil.which("mount")):
        return "small file systems want unshare and mount"
    tried = subprocess.run([*IN_SMALL_MEMORY[:5], "true"], capture_output=True, text=True)
    return tried.stderr.strip() or "small file systems want root" if tried.returncode else ""


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = Path(tempfile.mkdtemp(prefix="disk-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", SIZE, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        folder.rmdir()


@scene("a log that takes nothing (/dev/full)", own_server=True)
async def full_log(house: House) -> None:
    with house.another(*SMALL, log_to="/dev/full", port=free_port()):
        wishes = mixed(6, 35, (60, 90))
        twins = await house.twins(wishes)
        await house.settle()
        for _ in range(2 if house.quick else 6):
            running = asyncio.gather(*(house.run(wish, twin) for wish, twin in zip(wishes, twins, strict=True)))
            await asyncio.sleep(0.3)
            house.kill("kill -9 with a log that takes nothing", watch=False)
            house.judge(await running)
        await house.until(lambda: house.engine() is not None)
        await house.check_leaks()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
