"""Releases: the buffers that this process does not use any more, until their memory is
unmapped, their leases are given back and the broker is told.

A lease belongs to a `Lease` object before it is taken, and memory to a lease. When
no object refers to the `Lease` any more, its tenure is in `LeaseTable.gone`.
`reclaimGone` then undoes it, on the thread that closes or on the background thread; a
finalizer may only wake that thread. The order is: unmap, private memory first
(`privatememory.py`), give the lease back, tell the broker. Each step may be done twice,
because a signal handler may come between a step and the note that it was done. A death
at any point leaves the lease to the broker, and the mappings to the kernel.
"""

from __future__ import annotations

import _thread
import contextlib
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from muninn.errors import BufferFreed
from muninn.session.client import Client
from muninn.session.leases import Tenure
from muninn.session.mappings import Memory, NoBytes
from muninn.session.privatememory import PrivateMemories
from muninn.session.standing import Standing
from muninn.session.tables import Tables
from muninn.storage import segments
from muninn.system import aside, green

#: Memory that ends in one step, which may be repeated.
_ENDED_AT_ONCE = (segments.Mapping, NoBytes)


class Releases:
    """The releases of one membership."""

    def __init__(
        self, tables: Tables, standing: Standing, client: Client, wake: Callable[[], object]
    ) -> None:
        self._tables = tables
        self._isStale, self._isForked = standing.isStale, standing.isForked
        self._client = client
        self._wake = wake
        #: (row, incarnation) of buffers that may have had their last lease, which the
        #: broker is to be told.
        self._released: deque[tuple[int, int]] = deque()
        self._ofDevices: deque[Tenure] = deque()
        #: Held while a thread undoes leases that are gone. A call that interrupts that
        #: thread leaves the work to it.
        self._reclaiming = _thread.RLock()
        #: All modules. The interpreter empties this as it begins to take them apart.
        self._modules = sys.modules
        #: The thread that is about to undo the objects that it releases, so that no
        #: other thread need be woken for it.
        self.closing = 0
        tables.leases.onGone = self._onGone
        self.private = PrivateMemories(self._onGone)

    def add(self, row: int, incarnation: int) -> None:
        """Note that the broker must be told that this process has released a buffer."""
        self._released.append((row, incarnation))

    def giveUp(self, index: int, row: int, incarnation: int) -> None:
        """Give back a lease that was not used, and let the broker be told: it may have
        kept the row because of this lease.
        """
        self._tables.leases.release(index)
        self._released.append((row, incarnation))
        self._tables.leases.forget(index)
        self._wake()

    def _onGone(self, _: object) -> None:
        """Some memory is not used any more, and its tenure is in `LeaseTable.gone`. A
        finalizer calls this, so it may be called anywhere and at any time.
        """
        if not self._modules:
            return  # modules lose what they have imported; the kernel gives all of it back
        if self._isStale():
            self._dropGone()
        elif self.closing != green.identity():
            self.reclaimGone()
            if self.hasReleased():
                self._wake()

    def _dropGone(self) -> None:
        """In a forked child, and after the end of the membership: end the mappings, and
        leave the leases alone, which are not this process's.
        """
        self.private.endGone()
        gone = self._tables.leases.gone
        while gone:
            tenure = gone.popleft()
            if tenure.source is not None:
                # What a child's GPUs have mapped is its parent's, and stays. Otherwise it is
                # not unmapped before it is unpinned: other memory may come to its address.
                mapped = [] if self._isForked() else tenure.mapped
                Memory.end(tenure.source, mapped, lambda: None)

    def letGo(self, last: list[Any]) -> None:
        """Drop the objects in the list, and undo at once the leases that end with them."""
        self.closing = green.identity()
        try:
            last.clear()
            if not self._isStale():
                self.tryReclaimReleased()
        except BaseException:
            self._wake()  # the background thread does the rest
            raise
        finally:
            self.closing = 0

    def reclaimGone(self) -> None:
        """Unmap memory that is not used any more, and release its leases."""
        gone, private = self._tables.leases.gone, self.private.gone
        while (gone or private or self._ofDevices) and not self._reclaiming._is_owned():  # type: ignore[attr-defined]
            if not aside.isOwn():
                with self._reclaiming:
                    self._endAll(gone)
            elif self._reclaiming.acquire(blocking=False):
                # No signal handler runs between this and the next step, since signals
                # do not reach this thread.
                try:
                    self._endAll(gone)
                finally:
                    self._reclaiming.release()
            else:
                # The thread that is doing it may be waiting for this very thread, if a
                # finalizer in the middle of it has sent a request to the broker.
                return
            while self._ofDevices:
                self._closeOnDevice()

    def _endAll(self, gone: deque[Tenure]) -> None:
        self.private.endGone()
        while gone:
            # It is undone first, and removed from the queue second: after an
            # interruption in between, the next call does it again.
            self._end(gone[0])
            gone.popleft()

    def _end(self, tenure: Tenure) -> None:
        """Undo one tenure. Each step may be done twice."""
        table = self._tables.leases
        if isinstance(tenure.source, _ENDED_AT_ONCE) and not tenure.mapped:
            tenure.source.close()
        elif tenure.source is not None and not tenure.isClosed:
            self._ofDevices.append(tenure)
            return
        if not table.isOwner(tenure):
            return
        table.release(tenure.index)
        if tenure.isTold or not self._tables.rows.isLive(tenure.row, tenure.incarnation):
            self._released.append((tenure.row, tenure.incarnation))
        table.forget(tenure.index)

    def _closeOnDevice(self) -> None:
        """Let the device end its memory. When it has, the tenure is queued in `gone`
        again, for the lease. No lock is held, since a device has locks of its own.
        """
        isBegun, tenure = False, None
        try:
            tenure = self._ofDevices[0]
            self._ofDevices.remove(tenure)
            if tenure.isClosing:
                isBegun = True
                return

            def closed() -> None:
                tenure.isClosed = True
                self._tables.leases.gone.append(tenure)
                self._onGone(None)

            Memory.end(tenure.source, tenure.mapped, closed)
            isBegun = tenure.isClosing = True
        except (IndexError, ValueError):
            isBegun = True  # another thread does it
        finally:
            if not isBegun and tenure is not None:
                self._ofDevices.append(tenure)

    def hasReleased(self) -> bool:
        """Whether the broker must be told of a release, now or after `reclaimGone`."""
        return bool(
            self._released or self._tables.leases.gone or self.private.gone or self._ofDevices
        )

    def tryReclaimReleased(self, atMost: int = 1 << 30) -> bool:
        """Tell the broker of buffers that may have had their last lease; False when it
        does not answer now, and must be told later.
        """
        self.reclaimGone()
        for _ in range(atMost):
            if not self._released:
                break
            answered, released = False, None
            try:
                released = self._released[0]
                self._released.remove(released)
                with contextlib.suppress(BufferFreed):  # then it is gone already
                    if (
                        self._client.once("tryReclaim", row=released[0], incarnation=released[1])
                        is None
                    ):
                        return False
                answered = True
            except (IndexError, ValueError):
                answered = True  # another thread tells
            finally:
                if not answered and released is not None:
                    self._released.append(released)
        return True
