"""Private memory: the bytes of one buffer object that is open copyOnWrite.

It is a private mapping of the buffer's segment. What the process writes there goes to
pages of its own, which the kernel makes at the first write to each; the shared bytes
never change, and no other buffer object sees the write. Pages that were not written
show what others write to the shared bytes. A forked child inherits the pages, and from
then on each of the two has its own.

The mapping needs the segment, so it must end before the lease that covers the segment
is given back. Arrays keep the private memory, and a record of this module keeps the
shared memory, and with it the lease. When no array and no buffer object keeps the
private memory any more, its record is in `gone`: the interpreter puts it there in one
step. `end` then unmaps first, and lets the shared memory go second; `Releases` calls
it. Nothing here is shared between processes, and the kernel undoes all of it at the
process's death.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from muninn.session.mappings import Memory
    from muninn.storage.segments import Mapping


class PrivateMemory:
    """A private mapping of a segment. It ends when the last buffer object *and* the last
    array that use it are gone.
    """

    __slots__ = ("__weakref__", "mapping")
    isHostVisible = True
    gpu: int | None = None

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping

    @property
    def address(self) -> int:
        """The address of its bytes, for the CPU; it never changes."""
        return self.mapping.address


class _Kept(NamedTuple):
    """The parts that a private memory needs until it is unmapped."""

    mapping: Mapping
    memory: Memory
    reference: weakref.ref[PrivateMemory]
    #: Another reference to the private memory, whose callback comes after the first.
    waker: weakref.ref[PrivateMemory]


class PrivateMemories:
    """The private memory of one membership.

    Parameters
    ----------
    onGone
        Called after a reference was put into `gone`.
    """

    def __init__(self, onGone: Callable[[object], object]) -> None:
        self._onGone = onGone
        self._kept: dict[int, _Kept] = {}
        #: References to private memory that is not used any more.
        self.gone: deque[weakref.ref[PrivateMemory]] = deque()

    def keep(self, private: PrivateMemory, memory: Memory) -> None:
        """Keep the shared memory until `private` is gone and unmapped. If this call is
        interrupted, the end of the mapping's object unmaps it.
        """
        # The callbacks of one object are called in reverse order of their creation.
        waker = weakref.ref(private, self._onGone)
        reference = weakref.ref(private, self.gone.append)
        self._kept[id(reference)] = _Kept(private.mapping, memory, reference, waker)

    def endGone(self) -> None:
        """Unmap private memory that is not used any more, and let its shared memory go.
        Each step may be done twice: what ends here may call this method again.
        """
        while self.gone:
            try:
                reference = self.gone[0]
            except IndexError:
                return  # another thread has removed it
            self._end(reference)
            with contextlib.suppress(ValueError):  # another call has removed it
                self.gone.remove(reference)

    def _end(self, reference: weakref.ref[PrivateMemory]) -> None:
        kept = self._kept.get(id(reference))
        if kept is not None:
            kept.mapping.close()
            self._kept.pop(id(reference), None)
