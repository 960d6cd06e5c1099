"""Accesses on a driver: the rules of `tests/test_access.py` for GPUs that wait for
words, and for the other kinds of streams that a driver has.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_access import *

import muninn
from muninn.errors import InvalidArgument, OwnerDied
from muninn.sync import fences
from support import Actor, ActorError, Background, eventually

#: `make test` has the same rules on the host back-end.
pytestmark = pytest.mark.long
Start = Callable[..., Actor]
#: Another process. `mine` is another library's stream, which waits between
#: `longKernel()` and `endKernel()`; Muninn does not know of that wait. It runs in
#: another process because a thread that frees memory meanwhile, for example of an
#: earlier test, has the driver's lock until the kernel ends.
LONG_KERNEL = """
from cuda.bindings import driver as cu
from muninn.system import atomics
with d.onGpu(0): mine, word = int(cu.cuStreamCreate(1)[1]), int(cu.cuMemHostAlloc(8, 2)[1])
atomics.storeRelease64(word, 0)
def longKernel():
    with d.onGpu(0): assert int(cu.cuStreamWaitValue64(mine, word, 1, 0)[0]) == 0
def endKernel(): atomics.storeRelease64(word, 1)
"""


def test_noThreadWaitsForATicketWhoseWordIsNotInItsStream(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a thread put its wait into the default stream before another thread had
    put the word of the ticket there.
    """
    wordOf, between, waits = fences._wordOf, threading.Event(), list[Background]()

    def slowly(*arguments: Any) -> Any:
        if not waits:
            waits.append(Background(lambda: buffer.wait(0)).asleep())
            between.set()
        return wordOf(*arguments)

    monkeypatch.setattr(fences, "_wordOf", slowly)
    assert buffer.signal(0) == 1 and between.is_set()
    assert waits[0].ended() in (0, 1)
    device().asStream(None).synchronize(30)


