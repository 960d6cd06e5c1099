"""Snapshots: a private copy of one whole generation on the host, never torn, wherever
the bytes are.

The reader reads the generation, copies the bytes, and reads the generation again. If it
is even and the same, the copy is whole (a seqlock); a stale read costs another copy. If
a writer is inside, the reader waits for its publication; if that writer is dead, it
raises `WriterDied`. If streams have been given writes, the reader waits for their
tickets too. If writers publish so often that no copy comes to its end, the reader takes
a read access and copies inside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from muninn.control.generations import Starved, Streams
from muninn.errors import InvalidArgument
from muninn.interop.dtypes import elementOf
from muninn.interop.elements import shown
from muninn.session.mappings import Memory
from muninn.session.openbuffer import OpenBuffer
from muninn.sync import fences
from muninn.sync.access import Copying
from muninn.sync.contention import refuseOwnWriter, writerDied, writerIsDead
from muninn.system import clock

#: How long a copy waits for a pause between writers, when the caller gives no timeout.
READ_BOUND_SECONDS = 10.0


def snapshot(
    openBuffer: OpenBuffer, out: np.ndarray[Any, Any] | None, timeout: float
) -> np.ndarray[Any, np.dtype[Any]]:
    """The bytes of one generation in `out`, or in a new array. Waits for kernels that
    still write.
    """
    if out is None:
        out = np.empty(openBuffer.description.shape, elementOf(openBuffer).dtype)
    else:
        checkFits(openBuffer, out)
    snapshotOf(openBuffer, out, 0, timeout)
    return out


def checkFits(openBuffer: OpenBuffer, out: np.ndarray[Any, Any]) -> None:
    """Raises `InvalidArgument`, or `TypeError`, if a copy can not go into `out`."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy array, not {type(out).__name__}")
    shape, element = openBuffer.description.shape, elementOf(openBuffer)
    if out.shape != shape or not element.isHeldBy(out.dtype):
        problem = (
            f"out has shape {out.shape} and dtype {shown(out.dtype)}, the buffer "
            f"{shape} and {element}"
        )
    elif not out.flags.writeable:
        problem = "out can not be written"
    elif not out.flags.c_contiguous:
        problem = f"out is not C-contiguous: its strides are {out.strides}"
    else:
        return
    raise InvalidArgument(
        problem, "Pass a C-contiguous, writable array of the same shape and dtype"
    )


def snapshotOf(
    openBuffer: OpenBuffer,
    out: np.ndarray[Any, Any],
    offset: int,
    timeout: float,
    part: Memory | None = None,
) -> int:
    """Copy the bytes from `offset` on, as many as `out` has, of one generation; returns
    that generation. They are those of the buffer, or of one of its parts.
    """
    target, tickets = out.__array_interface__["data"][0], openBuffer.tickets
    memory = openBuffer.memory if part is None else part
    # The common case: no process is inside a write access, and no stream was ever given
    # work on this buffer.
    isHostOnly = memory.isHostVisible and not tickets.last()
    copied = (
        openBuffer.generation.copyNow(memory.source.address + offset, target, out.nbytes)
        if isHostOnly
        else None
    )
    if copied is None or tickets.last():
        return _awaitCopy(openBuffer, memory, target, offset, out.nbytes, timeout)
    return copied


def _awaitCopy(
    openBuffer: OpenBuffer,
    memory: Memory,
    target: int,
    offset: int,
    sizeBytes: int,
    timeout: float,
) -> int:
    """Copy from one whole generation to `target` as soon as there is one; returns it."""
    deadline = clock.now() + timeout
    streams = Streams(
        openBuffer.tickets.last,
        lambda seconds: fences.holdBack(openBuffer, None, writing=False, timeout=seconds),
    )

    def isDead() -> bool:
        # A writer is inside; if it is this thread, the copy would wait for itself.
        refuseOwnWriter(openBuffer)
        return writerIsDead(openBuffer)

    def copy(seconds: float, canTakeAccess: bool) -> int | None:
        if memory.isHostVisible:
            address = memory.source.address + offset
            return openBuffer.generation.copy(
                address, target, sizeBytes, seconds, isDead, streams, canTakeAccess
            )

        def copyAll() -> None:
            memory.copyOut(target, sizeBytes, offset)

        return openBuffer.generation.copyBy(copyAll, seconds, isDead, streams, canTakeAccess)

    try:
        copied = copy(timeout, True)
    except Starved:
        with Copying(openBuffer, deadline, timeout):
            copied = copy(max(0.0, deadline - clock.now()), False)
    if copied is None:
        raise writerDied(openBuffer)
    return copied
