"""Repeats: `copyFrom` of two buffers between which it has copied before.

What the first copy has found out stays true: that the caller may copy, by which route
the bytes go, and where they are. The C part looks at the words of shared memory, copies,
and publishes (`cshim/repeat.h`). Where it can not do so at once, it does nothing, and
the caller takes the long way.
"""

from __future__ import annotations

import weakref
from ctypes import addressof
from typing import TYPE_CHECKING, Protocol

from muninn.sync.moves import Again
from muninn.system import clock
from muninn.system.structures import RepeatedCopy
from muninn.transfer.records import Record, isTold

if TYPE_CHECKING:
    from muninn.api.permits import Permit
    from muninn.devices.port.lanes import Lane
    from muninn.session.openbuffer import OpenBuffer

#: How many sources a target remembers.
_MOST = 8


class Opened(Protocol):
    """What a copy that is made again looks at of its source."""

    _openBuffer: OpenBuffer | None


class Repeat:
    """A copy that was made once, from `source` to the buffer of `into`.

    Parameters
    ----------
    asked
        The route that the caller demanded, or None.
    permit
        Until when the executor need not be asked.
    record
        Counts and logs each copy.
    """

    __slots__ = ("_asked", "_call", "_into", "_kept", "_out", "_permit", "_record", "_source")

    def __init__(
        self,
        source: Opened,
        out: OpenBuffer,
        into: OpenBuffer,
        asked: str | None,
        lane: Lane,
        permit: Permit,
        record: Record,
    ) -> None:
        self._source, self._out = weakref.ref(source), weakref.ref(out)
        self._into = weakref.ref(into)
        self._asked, self._record, self._permit = asked, record, permit
        sending, receiving = Again(out, lane.settle), Again(into, lane.settle)
        fail = lane.fail
        # What C has addresses of. The buffers are not among it: both are looked at before
        # each copy.
        self._kept = lane, sending, receiving, fail
        self._call = RepeatedCopy(
            addressof(lane.calls),
            addressof(sending),
            addressof(receiving),
            out.standing(),
            into.standing(),
            out.memory.address,
            into.memory.address,
            into.description.sizeBytes,
            id(fail),
        )

    def copy(self, into: OpenBuffer | None, source: Opened, asked: str | None) -> int | None:
        """Copy from a source once more to `into`, which the target has open now, if any.
        Returns the generation, or None if the caller has to take the long way, and nothing
        is done.
        """
        # Both are kept until the copy is over. The target may have been closed meanwhile, or
        # in the midst of the copy that made this.
        out = self._out()
        if (
            out is None
            or into is None
            or self._into() is not into
            or self._source() is not source
            or source._openBuffer is not out
            or asked != self._asked
        ):
            return None
        record = self._record
        begun = clock.now()
        if begun > self._permit.untilSeconds:
            return None
        generation = self._call.copy()
        if generation is not None:
            tell = record.keepPast if isTold() else record.count
            tell(clock.now() - begun)
        return generation


def remember(repeats: dict[int, Repeat], source: Opened, repeat: Repeat) -> None:
    """Add a copy to those that a target remembers, by the `id` of their sources."""
    if len(repeats) >= _MOST:
        repeats.clear()
    repeats[id(source)] = repeat
