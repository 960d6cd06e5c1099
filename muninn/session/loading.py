"""Loading: how a process fills the memory of a new buffer from files, before another
process can open it.

Several threads read, each one piece at a time. In host memory a thread allocates the
pages of its piece and reads straight into them. For VRAM it reads into pinned memory,
from which the GPU copies one piece while the thread reads the next (`Upload`). In both
cases no byte is anywhere else in this process.

The memory is not allocated ahead in one go, as that of other buffers is: a page that
was cleared just before is still in the cache of the processor when the bytes come.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from muninn.devices.port import Allocation
from muninn.devices.upload import Upload
from muninn.formats.reading import jobsOf
from muninn.interop.hostarrays import Flat, flatOf
from muninn.session.crew import Crew
from muninn.storage import segments
from muninn.system.closable import Closable

if TYPE_CHECKING:
    from muninn.formats import Source
    from muninn.session.mappings import Memory

#: Bytes that a thread reads into host memory at a time: a huge page, which is not
#: split, and few enough for the cache.
_HOST_PIECE_BYTES = 2 << 20
#: Bytes that a thread copies to a GPU at a time. Less, and the steps between two copies
#: show; more, and pinning the pieces does.
_UPLOAD_PIECE_BYTES = 8 << 20
#: More threads than this make no read from the page cache faster.
_MOST_THREADS = 12
#: Files that are not in the page cache are read faster by some threads, however few
#: processors there are.
_LEAST_THREADS = 2


class InPlace(Closable):
    """Host memory, into which one thread reads directly."""

    isInPlace = True

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def begin(self, offset: int, sizeBytes: int) -> Flat:
        """The memory at `offset`, with its pages allocated. Raises `HostMemoryFull`."""
        if isinstance(mapping := self._memory.source, segments.Mapping):
            segments.populatePart(mapping, offset, sizeBytes)
        return flatOf(self._memory, sizeBytes, offset)

    def send(self) -> None:
        """The bytes are in place."""

    def finish(self) -> None:
        """Nothing is on its way."""

    def close(self) -> None:
        """There is nothing to give back."""


def load(
    memory: Memory,
    source: Source,
    offsets: Mapping[str, int],
    threads: int,
    progress: Callable[[int], object] | None,
) -> None:
    """Read entries of a source into a memory.

    Parameters
    ----------
    offsets
        From the key of each entry that is read to its place.
    threads
        How many threads read; 0: as many as the process may use, from 2 to 12.
    progress
        Called with the bytes that were read since the last call, on the calling thread.

    Raises
    ------
    FileInvalid, HostMemoryFull, DeviceUnavailable, BarPressureHigh, ThreadsExhausted
    """
    device, gpu = memory.device, memory.gpu
    count = threads or max(_LEAST_THREADS, min(_MOST_THREADS, len(os.sched_getaffinity(0))))
    if device is None or gpu is None or not isinstance(memory.source, Allocation):
        jobs = jobsOf(source, offsets, _HOST_PIECE_BYTES)
        Crew(jobs, lambda: InPlace(memory), InPlace.finish).work(count, progress)
        return
    target, chosen, number = memory.address, device, gpu
    jobs = jobsOf(source, offsets, _UPLOAD_PIECE_BYTES)
    Crew(
        jobs,
        lambda: Upload(chosen, number, target, _UPLOAD_PIECE_BYTES),
        Upload.finish,
    ).work(count, progress)
