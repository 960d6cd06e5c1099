"""`doctor`: what this machine can do for Muninn, one line a check, each found out by trying it.

A check returns a verdict (ok, warn, fail), what was found, and what to do about it. Only `fail` means that Muninn does not work here.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import platform
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from muninn.cli.output import printJson, size
from muninn.errors import MuninnError, PlatformUnsupported

_MIN_SHM_BYTES = 1 << 30
_MIN_DESCRIPTORS = 1024


class Finding(NamedTuple):
    """The outcome of one check."""

    verdict: str
    found: str
    advice: str = ""


def runDoctor(arguments: argparse.Namespace) -> int:
    """Run every check; the exit status is 1 if one of them fails."""
    if arguments.repair:
        return _repair(arguments)
    findings = {name: _tried(check) for name, check in _CHECKS.items()}
    if arguments.json:
        printJson({name: finding._asdict() for name, finding in findings.items()})
    else:
        width = max(map(len, findings))
        for name, finding in findings.items():
            print(f"{finding.verdict:4}  {name.ljust(width)}  {finding.found}" + (f". {finding.advice}." if finding.advice else ""))
    return 1 if any(finding.verdict == "fail" for finding in findings.values()) else 0


def _repair(arguments: argparse.Namespace) -> int:
    from muninn.api import admin

    done = admin.repair()
    if arguments.json:
        printJson(done)
    else:
        print(
            f"a sound control block is in place; recovered: {', '.join(done['recovered']) or 'nothing'}; discarded: {len(done['discarded'])} segments"
        )
    return 0


def _tried(check: Callable[[], Finding]) -> Finding:
    """The check's finding; what it raises is one too."""
    try:
        return check()
    except PlatformUnsupported as error:
        return Finding("fail", error.reason, error.fix)
    except MuninnError as error:
        return Finding("warn", f"{error.code} {error.reason}", error.fix)
    except OSError as error:
        return Finding("fail", f"{error.strerror or error}", "The kernel, a seccomp filter or a container's policy forbids it")


def _python() -> Finding:
    version = platform.python_version()
    return Finding("ok" if sys.version_info >= (3, 11) else "fail", f"Python {version} on Linux {platform.release()}, {platform.machine()}")


def _primitives() -> Finding:
    from muninn.control import atomics

    word = ctypes.c_uint64(1)
    works = atomics.casSeqCst64(ctypes.addressof(word), 1, 2) == 1 and word.value == 2
    return Finding("ok" if works else "fail", f"{atomics.LIBRARY.name} loads and works")


def _shm() -> Finding:
    status = os.statvfs("/dev/shm")
    total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    found = f"{size(free)} free of {size(total)}"
    if free >= _MIN_SHM_BYTES:
        return Finding("ok", found)
    return Finding(
        "warn", found, "Enlarge it (`mount -o remount,size=… /dev/shm`, or `docker run --shm-size=…`): bigMode buffers live there"
    )


def _memlock() -> Finding:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    found = "unlimited" if soft == resource.RLIM_INFINITY else size(soft)
    if soft == resource.RLIM_INFINITY or os.geteuid() == 0:
        return Finding("ok", found)
    return Finding("warn", found, "Pinning memory for a GPU needs `ulimit -l unlimited`; the host back-end does not")


def _descriptors() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} of at most {hard}"
    return Finding("ok", found) if soft >= _MIN_DESCRIPTORS else Finding("warn", found, f"Raise it: `ulimit -n {min(hard, 65536)}`")


def _pidNamespace() -> Finding:
    own = os.readlink("/proc/self/ns/pid")
    with contextlib.suppress(OSError):
        if own == os.readlink("/proc/1/ns/pid") and _text("/proc/1/cgroup").strip() in ("0::/", "0::/init.scope"):
            return Finding("ok", f"{own}, the host's own")
    return Finding("ok", f"{own}; members of other PID namespaces are recognised by the descriptors that they send")


def _seccomp() -> Finding:
    mode = next((line.split()[1] for line in _text("/proc/self/status").splitlines() if line.startswith("Seccomp:")), "?")
    yama = _text("/proc/sys/kernel/yama/ptrace_scope").strip() or "absent"
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right, open(os.devnull) as file:
        socket.send_fds(left, [b"x"], [file.fileno()])
        _, received, _, _ = socket.recv_fds(right, 1, 1)
        works = os.fstat(received[0]).st_rdev == os.fstat(file.fileno()).st_rdev
        os.close(received[0])
    return Finding("ok" if works else "fail", f"descriptors pass between processes (seccomp mode {mode}, Yama {yama})")


def _hugePages() -> Finding:
    from muninn.control import segments

    offered = segments.hugePages()
    pool = next((line.split()[1] for line in _text("/proc/meminfo").splitlines() if line.startswith("HugePages_Total:")), "0")
    found = f"transparent huge pages for shared memory: {offered}; hugetlb pool: {pool}"
    if offered in ("advise", "within_size", "always"):
        return Finding("ok", found)
    return Finding(
        "warn",
        found,
        "Random access gains from `echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled`; streaming does not need it",
    )


