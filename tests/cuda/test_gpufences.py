"""Fences between processes on a driver: one GPU writes words for which another waits,
and the fences of a dead process are poisoned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.control import layout
from muninn.errors import OwnerDied
from muninn.session import gpus, membership
from support import Actor, ActorError, Background, eventually

Start = Callable[..., Actor]
DEVICE = (
    "import threading\nfrom muninn.session import gpus, membership\n"
    "b = muninn.open('a', access='readWrite')\nd = gpus.deviceOf(membership.current())\ns = d.createStream(0)\nsemaphore = threading.Event()\n"
)


def device() -> Any:
    return gpus.deviceOf(membership.current())


@pytest.fixture(params=["fastMode", "bigMode"])
def buffer(request: pytest.FixtureRequest, domain: str) -> muninn.MuninnBuffer:
    return muninn.share(np.zeros(4096, np.uint8), "a", mode=request.param)


def test_aStreamWaitsForAnotherProcesssStream(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    writer = actor(DEVICE + "p = b.open()")
    writer.do(
        "s.submit(lambda: semaphore.wait(60)); v = d.allocate(0, 16); src = np.full(16, 5, np.uint8)"
    )
    writer.do(
        "d.copy(v.address, src.ctypes.data, 16, s); d.copy(p, v.address, 16, s); t = b.signal(s)"
    )
    stream, mine, out = device().createStream(0), buffer.open(), np.zeros(16, np.uint8)
    assert buffer.wait(stream) == 1
    landing = device().allocate(0, 16)
    device().copy(landing.address, mine, 16, stream)
    time.sleep(0.05)
    assert not stream.query()
    writer.do("semaphore.set()")
    stream.synchronize(30)
    device().copyNow(out.ctypes.data, landing.address, 16, 0)
    assert out.tolist() == [5] * 16


@pytest.mark.usefixtures("standin")
def test_noCpuStandsBetweenTwoGpus(
    buffer: muninn.MuninnBuffer, actor: Start, tmp_path: Path
) -> None:
    """The signaller's GPU writes the fence word by itself: its driver gets neither an
    event to export nor a host function.
    """
    writer = actor(DEVICE, STANDIN_LOG=str(tmp_path / "log"))
    writer.do("t = b.signal(s); s.synchronize()")
    log = (tmp_path / "log").read_text()
    assert "cuStreamWriteValue64" in log
    assert "cuIpcGetEventHandle" not in log and "cuLaunchHostFunc" not in log


def test_theHostWaitsToo(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    writer = actor(DEVICE + "s.submit(lambda: semaphore.wait(60)); t = b.signal(s)")
    waiting = Background(lambda: buffer.wait(None, timeout=60)).asleep()
    with pytest.raises(TimeoutError):
        buffer.wait(None, 1, timeout=0.05)
    writer.do("semaphore.set()")
    assert waiting.ended() == 1


def test_aKilledSignallersWaitersAreToldAndDoNotHang(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    writer = actor(DEVICE + "s.submit(lambda: semaphore.wait(60)); t = b.signal(s)")
    stream = device().createStream(0)
    buffer.wait(stream)
    hosts = Background(lambda: buffer.wait(None))
    writer.kill()
    assert isinstance(hosts.ended(), OwnerDied)
    with pytest.raises(OwnerDied, match="ticket 1"):
        stream.synchronize(30)
    late = device().createStream(0)
    buffer.wait(late, 1)
    with pytest.raises(OwnerDied):
        late.synchronize(30)
    with pytest.raises(OwnerDied):
        stream.submit(lambda: None)
    fresh = device().createStream(0)
    fresh.submit(lambda: None)
    fresh.synchronize(30)  # the context is still usable


@pytest.mark.parametrize("dies", [True, False])
def test_aFenceOfTheGpuCountsAlthoughItsProcessStandsStill(
    buffer: muninn.MuninnBuffer, actor: Start, dies: bool
) -> None:
    writer = actor(DEVICE)
    # The stream worker never tells of the fence: only the GPU does.
    writer.do(
        "from muninn.devices.cuda import streams\nstreams.Events.wait = lambda self, event: time.sleep(600)\nt = b.signal(s)"
    )
    word = membership.current().block.fencesAddress(0) + 8 * (1 % layout.TICKET_RING)
    from muninn.system import atomics

    eventually(lambda: int(atomics.loadAcquire64(word)) == 1, "the GPU writes the word")
    if dies:
        writer.kill()
    stream = device().createStream(0)
    assert buffer.wait(None, 1, timeout=60) == 1
    buffer.wait(stream, 1)
    stream.synchronize(30)


def test_aTicketThatWaitsForTheDeadIsNotCompletedByTheDevice(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    """The GPU of `between` went on over half written bytes, and reached its fence. Its
    CPU knows of the error, and the verdict of the CPU counts: the ticket is poisoned.
    """
    dying = actor(DEVICE + "s.submit(lambda: semaphore.wait(60)); t = b.signal(s)")
    between = actor(DEVICE + "b.wait(s, 1); u = b.signal(s)")
    dying.kill()
    with pytest.raises(OwnerDied):
        buffer.wait(None, 2, timeout=60)
    assert between.do("u") == 2


def test_aWaitWithALimitEndsByItself(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    writer = actor(DEVICE + "s.submit(lambda: semaphore.wait(60)); t = b.signal(s)")
    stream = device().createStream(0)
    buffer.wait(stream, timeout=0.1)
    with pytest.raises(TimeoutError):
        stream.synchronize(30)
    writer.do("semaphore.set()")


def test_stoppedSignallersAreWaitedFor(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    writer = actor(DEVICE + "s.submit(lambda: semaphore.wait(60)); t = b.signal(s)")
    stream = device().createStream(0)
    buffer.wait(stream)
    writer.stop()
    with pytest.raises(TimeoutError):
        stream.synchronize(0.2)
    writer.resume()
    writer.do("semaphore.set()")
    stream.synchronize(30)


def test_hostAndGpuMembersWaitForEachOther(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    if buffer.mode == "fastMode":
        pytest.skip("VRAM of a real GPU can not be opened by the host back-end")
    pretending = actor(DEVICE, MUNINN_DEVICE="host")
    pretending.do("s.submit(lambda: semaphore.wait(60)); t = b.signal(s)")
    stream = device().createStream(0)
    buffer.wait(stream)
    assert not stream.query()
    pretending.do("semaphore.set()")
    stream.synchronize(30)
    ticket = buffer.signal(stream)
    pretending.do(f"b.wait(s, {ticket}); s.synchronize(30)")


def test_accessesFenceByThemselves(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    writer = actor(DEVICE)
    writer.do("s.submit(lambda: semaphore.wait(60))")
    writer.do("with b.write(stream=s) as view: d.copy(b.open(), d.allocate(0, 4096).address, 0, s)")
    assert buffer.generation == 2, "the access is announced before its work is done"
    stream = device().createStream(0)
    with buffer.read(stream=stream) as view:
        assert view.shape == (4096,)
    assert not stream.query(), "the reader's stream waits for the writer's"
    reading = Background(lambda: buffer.read(timeout=60)).asleep()
    writer.do("semaphore.set()")
    stream.synchronize(30)
    assert reading.ended().shape == (4096,)


def test_theInterfaceNamesTheStreamThatWaitsForAWriter(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    writer = actor(
        DEVICE + "s.submit(lambda: semaphore.wait(60))\nwith b.write(stream=s) as view: pass"
    )
    buffer.open()
    assert buffer.__cuda_array_interface__["stream"] == 1
    assert not device().asStream(None).query()
    writer.do("semaphore.set()")
    device().asStream(None).synchronize(30)
    assert buffer.__cuda_array_interface__["stream"] is None


def test_aWriterWaitsForTheReaders(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    reader = actor(
        DEVICE + "s.submit(lambda: semaphore.wait(60))\nwith b.read(stream=s) as view: pass"
    )
    stream = device().createStream(0)
    with buffer.write(stream=stream):
        pass
    assert not stream.query()
    reader.do("semaphore.set()")
    stream.synchronize(30)


def test_aDeadReaderTakesNothingFromOthers(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    reader = actor(
        DEVICE + "s.submit(lambda: semaphore.wait(60))\nwith b.read(stream=s) as view: pass"
    )
    stream = device().createStream(0)
    with buffer.write(stream=stream):
        pass
    reader.kill()
    stream.synchronize(30)
    assert buffer.read().shape == (4096,)


def test_aDeadWritersBytesAreNotRead(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    writer = actor(
        DEVICE + "s.submit(lambda: semaphore.wait(60))\nwith b.write(stream=s) as view: pass"
    )
    assert buffer.generation == 2
    writer.kill()
    for use in (buffer.read, lambda: buffer.read(stream=None).__enter__()):
        with pytest.raises(OwnerDied):
            eventually(lambda use=use: use() is None, "the death is told")  # type: ignore[misc]
    with buffer.write(stream=None):
        pass
    assert buffer.read().shape == (4096,), "the next writer repairs it"


def test_manyTicketsOfManyThreads(buffer: muninn.MuninnBuffer) -> None:
    there, failures = device(), list[BaseException]()

    def work() -> None:
        try:
            stream = there.createStream(0)
            for _ in range(20):
                buffer.wait(stream, buffer.signal(stream))
            stream.synchronize(60)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not failures
    assert buffer.wait(None) == 120


def test_takesNumbasStreamsAndIntegers(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    other = actor(DEVICE + "from numba import cuda\nn = cuda.stream()")
    assert other.do(
        "b.wait(n, b.signal(n)), b.wait(0, b.signal(0)), b.wait(int(n.handle), b.signal(int(n.handle)))"
    )
    other.do("n.synchronize()")
    with pytest.raises(ActorError) as raised:
        other.do("b.signal('stream')")
    assert raised.value.kind == "TypeError"


def test_aClosedStreamIsNeverShownToTheDriver(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    """A driver dies of a SIGSEGV when it gets a stream that was destroyed (seen on an
    H100).
    """
    other = actor(DEVICE + "s.close()")
    uses = (
        "b.signal(s)",
        "b.wait(s)",
        "b.write(stream=s).__enter__()",
        "b.read(stream=s).__enter__()",
        "s.__cuda_stream__()",
        "s.query()",
        "s.synchronize(1)",
        "d.copy(1 << 20, 1 << 21, 16, s)",
    )
    assert other.do("b.signal()") == 1
    for use in uses:
        with pytest.raises(ActorError, match="closed") as raised:
            other.do(use)
        assert raised.value.kind == "InvalidArgument", use
    assert other.do("b.generation % 2") == 0


def test_aProcessThatEndsByItselfKeepsItsStreamsPromises(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    """Broken: a producer that ended behind its last frame took the frame with it."""
    writer = actor(DEVICE + "s.submit(lambda: time.sleep(0.4)); t = b.signal(s)")
    assert writer.leave() == 0
    assert buffer.wait(None, 1, timeout=30) == 1


def test_failedWorkPoisonsItsTicket(buffer: muninn.MuninnBuffer) -> None:
    stream = device().createStream(0)
    stream.submit(lambda: [][0])
    ticket = buffer.signal(stream)
    with pytest.raises(OwnerDied):
        buffer.wait(None, ticket, timeout=30)
