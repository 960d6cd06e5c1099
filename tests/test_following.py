"""Following: a program that uses the newest version of a bundle again and again, and the
thread that opens versions ahead.
"""

from __future__ import annotations

import gc
import os
import queue
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.api import following
from muninn.errors import BrokerUnavailable, BufferFreed, BufferNotFound
from muninn.session import membership
from muninn.system import clock
from muninn.system.beside import besideTheProgram, rest
from support import Actor, eventually, program

Start = Callable[..., Actor]


def publish(value: int) -> None:
    muninn.publish("m", {"a": np.full(8, value)}).close()


def valueOf(bundle: muninn.Bundle) -> int:
    return int(bundle["a"][0])


def isOn(follower: muninn.BundleFollower, value: int) -> bool:
    return valueOf(follower.newest()) == value


def test_newestIsWhatWasPublishedBefore(domain: str) -> None:
    publish(1)
    with muninn.followBundle("m") as follower:
        before = follower.newest()
        assert follower.newest() is before
        publish(2)
        assert (valueOf(follower.newest()), valueOf(before)) == (2, 1)
        del before
        assert len(muninn.listBuffers()) == 1  # nobody has the first one any more
        muninn.free("m")
        with pytest.raises(BufferNotFound):
            follower.newest()
        publish(3)
        last = follower.newest()
        assert valueOf(last) == 3
    with pytest.raises(BufferFreed, match="'m' is closed"):
        follower.newest()
    with pytest.raises(BufferFreed):
        valueOf(last)


