"""The rules of the device port about streams and fences: order, asynchrony, errors,
waiting for other processes.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from muninn.devices.port import READY_SLICE_SECONDS, Device
from muninn.errors import InvalidArgument, OwnerDied

from .peer import Peer
from .platforms import last

WATCHDOG_SECONDS = 30.0
pytestmark = pytest.mark.timeout(2 * WATCHDOG_SECONDS)
StartPeer = Callable[[], Peer]


class HostSemaphore:
    """Holds a stream until a thread opens it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.open = self._event.set

    def __call__(self) -> None:
        assert self._event.wait(WATCHDOG_SECONDS)

    def ready(self, seconds: float) -> bool:
        return self._event.wait(seconds)


def fail() -> None:
    raise ZeroDivisionError("of this test")


def test_runsWorkInOrder(device: Device) -> None:
    done: list[int] = []
    for stream in (device.createStream(last(device)), device.asStream(None)):
        done.clear()
        for number in range(200):
            stream.submit(lambda number=number: done.append(number))  # type: ignore[misc]
        stream.synchronize()
        assert done == list(range(200))
        assert stream.query()


def test_submitReturnsBeforeTheWorkRan(device: Device) -> None:
    semaphore, done = HostSemaphore(), threading.Event()
    with device.createStream(0) as stream:
        stream.submit(semaphore)
        stream.submit(done.set)
        assert not stream.query()
        assert not done.is_set()
        semaphore.open()
        stream.synchronize(WATCHDOG_SECONDS)
        assert done.is_set()
        assert stream.query()


def test_synchronizeTimesOut(device: Device) -> None:
    semaphore = HostSemaphore()
    stream = device.createStream(0)
    stream.submit(semaphore)
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError):
            stream.synchronize(timeout)
    semaphore.open()
    stream.synchronize(WATCHDOG_SECONDS)


def test_keepsTheFirstErrorAndRunsNothingMore(device: Device) -> None:
    stream, ran = device.createStream(0), threading.Event()
    semaphore = HostSemaphore()
    stream.submit(semaphore)
    stream.submit(fail)
    stream.submit(ran.set)
    stream.submit(lambda: [][0])
    semaphore.open()
    for use in (
        stream.synchronize,
        stream.synchronize,
        stream.query,
        lambda: stream.submit(ran.set),
    ):
        with pytest.raises(ZeroDivisionError):
            use()
    assert not ran.is_set()


def test_errorOfOneStreamLeavesTheOthersAlone(device: Device) -> None:
    failed, healthy = device.createStream(0), device.createStream(0)
    failed.submit(fail)
    with pytest.raises(ZeroDivisionError):
        failed.synchronize()
    healthy.submit(lambda: None)
    healthy.synchronize()


def test_severalThreadsSubmitAndSynchronize(device: Device) -> None:
    stream = device.createStream(0)
    order: dict[int, list[int]] = {number: [] for number in range(8)}
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(100):
                stream.submit(lambda step=step: order[number].append(step))  # type: ignore[misc]
            stream.synchronize(WATCHDOG_SECONDS)
            assert order[number] == list(range(100))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_closedStreamFinishesWhatItHas(device: Device) -> None:
    semaphore, done = HostSemaphore(), threading.Event()
    stream = device.createStream(0)
    stream.submit(semaphore)
    stream.submit(done.set)
    stream.close()
    stream.close()
    with pytest.raises(InvalidArgument):
        stream.submit(done.clear)
    semaphore.open()
    assert done.wait(WATCHDOG_SECONDS)


def test_closedStreamRefusesEverything(device: Device) -> None:
    stream = device.createStream(0)
    stream.close()
    for use in (
        stream.query,
        stream.synchronize,
        lambda: stream.synchronize(0.1),
        lambda: stream.submit(lambda: None),
        lambda: device.asStream(stream),
    ):
        with pytest.raises(InvalidArgument, match="closed"):
            use()
    with pytest.raises(InvalidArgument, match="closed"):
        device.recordFence(stream, lambda error: None)
    with pytest.raises(InvalidArgument, match="closed"):
        device.delayStream(stream, lambda seconds: True)
    with pytest.raises(InvalidArgument, match="closed"):
        device.copy(1 << 20, 1 << 21, 16, stream)


