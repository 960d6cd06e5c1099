"""`cli/limits.py` and `cli/finding.py`: the report of `doctor` about limits, and about
checks that do not end.
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

from muninn.api import admin
from muninn.cli import doctor, limits, probes
from muninn.cli.finding import Finding, tried
from muninn.system import atomics, cgroups, hostmemory, threads
from muninn.system.hostmemory import GroupLimit

GIB = 1 << 30
SHARING = "import muninn, numpy; muninn.share(numpy.arange(3)); print('answered')"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "no memory"),
        (threads.exhausted(), "MNN-0034 no thread"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "MNN-0034 no thread"),
        (OSError(errno.EMFILE, "Too many open files"), "MNN-0025"),
        (IndexError("list index out of range"), "IndexError: list index"),
    ],
)
def test_anyErrorOfACheckIsAFinding(error: Exception, said: str) -> None:
    """Broken: `doctor` ended with a traceback, before the checks that would have given
    the reason.
    """

    def check() -> Finding:
        raise error

    finding = tried(check)
    assert finding.verdict == "fail" and said in finding.found and finding.advice


def test_aThreadThatCanNotBeHadIsAFinding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_begin", refused)
    monkeypatch.setattr(threads, "_last", lambda target: refused())
    assert tried(probes.robust).verdict == "fail"


@pytest.mark.parametrize("isEnough", [True, False])
def test_tooFewDescriptorsFailWhereMuninnDoes(domain: str, isEnough: bool) -> None:
    """Broken: `doctor` only warned, and advised to raise the limit to its present
    value.
    """
    most = (
        admin.fewestDescriptors()
        - len(os.listdir("/proc/thread-self/fd"))
        + 4
        + (8 if isEnough else -1)
    )  # the standard streams, and the descriptor that counts

    def run(*code: str) -> str:
        done = subprocess.run(
            [sys.executable, *code],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "MUNINN_DEVICE": "host"},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)),
        )
        return done.stdout + done.stderr

    said = next(
        line for line in run("-m", "muninn", "doctor").splitlines() if " descriptors " in line
    )
    assert (
        said.split()[0] == ("warn" if isEnough else "fail")
        and "LimitNOFILE" in said
        and "ulimit -n" not in said
    )
    assert ("answered" in (shared := run("-c", SHARING))) == isEnough and (
        "MNN-0025" in shared
    ) != isEnough


def test_thereMayBeNoDescriptorLeftForAnother(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the check raised `IndexError`."""
    monkeypatch.setattr(doctor.socket, "recv_fds", lambda *_: (b"x", [], 0, None))
    assert tried(doctor._seccomp).found.startswith("MNN-0025")


@pytest.mark.parametrize(
    ("group", "tasks", "verdict", "said"),
    [
        (None, None, "ok", "limits neither"),
        (
            GroupLimit("/g/memory.max", 8 * GIB, 4 * GIB),
            4096,
            "ok",
            "/g/memory.max allows 8G, of which 4G are free; at most 4096 threads",
        ),
        (
            GroupLimit("/g/memory.max", 8 * GIB, GIB - 1),
            None,
            "warn",
            "Raise it (`docker run --memory",
        ),
        (None, 60, "warn", "Raise `pids.max`"),
        (GroupLimit("/g/memory.max", GIB, 0), 3, "fail", "; raise `pids.max`"),
    ],
)
def test_theControlGroupsLimitsAreFound(
    monkeypatch: pytest.MonkeyPatch,
    group: GroupLimit | None,
    tasks: int | None,
    verdict: str,
    said: str,
) -> None:
    """Broken: in a container of 64 MB `doctor` said "ok: none of files, memory or
    threads".
    """
    monkeypatch.setattr(hostmemory, "groupLimit", lambda: group)
    monkeypatch.setattr(cgroups, "mostTasks", lambda: tasks)
    finding = limits.controlGroup()
    assert finding.verdict == verdict and said in finding.text()


def test_theLimitOfDataIsFound(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[int], tuple[int, int]] = resource.getrlimit
    monkeypatch.setattr(
        resource,
        "getrlimit",
        lambda limit: (100 << 20,) * 2 if limit == resource.RLIMIT_DATA else real(limit),
    )
    assert "`ulimit -d` is 100M" in limits.processLimits().found
    assert atomics.LIBRARY.exists() and "data 104857600 (`ulimit -d`)" in threads.exhausted().reason
