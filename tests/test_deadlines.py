"""Deadlines: a wait accepts any sensible timeout, or refuses a timeout at once and
names the argument.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import muninn
from muninn.arguments import LONGEST_SECONDS, secondsOf, timeoutOf
from muninn.errors import InvalidArgument
from muninn.system.deadlines import shown


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        (0, 0.0),
        (1, 1.0),
        (0.5, 0.5),
        (np.float32(2), 2.0),
        (np.int64(3), 3.0),
        (math.inf, None),
        (1e300, None),
        (10**400, None),
        (None, None),
    ],
)
def test_infinityAndCenturiesAreForEver(timeout: float | None, seconds: float | None) -> None:
    assert timeoutOf("f", timeout) == seconds
    if timeout is not None:
        assert secondsOf("f", timeout) == (LONGEST_SECONDS if seconds is None else seconds)


@pytest.mark.parametrize("timeout", [math.nan, -1, -0.001, -math.inf, -(10**400)])
def test_aTimeoutThatIsNoLengthOfTimeIsRefused(timeout: float) -> None:
    with pytest.raises(InvalidArgument, match="Lock.acquire"):
        timeoutOf("Lock.acquire", timeout)


@pytest.mark.parametrize("timeout", ["5", b"5", [], object(), 1j])
def test_aTimeoutThatIsNoNumberIsATypeError(timeout: object) -> None:
    with pytest.raises(TypeError, match="waitNext"):
        timeoutOf("waitNext", timeout)  # type: ignore[arg-type]


def _calls() -> dict[str, Callable[[float], object]]:
    buffer, lock = muninn.share(np.zeros(2), name="here"), muninn.Lock("here")

    def acquire(timeout: float) -> None:
        lock.acquire(timeout)
        lock.release()

    def held(timeout: float) -> None:
        with lock.held(timeout):
            pass

    def write(timeout: float) -> None:
        with buffer.write(timeout):
            pass

    def waitNext(timeout: float) -> None:
        publishing = threading.Timer(0.05, write, (5.0,))
        publishing.start()
        try:
            buffer.waitNext(timeout)
        finally:
            publishing.join()

    return {
        "open": lambda timeout: muninn.open("here", timeout=timeout),
        "array": lambda timeout: muninn.array("here", 2, timeout=timeout),
        "Lock.acquire": acquire,
        "Lock.held": held,
        "write": write,
        "read": lambda timeout: buffer.read(timeout=timeout),
        "wait": lambda timeout: buffer.wait(timeout=timeout),
        "waitNext": waitNext,
        "shareOnce": lambda timeout: muninn.shareOnce("here", lambda: np.zeros(2), timeout=timeout),
    }


def test_eachFunctionTakesInfinityAndSaysItsNameOtherwise(domain: str) -> None:
    """Broken: infinity raised an OverflowError from deep inside, a NaN was waited for,
    and a negative timeout was taken for 0.
    """
    for name, call in _calls().items():
        for timeout in (math.inf, 1e10, 10**400):
            call(timeout)
        for timeout in (math.nan, -5):
            with pytest.raises(InvalidArgument, match=name):
                call(timeout)
        with pytest.raises(TypeError, match=name):
            call("5")  # type: ignore[arg-type]


def test_aLifetimeThatNoClockCountsIsRefusedHere(domain: str) -> None:
    """Broken: the broker dropped the connection, and the call raised MNN-0020."""
    with pytest.raises(InvalidArgument, match="lifetimeMs"):
        muninn.share(np.zeros(2), name="long", lifetimeMs=10**20)
    assert muninn.share(np.zeros(2), name="long", lifetimeMs=10**15).name == "long"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 s"), (2.9998208850010997, "3 s"), (0.25, "0.25 s"), (0, "0 s"), (86_400, "86400 s")],
)
def test_aTimeoutIsShownAsAUserHasWrittenIt(seconds: float, text: str) -> None:
    """Broken: an error named the rest of it, `2.9998208850010997 s`."""
    assert shown(seconds) == text


def test_aCopySaysItsOwnTimeout(domain: str) -> None:
    source, target = (muninn.share(np.zeros(3), access="readWrite") for _ in range(2))
    with target.read(stream=None), ThreadPoolExecutor() as others:
        copy = others.submit(target.copyFrom, source, timeout=0.3)
        with pytest.raises(TimeoutError, match=r" for 0\.\d{1,3} s$"):
            copy.result()
