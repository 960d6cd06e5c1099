"""`doctor`: checks whether this machine can do all that Muninn needs, a line for each.

A check tries the thing itself. It returns a verdict (ok, warn, fail), its finding, and
an advice. Only `fail` means that Muninn does not work here. The last check joins the
domain, if there is one, as every command does; all other checks leave no trace.

The checks read `/proc/thread-self`, as Muninn does: `/proc/self` is empty in a process
whose first thread has ended.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import os
import platform
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from muninn.cli import domainchecks, limits, probes, topology
from muninn.cli.finding import Finding, tried
from muninn.cli.output import Row, counted, printJson, printTable
from muninn.config.sizes import asText

#: A domain does not fit into less than the first; less than the second is a warning.
_LEAST_SHM_BYTES, _MIN_SHM_BYTES = 1 << 20, 1 << 30
#: A domain needs an inode for each of: a directory, a lock file, a block under two
#: names, a journal, two sockets; and one for each buffer.
_FEWEST_INODES, _MIN_INODES = 8, 1024


def runDoctor(arguments: argparse.Namespace) -> int:
    """Run every check; the exit status is 1 if one of them fails."""
    if arguments.repair:
        return _repair(arguments)
    findings = {name: tried(check) for name, check in _CHECKS.items()}
    if arguments.json:
        printJson({name: finding._asdict() for name, finding in findings.items()})
    else:
        said: dict[Finding, str] = {}
        rows = []
        for name, finding in findings.items():
            first = said.setdefault(finding, name) if finding.verdict == "fail" else name
            rows.append(
                Row.of(
                    (
                        finding.verdict,
                        name,
                        finding.text() if first == name else f"the same as {first}",
                    )
                )
            )
        printTable(("", "", ""), rows, wrapping=True)
    return 1 if any(finding.verdict == "fail" for finding in findings.values()) else 0


def _repair(arguments: argparse.Namespace) -> int:
    from muninn.api import admin

    done = admin.repair()
    if arguments.json:
        printJson(done)
    else:
        recovered = ", ".join(done["recovered"]) or "nothing"
        print(
            f"a sound control block is in place; recovered: {recovered}; discarded: "
            f"{counted(len(done['discarded']), 'segment')}"
        )
    return 0


def _python() -> Finding:
    version = platform.python_version()
    return Finding(
        "ok" if sys.version_info >= (3, 11) else "fail",
        f"Python {version} on Linux {platform.release()}, {platform.machine()}",
    )


def _primitives() -> Finding:
    from muninn.system import atomics

    word = ctypes.c_uint64(1)
    works = atomics.casSeqCst64(ctypes.addressof(word), 1, 2) == 1 and word.value == 2
    return Finding("ok" if works else "fail", f"{atomics.LIBRARY.name} loads and works")


def _configuration() -> Finding:
    from muninn.config import FILE_VARIABLE, loadSettings, settingsIn, strangersIn

    loadSettings()
    sources = [
        f"{name}={os.environ[name]}" if name == FILE_VARIABLE else name
        for name in sorted(settingsIn(os.environ))
    ]
    found = ", ".join(["the defaults", *sources])
    if not (strangers := strangersIn(os.environ)):
        return Finding("ok", found)
    hints = (
        f"{name} ({nearest}?)" if nearest else name for name, nearest in sorted(strangers.items())
    )
    return Finding("warn", found, f"Remove or correct the unknown variables: {', '.join(hints)}")


def _shm() -> Finding:
    from muninn.system.oserrors import SHM_ROOT, missingShm

    if (missing := missingShm()) is not None:
        raise missing
    status = os.statvfs(SHM_ROOT)
    total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    kind, options = _mountOf(SHM_ROOT)
    found = (
        f"{asText(free)} free of {asText(total)}, {kind} ({options})"
        if total
        else f"as large as the memory, {kind} ({options})"
    )
    if "ro" in options.split(",") or not os.access(SHM_ROOT, os.R_OK | os.W_OK | os.X_OK):
        return Finding(
            "fail",
            found,
            f"Everybody must read and write it, `mount -o remount,rw,mode=1777 {SHM_ROOT}`: "
            "everything that is shared lives there",
        )
    if status.f_files and status.f_ffree < _MIN_INODES:
        verdict = "fail" if status.f_ffree < _FEWEST_INODES else "warn"
        return Finding(
            verdict,
            f"{found}; {status.f_ffree} inodes are free",
            f"`mount -o remount,nr_inodes=… {SHM_ROOT}`: each buffer is a file",
        )
    mode = os.stat(SHM_ROOT).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return Finding(
            "warn",
            found,
            f"`chmod +t {SHM_ROOT}`: without the sticky bit every user may remove and rename "
            "another user's files",
        )
    if kind not in ("tmpfs", "unknown"):
        return Finding(
            "warn",
            found,
            f"Mount a tmpfs at {SHM_ROOT}: on a disk's file system shared memory is as slow "
            "as the disk",
        )
    if free >= _MIN_SHM_BYTES or not total:
        return Finding("ok", found)
    advice = (
        f"Enlarge it (`mount -o remount,size=… {SHM_ROOT}`, or `docker run "
        "--shm-size=…`): bigMode buffers live there"
    )
    return Finding("warn" if free >= _LEAST_SHM_BYTES else "fail", found, advice)


def _mountOf(path: str) -> tuple[str, str]:
    """(file system, options) of the mount that contains `path`."""
    # If several are mounted at one place, the last of them is on top. The list is
    # reversed, because `max` takes the first of equals.
    mounts = [line.split() for line in reversed(_text("/proc/thread-self/mounts").splitlines())]
    best = max(
        (mount for mount in mounts if len(mount) > 3 and _isWithin(path, mount[1])),
        key=lambda mount: len(mount[1]),
        default=None,
    )
    return (best[2], best[3]) if best else ("unknown", "")


def _isWithin(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _proc() -> Finding:
    from muninn.control.header import bootId

    if not os.path.exists("/proc/thread-self/ns/pid"):
        return Finding(
            "fail",
            "/proc is not there",
            "`mount -t proc proc /proc` as root: it tells whether a pid is still the same process",
        )
    if not any(bootId()):
        return Finding(
            "ok",
            "processes only (subset=pid): which boot this is and how much memory is free is "
            "not told",
        )
    return Finding("ok", "tells of processes, the boot and the memory")


def _pidNamespace() -> Finding:
    own = os.readlink("/proc/thread-self/ns/pid")
    with contextlib.suppress(OSError):
        if own == os.readlink("/proc/1/ns/pid") and _text("/proc/1/cgroup").strip() in (
            "0::/",
            "0::/init.scope",
        ):
            return Finding("ok", f"{own}, the host's own")
    return Finding(
        "ok",
        f"{own}; members of other PID namespaces are recognised by the descriptors that they send",
    )


def _seccomp() -> Finding:
    mode = next(
        (
            line.split()[1]
            for line in _text("/proc/thread-self/status").splitlines()
            if line.startswith("Seccomp:")
        ),
        "?",
    )
    yama = _text("/proc/sys/kernel/yama/ptrace_scope").strip() or "absent"
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right, open(os.devnull) as file:
        socket.send_fds(left, [b"x"], [file.fileno()])
        _, received, _, _ = socket.recv_fds(right, 1, 1)
        if not received:
            # The kernel drops a descriptor that the receiver has no number left for.
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        works = os.fstat(received[0]).st_rdev == os.fstat(file.fileno()).st_rdev
        os.close(received[0])
    return Finding(
        "ok" if works else "fail",
        f"descriptors pass between processes (seccomp mode {mode}, Yama {yama})",
    )


def _hugePages() -> Finding:
    from muninn.storage.paths import SHM_ROOT
    from muninn.system import pages

    offered = pages.hugePages()
    pool = next(
        (
            line.split()[1]
            for line in _text("/proc/meminfo").splitlines()
            if line.startswith("HugePages_Total:")
        ),
        "0",
    )
    found = f"transparent huge pages in {SHM_ROOT}: {offered}; hugetlb pool: {pool}"
    if offered in pages.OFFERS_HUGE:
        return Finding("ok", found)
    return Finding(
        "warn",
        found,
        "Large buffers are made several times as fast after `mount -o remount,huge=advise "
        f"{SHM_ROOT}`, as root",
    )


def _numa() -> Finding:
    nodes = sorted(path.name for path in Path("/sys/devices/system/node").glob("node[0-9]*"))
    return Finding("ok", counted(len(nodes), "node") if nodes else "the kernel knows no NUMA")


def _cuda() -> Finding:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Finding(
            "ok", "no CUDA driver here (libcuda.so.1 is not found); the host back-end emulates GPUs"
        )
    if (code := driver.cuInit(0)) != 0:
        return Finding(
            "warn", f"libcuda.so.1 is there, and cuInit fails with {code}", "Look at `nvidia-smi`"
        )
    count, version = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    driver.cuDriverGetVersion(ctypes.byref(version))
    names = [_gpuName(driver, number) for number in range(count.value)]
    found = (
        f"driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}; devices: "
        f"{', '.join(names) or 'none'}"
    )
    return Finding(
        "ok" if names else "warn",
        found,
        "" if names else "Look at `nvidia-smi`, and at CUDA_VISIBLE_DEVICES",
    )


def _gpuName(driver: ctypes.CDLL, number: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    failed = driver.cuDeviceGet(ctypes.byref(device), number) or driver.cuDeviceGetName(
        name, len(name), device
    )
    return f"{number} (unknown)" if failed else f"{number} {name.value.decode(errors='replace')}"


def _device() -> Finding:
    from muninn.config import loadSettings
    from muninn.devices import chooseDevice

    chosen = chooseDevice(loadSettings().devices)
    return Finding("ok", f"{chosen.backend}, {counted(chosen.gpuCount, 'GPU')} ({chosen.reason})")


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


_CHECKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    "configuration": _configuration,
    "primitives": _primitives,
    "/dev/shm": _shm,
    "memlock": limits.memlock,
    "descriptors": limits.descriptors,
    "limits": limits.processLimits,
    "control group": limits.controlGroup,
    "/proc": _proc,
    "pid namespace": _pidNamespace,
    "fd passing": _seccomp,
    "huge pages": _hugePages,
    "numa": _numa,
    "futex": probes.futex,
    "robust list": probes.robust,
    "pidfd": probes.pidfd,
    "memfd": probes.memfd,
    "byte locks": probes.byteLocks,
    "cuda": _cuda,
    "device": _device,
    "gpu pairs": topology.pairsFinding,
    "names": domainchecks.names,
    "modes": domainchecks.modes,
    "domain": domainchecks.domain,
}
