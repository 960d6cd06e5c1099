"""Threads whose start is interrupted: none of them does another one's work."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

from muninn.devices.host.streams import WorkerStream
from muninn.devices.worker import StreamWorker
from muninn.system import threads
from support import eventually


@pytest.fixture
def startedTwice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread runs whose starter does not know it, as after an interruption, and starts
    another one.
    """
    begin = threads._begin

    def refused(thread: threading.Thread) -> None:
        begin(thread)
        raise RuntimeError("interrupted")

    monkeypatch.setattr(threads, "_begin", refused)


@pytest.mark.usefixtures("startedTwice")
def test_aCallIsMadeOnce() -> None:
    """Broken: by two threads."""
    made = list[int]()

    def call() -> None:
        time.sleep(0.05)
        made.append(threading.get_ident())

    thread = threads.start(call, "test")
    thread.join(30)
    assert len(made) == 1, "the join is that of the thread that makes the call"
    time.sleep(0.1)
    assert len(made) == 1


@pytest.mark.usefixtures("startedTwice")
def test_theWorkOfAStreamIsDoneInOrder() -> None:
    """Broken: two threads took it in turns, so the end of a copy was told before the copy
    was over, and this process died of a SIGSEGV.
    """
    stream, done = WorkerStream(0), list[int]()

    def work(number: int) -> None:
        time.sleep(0.001 * (10 - number))
        done.append(number)

    for number in range(10):
        stream.submit(lambda number=number: work(number))
    stream.synchronize(30)
    assert done == [*range(10)]


def test_aStreamWhoseStartWasInterruptedHasOneThread(monkeypatch: pytest.MonkeyPatch) -> None:
    start, isFirst = threads.start, [None]

    def interrupted(call: Any, name: str) -> Any:
        thread = start(call, name)
        if isFirst:
            isFirst.pop()
            raise KeyboardInterrupt
        return thread

    monkeypatch.setattr(threads, "start", interrupted)
    stream, done = WorkerStream(0), list[int]()
    with pytest.raises(KeyboardInterrupt):
        stream.submit(lambda: None)
    for number in range(10):
        stream.submit(lambda number=number: (time.sleep(0.001), done.append(number)))
    stream.synchronize(30)
    assert done == [*range(10)]
    name = f"muninn-stream-{stream.handle}"
    assert sum(each.name == name for each in threading.enumerate()) == 1
    del stream
    eventually(lambda: all(each.name != name for each in threading.enumerate()), "it ends")


def test_aStreamThatEndsBeforeItsThreadBeginsHasNone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start was interrupted, and the thread runs or not."""
    calls = list[Any]()

    def interrupted(call: Any, name: str) -> Any:
        calls.append(call)
        raise KeyboardInterrupt

    monkeypatch.setattr(threads, "start", interrupted)
    worker = StreamWorker("test")
    with pytest.raises(KeyboardInterrupt):
        worker.put(lambda error: None)
    assert not worker.endWith(lambda error: None), "it has no work, and is ended at once"
    calls[0]()  # begins now, and returns
    assert worker.items.empty()


def interruptAt(place: str, call: Any) -> None:
    """Call `call`, and raise KeyboardInterrupt where a function of `threading` of that
    name returns.
    """

    def look(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_name != place or frame.f_globals.get("__name__") != "threading":
            return None
        if event == "return":
            sys.settrace(None)
            raise KeyboardInterrupt
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            call()
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("place", ["__init__", "__enter__", "wait", "start"])
def test_anInterruptedStartLeavesNoThreadThatWaitsForEver(place: str) -> None:
    """Broken: `threading.Thread.start` waited for the thread with a lock, which an
    interruption left taken. The thread waited for that for ever, with all that it was to
    work on.
    """
    ran = list[int]()
    for number in range(5):
        interruptAt(place, lambda number=number: threads.start(lambda: ran.append(number), "it"))
    threads.start(lambda: ran.append(5), "it").join(30)
    eventually(lambda: all(each.name != "it" for each in threading.enumerate()), "they end")
    assert 5 in ran


def test_aThreadIsKnownWhileItRuns() -> None:
    seen, goesOn = list[str](), threading.Event()

    def work() -> None:
        seen.append(threading.current_thread().name)
        goesOn.wait(30)

    thread = threads.start(work, "known")
    eventually(lambda: seen == ["known"], "it runs")
    (known,) = (each for each in threading.enumerate() if each.name == "known")
    assert known.is_alive() and known.daemon
    goesOn.set()
    thread.join()
    known.join(timeout=30)
    # They wait for the work, and `threading` cleans up after that.
    eventually(lambda: not known.is_alive(), "it has ended")
