"""`control/aside.py`: what signals do not reach, and waiting for it."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
import weakref
from pathlib import Path

import pytest

import muninn
from muninn.control import aside
from muninn.control.aside import Job, Latch
from support import Background, eventually

PACKAGE = Path(muninn.__file__).parent
#: Locks that a thread must not meet while it has them, each for a reason that its own comment gives.
NOT_MET_AGAIN = {"api/holdings.py", "api/readers.py"}


def test_aLatchLetsEverybodyThrough() -> None:
    latch = Latch()
    assert not latch.isSet() and not latch.wait(0.01)
    waiting = [Background(lambda: latch.wait(60)).asleep() for _ in range(3)]
    latch.set()
    assert all(each.ended() for each in waiting) and latch.isSet() and latch.wait(0)


def test_aHandlerMayWaitForWhatItsThreadWaitsFor() -> None:
    """Broken, with `threading.Event`: the handler waited for the event's own lock, which the thread that it interrupted had."""
    latch, seen = Latch(), list[bool]()
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(latch.wait(60)))
    try:
        helper = Background(lambda: (time.sleep(0.05), signal.raise_signal(signal.SIGALRM), time.sleep(0.05), latch.set()))
        assert latch.wait(60)
        helper.ended()
        eventually(lambda: seen == [True], "the handler has waited too")
    finally:
        signal.signal(signal.SIGALRM, before)


def test_aJobIsDoneOnceWhoeverWaitsForIt() -> None:
    done, go = list[int](), threading.Event()

    def work() -> int:
        done.append(threading.get_ident())
        assert aside.isOwn() and job.isOwn()
        go.wait(60)
        return 7

    job = Job(work)
    waiting = [Background(lambda: job.result(60)) for _ in range(4)]
    assert job.result(0.05) is None, "it is not over"
    go.set()
    assert [each.ended() for each in waiting] == [7] * 4 and job.result(0) == 7
    assert len(done) == 1 and done != [threading.get_ident()] and not aside.isOwn()


def test_whatAJobRaisesIsRaisedWhereItIsWaitedFor() -> None:
    def work() -> None:
        raise KeyError("a")

    job = Job(work)
    for _ in range(2):
        with pytest.raises(KeyError):
            job.result(60)


def test_whatAJobRaisesKeepsNothingOnceItIsForgotten() -> None:
    """Broken: the error had the frames of the job, and the job the error, so what a failed join held stayed until the garbage collector came."""

    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)

    def work(held: Held) -> None:
        raise KeyError("a")

    job = Job(lambda kept=held: work(kept))
    del held
    gc.disable()
    try:
        with contextlib.suppress(KeyError):
            job.result(60)
        del job
        eventually(lambda: gone() is None, "nothing keeps it")
    finally:
        gc.enable()


def test_aLockMayBeMetAgainOnItsOwnThread() -> None:
    """By a handler or a finalizer, in the middle of what it guards. Broken: whoever came again waited for himself."""
    plain = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "threading.Lock()" in path.read_text()}
    assert plain <= NOT_MET_AGAIN
