"""Accesses: a thread inside an access keeps others out, and the next reader or writer
waits for the work that the stream was given.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.control import layout
from muninn.control.tickets import Tickets
from muninn.errors import OwnerDied, WriterDied
from muninn.session import gpus, membership
from muninn.sync import contention, fences
from muninn.system import threads
from support import Actor, ActorError, Background, eventually, program

Start = Callable[..., Actor]
BYTES = 1 << 16
#: Another process. `fill(stream, n)` makes a stream wait until `semaphore` is set, and
#: then fills the buffer with n.
OTHER = program("accessOnStreams", BYTES=str(BYTES))


def device() -> Any:
    return gpus.deviceOf(membership.current())


@pytest.fixture(params=["fastMode", "bigMode"])
def buffer(request: pytest.FixtureRequest, domain: str) -> muninn.MuninnBuffer:
    return muninn.share(np.zeros(BYTES, np.uint8), "a", mode=request.param)


def content(buffer: muninn.MuninnBuffer) -> list[int]:
    return sorted(set(buffer.read(timeout=60).tolist()))


def isTold(scope: Any) -> bool:
    """Whether the access reports a death to the thread that begins it."""
    try:
        with scope:
            return False
    except OwnerDied:
        return True


def isTorn(buffer: muninn.MuninnBuffer) -> bool:
    return isTold(buffer.read(stream=None))


def awaitTorn(buffer: muninn.MuninnBuffer) -> None:
    """Wait until readers are told of a death, and until the default stream waits for no
    read that began before the death was known: it would be told later.
    """
    eventually(lambda: isTorn(buffer), "readers are told")
    with contextlib.suppress(OwnerDied):
        device().asStream(None).synchronize(60)


def test_twoThreadsOnTheDefaultStreamDoNotWaitForEachOtherForEver(
    buffer: muninn.MuninnBuffer,
) -> None:
    """Broken: a ticket was visible before the word that completes it was in the stream,
    and another thread put its wait before that word.
    """

    def scopes(scope: Callable[[], Any]) -> None:
        for _ in range(300):
            with scope():
                pass

    workers = [
        Background(lambda scope=scope: scopes(scope))
        for scope in (lambda: buffer.write(stream=None), lambda: buffer.read(stream=None)) * 2
    ]
    for worker in workers:
        worker.ended()
    device().asStream(None).synchronize(30)
    assert buffer.generation == 1200


def test_aSnapshotThatWaitedForAPublicationWaitsForItsKernels(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    """Broken: `read()` looked for kernels before it waited for the generation, and
    copied bytes that the kernels had not written yet.
    """
    writer = actor(OTHER)
    writer.do("scope = inside(b.write(stream=s)); fill(s, 5)")
    reading = Background(lambda: content(buffer)).asleep()
    writer.do("scope.__exit__(None, None, None)")
    reading.asleep()
    writer.do("semaphore.set()")
    assert reading.ended() == [5] and buffer.generation == 2


def test_aReaderThatComesWhileAWriterIsInsideComesBehind(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    """Broken: the reader waited for the writers that had left, and read beside the
    writer that was inside.
    """
    writer, reader = actor(OTHER), actor(OTHER)
    writer.do("scope = inside(b.write(stream=s)); fill(s, 5)")
    with pytest.raises(ActorError) as raised:
        reader.do("b.read(timeout=0.05, stream=s).__enter__()")
    assert raised.value.kind == "TimeoutError"
    reader.begin("with b.read(stream=s): target = taken(s)")
    writer.do("scope.__exit__(None, None, None)")
    reader.result()
    assert reader.do("s.query()") is False
    writer.do("semaphore.set()")
    assert reader.do("s.synchronize(30); bytesOf(target)") == [5]


def test_aWriterThatComesWhileAReaderIsInsideComesBehind(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    """Broken: the writer overtook the reader's kernels, which had no ticket yet."""
    reader, writer = actor(OTHER), actor(OTHER)
    reader.do(
        "scope = inside(b.read(stream=s)); s.submit(lambda: semaphore.wait(60)); target = taken(s)"
    )
    for stream in ("", ", stream=s"):
        with pytest.raises(ActorError) as raised:
            writer.do(f"b.write(timeout=0.05{stream}).__enter__()")
        assert raised.value.kind == "TimeoutError"
    writer.begin("with b.write(stream=s): fill(s, 5, stands=False)")
    time.sleep(0.05)
    assert buffer.generation == 0, "the write has not begun"
    reader.do("scope.__exit__(None, None, None)")
    writer.result()
    assert writer.do("s.query()") is False
    reader.do("semaphore.set()")
    assert reader.do("s.synchronize(30); bytesOf(target)") == [0]
    assert content(buffer) == [5]