def test_droppedStreamFinishesWhatItHas(device: Device) -> None:
    semaphore, done = HostSemaphore(), threading.Event()
    stream = device.createStream(0)
    stream.submit(semaphore)
    stream.submit(done.set)
    reference = weakref.ref(stream)
    del stream
    gc.collect()
    assert reference() is None
    semaphore.open()
    assert done.wait(WATCHDOG_SECONDS)


def test_finishedWorkIsNotHeld(device: Device) -> None:
    class Held:
        def __call__(self) -> None: ...

    stream, held = device.createStream(0), Held()
    reference = weakref.ref(held)
    stream.submit(held)
    del held
    stream.synchronize()
    gc.collect()
    assert reference() is None


class Foreign:
    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


class ByProtocol:
    def __init__(self, handle: int, version: int = 0) -> None:
        self._pair = version, handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return self._pair


def test_takesStreamsInEveryShape(device: Device) -> None:
    stream = device.createStream(last(device))
    number = stream.handle
    assert device.asStream(stream) is stream
    for shape in (
        number,
        ByProtocol(number),
        Foreign(handle=number),
        Foreign(ptr=number),
        Foreign(cuda_stream=number),
    ):
        ran = threading.Event()
        same = device.asStream(shape)
        same.submit(ran.set)
        stream.synchronize()
        assert ran.is_set()
        assert (same.gpu, same.handle) == (stream.gpu, number)
    for default in (None, 0, ByProtocol(0), Foreign(handle=Foreign(value=None))):
        assert device.asStream(default).handle == 0


@pytest.mark.parametrize("shape", ["0", 1.5, True, object(), Foreign(handle="x")])
def test_anArgumentThatIsNoStreamIsATypeError(device: Device, shape: object) -> None:
    with pytest.raises(TypeError):
        device.asStream(shape)


@pytest.mark.parametrize("shape", [-1, ByProtocol(0, version=7)])
def test_refusesHandlesThatCanNotBe(device: Device, shape: object) -> None:
    with pytest.raises(InvalidArgument):
        device.asStream(shape)


def test_aStreamFollowsAMarkOfAnotherOne(device: Device) -> None:
    """Also of a stream on another GPU; and it waits for nothing that the other stream is
    given later.
    """
    first, second, done = device.createStream(0), device.createStream(last(device)), list[str]()
    semaphores = threading.Event(), threading.Event()
    first.submit(lambda: semaphores[0].wait(WATCHDOG_SECONDS))
    first.submit(lambda: done.append("first"))
    mark = first.mark()
    first.submit(lambda: semaphores[1].wait(WATCHDOG_SECONDS))
    second.follow(mark)
    mark.close()
    second.submit(lambda: done.append("second"))
    assert not second.query() and not done
    semaphores[0].set()
    second.synchronize(WATCHDOG_SECONDS)
    assert done == ["first", "second"] and not first.query()
    semaphores[1].set()
    first.synchronize(WATCHDOG_SECONDS)


def test_aMarkIsReachedAfterWhatCameBefore(device: Device) -> None:
    stream, semaphore, done = device.createStream(0), threading.Event(), list[int]()
    stream.submit(lambda: semaphore.wait(WATCHDOG_SECONDS))
    stream.submit(lambda: done.append(1))
    with stream.mark() as mark:
        threading.Timer(0.05, semaphore.set).start()
        mark.wait()
        assert done == [1]
        mark.wait()  # again
    stream.synchronize(WATCHDOG_SECONDS)


def test_aMarkOfAStreamThatFailedIsReached(device: Device) -> None:
    stream, other, done = device.createStream(0), device.createStream(0), list[int]()

    def fail() -> None:
        raise ValueError("no")

    stream.submit(fail)
    mark = stream.mark()
    other.follow(mark)
    other.submit(lambda: done.append(1))
    other.synchronize(WATCHDOG_SECONDS)
    mark.wait()
    assert done == [1]
    with pytest.raises(ValueError, match="no"):
        stream.synchronize(WATCHDOG_SECONDS)


