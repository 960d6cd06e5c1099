"""Fixtures: each test gets a domain of its own and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from typing import Any

import lockorder
import pytest

if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and "STANDIN_DOMAIN" in os.environ:
    # The tests look at how much memory the stand-in has left.
    os.environ["STANDIN_DOMAIN"] += f"-{worker}"
# Each thread of BLAS costs every actor a hundredth of a second, and no test needs one.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# A shell starts what it runs in the background with SIGINT ignored, and programs inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
_reports, os.environ[lockorder.VARIABLE] = tempfile.mkstemp(prefix="lockorder-")
os.close(_reports)
lockorder.install(os.environ[lockorder.VARIABLE])

from lab import Lab, Member  # noqa: E402  # Muninn's locks are created now

from muninn.broker.broker import Broker  # noqa: E402
from muninn.observe.counters import counting  # noqa: E402
from muninn.session import membership  # noqa: E402
from support import Actor, removeDomain  # noqa: E402

#: Whether a test has failed so far.
HAS_FAILED = pytest.StashKey[bool]()
#: A process loads one driver or none, so these run by themselves (`make
#: test-long`, `make gpu`).
collect_ignore = [] if os.environ.get("TEST_DRIVER") else ["cuda"]  # pylint: disable=invalid-name


def pytest_collection_finish() -> None:  # pylint: disable=invalid-name
    """Leave what pytest and the modules of the tests have made out of the garbage
    collections of the tests, which else look at all of it each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch, whose 170,000 objects are left out as well."""
    library = pytest.importorskip("torch", reason="torch is not installed: make interop")
    gc.collect()
    gc.freeze()
    return library


def pytest_unconfigure() -> None:  # pylint: disable=invalid-name
    """Remove the checker's file, also the one of the process that only hands tests out."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.environ[lockorder.VARIABLE])


@pytest.fixture(scope="session")
def cacheFolders() -> Iterator[str]:
    """Where the tests of this process have their cache folders."""
    folder = tempfile.mkdtemp(prefix="muninn-cache-")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def lockOrder() -> Iterator[None]:
    """Fail a test in which a thread, here or in an actor, took locks out of order."""
    yield
    if os.path.getsize(lockorder.reportPath):
        with open(lockorder.reportPath, "r+") as file:
            findings = sorted(set(file))
            file.truncate(0)
        pytest.fail("".join(["locks out of order (docs/design/0016):\n", *findings]))


@pytest.fixture(autouse=True)
def cacheFolder(lockOrder: None, cacheFolders: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A cache folder for each test and its processes, which is made at its first use.
    No test reads or writes the verdicts of this machine, nor those of another test.
    `lockOrder` is first, so that it looks after all that a test has patched is undone.
    """
    folder = f"{cacheFolders}/{secrets.token_hex(6)}"
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    return folder


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh domain for this process and for the actors that it starts. None of them takes
    a broker for stuck that a busy machine has kept waiting for a moment.
    """
    # `make mutation` finds the processes that it has to kill by this name.
    name = f"{os.environ.get('TEST_DOMAINS', 'test')}-{secrets.token_hex(6)}"
    monkeypatch.setenv("MUNINN_DOMAIN", name)
    monkeypatch.setenv("MUNINN_TAKEOVER_MS", "1500")
    # What an earlier test counted while it was in no domain is not this one's.
    counting._words[:] = bytes(len(counting._words))
    yield name
    if "multiprocessing.forkserver" in sys.modules:
        # The server keeps the environment of the test that began it, and with it the
        # domain.
        sys.modules["multiprocessing.forkserver"]._forkserver._stop()
    # Whether this leave ends well or not, the next test joins anew.
    current, membership._current = membership._current, None
    try:
        if current is not None:
            current.leave()
    finally:
        removeDomain(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(  # pylint: disable=invalid-name
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note in the test that it has failed, for the fixtures that end after it."""
    report = yield
    item.stash[HAS_FAILED] = item.stash.get(HAS_FAILED, False) or report.failed
    return report


@pytest.fixture
def actor(domain: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Actor]]:
    """Start actors; the fixture kills those that still run at the end. After a failure
    they tell first where their threads are.
    """
    started: list[Actor] = []

    def start(code: str = "", launcher: tuple[str, ...] = (), **environment: str) -> Actor:
        started.append(Actor(code, launcher, **environment))
        return started[-1]

    yield start
    for each in started:
        if request.node.stash[HAS_FAILED]:
            each.tellStacks()
        each.kill()


@pytest.fixture
def lab(domain: str) -> Iterator[Lab]:
    """A control block for this test only, without threads and sockets."""
    made = Lab(domain)
    yield made
    made.close()


@pytest.fixture
def served(lab: Lab) -> Iterator[tuple[Lab, Broker, Member]]:
    """A broker that has done its first maintenance, and the member that has it."""
    own = lab.member()
    yield lab, lab.afterMaintenance(lab.broker(own)), own
