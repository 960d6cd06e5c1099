"""The stream of a window: a wrong one is refused at once, and a window ends whatever becomes
of it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.api import windowwork
from muninn.errors import BufferFreed, InvalidArgument

ELEMENTS = 4096


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")


@pytest.fixture
def buffer() -> muninn.MuninnBuffer:
    return muninn.share(np.zeros(ELEMENTS, np.uint32), "a", access="readWrite")


def windows() -> list[str]:
    return [each["name"] for each in muninn.listBuffers() if each["kind"] == "window"]


def closedStream() -> Any:
    stream = muninn.createStream(0)
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: "x", TypeError, "str is not a stream"),
        (object, TypeError, "object is not a stream"),
        (lambda: True, TypeError, "bool is not a stream"),
        (lambda: 5, InvalidArgument, "no stream of the host"),
        (closedStream, InvalidArgument, "was closed"),
        (lambda: muninn.createStream(1), InvalidArgument, "is of GPU 1, and kernels of GPU 0"),
    ],
)
def test_aWrongStreamIsRefusedBeforeAnythingIsCopied(
    buffer: muninn.MuninnBuffer, make: Callable[[], Any], error: type[Exception], said: str
) -> None:
    """Broken: the end of the block raised it, what was written was lost, and the window
    could not be closed.
    """
    with pytest.raises(error, match=said):
        buffer.promote(stream=make())
    with pytest.raises(error, match=said):
        asyncio.run(buffer.promoteAsync(stream=make()))
    assert not windows()


@pytest.mark.parametrize("byNumber", [False, True])
def test_aStreamThatIsClosedInTheBlockLosesNothing(
    buffer: muninn.MuninnBuffer, byNumber: bool
) -> None:
    """Broken: the bytes were lost, and each close raised the same again."""
    stream, begun, goOn = muninn.createStream(0), threading.Event(), threading.Event()

    def kernel() -> None:
        begun.set()
        goOn.wait(30)
        scratch.array[:] = 7

    with buffer.promote(stream=stream.handle if byNumber else stream) as scratch:
        stream.submit(kernel)
        assert begun.wait(30)
        stream.close()
        threading.Timer(0.1, goOn.set).start()
        assert not buffer.array.any()
    assert (buffer.read() == 7).all(), "its work is waited for all the same"
    with pytest.raises(BufferFreed):
        _ = scratch.array


def test_aWindowWhoseStreamHasFailedEnds(buffer: muninn.MuninnBuffer) -> None:
    """Broken: each close raised the stream's error, and the memory stayed."""
    stream = muninn.createStream(0)

    def kernel() -> None:
        raise ArithmeticError("the kernel failed")

    scratch = buffer.promote(stream=stream)
    scratch.array[:] = 7
    stream.submit(kernel)
    with pytest.raises(ArithmeticError, match="the kernel failed"):
        scratch.writeback()
    with pytest.raises(ArithmeticError, match="the kernel failed"):
        scratch.close()
    scratch.close()
    with pytest.raises(BufferFreed):
        _ = scratch.array
    with buffer.promote() as again:
        assert again.transfer is not None, "what the kernel left is nobody's"
        assert not again.array.any()


def test_aWindowStaysWhileAKernelMayUseIt(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windowwork, "_SECONDS", 0.05)
    stream, goOn = muninn.createStream(0), threading.Event()
    scratch = buffer.promote()
    stream.submit(lambda: goOn.wait(30))
    with pytest.raises(TimeoutError, match="work of this process is pending"):
        scratch.close()
    assert not scratch.array.any(), "it is there still"
    goOn.set()
    stream.synchronize()
    scratch.close()


def test_closingTwiceAtOnceGivesTheMemoryBackOnce(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler does that comes in the wait. Broken: it was an AttributeError."""
    scratch, given, usual = buffer.promote(), list[object](), windowwork.WindowWork.end

    def interrupted(work: Any, device: Any) -> Exception | None:
        monkeypatch.setattr(windowwork.WindowWork, "end", usual)
        scratch.close()
        return usual(work, device)

    giveBack = scratch._giveBack
    scratch._giveBack = lambda *given_: (given.append(given_), giveBack(*given_))[1]
    monkeypatch.setattr(windowwork.WindowWork, "end", interrupted)
    scratch.close()
    scratch.close()
    assert len(given) == 1
