"""The host's part in a stream of a real GPU: the pieces of work that the stream worker
runs, and the memory that all streams use for them.

Only this process reads and writes them; nothing of them survives the process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import call
from muninn.devices.cuda.events import Events
from muninn.devices.cuda.gpu import Entered
from muninn.devices.cuda.semaphores import HostSemaphore, HostSemaphores, Wait
from muninn.devices.cuda.staging import Pieces, Staging
from muninn.devices.worker import Item, StreamWorker
from muninn.system import atomics


class HostParts(NamedTuple):
    """The memory that all streams use for the host's part in them."""

    semaphores: HostSemaphores
    staging: Staging


def endingWait(item: Item, wait: Wait) -> Item:
    """`item`, followed by the end of a wait of the stream that has begun."""

    def ending(error: BaseException | None) -> None:
        try:
            item(error)
        finally:
            wait.end()

    return ending


def filling(events: Events, before: Any, piece: int, source: int, sizeBytes: int) -> Item:
    """Fill a piece of pinned memory after the event `before`: until then the GPU reads
    the piece.
    """

    def item(error: BaseException | None) -> None:
        if before is not None:
            events.wait(before)
        atomics.copy(piece, source, sizeBytes)

    return item


def emptying(
    events: Events, filled: Any, target: int, piece: int, sizeBytes: int, held: object
) -> Item:
    """Empty a piece of pinned memory after the event `filled`: until then the GPU
    writes the piece.
    """

    def item(error: BaseException | None, kept: object = held) -> None:
        events.wait(filled)
        if error is None:
            atomics.copy(target, piece, sizeBytes)

    return item


class StreamEnd:
    """The last item of a stream worker: it destroys the stream, and gives the host
    semaphore and the pieces back for another stream.
    """

    def __init__(
        self,
        context: Any,
        handle: int,
        host: HostParts,
        semaphore: HostSemaphore,
        pieces: list[Pieces],
    ) -> None:
        self._context, self._handle, self._host, self._semaphore, self._pieces = (
            context,
            handle,
            host,
            semaphore,
            pieces,
        )

    def __call__(self, error: BaseException | None) -> None:
        if self._handle:
            with Entered(self._context):
                # The stream may still wait for the host semaphore.
                call(cu.cuStreamSynchronize, self._handle)
        self.atOnce()

    def atOnce(self) -> None:
        """End a stream in which the host had nothing to do; the driver finishes its
        work.
        """
        if self._handle:
            with Entered(self._context):
                call(cu.cuStreamDestroy, self._handle)
        self._host.semaphores.giveBack(self._semaphore)
        while self._pieces:
            self._host.staging.giveBack(self._pieces.pop())


def retire(worker: StreamWorker, end: StreamEnd) -> None:
    """Let the worker finish the work of the stream, and end the stream then. The
    garbage collector calls this, at any point of any thread.
    """
    if not driver.isForked() and not worker.endWith(end):
        end.atOnce()