def _numa() -> Finding:
    nodes = sorted(path.name for path in Path("/sys/devices/system/node").glob("node[0-9]*"))
    return Finding("ok", f"{len(nodes)} node{'s' * (len(nodes) != 1)}" if nodes else "the kernel knows no NUMA")


def _futex() -> Finding:
    from muninn.control import atomics

    word = ctypes.c_uint32(0)
    waits = atomics.futexWait32(ctypes.addressof(word), 0, 1_000_000) == -110
    return Finding("ok" if waits else "fail", "waits and times out")


def _robust() -> Finding:
    from muninn.control import atomics

    word, entry = ctypes.c_uint32(0), ctypes.create_string_buffer(atomics.robustListBytes())
    thread = threading.Thread(target=lambda: atomics.checked(atomics.robustHold(ctypes.addressof(entry), ctypes.addressof(word)), "robust"))
    thread.start()
    thread.join()
    # The kernel marks the word when the thread is really gone, which is a moment after the join.
    for _ in range(1000):
        if atomics.loadAcquire32(ctypes.addressof(word)) & 0x40000000:
            return Finding("ok", "the kernel marks the word of a thread that has ended")
        threading.Event().wait(0.001)
    return Finding("fail", "the kernel does not mark the word of a thread that has ended", "A broker's death would be noticed late")


def _pidfd() -> Finding:
    from muninn.control import atomics

    pidfd = atomics.checked(atomics.pidfdOpen(os.getpid()), "pidfd_open")
    alive = atomics.pidfdDead(pidfd) == 0
    os.close(pidfd)
    return Finding("ok" if alive else "fail", "opens, and says that this process lives")


def _memfd() -> Finding:
    import fcntl

    from muninn.control import atomics

    fd = atomics.checked(atomics.memfdCreate(b"muninn-doctor", 4096), "memfd_create")
    try:
        atomics.checked(atomics.seal(fd, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL), "sealing")
        with contextlib.suppress(PermissionError):
            os.ftruncate(fd, 0)
            return Finding("fail", "a sealed memfd was truncated")
    finally:
        os.close(fd)
    return Finding("ok", "is made, and its seal holds")


def _byteLocks() -> Finding:
    from muninn.control import atomics

    fd = atomics.checked(atomics.memfdCreate(b"muninn-doctor", 4096), "memfd_create")
    try:
        atomics.checked(atomics.byteLock(fd, 1), "fcntl(F_SETLK)")
        pid = os.fork()
        if pid == 0:
            os._exit(0 if atomics.byteHolder(fd, 1) != 0 and atomics.byteHolder(fd, 2) == 0 else 1)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(fd)
    return Finding("ok" if status == 0 else "fail", "another process sees them")


def _cuda() -> Finding:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Finding("ok", "no CUDA driver here (libcuda.so.1 is not found); the host back-end pretends GPUs")
    if (code := driver.cuInit(0)) != 0:
        return Finding("warn", f"libcuda.so.1 is there, and cuInit fails with {code}", "Look at `nvidia-smi`")
    count, version = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    driver.cuDriverGetVersion(ctypes.byref(version))
    return Finding("ok", f"driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}, {count.value} devices")


def _device() -> Finding:
    from muninn.config import loadSettings
    from muninn.devices import chooseDevice

    chosen = chooseDevice(loadSettings().devices)
    return Finding("ok", f"{chosen.backend}, {chosen.gpuCount} GPUs ({chosen.reason})")


def _domain() -> Finding:
    from muninn.config import loadSettings
    from muninn.control.block import readHeader
    from muninn.control.places import SHM_ROOT, Places

    places = Places(os.getuid(), loadSettings().control.domain)
    path = f"{SHM_ROOT}{places.blockName}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        orphans = len(places.segments())
        found = f"{places.domain!r}: nobody is in it" + (f", {orphans} segments are left over" if orphans else "")
        return Finding("ok", found, "The next process that joins collects them" if orphans else "")
    try:
        if readHeader(fd, path) is None:
            return Finding("warn", f"{path} is unfinished, or of another boot", "The next process that joins replaces it")
    finally:
        os.close(fd)
    import muninn

    info, buffers = muninn.domainInfo(), muninn.listBuffers()
    total = size(sum(buffer["size"] for buffer in buffers))
    return Finding(
        "ok",
        f"{places.domain!r}: {len(info['members'])} members with this one, broker {info['brokerPid']}, {len(buffers)} buffers, {total}",
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


_CHECKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    "primitives": _primitives,
    "/dev/shm": _shm,
    "memlock": _memlock,
    "descriptors": _descriptors,
    "pid namespace": _pidNamespace,
    "fd passing": _seccomp,
    "huge pages": _hugePages,
    "numa": _numa,
    "futex": _futex,
    "robust list": _robust,
    "pidfd": _pidfd,
    "memfd": _memfd,
    "byte locks": _byteLocks,
    "cuda": _cuda,
    "device": _device,
    "domain": _domain,
}
