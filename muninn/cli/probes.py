"""The checks of `doctor` that try functions of the kernel: futexes, robust lists,
pidfds, sealed memfds and byte locks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys

from muninn.cli.finding import Finding

#: Exits with 0 if another process has locked byte 1 of the descriptor, and not byte 2.
_SEES_LOCK = """
import fcntl, sys
descriptor = int(sys.argv[1])
fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 2)
try:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1)
except (BlockingIOError, PermissionError):
    sys.exit(0)
sys.exit(1)
"""


def futex() -> Finding:
    from muninn.system import atomics

    word = ctypes.c_uint32(0)
    waits = atomics.futexWait32(ctypes.addressof(word), 0, 1_000_000) == -110
    return Finding("ok" if waits else "fail", "waits and times out")


def robust() -> Finding:
    from muninn.system import atomics, clock, threads

    word, entry = ctypes.c_uint32(0), ctypes.create_string_buffer(atomics.robustListBytes())

    def hold() -> None:
        atomics.checked(
            atomics.robustHold(ctypes.addressof(entry), ctypes.addressof(word)), "robust"
        )

    threads.start(hold, "doctor").join()
    # The kernel marks the word when the thread has ended, which is a moment after
    # `join` returns.
    for _ in range(1000):
        if atomics.loadAcquire32(ctypes.addressof(word)) & 0x40000000:
            return Finding("ok", "the kernel marks the word of a thread that has ended")
        clock.sleep(0.001)
    return Finding(
        "fail",
        "the kernel does not mark the word of a thread that has ended",
        "Other members would see a broker's death late",
    )


def pidfd() -> Finding:
    from muninn.system import atomics

    pidfd = atomics.opened(atomics.pidfdOpen(os.getpid()), "pidfd_open")
    alive = atomics.pidfdDead(pidfd) == 0
    pidfd.close()
    return Finding("ok" if alive else "fail", "opens, and says that this process lives")


def memfd() -> Finding:
    import fcntl

    from muninn.system import atomics

    fd = atomics.opened(atomics.memfdCreate(b"muninn-doctor", 4096), "memfd_create")
    try:
        atomics.checked(
            atomics.seal(fd, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL), "sealing"
        )
        with contextlib.suppress(PermissionError):
            os.ftruncate(fd.number, 0)
            return Finding("fail", "a sealed memfd was truncated")
    finally:
        fd.close()
    return Finding("ok", "is made, and its seal holds")


def byteLocks() -> Finding:
    from muninn.system import atomics

    fd = atomics.opened(atomics.memfdCreate(b"muninn-doctor", 4096), "memfd_create")
    try:
        atomics.checked(atomics.byteLock(fd, 1), "fcntl(F_SETLK)")
        # A new program and not a fork: libraries may have started threads, and a fork
        # beside threads is not safe.
        status = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEES_LOCK, str(int(fd))],
            pass_fds=[int(fd)],
            check=False,
        ).returncode
    finally:
        fd.close()
    return (
        Finding("ok", "another process sees them")
        if status == 0
        else Finding("fail", "another process does not see them")
    )
