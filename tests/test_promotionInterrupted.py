"""Two interruptions in a row, of which the second ends the wait for work that the first
one has left behind: the access, and the scratch memory, last as long as the work.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.devices import ways
from muninn.devices.host.streams import WorkerStream
from muninn.kernels import launch
from muninn.session import membership
from muninn.session.gpus import deviceOf
from support import Background

SLICE, SIZE = 4096, 64 << 10


@pytest.fixture
def buffer(monkeypatch: pytest.MonkeyPatch, domain: str) -> muninn.MuninnBuffer:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "1")
    return muninn.share(np.zeros(SIZE, np.uint8), "a", access="readWrite")


def interruptTwice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next wait for a stream is interrupted, and what would wait after that."""

    def once(owner: Any, name: str) -> None:
        usual = getattr(owner, name)

        def interrupted(*_: object) -> None:
            monkeypatch.setattr(owner, name, usual)
            raise KeyboardInterrupt

        monkeypatch.setattr(owner, name, interrupted)

    once(WorkerStream, "synchronize")
    once(ways, "_drained")


def test_theAccessOfAWritebackLastsAsLongAsItsCopies(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the stream was closed by the second interruption, so the access ended, and
    the copies overwrote what the next writer had published.
    """
    device, go, writers = deviceOf(membership.current()), threading.Event(), list[Background]()
    usual = device.copyBatch

    def write() -> str:
        try:
            with buffer.write(timeout=0.3):
                return "entered"
        except TimeoutError:
            return "refused"
        finally:
            go.set()

    def slow(copies: Any, stream: Any, *rest: Any) -> None:
        stream.submit(lambda: go.wait(60))
        usual(copies, stream, *rest)
        interruptTwice(monkeypatch)
        writers.append(Background(write))

    with buffer.promote(0, SIZE, 0, track=True) as scratch:
        scratch.array[:] = 1
        scratch.markDirty()
        monkeypatch.setattr(device, "copyBatch", slow)
        with pytest.raises(KeyboardInterrupt):
            scratch.writeback()
        monkeypatch.setattr(device, "copyBatch", usual)
        (writer,) = writers
        assert writer.ended() == "refused"
    assert (buffer.read() == 1).all()


@pytest.mark.parametrize("hasStream", [False, True])
def test_aWindowEndsAfterItsComparison(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch, hasStream: bool
) -> None:
    """Broken: the comparison had a stream of its own, for which nobody waited any more.
    Its flags were set in the memory of the next window.
    """
    stream = muninn.createStream(0) if hasStream else None
    go, order, usual = threading.Event(), list[str](), launch.launch

    def slow(name: str, *arguments: Any, stream: Any) -> None:
        stream.submit(lambda: (go.wait(60), order.append("compared")))
        usual(name, *arguments, stream=stream)
        interruptTwice(monkeypatch)

    def close() -> None:
        scratch.close()
        order.append("closed")

    scratch = buffer.promote(0, SIZE, 0, sliceBytes=SLICE, stream=stream)
    scratch.array[:] = 1
    monkeypatch.setattr(launch, "launch", slow)
    with pytest.raises(KeyboardInterrupt):
        scratch.dirtyBytes()
    closing = Background(close)
    go.set()
    closing.ended()
    assert order == ["compared", "closed"]


def test_workOfAStreamThatWasDroppedIsWaitedFor(buffer: muninn.MuninnBuffer) -> None:
    device, go = deviceOf(membership.current()), threading.Event()
    device.createStream(0).submit(lambda: go.wait(60))
    assert not device.awaitWork(0.05), "its stream is gone, and it is not done yet"
    go.set()
    assert device.awaitWork(60)
