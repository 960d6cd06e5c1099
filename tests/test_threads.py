"""Threads whose start is interrupted: none of them does another one's work."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from muninn.devices.host.streams import WorkerStream
from muninn.devices.worker import StreamWorker
from muninn.system import threads
from support import eventually


@pytest.fixture
def startedTwice(monkeypatch: pytest.MonkeyPatch) -> None:
    """`threading` raises `RuntimeError` for a thread that runs, as it does when a signal
    handler raises while it waits for the thread.
    """
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        start(thread)
        raise RuntimeError("cannot release un-acquired lock")

    monkeypatch.setattr(threading.Thread, "start", refused)


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
