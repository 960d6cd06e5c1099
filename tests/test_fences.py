"""Fences between processes: a ticket is completed when its stream reaches it; the
ticket of a process that died is an error, never a hang.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.control import layout
from muninn.errors import BufferFreed, DeviceUnavailable, InvalidArgument, OwnerDied
from muninn.session.gpus import deviceOf
from support import Actor, ActorError

Start = Callable[..., Actor]

#: A stream whose work waits until `semaphores[name].set()`.
_STREAMS = """
import threading
semaphores = {}
def stopped(name):
    semaphores[name] = threading.Event()
    stream = muninn.createStream()
    stream.submit(lambda: semaphores[name].wait(60))
    return stream
"""


def test_ticketsOfTwoStreamsAreDoneOutOfOrder(domain: str, actor: Start) -> None:
    buffer = muninn.share(np.zeros(4), name="a")
    other = actor(_STREAMS + "buffer = muninn.open('a')")
    first, second = other.do("buffer.signal(stopped('first')), buffer.signal(stopped('second'))")
    assert (first, second) == (1, 2)
    other.do("semaphores['second'].set()")
    assert buffer.wait(ticket=second, timeout=60) == second
    with pytest.raises(TimeoutError, match="ticket 1"):
        buffer.wait(ticket=first, timeout=0.02)
    other.do("semaphores['first'].set()")
    assert buffer.wait(ticket=first, timeout=60) == first


def test_theDataOfAStreamIsThereWhenItsTicketIs(domain: str, actor: Start) -> None:
    writer = actor(
        _STREAMS
        + "buffer = muninn.share(np.zeros(1000), name='a', access='readWrite'); stream = stopped('go')"
    )
    writer.do("stream.submit(lambda: buffer.array.fill(7)); ticket = buffer.signal(stream)")
    buffer = muninn.open("a")
    mine, seen = muninn.createStream(), list[float]()
    buffer.wait(mine)
    mine.submit(lambda: seen.append(float(buffer.array.sum())))
    assert seen == []
    writer.do("semaphores['go'].set()")
    mine.synchronize(60)
    assert seen == [7000.0]


def test_aSignalWithoutAStreamIsDoneAtOnce(domain: str) -> None:
    buffer = muninn.share(np.zeros(4))
    assert buffer.wait() == 0, "there is no ticket yet"
    assert [buffer.signal() for _ in range(3)] == [1, 2, 3]
    assert buffer.wait() == 3 and buffer.wait(ticket=1) == 1


@pytest.mark.parametrize("ticket", [-1, 1, 1 << 40])
def test_aTicketThatWasNeverIssuedIsAnError(domain: str, ticket: int) -> None:
    with pytest.raises(ValueError, match="never issued"):
        muninn.share(np.zeros(4)).wait(ticket=ticket)
    with pytest.raises(TypeError, match="ticket must be an int, not str"):
        muninn.share(np.zeros(4)).wait(ticket="1")


@pytest.mark.parametrize("dies", ["kill", "leave"])
def test_theTicketsOfTheDeadArePoisoned(domain: str, actor: Start, dies: str) -> None:
    buffer = muninn.share(np.zeros(4), name="a")
    dying = actor(_STREAMS + "buffer = muninn.open('a')")
    tickets = dying.do("[buffer.signal(stopped(number)) for number in range(3)]")
    stream, outcome = muninn.createStream(), list[BaseException]()
    buffer.wait(stream, tickets[1])

    def wait() -> None:
        try:
            buffer.wait(ticket=tickets[0], timeout=60)
        except OwnerDied as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    getattr(dying, dies)()
    thread.join(60)
    assert [error.code for error in outcome] == ["MNN-0010"]
    with pytest.raises(OwnerDied):
        stream.synchronize(60)
    with pytest.raises(OwnerDied):
        buffer.wait(timeout=60)
    assert buffer.wait(ticket=buffer.signal()) == tickets[-1] + 1, "the next ticket is a new one"


def test_aFailedStreamsTicketIsPoisoned(domain: str, actor: Start) -> None:
    buffer = muninn.share(np.zeros(4), name="a")
    other = actor(
        "buffer = muninn.open('a'); stream = muninn.createStream(); stream.submit(lambda: 1 / 0); buffer.signal(stream)"
    )
    with pytest.raises(OwnerDied):
        buffer.wait(timeout=60)
    with pytest.raises(ActorError, match="ZeroDivisionError"):
        other.do("stream.synchronize(60)")


def test_aStreamWaitsNoLongerThanItMay(domain: str, actor: Start) -> None:
    buffer = muninn.share(np.zeros(4), name="a")
    actor(_STREAMS + "muninn.open('a').signal(stopped('never'))")
    stream = muninn.createStream()
    buffer.wait(stream, timeout=0.05)
    with pytest.raises(TimeoutError, match="ticket 1"):
        stream.synchronize(60)


def test_aFullRingMakesTheNextSignalWait(domain: str, actor: Start) -> None:
    buffer = muninn.share(np.zeros(4), name="a")
    other = actor(_STREAMS + "buffer = muninn.open('a'); stream = stopped('go')")
    assert other.do(f"[buffer.signal(stream) for _ in range({layout.TICKET_RING})]") == list(
        range(1, layout.TICKET_RING + 1)
    )
    thread = threading.Thread(target=buffer.signal)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    other.do("semaphores['go'].set()")
    thread.join(60)
    assert buffer.wait(timeout=60) == layout.TICKET_RING + 1
    assert buffer.wait(ticket=1, timeout=60) == 1, "the work was done long ago"


def test_manyProcessesThatSignalGetTicketsOfTheirOwn(domain: str, actor: Start) -> None:
    buffer = muninn.share(np.zeros(4), name="a")
    actors = [actor("buffer = muninn.open('a'); stream = muninn.createStream()") for _ in range(3)]
    for each in actors:
        each.begin("[buffer.signal(stream if number % 2 else None) for number in range(100)]")
    tickets = sorted(ticket for each in actors for ticket in each.result())
    assert tickets == list(range(1, 301))
    assert buffer.wait(timeout=60) == 300


@pytest.mark.parametrize("stream", ["stream", 1.5, -1, 987654321, object()])
def test_anArgumentThatIsNoStreamIsRefused(domain: str, stream: object) -> None:
    buffer = muninn.share(np.zeros(4))
    buffer.signal()
    for use in (buffer.signal, buffer.wait):
        with pytest.raises((TypeError, InvalidArgument)):
            use(stream)
    assert buffer.wait() == 1, "a refused signal issues no ticket"


def test_thereIsNoStreamOfAGpuThatIsNotThere(domain: str, actor: Start) -> None:
    with pytest.raises(DeviceUnavailable):
        muninn.createStream(7)
    alone = actor(MUNINN_HOST_GPUS="0")
    with pytest.raises(ActorError, match="DeviceUnavailable"):
        alone.do("muninn.createStream()")
    assert alone.do("b = muninn.share(b'x'); b.signal(), b.wait()") == [1, 1]


def test_aFreedBufferPromisesNothing(domain: str) -> None:
    buffer = muninn.share(np.zeros(4), name="a")
    muninn.free("a")
    for use in (buffer.signal, buffer.wait):
        with pytest.raises(BufferFreed):
            use()


def test_aSignalWithoutAStreamIsNeverOpen(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a second Ctrl-C left a ticket pending for ever, and a process that waited
    for the last ticket hung.
    """
    buffer = muninn.share(np.zeros(4))
    tickets = buffer._held().tickets
    issue = type(tickets).issue

    def interrupted(self: object, *arguments: Any) -> None:
        issue(tickets, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(type(tickets), "issue", interrupted)
        patched.setattr(type(tickets), "complete", interrupted)
        buffer.signal()
    assert buffer.wait(timeout=60) == 1 and buffer.signal() == 2


def test_aSignalThatIsCutShortIsPoisoned(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupted code does not know its ticket yet, or the stream has no fence for
    it; the exception keeps the frames of the interrupted code.
    """
    buffer, stream = muninn.share(np.zeros(4), name="a"), muninn.createStream()
    other = actor("buffer = muninn.open('a')")
    tickets, device = buffer._held().tickets, deviceOf(buffer._held().context)
    issue = type(tickets).issue

    def issued(self: object, *arguments: Any) -> None:
        issue(tickets, *arguments)
        raise KeyboardInterrupt

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    for number, (kind, name, cut) in enumerate(
        [(type(tickets), "issue", issued), (type(device), "recordFence", stopped)], 1
    ):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt) as kept:
            patched.setattr(kind, name, cut)
            patched.setattr(type(tickets), "complete", stopped)
            buffer.signal(stream)
        assert kept.tb is not None
        with pytest.raises(ActorError, match="OwnerDied"):
            other.do(f"buffer.wait(ticket={number}, timeout=60)")
    assert buffer._held().context.gpus.promised == set()
    assert other.do(f"buffer.wait(ticket={buffer.signal(stream)}, timeout=60)") == 3
