"""Releases: what this process has let go of, until its memory is unmapped, its lease
given back and the broker told.

A lease belongs to a `Lease` object before it is taken, and memory to a lease. When
nobody keeps the object any more, its tenure is among those in `LeaseTable.gone`.
`reclaimGone` then undoes it, on the thread that closes or on the background thread; a
finalizer itself does no more than to say so. The order is: unmap, give the lease back,
tell the broker. Each step may be done twice, because a signal handler may come between
a step and the note that it was done. A death at any point leaves the lease to the
broker, and the mapping to the kernel.
"""

from __future__ import annotations

import _thread
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from muninn.errors import BufferFreed
from muninn.session.client import Client
from muninn.session.leases import Tenure
from muninn.session.mappings import Memory, NoBytes
from muninn.session.standing import Standing
from muninn.session.tables import Tables
from muninn.storage import segments
from muninn.system import aside, green

#: What is undone in one step, which may be done again.
_ENDED_AT_ONCE = (segments.Mapping, NoBytes)


class Releases:
    """Those of one membership."""

    def __init__(
        self, tables: Tables, standing: Standing, client: Client, wake: Callable[[], object]
    ) -> None:
        self._tables = tables
        self._isStale = standing.isStale
        self._client = client
        self._wake = wake
        #: (row, incarnation) of buffers that may have had their last lease, which the
        #: broker is to be told.
        self._released: deque[tuple[int, int]] = deque()
        self._ofDevices: deque[Tenure] = deque()
        #: Held by who undoes what is gone; whoever comes to it meanwhile on the same
        #: thread leaves it to the one that it interrupted.
        self._reclaiming = _thread.RLock()
        #: The thread that is about to undo what it lets go of, and needs nobody else
        #: for it.
        self.closing = 0
        tables.leases.onGone = self._onGone

    def add(self, row: int, incarnation: int) -> None:
        """The broker is to be told that this process has let go of a buffer."""
        self._released.append((row, incarnation))

    def giveUp(self, index: int, row: int, incarnation: int) -> None:
        """Take back a lease that came to nothing. While it stood, the broker may have
        let the row be because of it.
        """
        self._tables.leases.release(index)
        self._released.append((row, incarnation))
        self._tables.leases.forget(index)
        self._wake()

    def _onGone(self, _: object) -> None:
        """Nobody has some memory any more; it is among `LeaseTable.gone`. Called by a
        finalizer, that is anywhere, and at any time.
        """
        if self._isStale():
            self._dropGone()
        elif self.closing != green.identity():
            self.reclaimGone()
            if self._released or self._tables.leases.gone:
                self._wake()

    def _dropGone(self) -> None:
        """In a forked child, and after the end of the membership: the leases are not
        ours, only the mappings are.
        """
        gone = self._tables.leases.gone
        while gone:
            tenure = gone.popleft()
            if tenure.source is not None:
                tenure.source.closeThen(lambda: None)

    def letGo(self, last: list[Any]) -> None:
        """Let go of what is in the list, and undo here and now what goes with it."""
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
        """Unmap what nobody has any more, and give the leases back."""
        gone = self._tables.leases.gone
        while (gone or self._ofDevices) and not self._reclaiming._is_owned():  # type: ignore[attr-defined]
            if not aside.isOwn():
                with self._reclaiming:
                    self._endAll(gone)
            elif self._reclaiming.acquire(blocking=False):
                # no signal comes between this and the next step: they do not reach this
                # thread
                try:
                    self._endAll(gone)
                finally:
                    self._reclaiming.release()
            else:
                # whoever is about it may wait for this very thread, for what a
                # finalizer asks of the broker in the middle of it
                return
            while self._ofDevices:
                self._closeOnDevice()

    def _endAll(self, gone: deque[Tenure]) -> None:
        while gone:
            # Undone first, and taken off second: who is interrupted between is followed
            # by one who does it again.
            self._end(gone[0])
            gone.popleft()

    def _end(self, tenure: Tenure) -> None:
        """Each step of it may be done twice."""
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
        """End memory by its device, which says when; then it is gone once more. No lock
        is held, since a device has locks of its own.
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

            # what kernels may still use is ended once, all else may be ended twice
            isBegun = tenure.isClosing = bool(tenure.mapped)
            Memory.end(tenure.source, tenure.mapped, closed)
            isBegun = tenure.isClosing = True
        except (IndexError, ValueError):
            isBegun = True  # another thread does it
        finally:
            if not isBegun and tenure is not None:
                self._ofDevices.append(tenure)

    def hasReleased(self) -> bool:
        """Whether the broker is to be told of anything, now or once what is gone was
        undone.
        """
        return bool(self._released or self._tables.leases.gone)

    def tryReclaimReleased(self, atMost: int = 1 << 30) -> bool:
        """Tell the broker of buffers that may have had their last lease; False when it
        does not answer now, and is to be told again.
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