def test_aheadNoCallOpensAVersion(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(0)
    original, threadsThatOpened = following._opened, list[int]()

    def opening(*arguments: Any, **keywords: Any) -> muninn.Bundle:
        threadsThatOpened.append(threading.get_ident())
        return original(*arguments, **keywords)

    monkeypatch.setattr(following, "_opened", opening)
    with muninn.followBundle("m", ahead=True) as follower:
        for value in (1, 2, 3):
            publish(value)
            eventually(partial(isOn, follower, value), "it is ready")
    assert threadsThatOpened.pop(0) == threading.get_ident()
    assert len(threadsThatOpened) >= 3 and threading.get_ident() not in threadsThatOpened


def test_aheadTheVersionBeforeIsGivenMeanwhile(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(1)
    mayOpen = threading.Event()
    with muninn.followBundle("m", ahead=True) as follower:
        original = follower._upcoming._openNewest  # type: ignore[union-attr]
        monkeypatch.setattr(
            follower._upcoming, "_openNewest", lambda: mayOpen.wait(60) and original()
        )
        publish(2)
        first = follower.newest()
        assert valueOf(first) == 1 and not first.isCurrent
        mayOpen.set()
        eventually(lambda: valueOf(follower.newest()) == 2, "the newer version is ready")


def test_versionsThatWereNotTakenAreLetGo(domain: str) -> None:
    publish(0)
    with muninn.followBundle("m", ahead=True) as follower:
        for value in range(1, 5):
            publish(value)
            eventually(
                lambda: (ready := follower._upcoming.ready()) and ready.bundle.isCurrent,  # type: ignore[union-attr]
                "it is ready",
            )
        # The one that the program has, and the newest.
        eventually(lambda: len(muninn.listBuffers()) == 2, "the others are freed")
        assert valueOf(follower.newest()) == 4
        eventually(lambda: len(muninn.listBuffers()) == 1, "the first is freed")


def test_aheadAFreedNameIsSaidAndFoundAgain(domain: str) -> None:
    publish(1)
    with muninn.followBundle("m", ahead=True) as follower:
        follower.newest()
        muninn.free("m")

        def isSaid() -> bool:
            try:
                follower.newest()
            except BufferNotFound:
                return True
            return False

        eventually(isSaid, "the name is gone")
        publish(2)
        eventually(lambda: not isSaid() and valueOf(follower.newest()) == 2, "it is there again")
        publish(3)
        eventually(lambda: valueOf(follower.newest()) == 3, "the thread goes on")


def test_theThreadEndsWithItsFollower(domain: str) -> None:
    def running() -> int:
        return sum(each.name == "muninn-upcoming" for each in threading.enumerate())

    eventually(lambda: not running(), "the threads of other tests have ended")
    publish(1)
    followers = [muninn.followBundle("m", ahead=True)]
    assert running() == 1
    followers.clear()
    gc.collect()
    eventually(lambda: not running(), "the thread has ended")
    with muninn.followBundle("m", ahead=True) as follower:
        assert running() == 1
    eventually(lambda: not running(), "the thread of a closed follower has ended")
    with pytest.raises(BufferFreed):
        follower.newest()


def _raise() -> muninn.Bundle:
    raise BrokerUnavailable("for a moment")


def test_anErrorOfTheThreadIsTheProgramsToSee(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread could not, for a reason that is over: the program's own attempt opens
    the version, and the thread goes on.
    """
    publish(1)
    with muninn.followBundle("m", ahead=True) as follower:
        ahead = follower._upcoming
        assert ahead is not None
        monkeypatch.setattr(ahead, "_openNewest", _raise)
        publish(2)
        eventually(lambda: ahead.hasFailed, "the thread has tried")
        assert valueOf(follower.newest()) == 2
        monkeypatch.undo()
        eventually(lambda: not ahead.hasFailed, "the thread is well again")
        publish(3)
        eventually(lambda: valueOf(follower.newest()) == 3, "it goes on")


@pytest.mark.parametrize("hasThread", [True, False])
def test_aForkedChildFollowsByItself(domain: str, actor: Start, hasThread: bool) -> None:
    publish(1)
    parent = actor(program("childFollows", HAS_THREAD=str(hasThread)))
    publish(2)
    assert parent.do("os.write(go, b'x'); os.read(reading, 9).decode()") == "2"
    parent.do("os.waitpid(child, 0)")


@pytest.mark.parametrize("ahead", [True, False])
def test_aForkedChildKeepsTheVersionThatItWasGiven(domain: str, actor: Start, ahead: bool) -> None:
    """Broken under `gunicorn --preload`: a version that was published while the child
    joined the domain made its first use of the bundle `BufferFreed`.
    """
    publish(1)
    parent = actor(program("childKeepsItsVersion", AHEAD=str(ahead)))
    publish(2)
    assert parent.do("os.write(go, b'x'); os.read(reading, 9).decode()") == "1"
    parent.do("os.waitpid(child, 0)")


def _restOften() -> None:
    for _ in range(100):
        rest()


def test_workBesideTheProgramRests(monkeypatch: pytest.MonkeyPatch) -> None:
    rests, own, original = list[float](), threading.get_ident(), clock.sleep

    def sleep(seconds: float) -> None:
        (rests.append if threading.get_ident() == own else original)(seconds)

    monkeypatch.setattr(clock, "sleep", sleep)
    _restOften()
    assert rests == []
    with besideTheProgram():
        _restOften()
        assert len(rests) == 100 // 16
        other = threading.Thread(target=_restOften)
        other.start()
        other.join()
    assert len(rests) == 100 // 16


def _workOnce() -> None:
    with besideTheProgram():
        pass


def test_theInterpreterSwitchesOftenMeanwhile() -> None:
    usual = sys.getswitchinterval()
    try:
        with besideTheProgram():
            often = sys.getswitchinterval()
            other = threading.Thread(target=_workOnce)
            other.start()
            other.join()
            assert sys.getswitchinterval() == often < usual
            if (child := os.fork()) == 0:
                os._exit(sys.getswitchinterval() != usual)
            assert os.waitpid(child, 0)[1] == 0
        assert sys.getswitchinterval() == usual
        with besideTheProgram():
            sys.setswitchinterval(0.001)  # the program's own wish
        assert sys.getswitchinterval() == 0.001
    finally:
        sys.setswitchinterval(usual)


def test_aBundleThatTheProgramClosedIsOpenedAgain(domain: str) -> None:
    publish(1)
    for ahead in (False, True):
        with muninn.followBundle("m", ahead=ahead) as follower:
            for _ in range(2):
                with follower.newest() as bundle:
                    assert valueOf(bundle) == 1
            publish(1)
            with follower.newest() as bundle:
                assert valueOf(bundle) == 1
            assert valueOf(follower.newest()) == 1


def test_whatTheProgramOpenedItselfIsNotTakenBack(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is slow with an older version while the program opens a newer one."""
    publish(1)
    begins, mayEnd = queue.SimpleQueue[None](), queue.SimpleQueue[None]()
    with muninn.followBundle("m", ahead=True) as follower:
        ahead = follower._upcoming
        assert ahead is not None

        def slowly(bundle: muninn.Bundle) -> None:
            begins.put(None)
            mayEnd.get(timeout=60)

        monkeypatch.setattr(ahead, "_prepare", slowly)
        publish(2)
        begins.get(timeout=60)
        publish(3)
        monkeypatch.setattr(ahead, "_hasFailed", True)
        assert valueOf(follower.newest()) == 3
        publish(4)
        monkeypatch.setattr(ahead, "_hasFailed", False)
        mayEnd.put(None)  # the thread is done with 2
        begins.get(timeout=60)  # and prepares 4
        assert valueOf(follower.newest()) == 3
        mayEnd.put(None)
        eventually(lambda: valueOf(follower.newest()) == 4, "the last one is ready")


def test_onlyTheProgramJoins(domain: str) -> None:
    publish(1)
    membership.current().leave()
    with besideTheProgram(), pytest.raises(BrokerUnavailable, match="the program's to do"):
        muninn.openBundle("m")
    assert valueOf(muninn.openBundle("m")) == 1


def test_manyThreadsFollow(domain: str) -> None:
    publish(0)
    errors = list[BaseException]()
    isOver = threading.Event()

    def use(follower: muninn.BundleFollower) -> None:
        last = 0
        try:
            while not isOver.is_set():
                bundle = follower.newest()
                values = np.asarray(bundle["a"])
                assert (values == values[0]).all() and values[0] >= last
                last = int(values[0])
        except BaseException as error:
            errors.append(error)

    with muninn.followBundle("m", ahead=True) as follower:
        threads = [threading.Thread(target=use, args=(follower,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for value in range(1, 30):
            publish(value)
        isOver.set()
        for thread in threads:
            thread.join()
        assert errors == []
        eventually(lambda: valueOf(follower.newest()) == 29, "the last version")