def test_readersAreInsideTogether(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    readers = [actor(OTHER) for _ in range(2)]
    for reader in readers:
        reader.do("one = inside(b.read(stream=s)); two = inside(b.read(stream=t))")
    for reader in readers:
        reader.do("two.__exit__(None, None, None)")
    with pytest.raises(TimeoutError):
        buffer.write(timeout=0.05, stream=None).__enter__()
    readers[0].do("one.__exit__(None, None, None)")
    with pytest.raises(TimeoutError):
        buffer.write(timeout=0.05, stream=None).__enter__()
    readers[1].do("one.__exit__(None, None, None)")
    with buffer.write(timeout=60, stream=None):
        pass


def test_aReaderInsideDoesNotWaitForTheWriterThatWaitsForIt(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    reader, writer = actor(OTHER), actor(OTHER)
    reader.do("one = inside(b.read(stream=s))")
    writer.begin("with b.write(stream=s): pass")
    time.sleep(0.05)
    assert (
        reader.do(
            "two = inside(b.read(timeout=30, stream=t)); two.__exit__(None, None, None); one.__exit__(None, None, None)"
        )
        is False
    )
    writer.result()


def test_aReaderThatLeavesWakesTheWriter(
    buffer: muninn.MuninnBuffer, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the writer slept until its next look, which comes every 50 ms."""
    monkeypatch.setattr(contention, "_CHECK_NS", 60_000_000_000)
    reader = actor(OTHER)
    reader.do("scope = inside(b.read(stream=s))")
    writing = Background(lambda: buffer.write(stream=None).__enter__()).asleep()
    reader.do("scope.__exit__(None, None, None)")
    assert writing.ended() is not None


def test_aDeadReaderKeepsNoWriterOut(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    reader = actor(OTHER)
    reader.do(
        "scope = inside(b.read(stream=s)); s.submit(lambda: semaphore.wait(60)); target = taken(s)"
    )
    writing = Background(lambda: buffer.write(stream=None).__enter__()).asleep()
    reader.kill()
    assert writing.ended() is not None


def test_aWriterThatDiedInsideIsToldToReaders(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    writer = actor(OTHER)
    writer.do("scope = inside(b.write(stream=s)); fill(s, 5)")
    reading = Background(lambda: buffer.read(stream=None).__enter__()).asleep()
    writer.kill()
    assert isinstance(reading.ended(), WriterDied)
    with buffer.write(timeout=60, stream=None):
        pass
    with buffer.read(timeout=60, stream=None):
        pass


def test_oneThreadIsInsideOneKindOfAccess(buffer: muninn.MuninnBuffer) -> None:
    with buffer.read(stream=None):
        for again in (buffer.write(stream=None), buffer.write()):
            with pytest.raises(RuntimeError, match="reading"):
                again.__enter__()
    with buffer.write(stream=None):
        with pytest.raises(RuntimeError, match="writing"):
            buffer.read(stream=None).__enter__()
        with pytest.raises(RuntimeError, match="writing"):
            buffer.write(stream=None).__enter__()
    with buffer.read(stream=None), buffer.read(stream=None):
        pass
    assert buffer.generation == 2


def test_theWorkOfAFailedAccessIsWaitedFor(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    """Broken: an access that ended by an exception had no ticket, and its kernels
    overwrote the bytes that the next writer had published.
    """
    first = actor(OTHER)
    with pytest.raises(ActorError, match="no reason"):
        first.do("with b.write(stream=s): fill(s, 7); raise ValueError('no reason')")
    with pytest.raises(WriterDied):
        buffer.read(stream=None).__enter__()
    second = actor(OTHER)
    second.do("with b.write(stream=s): fill(s, 2, stands=False)")
    assert second.do("s.query()") is False
    first.do("semaphore.set(); s.synchronize(30)")
    assert content(buffer) == [2]


def test_aBufferThatADeadWriterToreIsMendedByTheNextOne(domain: str, actor: Start) -> None:
    """Broken: a write access of the host has no ticket, so every later reader was told
    of the dead writer.
    """
    buffer, writer = muninn.share(np.zeros(BYTES, np.uint8), "a", mode="bigMode"), actor(OTHER)
    writer.do("s.submit(lambda: semaphore.wait(60))\nwith b.write(stream=s): pass")
    writer.kill()
    awaitTorn(buffer)
    with pytest.raises(ValueError, match="no reason"), buffer.write(timeout=60):
        raise ValueError("no reason")
    with pytest.raises(WriterDied):
        buffer.read(stream=None).__enter__()
    with buffer.write(timeout=60) as view:
        view[:] = 9
    assert content(buffer) == [9] and not isTorn(buffer)


def test_aBufferThatADeadWriterToreStaysTornHoweverManySignal(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    """Broken: the dead writer's ticket left the ring, and readers took the half written
    buffer for whole.
    """
    writer = actor(OTHER)
    writer.do("s.submit(lambda: semaphore.wait(60))\nwith b.write(stream=s): pass")
    writer.kill()
    awaitTorn(buffer)
    for _ in range(70):
        buffer.wait(None, buffer.signal())
    assert isTorn(buffer)
    with pytest.raises(OwnerDied):
        buffer.read(timeout=60)


def test_aWriterThatCameBehindTheDeadOneMendsItAll(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    """Broken: the second writer's stream failed with the error of the dead one, and the
    next three accesses called its data half written.
    """
    first, second = actor(OTHER), actor(OTHER)
    first.do(
        "s.submit(lambda: semaphore.wait(60))\nwith b.write(stream=s): fill(s, 5, stands=False)"
    )
    second.do("with b.write(stream=s): fill(s, 2, stands=False)")
    first.kill()
    assert second.do("s.synchronize(60)") is None
    assert content(buffer) == [2]
    second.do("with b.write(stream=s): fill(s, 3, stands=False)")
    assert content(buffer) == [3]


FILLS_THE_RING = """
from muninn.sync import fences
fences._ISSUE_BOUND_SECONDS = 0.05; u = d.createStream(0); other = threading.Event(); u.submit(lambda: other.wait(60))
for _ in range(32): b.signal(u)
"""
CANNOT = {
    "the ring is full": (FILLS_THE_RING, "", "TimeoutError"),
    "the stream is closed": ("other = threading.Event()", "; s.close()", "InvalidArgument"),
}


@pytest.mark.parametrize("kind", ["write", "read"])
@pytest.mark.parametrize(("before", "inside", "error"), CANNOT.values(), ids=list(CANNOT))
def test_anAccessThatCanPromiseNothingLastsUntilItsWorkIsOver(
    buffer: muninn.MuninnBuffer, actor: Start, kind: str, before: str, inside: str, error: str
) -> None:
    """Broken: the access released the owner lock, and its kernels ran between or after
    the kernels of the next writer.
    """
    first, second = actor(OTHER), actor(OTHER)
    first.do(before)
    work = (
        "fill(s, 5)"
        if kind == "write"
        else "s.submit(lambda: semaphore.wait(60)); target = taken(s)"
    )
    with pytest.raises(ActorError) as raised:
        first.do(f"with b.{kind}(stream=s): {work}{inside}")
    assert raised.value.kind == error
    with pytest.raises(ActorError) as raised:
        second.do("b.write(timeout=0.3, stream=s).__enter__()")
    assert raised.value.kind == "TimeoutError"
    with pytest.raises(ActorError) as raised:
        first.do("b.write(timeout=0.3, stream=t).__enter__()")
    assert raised.value.kind == "TimeoutError", (
        "it does not begin another access itself, and that thread has no access any more"
    )
    second.begin("with b.write(stream=s): fill(s, 2, stands=False)")
    first.do("other.set(); semaphore.set()")
    second.result()
    assert content(buffer) == [2] and buffer.generation == 2
    if kind == "read":
        assert first.do("bytesOf(target)") == [0]
    first.do("with b.write(stream=t): fill(t, 3, stands=False)")
    assert content(buffer) == [3]


@pytest.mark.parametrize("kind", ["write", "read"])
def test_anAccessEndsAlsoWhereNoThreadCanBeHad(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Broken: the thread that was to end the access could not start either, and no
    process could write the buffer again.
    """
    stream = device().createStream(0)

    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    scope = getattr(buffer, kind)(stream=stream)
    scope.__enter__()
    monkeypatch.setattr(fences, "signal", refused)
    monkeypatch.setattr(threads, "start", refused)
    with pytest.raises(RuntimeError, match="new thread"):
        scope.__exit__(None, None, None)
    monkeypatch.undo()
    with buffer.write(timeout=60, stream=stream):
        pass


@pytest.mark.parametrize("how", ["snapshot", "stream"])
def test_aReaderIsNotToldOfADeathThatALaterWriterMends(
    buffer: muninn.MuninnBuffer, actor: Start, how: str
) -> None:
    """Broken: the reader waited for both writers and was told that the first had died,
    although the second had written all bytes anew; its stream kept the error.
    """
    first, second, reader = actor(OTHER), actor(OTHER), actor(OTHER)
    first.do(
        "s.submit(lambda: semaphore.wait(60))\nwith b.write(stream=s): fill(s, 5, stands=False)"
    )
    second.do("with b.write(stream=s): fill(s, 2, stands=False)")
    if how == "stream":
        reader.do("with b.read(stream=s): target = taken(s)")
        first.kill()
        assert reader.do("s.synchronize(60); bytesOf(target)") == [2]
    else:
        reading = Background(lambda: content(buffer)).asleep()
        first.kill()
        assert reading.ended() == [2]


def test_aCopyIsNotToldOfADeathThatWasMendedWhileItWaited(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the copy read the name of the last writer before it waited, so a writer
    that wrote all bytes anew meanwhile did not count.
    """
    buffer, writer = muninn.share(np.zeros(BYTES, np.uint8), "a", mode="bigMode"), actor(OTHER)
    writer.do("s.submit(lambda: semaphore.wait(60))\nwith b.write(stream=s): pass")
    awaited = Tickets.await_

    def mendedMeanwhile(*arguments: Any) -> int:
        state = awaited(*arguments)
        if state == layout.TICKET_POISONED:
            monkeypatch.undo()
            with buffer.write(timeout=60) as view:
                view[:] = 9
        return state

    monkeypatch.setattr(Tickets, "await_", mendedMeanwhile)
    reading = Background(lambda: content(buffer)).asleep()
    writer.kill()
    assert reading.ended() == [9]


def test_aProcessInsideAnAccessDoesNotLeaveTheDomain(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    """Broken: the process said goodbye, and others took this for the end of its work;
    its kernels then overwrote the bytes that the next writer had published.
    """
    first, second = actor(OTHER, MUNINN_IPC_GRACE_MS="200"), actor(OTHER)
    first.do("scope = inside(b.write(stream=s)); fill(s, 5); membership.current().leave()")
    with pytest.raises(ActorError) as raised:
        second.do("b.write(timeout=0.3, stream=s).__enter__()")
    assert raised.value.kind == "TimeoutError"
    first.do("semaphore.set(); s.synchronize(60); membership.current().leave()")
    second.do("with b.write(stream=s): fill(s, 2, stands=False)")
    assert content(buffer) == [2]


def test_oneThreadBeginsAnAccessAndAnotherEndsIt(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    """Broken: the second thread could not end a write access, and no process could
    write the buffer again.
    """
    for scope in (buffer.write(stream=None), buffer.read(stream=None)):
        Background(scope.__enter__).ended()
        scope.__exit__(None, None, None)
    other = actor(OTHER)
    other.do(
        "with b.write(timeout=60): pass"
        if buffer.mode == "bigMode"
        else "with b.write(timeout=60, stream=s): pass"
    )
    assert buffer.generation == 4


@pytest.mark.parametrize("kind", ["write", "read"])
def test_theLimitOfAnAccessIsForAllThatItWaitsFor(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Broken: each wait of an access got the whole timeout."""
    asked, holdBack = list[float | None](), fences.holdBack

    def noting(*arguments: Any, timeout: float | None, **more: Any) -> None:
        asked.append(timeout)
        holdBack(*arguments, timeout=timeout, **more)

    monkeypatch.setattr(fences, "holdBack", noting)
    first = buffer.write(stream=None)
    first.__enter__()
    scope = getattr(buffer, kind)(timeout=60.0, stream=None)
    entering = Background(scope.__enter__).asleep()
    first.__exit__(None, None, None)
    assert not isinstance(entering.ended(), BaseException)
    assert asked[0] is None and asked[1] is not None and asked[1] <= 59.95


def test_anAccessThatEndsAsTheNextBeginsIsNotTakenForTheNext(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    """Broken: a thread was taken to be inside an access that another thread ended
    meanwhile, and entered beside the writer.
    """
    writer, first = actor(OTHER), buffer.read(stream=None)
    first.__enter__()
    writer.begin("scope = inside(b.write(stream=s, timeout=60))")
    Background(lambda: first.__exit__(None, None, None)).ended()
    writer.result()
    with pytest.raises(TimeoutError):
        buffer.read(timeout=0.2, stream=None).__enter__()
    writer.do("scope.__exit__(None, None, None)")
    with buffer.read(timeout=60, stream=None):
        pass