def test_anothersStreamIsToldOnceOfTheDead(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    """Broken: the stream stayed poisoned, but can not be made anew: PyTorch's streams
    are a pool. Writers were not told of the death, and readers got wrong errors.
    """
    from cuda.bindings import driver as cu

    writer, other = actor(OTHER), muninn.share(np.zeros(BYTES, np.uint8), "b", mode=buffer.mode)
    other.open()
    with device().onGpu(0):
        mine = int(cu.cuStreamCreate(1)[1])
    writer.do("s.submit(lambda: semaphore.wait(60))\nwith b.write(stream=s): pass")
    with buffer.read(stream=mine):
        pass
    writer.kill()

    eventually(lambda: isTold(other.write(stream=mine)), "the next access of the stream is told")
    for _ in range(3):
        with other.write(stream=mine):
            pass
        assert other.read(timeout=60).shape == (BYTES,)
    device().asStream(mine).close()
    with other.write(stream=mine):
        pass
    assert other.read(timeout=60).shape == (BYTES,), "close only closed our view of the stream"


def test_aToldDeathStillPoisonsTicketsThatWereIssuedBefore(domain: str, actor: Start) -> None:
    """Broken: the error of another library's stream is raised once; tickets that had
    been issued before were then called whole.
    """
    made, _, other = (
        muninn.share(np.zeros(BYTES, np.uint8), name, mode="fastMode")
        for name in ("made", "a", "other")
    )
    writer, reader = actor(OTHER), actor(OTHER + LONG_KERNEL)
    writer.do("s.submit(lambda: semaphore.wait(60))\nwith b.write(stream=s): pass")
    reader.do(
        "made, other = (muninn.open(name, access='readWrite') for name in ('made', 'other')); made.open(); other.open()"
    )
    reader.do("with b.read(stream=mine): longKernel()")
    reader.do(f"with made.write(stream=mine): d.copy(made.open(), p, {BYTES}, mine)")
    writer.kill()

    def isReaderTold() -> bool:
        try:
            return bool(reader.do("with other.read(stream=mine): pass"))
        except ActorError as error:
            return error.kind == "OwnerDied"

    eventually(isReaderTold, "the next access of the stream is told")
    reader.do("endKernel()")
    with pytest.raises(OwnerDied):
        made.read(timeout=60)
    assert not isReaderTold() and other.read(timeout=60).shape == (BYTES,)


def test_anErrorThatAnotherThreadGotIsTheAccessesErrorToo(domain: str, actor: Start) -> None:
    """Broken: the first access on the default stream got its error, and an access that
    copied torn bytes counted as whole for all others.
    """
    source, made, other = (
        muninn.share(np.zeros(BYTES, np.uint8), name, mode="fastMode")
        for name in ("a", "made", "other")
    )
    writer = actor(OTHER)
    writer.do("s.submit(lambda: semaphore.wait(60))\nwith b.write(stream=s): pass")
    with source.read(stream=None), made.write(stream=None):
        device().copy(made.open(), source.open(), BYTES, None)
        writer.kill()
        assert Background(
            lambda: eventually(lambda: isTorn(other), "another thread is told")
        ).ended(60)
    with pytest.raises(OwnerDied):
        made.read(timeout=60)


def test_aDeathThatWasSaidByHalfEndsAGpusWait(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the broker poisoned the ticket, and died before it raised the fence word;
    its successor took the work for done.
    """
    from muninn.control.members import MemberKey

    dead, stream = MemberKey(5, 70000), device().createStream(0)
    tickets = buffer._held().tickets
    ticket = tickets.issue(dead)
    buffer.wait(stream, ticket)
    monkeypatch.setattr(type(tickets), "raiseFence", lambda *_: None)
    tickets.poison(dead)
    monkeypatch.undo()
    with pytest.raises(OwnerDied):
        stream.synchronize(60)
    other = device().createStream(0)
    other.synchronize(60)


def test_theLegacyDefaultStreamIsOneUnderBothItsHandles(buffer: muninn.MuninnBuffer) -> None:
    """Broken: 0 and 1 had a stream worker each, so a wait on one did not hold back the
    tickets of the other.
    """
    there = device()
    assert there.asStream(1) is there.asStream(0) is there.asStream(None)
    with buffer.write(stream=1):
        pass
    assert content(buffer) == [0]


def test_thePerThreadDefaultStreamIsEachThreadsOwn(buffer: muninn.MuninnBuffer) -> None:
    """Broken: the streams of two threads had one stream worker: the tickets of one
    thread waited for the waits of the other, and got its errors.
    """
    there = device()
    mine = there.asStream(2)
    assert there.asStream(2) is mine
    theirs = Background(lambda: there.asStream(2)).ended()
    assert theirs is not mine
    for use in (
        lambda: buffer.signal(mine),
        lambda: buffer.write(stream=mine).__enter__(),
        mine.synchronize,
    ):
        assert isinstance(Background(use).ended(), InvalidArgument), (
            "in that thread its handle means another stream"
        )
    stands = threading.Event()
    mine.submit(lambda: stands.wait(60))
    buffer.signal(2)
    ticket = Background(lambda: buffer.signal(2)).ended()
    buffer.wait(None, ticket, timeout=60)
    assert not mine.query()
    stands.set()
    mine.synchronize(60)


def test_aStreamOnItsWayToAWordIsNotLeftBehind(domain: str, actor: Start) -> None:
    """Broken: the word began at 0 again for the row's next buffer, before the stream
    had reached its wait for the word.
    """
    buffer = muninn.share(np.zeros(BYTES, np.uint8), "a")
    writer, waiter = actor(OTHER), actor(OTHER + LONG_KERNEL)
    waiter.do("longKernel()")
    writer.do("s.submit(lambda: semaphore.wait(60)); b.signal(s)")
    waiter.do("b.wait(mine)")
    writer.do("semaphore.set(); s.synchronize(30)")
    buffer.free()
    del buffer
    for each in (writer, waiter):
        each.do("b.close()")
    time.sleep(0.2)
    others = [muninn.share(np.zeros(BYTES, np.uint8), f"other{number}") for number in range(3)]
    waiter.do("endKernel(); d.asStream(mine).synchronize(30)")
    eventually(
        lambda: (
            any(each["name"] == "late" for each in muninn.listBuffers())
            or muninn.share(np.zeros(8), "late")
        ),
        "and the row is free",
    )
    assert len(others) == 3


def test_aCapturedStreamIsRefusedAndItsCaptureGoesOn(buffer: muninn.MuninnBuffer) -> None:
    from cuda.bindings import driver as cu

    there = device()
    with there.onGpu(0):
        stream = int(cu.cuStreamCreate(1)[1])
        buffer.wait(stream)
        assert (
            int(
                cu.cuStreamBeginCapture(
                    stream, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
                )[0]
            )
            == 0
        )
        with pytest.raises(InvalidArgument):
            buffer.signal(stream)
        status, graph = cu.cuStreamEndCapture(stream)
        assert status == cu.CUresult.CUDA_SUCCESS
        cu.cuGraphDestroy(graph)
    with buffer.write(stream=stream):
        pass
    assert content(buffer) == [0]


def test_nothingOfOursBreaksAnothersCapture(domain: str, actor: Start) -> None:
    """Broken: Muninn's threads queried events and synchronized contexts, which ends the
    capture of any stream (`torch.cuda.graph`).
    """
    from cuda.bindings import driver as cu

    buffers = {
        mode: muninn.share(np.zeros(BYTES, np.uint8), mode, mode=mode)
        for mode in ("fastMode", "bigMode")
    }
    there = device()
    started, ended, semaphore, answers = (
        threading.Event(),
        threading.Event(),
        threading.Event(),
        list[str](),
    )
    stands = there.createStream(0)

    def capture() -> None:
        with there.onGpu(0):
            stream = int(cu.cuStreamCreate(1)[1])
            answers.append(
                cu.cuStreamBeginCapture(
                    stream, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
                )[0].name
            )
            started.set()
            ended.wait(60)
            answers.append(cu.cuStreamEndCapture(stream)[0].name)

    capturing = Background(capture)
    assert started.wait(60)
    stands.submit(lambda: semaphore.wait(60))
    closed = []
    for mode, buffer in buffers.items():
        stream, opened = (
            there.createStream(0),
            muninn.share(np.zeros(BYTES, np.uint8), f"{mode}2", mode=mode),
        )
        for each in (buffer, opened):
            with each.write(stream=stream):
                pass
            with each.read(stream=None):
                pass
            each.wait(stream, each.signal(stream))
        stream.synchronize(60)
        assert stream.query() and each.read(timeout=60).shape == (BYTES,)
        address = opened.open()
        there.copy(address, buffer.open(), BYTES, stands)
        opened.free()
        closed.append(address)
        there.asStream(None).synchronize(60)
    del opened, each
    time.sleep(0.3)
    semaphore.set()
    # If an address had been unmapped under its copies, the context would have failed.
    stands.synchronize(60)
    ended.set()
    capturing.ended()
    assert answers == ["CUDA_SUCCESS", "CUDA_SUCCESS"] and len(closed) == 2
