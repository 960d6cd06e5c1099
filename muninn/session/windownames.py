"""The names of scratch memory: of which buffer a window is, and where in it.

``window:<row>.<incarnation>:<GPU>:<offset>+<bytes>``, behind a prefix that no name of a
user has. Memory that processes share is found by that name. The name of any other
window goes on with a random word, and that of the flags of a window with ``flags`` before
it: they count as scratch memory, and are no window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from muninn.terms import WINDOW_PREFIX

if TYPE_CHECKING:
    from muninn.control.rowreader import RowReader

_PLACE = r"(\d{1,9})\.(\d{1,9}):([^:]*):(\d{1,19})\+(\d{1,19})"
_NAME = re.compile(re.escape(WINDOW_PREFIX) + _PLACE + r"(:flags)?(:.*)?")


class WindowPlace(NamedTuple):
    """A window of a buffer on a GPU.

    Attributes
    ----------
    row, incarnation
        The buffer's.
    gpu
        A word for the GPU, the same in all processes.
    isFlags
        Whether the memory has the flags of kernels, and not the window.
    """

    row: int
    incarnation: int
    gpu: str
    offset: int
    sizeBytes: int
    isFlags: bool = False

    @property
    def base(self) -> tuple[int, int]:
        return self.row, self.incarnation

    @property
    def window(self) -> tuple[int, int]:
        return self.offset, self.sizeBytes

    def name(self, ending: str = "") -> str:
        where = f"{self.row}.{self.incarnation}:{self.gpu}:{self.offset}+{self.sizeBytes}"
        kind = ":flags" if self.isFlags else ""
        return WINDOW_PREFIX + where + kind + (f":{ending}" if ending else "")

    @classmethod
    def of(cls, name: str, *, isShared: bool = False) -> WindowPlace | None:
        """None if it is no name of scratch memory; if `isShared`, of a window that processes
        share.
        """
        found = _NAME.fullmatch(name)
        if found is None or (isShared and found[6] != found[7]):
            return None
        numbers = int(found[1]), int(found[2]), found[3], int(found[4]), int(found[5])
        return cls(*numbers, isFlags=found[6] is not None)


def wordOf(gpuUuid: str) -> str:
    """The word for a GPU in names."""
    return gpuUuid[-12:]


def windowsOf(
    rows: RowReader, base: tuple[int, int], *, isShared: bool = False
) -> Iterator[tuple[int, int, WindowPlace]]:
    """The rows that are named as windows of a buffer, with their incarnations: all of them,
    or those that processes share. A row may be another buffer's by now.
    """
    for row in rows.fastMode():
        incarnation = rows.state(row).incarnation
        place = WindowPlace.of(rows.name(row).decode(errors="replace"), isShared=isShared)
        if place is not None and not place.isFlags and place.base == base:
            yield row, incarnation, place
