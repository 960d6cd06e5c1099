"""Repeats: `copyFrom` of two buffers between which it has copied before.

What the first copy has found out stays true: that the caller may copy, by which route
the bytes go, and where they are. The C part looks at the words of shared memory, copies,
and publishes (`cshim/repeat.h`). Where it can not do so at once, it does nothing, and
the caller takes the long way.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from ctypes import addressof
from typing import TYPE_CHECKING, Protocol

from muninn.sync.moves import Again
from muninn.system import clock
from muninn.system.structures import RepeatedCopy

if TYPE_CHECKING:
    from muninn.devices.port.lanes import Lane
    from muninn.session.openbuffer import OpenBuffer

#: How many sources a target remembers.
_MOST = 8


class Opened(Protocol):
    """What a copy that is made again looks at of its source."""

    _openBuffer: OpenBuffer | None


class Repeats:
    """The copies that one target remembers, by the `id` of their sources."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, Repeat] = {}

    def copy(self, into: OpenBuffer | None, source: Opened, asked: str | None) -> int | None:
        """Copy from a source once more to `into`, which the target has open now, if any.
        Returns the generation, or None if the caller has to take the long way, and nothing
        is done.
        """
        known = self._known.get(id(source))
        return None if known is None else known.copy(into, source, asked)

    def forget(self) -> None:
        self._known.clear()

    def forgetOf(self, source: Opened) -> None:
        self._known.pop(id(source), None)

    def remember(self, source: Opened, repeat: Repeat) -> None:
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[id(source)] = repeat


class Repeat:
    """A copy that was made once, from `source` to the buffer of `into`.

    Parameters
    ----------
    asked
        The route that the caller demanded, or None.
    record
        Called with the seconds of each copy.
    """

    __slots__ = ("_asked", "_call", "_into", "_kept", "_out", "_record", "_source")

    def __init__(
        self,
        source: Opened,
        out: OpenBuffer,
        into: OpenBuffer,
        asked: str | None,
        lane: Lane,
        record: Callable[[float], object],
    ) -> None:
        self._source, self._out = weakref.ref(source), weakref.ref(out)
        self._into = weakref.ref(into)
        self._asked, self._record = asked, record
        sending, receiving = Again(out, lane.settle), Again(into, lane.settle)
        finish = lane.finish
        # What C has addresses of. The buffers are not among it: both are looked at before
        # each copy.
        self._kept = lane, sending, receiving, finish
        self._call = RepeatedCopy(
            addressof(lane.calls),
            addressof(sending),
            addressof(receiving),
            out.standing(),
            into.standing(),
            out.memory.address,
            into.memory.address,
            into.description.sizeBytes,
            id(finish),
        )

    def copy(self, into: OpenBuffer | None, source: Opened, asked: str | None) -> int | None:
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
        begun = clock.now()
        generation = self._call.copy()
        if generation is not None:
            self._record(clock.now() - begun)
        return generation
