"""Reading: the entries of a source as jobs, which threads do at once, each in any order.

The entries lie in one range of memory, at the offsets that the caller gives. A job
fills a part of that range through an `Inlet`, which belongs to one thread: it gives
room for some bytes, and puts them into place when they are there. So a job knows
neither where the memory is nor how its bytes come there.

A part is at most the inlet's `pieceBytes` and lies in one piece of the range, as many
small entries may. Entries whose checksum is to be compared, and those that have to be
decoded, are one job each, which fills one part after the other.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from muninn.formats.source import Flat, Place, Source, viewOf


class Inlet(Protocol):
    """One thread's way into the memory.

    Attributes
    ----------
    isInPlace
        Whether the room is the memory itself; then it may be as large as the memory.
    """

    isInPlace: bool

    def begin(self, offset: int, sizeBytes: int) -> Flat:
        """Room for the bytes at `offset`, which the caller fills before it sends."""

    def send(self) -> None:
        """Put the bytes of the last room into place."""


#: Called with the number of bytes that were read.
Told = Callable[[int], object]
Job = Callable[[Inlet, Told], None]


class _Part(NamedTuple):
    """Bytes of an entry that are read at once; `start` is the place of the first in the
    memory, and `fileOffset` in the file.
    """

    start: int
    sizeBytes: int
    source: Source
    fileOffset: int

    @property
    def end(self) -> int:
        return self.start + self.sizeBytes


def jobsOf(source: Source, offsets: Mapping[str, int], pieceBytes: int) -> list[Job]:
    """The jobs that read entries, the longest ones first.

    Parameters
    ----------
    offsets
        From the key of each entry that is read to its place in the memory. Between two
        of them there is nothing, and so the bytes there may be written.
    """
    alone: list[tuple[int, Job]] = []
    pieces: list[Job] = []
    gathered: list[_Part] = []
    for key in sorted(offsets, key=offsets.__getitem__):
        sizeBytes, start = source.entries[key].sizeBytes, offsets[key]
        place = source.placeOf(key)
        if place is None or place.checksum is not None:
            # The bytes of this entry lie between those before it and those after it.
            pieces += _flushed(gathered)
            alone.append((sizeBytes, partial(_alone, source, key, place, start, pieceBytes)))
            continue
        for part in _cut(place, start, sizeBytes, pieceBytes):
            if gathered and gathered[0].start // pieceBytes != part.start // pieceBytes:
                pieces += _flushed(gathered)
            gathered.append(part)
    pieces += _flushed(gathered)
    alone.sort(key=lambda each: -each[0])
    return [*(job for _, job in alone), *pieces]


def _cut(place: Place, start: int, sizeBytes: int, pieceBytes: int) -> Iterable[_Part]:
    """The parts of an entry, each of which lies in one piece of the memory."""
    at = start
    while at < start + sizeBytes:
        end = min(start + sizeBytes, (at // pieceBytes + 1) * pieceBytes)
        yield _Part(at, end - at, place.source, place.offset + at - start)
        at = end


def _flushed(gathered: list[_Part]) -> list[Job]:
    """The job of the parts that were gathered, if there are any; the list is empty
    afterwards.
    """
    parts = tuple(gathered)
    gathered.clear()
    return [partial(_together, parts)] if parts else []


def _together(parts: tuple[_Part, ...], inlet: Inlet, told: Told) -> None:
    """Read parts of one piece."""
    begin = end = parts[0].start
    room = inlet.begin(begin, parts[-1].end - begin)
    for part in parts:
        room[end - begin : part.start - begin] = 0
        end = part.end
        part.source.readAt(part.fileOffset, room[part.start - begin : end - begin])
    inlet.send()
    told(sum(part.sizeBytes for part in parts))


def _alone(
    source: Source,
    key: str,
    place: Place | None,
    start: int,
    pieceBytes: int,
    inlet: Inlet,
    told: Told,
) -> None:
    """Read an entry from its beginning to its end."""
    if place is None:
        _decode(source, key, start, pieceBytes, inlet, told)
        return
    checksum = place.checksum.before if place.checksum else 0
    for part in _cut(place, start, source.entries[key].sizeBytes, pieceBytes):
        room = inlet.begin(part.start, part.sizeBytes)
        part.source.readAt(part.fileOffset, room)
        checksum = zlib.crc32(viewOf(room), checksum)
        inlet.send()
        told(part.sizeBytes)
    place.compare(key, checksum)


def _decode(
    source: Source, key: str, start: int, pieceBytes: int, inlet: Inlet, told: Told
) -> None:
    sizeBytes, done = source.entries[key].sizeBytes, 0
    if inlet.isInPlace:
        source.readInto(key, inlet.begin(start, sizeBytes), told)
        inlet.send()
        return

    def room(most: int) -> Flat:
        nonlocal done
        if done:
            inlet.send()
        given = inlet.begin(start + done, min(most, pieceBytes))
        done += len(given)
        told(len(given))
        return given

    source.readThrough(key, room)
    if done:
        inlet.send()