def test_fenceIsReachedAfterWhatCameBefore(device: Device) -> None:
    stream, semaphore = device.createStream(0), HostSemaphore()
    seen: list[object] = []
    stream.submit(semaphore)
    stream.submit(lambda: seen.append("work"))
    device.recordFence(stream, seen.append)
    assert seen == []
    semaphore.open()
    stream.synchronize()
    assert seen == ["work", None]


def test_fenceOfTheDefaultStreamIsReached(device: Device) -> None:
    reached = threading.Event()
    device.recordFence(None, lambda error: reached.set())
    device.asStream(None).synchronize()
    assert reached.wait(WATCHDOG_SECONDS)


def test_fenceIsToldOfTheStreamsError(device: Device) -> None:
    stream, semaphore = device.createStream(0), HostSemaphore()
    errors: list[BaseException | None] = []
    told = threading.Semaphore(0)

    def onReached(error: BaseException | None) -> None:
        errors.append(error)
        told.release()

    stream.submit(semaphore)
    stream.submit(fail)
    device.recordFence(stream, onReached)
    semaphore.open()
    assert told.acquire(timeout=WATCHDOG_SECONDS)
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_delayHoldsLaterWorkOfOneStreamOnly(device: Device) -> None:
    writer, reader, other = (
        device.createStream(0),
        device.createStream(last(device)),
        device.createStream(last(device)),
    )
    semaphore, reached = HostSemaphore(), HostSemaphore()
    order: list[str] = []
    writer.submit(semaphore)
    writer.submit(lambda: order.append("written"))
    device.recordFence(writer, lambda error: reached.open())
    device.delayStream(reader, reached.ready)
    reader.submit(lambda: order.append("read"))
    assert not reader.query()
    assert order == []
    assert other.query()
    semaphore.open()
    reader.synchronize(WATCHDOG_SECONDS)
    assert order == ["written", "read"]


def test_delayAsksInBoundedSlices(device: Device) -> None:
    asked: list[float] = []

    def ready(seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) == 3

    for stream in (device.createStream(0), device.asStream(None)):
        asked.clear()
        device.delayStream(stream, ready)
        stream.synchronize()
        assert len(asked) == 3
        assert all(0 < seconds <= READY_SLICE_SECONDS for seconds in asked)


def test_delayThatCanNotEndFailsTheStream(device: Device) -> None:
    def ready(seconds: float) -> bool:
        raise OwnerDied("the writer was killed")

    stream, semaphore, ran = device.createStream(0), HostSemaphore(), threading.Event()
    stream.submit(semaphore)
    device.delayStream(stream, ready)
    stream.submit(ran.set)
    semaphore.open()
    with pytest.raises(OwnerDied):
        stream.synchronize()
    assert not ran.is_set()


def test_waitsForAFenceOfAnotherProcess(device: Device, startPeer: StartPeer) -> None:
    peer = startPeer()
    peer.ask("signal", gpu=0)
    stream, ran = device.createStream(0), threading.Event()
    waiting = threading.Event()

    def ready(seconds: float) -> bool:
        waiting.set()
        try:
            while not peer.hear(seconds).get("reached"):
                pass
        except TimeoutError:
            return False
        return True

    device.delayStream(stream, ready)
    stream.submit(ran.set)
    assert waiting.wait(WATCHDOG_SECONDS)
    assert not ran.is_set()
    peer.tell("release")
    stream.synchronize(WATCHDOG_SECONDS)
    assert ran.is_set()


def test_waitForAKilledProcessEndsWithItsError(device: Device, startPeer: StartPeer) -> None:
    peer = startPeer()
    peer.ask("signal", gpu=0)
    stream, ran = device.createStream(0), threading.Event()

    def ready(seconds: float) -> bool:
        try:
            return bool(peer.hear(seconds).get("reached"))
        except TimeoutError:
            return False
        except (EOFError, ConnectionResetError):
            raise OwnerDied("the process that promised the fence was killed") from None

    device.delayStream(stream, ready)
    stream.submit(ran.set)
    peer.kill()
    with pytest.raises(OwnerDied):
        stream.synchronize(WATCHDOG_SECONDS)
    assert not ran.is_set()
