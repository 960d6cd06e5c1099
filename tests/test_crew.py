"""Crews: all jobs are done, or none begins any more, and the threads end first."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from muninn.errors import ThreadsExhausted
from muninn.session.crew import Crew
from muninn.system import threads


class Tool:
    """The tool of a thread, which remembers what became of it."""

    made: list[Tool] = []

    def __init__(self) -> None:
        self.isFinished = self.isClosed = False
        Tool.made.append(self)

    def finish(self) -> None:
        self.isFinished = True


@contextlib.contextmanager
def tools() -> Iterator[Tool]:
    tool = Tool()
    try:
        yield tool
    finally:
        tool.isClosed = True


@pytest.fixture(autouse=True)
def nothingIsLeft() -> Iterator[None]:
    Tool.made.clear()
    yield
    assert not [each for each in threading.enumerate() if each.name.startswith("muninn-crew")]
    assert all(tool.isClosed for tool in Tool.made)


def test_doesEveryJobOnceAndTellsTheCaller() -> None:
    done: list[int] = []
    told: list[tuple[int, int]] = []

    def job(number: int) -> Any:
        def run(tool: Tool, tell: Any) -> None:
            done.append(number)
            tell(number)

        return run

    Crew([job(number) for number in range(100)], tools, Tool.finish).work(
        4, lambda amount: told.append((threading.get_ident(), amount))
    )
    assert sorted(done) == list(range(100))
    assert sum(amount for _, amount in told) == 4950
    assert {thread for thread, _ in told} == {threading.get_ident()}
    assert all(tool.isFinished for tool in Tool.made)


def test_hasNothingToDoForNoJobs() -> None:
    Crew[Tool]([], tools, Tool.finish).work(4, None)
    assert Tool.made == []


def test_anErrorEndsTheOthersAndFinishesNone() -> None:
    began, seen = threading.Barrier(2), list[int]()

    def failing(tool: Tool, tell: Any) -> None:
        began.wait(30)
        raise KeyError("job")

    def slow(tool: Tool, tell: Any) -> None:
        began.wait(30)
        time.sleep(0.3)

    def later(tool: Tool, tell: Any) -> None:
        seen.append(1)

    with pytest.raises(KeyError, match="job"):
        Crew([failing, slow, *[later] * 50], tools, Tool.finish).work(2, None)
    assert seen == [] and not any(tool.isFinished for tool in Tool.made)


def test_anErrorOfTheToolOrOfItsFinishIsRaised() -> None:
    def broken() -> Any:
        raise ValueError("no tool")

    def idle(tool: Tool, tell: Any) -> None:
        tell(1)

    def unfinished(tool: Tool) -> None:
        raise ValueError("not finished")

    with pytest.raises(ValueError, match="no tool"):
        Crew([idle] * 3, broken, Tool.finish).work(2, None)
    with pytest.raises(ValueError, match="not finished"):
        Crew([idle] * 3, tools, unfinished).work(2, None)


def test_aCallerThatRaisesWaitsForTheThreads() -> None:
    seen: list[str] = []

    def job(tool: Tool, tell: Any) -> None:
        tell(1)
        time.sleep(0.2)
        seen.append("done")

    def stop(amount: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Crew([job] * 50, tools, Tool.finish).work(2, stop)
    assert 1 <= len(seen) <= 2


def test_anInterruptionOfTheWaitIsRaisedAfterIt(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def job(tool: Tool, tell: Any) -> None:
        tell(1)
        time.sleep(0.3)
        seen.append("done")

    crew = Crew([job] * 50, tools, Tool.finish)
    original, waits = crew._changed.wait, list[int]()

    def wait(seconds: float | None = None) -> None:
        if crew._isOver:
            waits.append(1)
            if len(waits) == 1:
                raise SystemExit("again")
        original(seconds)

    def stop(amount: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(crew._changed, "wait", wait)
    with pytest.raises(SystemExit, match="again"):
        crew.work(1, stop)
    assert seen == ["done"]


def test_aThreadThatCanNotBeStartedEndsTheOthers(monkeypatch: pytest.MonkeyPatch) -> None:
    original, started = threads.start, list[str]()

    def start(target: Any, name: str) -> Any:
        if started:
            raise ThreadsExhausted("no thread")
        started.append(name)
        return original(target, name)

    def job(tool: Tool, tell: Any) -> None:
        time.sleep(0.05)

    monkeypatch.setattr(threads, "start", start)
    with pytest.raises(ThreadsExhausted):
        Crew([job] * 50, tools, Tool.finish).work(2, None)


def test_anErrorHoldsNothingOfTheJob() -> None:
    """Broken: the memory that a job was filling lived as long as its error."""

    class Memory:
        """What a job fills."""

    held: list[weakref.ref[Memory]] = []

    def job(tool: Tool, tell: Any) -> None:
        memory = Memory()
        held.append(weakref.ref(memory))
        raise KeyError("job")

    with pytest.raises(KeyError) as caught:
        Crew([job], tools, Tool.finish).work(1, None)
    assert caught.value.__traceback__ is not None and held[0]() is None
