"""A process that can do nothing any more but compute, keep what it has open, and end. Knows nothing of what it computes.

A filter of system calls (seccomp, on Linux of two architectures), and limits where there is none. It refuses what it lists, and
what is newer than it; the rest is harmless without these, and what an interpreter needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct

# Names of calls with their numbers on x86_64 and aarch64 ("-": there is none).
_PROCESSES = """fork 57 -, vfork 58 -, clone 56 220, clone3 435 435, execve 59 221, execveat 322 281, unshare 272 97,
    setns 308 268, setsid 112 157, setpgid 109 154, prctl 157 167, seccomp 317 277, personality 135 92"""
_SOCKETS = """socket 41 198, socketpair 53 199, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242,
    io_uring_setup 425 425, ioctl 16 29"""
_FILES = """open 2 -, openat 257 56, openat2 437 437, creat 85 -, name_to_handle_at 303 264, open_by_handle_at 304 265,
    open_tree 428 428, fsopen 430 430, memfd_create 319 279, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38,
    renameat2 316 276, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, mkdir 83 -, mkdirat 258 34, rmdir 84 -,
    mknod 133 -, mknodat 259 33, chmod 90 -, fchmodat 268 53, chown 92 -, lchown 94 -, fchownat 260 54, truncate 76 45,
    utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, setxattr 188 5, lsetxattr 189 6, removexattr 197 14,
    lremovexattr 198 15, inotify_init 253 -, inotify_init1 294 26, fanotify_init 300 262"""
_OTHERS = """ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440,
    process_mrelease 448 448, kcmp 312 272, kill 62 129, tkill 200 130, tgkill 234 131, rt_sigqueueinfo 129 138,
    rt_tgsigqueueinfo 297 240, pidfd_open 434 434, pidfd_getfd 438 438, pidfd_send_signal 424 424, setpriority 141 140,
    ioprio_set 251 30, setrlimit 160 164, prlimit64 302 261, sched_setaffinity 203 122, sched_setscheduler 144 119,
    sched_setparam 142 118, sched_setattr 314 274, migrate_pages 256 238, move_pages 279 239, shmget 29 194, shmat 30 196,
    shmctl 31 195, msgget 68 186, msgsnd 69 189, msgrcv 70 188, msgctl 71 187, semget 64 190, semop 65 193,
    semtimedop 220 192, semctl 66 191, mq_open 240 180, mq_unlink 241 181, perf_event_open 298 241, userfaultfd 323 282"""
_MACHINE = """mount 165 40, umount2 166 39, move_mount 429 429, fsmount 432 432, pivot_root 155 41, chroot 161 51,
    swapon 167 224, swapoff 168 225, bpf 321 280, keyctl 250 219, add_key 248 217, request_key 249 218, setuid 105 146,
    setgid 106 144, setreuid 113 145, setregid 114 143, setresuid 117 147, setresgid 119 149, setgroups 116 159, capset 126 91,
    reboot 169 142, kexec_load 246 104, kexec_file_load 320 294, init_module 175 105, finit_module 313 273,
    delete_module 176 106, settimeofday 164 170, clock_settime 227 112, adjtimex 159 171, clock_adjtime 305 266,
    sethostname 170 161, setdomainname 171 162, quotactl 179 60, acct 163 89, syslog 103 116"""
_REFUSED = [each.split() for group in (_PROCESSES, _SOCKETS, _FILES, _OTHERS, _MACHINE) for each in group.split(",")]
_NEWER = 449  # numbers from here on are of calls that we do not know
_SIGNALLING = (8, 10, 15, 1026)  # of fcntl: who is told of a descriptor, and how

_ARCHITECTURES = {"x86_64": (0xC000003E, 0, 72), "aarch64": (0xC00000B7, 1, 25)}  # audit's name, column, fcntl

_LOAD, _IS, _FROM, _GIVE = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _SECOND = 0, 4, 24  # where they lie in what a filter sees

_DESCRIPTORS = 64


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def seal() -> None:
    """For good. Where the kernel takes no filter, what limits can do is done; silently, for nobody here could help it."""
    for limit, most in (("NPROC", 0), ("FSIZE", 0), ("NOFILE", _DESCRIPTORS)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))
    if os.uname().sysname == "Linux" and (filter := _filter(platform.machine())):
        _take(filter)


def _take(filter: bytes) -> None:
    program = _Program(len(filter) // 8, filter)
    with contextlib.suppress(OSError, AttributeError):
        prctl, no = ctypes.CDLL(None).prctl, ctypes.c_ulong(0)
        prctl(38, ctypes.c_ulong(1), no, no, no)  # PR_SET_NO_NEW_PRIVS
        prctl(22, ctypes.c_ulong(2), ctypes.byref(program), no, no)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _filter(machine: str) -> bytes:
    """In the kernel's language; empty for a machine whose calls we do not know."""
    if machine not in _ARCHITECTURES:
        return b""
    architecture, column, fcntl = _ARCHITECTURES[machine]
    numbers = [int(each[1 + column]) for each in _REFUSED if each[1 + column] != "-"]
    lines = [(_LOAD, 0, 0, _ARCHITECTURE), (_IS, 1, 0, architecture), (_GIVE, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    lines += _when(_FROM, _NEWER, errno.ENOSYS)  # so that libraries do without
    for number in numbers:
        lines += _when(_IS, number, errno.EPERM)
    lines += [(_IS, 1, 0, fcntl), (_GIVE, 0, 0, _ALLOW), (_LOAD, 0, 0, _SECOND)]
    for command in _SIGNALLING:
        lines += _when(_IS, command, errno.EPERM)
    lines += [(_GIVE, 0, 0, _ALLOW)]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def _when(test: int, value: int, error: int) -> list[tuple[int, int, int, int]]:
    return [(test, 0, 1, value), (_GIVE, 0, 0, _ERROR | error)]
