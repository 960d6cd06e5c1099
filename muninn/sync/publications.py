"""Publications: waiting for a buffer's next generation, and copying it.

A waiter compares the generation with the one that it knows, and sleeps on the word
until that changes; the writer's even generation wakes it. A copy after the wait may be
of a later generation than the wait returned. So a program that wants each publication
once has the copy made here, and gets the generation that is in the copy.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from muninn.arguments import asInteger
from muninn.sync.access import Opened
from muninn.sync.contention import refuseOwnWriter, writerDied, writerIsDead
from muninn.sync.snapshots import READ_BOUND_SECONDS, checkFits, snapshotOf
from muninn.system.deadlines import deadlineOf, remaining, shown


def nextOf(
    buffer: Opened,
    timeout: float | None,
    after: int | None,
    out: np.ndarray[Any, Any] | None,
    cancelled: threading.Event | None = None,
) -> int:
    """`MuninnBuffer.waitNext`. Raises `InterruptedError` soon after `cancelled` is set."""
    openBuffer = buffer._checked()
    if after is not None and asInteger(after) is None:
        raise TypeError(
            "waitNext: after must be a generation, as waitNext returns it, not "
            f"{type(after).__name__}"
        )
    if out is not None:
        checkFits(openBuffer, out)
    deadline = deadlineOf(timeout)
    published = openBuffer.generation.value() & ~1
    if after is None or published <= after:
        published = _awaited(buffer, published if after is None else after, timeout, cancelled)
    if out is None:
        return published
    left = remaining(deadline)
    return snapshotOf(buffer._checked(), out, 0, READ_BOUND_SECONDS if left is None else left)


def _awaited(
    buffer: Opened, known: int, timeout: float | None, cancelled: threading.Event | None
) -> int:
    openBuffer = buffer._checked()
    generation = openBuffer.generation

    def check() -> None:
        if cancelled is not None and cancelled.is_set():
            raise InterruptedError
        refuseOwnWriter(buffer._checked())  # the thread would wait for itself
        value = generation.value()
        if value & ~1 <= known and generation.isLeft(value, lambda: writerIsDead(openBuffer)):
            raise writerDied(openBuffer)

    value = generation.wait(known, timeout, check)
    if value is None:
        raise TimeoutError(f"no generation after {known} within {shown(timeout)}")
    return value
