"""Versions: waiting until a newer version of a buffer's name can be opened.

The row of the buffer says whether there was one: it is REPLACED then. The newer version
may be gone again, because the name was freed. So the waiter asks the broker for the
name. It returns only if a version is there, since a program that opens the name in a
loop would spin otherwise; it goes on waiting while a process creates the name, and
raises `BufferFreed` if there is none. A buffer whose own row was freed raises that too.

A waiter reads the wake word of the name first and the row second, and sleeps until the
word changes (`session/names.py`); the broker changes the row first and the word second.
A stale read costs one more look. A broker that died between the two may not have
changed the word, so a sleep is short enough that the next look comes soon.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from muninn.errors import BufferFreed
from muninn.session.names import NameWatch
from muninn.session.openbuffer import OpenBuffer
from muninn.system.deadlines import deadlineOf, shown

if TYPE_CHECKING:
    from muninn.control.rowreader import RowReader


class Version(NamedTuple):
    """A version of a name, to be told from others when nothing of it is kept open."""

    rows: RowReader
    row: int
    incarnation: int

    @classmethod
    def of(cls, openBuffer: OpenBuffer) -> Self:
        return cls(openBuffer.tables.rows, openBuffer.row, openBuffer.incarnation)

    @property
    def isCurrent(self) -> bool:
        """Whether the name still has this version."""
        return self.rows.isLive(self.row, self.incarnation)


class Attached(Protocol):
    """The method of a buffer object that a wait uses."""

    def _checked(self) -> OpenBuffer:
        """The open buffer, for one more operation. Raises the error that forbids the
        operation.
        """


def watchOf(buffer: Attached) -> NameWatch:
    """The watch over the name of a buffer."""
    openBuffer = buffer._checked()
    return NameWatch(openBuffer.tables, openBuffer.description.name)


def awaitNewer(
    buffer: Attached, timeout: float | None, cancelled: threading.Event | None = None
) -> None:
    """`MuninnBuffer.waitNewer`. Raises `InterruptedError` soon after `cancelled` is set."""
    watch, deadline = watchOf(buffer), deadlineOf(timeout)
    while True:
        watch.see()
        if cancelled is not None and cancelled.is_set():
            raise InterruptedError
        openBuffer = buffer._checked()
        rows, name = openBuffer.tables.rows, openBuffer.description.name
        if rows.isReplaced(openBuffer.row, openBuffer.incarnation):
            # A version that is replaced since the answer has a newer one itself.
            newest, isBeingCreated = openBuffer.context.client.find(name)
            if newest is not None:
                return
            if not isBeingCreated:
                raise BufferFreed(
                    f"{name!r} was freed, and this process holds an older version of it",
                    "Open the name with a timeout, which waits until it is there again",
                )
        if not watch.sleep(deadline):
            raise TimeoutError(f"no newer version of {name!r} within {shown(timeout)}")
