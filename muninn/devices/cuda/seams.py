"""The seams of pinned host memory: the addresses where one registration of the driver
ends and the next begins. Kernels work across them, and a copy may not (INVALID_VALUE,
seen on an H100), so copies are cut there.

There are thousands of seams in a buffer of hundreds of GiB, and each copy asks for
them. So they are one sorted tuple, in which a copy finds its own by bisection. A change
replaces the tuple, and readers need no lock.

While memory is being pinned, its last seam is the border between what the driver knows
and what it does not know yet. A copy over that border is refused too, so a seam is here
before the driver pins the piece in front of it, until after that piece is unpinned.
Only this process has them.
"""

from __future__ import annotations

import _thread
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence


class Seams:
    """The seams of this process.

    Attributes
    ----------
    changes
        How often they have changed.
    """

    def __init__(self) -> None:
        #: Sorted. An address is in it twice while a second registration of the same
        #: memory is tried, which the driver then refuses.
        self._at: tuple[int, ...] = ()
        self.changes = 0
        self._changing = _thread.RLock()

    def add(self, address: int) -> None:
        with self._changing:
            at = bisect_left(self._at, address)
            self._at = (*self._at[:at], address, *self._at[at:])
            self.changes += 1

    def remove(self, address: int) -> None:
        with self._changing:
            at = bisect_left(self._at, address)
            self._at = self._at[:at] + self._at[at + 1 :]
            self.changes += 1

    def cut(self, copies: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        """(target, source, bytes) of the copies into which many are cut. Few of them meet a
        seam, and to find that out takes most of the time.
        """
        at, whole = self._at, list[tuple[int, int, int]]()
        for copy in copies:
            target, source, sizeBytes = copy
            if bisect_right(at, target) == bisect_left(at, target + sizeBytes) and bisect_right(
                at, source
            ) == bisect_left(at, source + sizeBytes):
                whole.append(copy)
            else:
                whole += [
                    (target + offset, source + offset, partBytes)
                    for offset, partBytes in self.parts(target, source, sizeBytes)
                ]
        return whole

    def parts(self, target: int, source: int, sizeBytes: int) -> Iterator[tuple[int, int]]:
        """(offset, bytes) of the copies into which a copy is cut; nearly always one. Each
        part is found when it is asked for, because memory may be pinned meanwhile.
        """
        done = 0
        while done < sizeBytes:
            at, end = self._at, sizeBytes
            for start in (target, source):
                following = bisect_right(at, start + done)
                if following < len(at):
                    end = min(end, at[following] - start)
            yield done, end - done
            done = end
