"""The room of a window: which bytes it has, what is where in its scratch memory, and the
comparison that finds out what was written there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from muninn.api.attachment import Attachment
from muninn.api.views import Region
from muninn.arguments import asInteger
from muninn.errors import InvalidArgument
from muninn.interop.elements import asElement
from muninn.system.pages import pagesUp
from muninn.transfer import dirty
from muninn.transfer.tiers import slicesOf

if TYPE_CHECKING:
    from muninn.control.descriptions import RowDescription

#: Slices are compared word by word.
WORD_BYTES = 8
#: Twice the most, in bytes, are still an integer of 64 bits wherever slices are counted.
_LEAST_SLICE_BYTES, _MOST_SLICE_BYTES = 4096, 1 << 62


class Room(NamedTuple):
    """What is where in scratch memory: the window is at 0.

    Attributes
    ----------
    shadowAt
        The copy with which a window is compared, if it is.
    flagsAt
        A flag for each slice, for kernels, if the window can be written. As many are
        behind them, of the slices that are being written back.
    """

    shadowAt: int | None
    flagsAt: int | None
    sizeBytes: int

    @classmethod
    def of(cls, windowBytes: int, sliceBytes: int, isWritten: bool, isTracked: bool) -> Room:
        if not isWritten:
            return cls(None, None, windowBytes)
        behind = pagesUp(windowBytes)
        flagsAt = behind if isTracked else 2 * behind
        total = flagsAt + 2 * slicesOf(windowBytes, sliceBytes)
        return cls(None if isTracked else behind, flagsAt, total)

    def more(self) -> str:
        """What is there beside the window, for a message."""
        if self.flagsAt is None:
            return ""
        shadow = "" if self.shadowAt is None else "a second copy to compare it with, and "
        return f" with {shadow}the flags of its slices"


def regionOf(base: Attachment, window: dirty.Range) -> Region:
    """The window as an array of the buffer's elements, or of bytes if it cuts one."""
    openBuffer = base._held()
    whole = Region.of(openBuffer)
    if window == (0, whole.sizeBytes):
        return whole
    itemBytes = whole.element.itemBytes
    if itemBytes and not window.offset % itemBytes and not window.sizeBytes % itemBytes:
        return Region(0, (window.sizeBytes // itemBytes,), whole.element)
    return Region(0, (window.sizeBytes,), asElement(np.uint8))


def askedRange(caller: str, sizeBytes: int, offset: object, length: object) -> dirty.Range:
    """The range that a caller asks for, of so many bytes; it may reach beyond them."""
    begin = asInteger(offset)
    wanted = sizeBytes - (begin or 0) if length is None else asInteger(length)
    if begin is None or wanted is None:
        raise TypeError(f"{caller}: offset and length are numbers of bytes")
    return dirty.Range(begin, wanted)


def rangeWithin(caller: str, sizeBytes: int, offset: object, length: object) -> dirty.Range:
    """The range of a window of so many bytes that a caller asks for."""
    asked = askedRange(caller, sizeBytes, offset, length)
    requireWithin(caller, asked, sizeBytes, f"a window of {sizeBytes} bytes")
    return asked


def requireWithin(caller: str, asked: dirty.Range, sizeBytes: int, what: str) -> None:
    """Raise `InvalidArgument` unless a range is in the bytes of `what`."""
    begin, length = asked
    if 0 <= begin <= sizeBytes and 0 <= length <= sizeBytes - begin:
        return
    problem = f"{length} bytes from {begin} on reach beyond {what}"
    if begin < 0:
        problem = f"offset {begin} is below 0"
    elif begin > sizeBytes:
        problem = f"offset {begin} is beyond {what}"
    elif length < 0:
        problem = f"length {length} is below 0"
    raise InvalidArgument(f"{caller}: {problem}", "Pass an offset and a length that are in it")


def requireWindow(caller: str, description: RowDescription, window: dirty.Range) -> None:
    """Raise `InvalidArgument` for what is no window of a buffer."""
    sizeBytes, name = description.sizeBytes, description.name
    requireWithin(caller, window, sizeBytes, f"{name!r}, which has {sizeBytes} bytes")
    if window.sizeBytes == 0:
        raise InvalidArgument(
            f"{caller}: a window of 0 bytes of {name!r} can not be", "Promote at least a byte"
        )


def asSlice(caller: str, sliceBytes: object) -> int:
    """The unit in which writes are told apart, as the user gave it."""
    number = asInteger(sliceBytes)
    if number is None:
        raise TypeError(
            f"{caller}: sliceBytes must be a number of bytes, not {type(sliceBytes).__name__}"
        )
    if not _LEAST_SLICE_BYTES <= number <= _MOST_SLICE_BYTES or number % WORD_BYTES:
        raise InvalidArgument(
            f"{caller}: sliceBytes {sliceBytes!r} can not be",
            f"Use a multiple of {WORD_BYTES} from {_LEAST_SLICE_BYTES} on, up to 2**62",
        )
    return number
