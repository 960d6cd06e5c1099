"""Accesses in which this process copies between places, and waits for the copy.

They wait for the work that earlier accesses gave their streams, as the host does before
it copies. A copy may be cancelled while it waits, so each wait looks now and then
whether it is to end.

Two interruptions in a row may end the wait for a copy that is under way, at any
bytecode. The access lasts until the copy is over all the same (`covers`), as one with a
stream does: C ends it, or a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.errors import WritebackConflict
from muninn.session import owners
from muninn.sync import fences
from muninn.sync.access import OnOpenBuffer
from muninn.sync.contention import awaitReaders, refuseOwnWriter
from muninn.system import atomics, threads
from muninn.system.deadlines import remaining, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from muninn.session.openbuffer import OpenBuffer
    from muninn.sync.access import Until

#: How often a wait looks whether it is to end.
_LOOK_SECONDS = 0.1


_TORN_FIX = (
    "Write the whole buffer in a write(), inside the block: numpy.asarray() of the window has "
    "its bytes"
)


def _nothing() -> None:
    """No copy is under way."""


class _Covering(OnOpenBuffer):
    """An access that lasts until the work of a copy is over, however it is left."""

    #: Waits for the work of the copy, and holds the memory that the copy uses.
    _settle: Callable[[], object] = staticmethod(_nothing)

    def _end(self, kind: type[BaseException] | None) -> None:
        self._settle()

    def _linger(self) -> None:
        def end() -> None:
            try:
                self._settle()
            finally:
                atomics.scopeEnd(self)

        try:
            threads.start(end, "muninn-access")
        except RuntimeError:  # no thread can be started: wait here
            end()


class Again(_Covering):
    """An access of a copy that is made again. The C part enters it, where that takes no
    wait, and leaves it (`cshim/repeat.h`), any number of times. It keeps no buffer.
    """

    def __init__(self, openBuffer: OpenBuffer, drain: Callable[[], object]) -> None:
        super().__init__(openBuffer.owner, _AGAIN_CALLS, id(self))
        self._settle = drain


class _Moving(_Covering):
    """An access in which this process copies between places, and waits for the copy. It
    waits for the work of earlier accesses first.

    Parameters
    ----------
    look
        Called now and then while it waits; raises to end the wait. The place in the row
        of those that wait is kept meanwhile.
    """

    def __init__(
        self,
        calls: int,
        openBuffer: OpenBuffer,
        timeout: float | None,
        look: Callable[[], object],
    ) -> None:
        super().__init__(None, calls, id(self))
        self._isTimed, self._kind = timeout is not None, owners.KIND_HOST
        self._openBuffer, self._timeout, self._look = openBuffer, timeout, look

    def covers(self, settle: Callable[[], object]) -> None:
        """Let the access last until `settle` has returned, however its block is left.

        Parameters
        ----------
        settle
            Waits for the work of the copy, and holds the memory that the copy uses.
        """
        self._settle = settle
        # The C part then calls `_end` in any case, and `_linger` if that raises.
        self._kind = owners.KIND_STREAM

    def _attach(self) -> None:
        openBuffer = self._openBuffer
        if openBuffer.context.departure.isOn:
            openBuffer.context.departure.awaitEnd()
        openBuffer.check()
        self._owner = openBuffer.owner

    def _await(self, until: Until, word: int) -> bool:
        self._look()
        return super()._await(until, word)

    def _awaitWork(self, until: Until, writing: bool) -> None:
        """Wait for the streams that use the buffer, and look whether its lease still
        holds.
        """
        self._inSlices(until, lambda seconds: self._isDone(seconds, writing))
        self._openBuffer.check()

    def _isDone(self, seconds: float | None, writing: bool) -> bool:
        fences.holdBack(self._openBuffer, None, writing=writing, timeout=seconds)
        return True

    def _inSlices(self, until: Until, wait: Callable[[float], bool]) -> bool:
        """Wait as long as the deadline allows, and look between two slices of the time.
        Returns what the last wait returned, or raises its `TimeoutError`.
        """
        while True:
            self._look()
            left = None if until is None else remaining(until[0])
            seconds = _LOOK_SECONDS if left is None else max(0.0, min(_LOOK_SECONDS, left))
            isLast = left is not None and left <= _LOOK_SECONDS
            try:
                if wait(seconds):
                    return True
                if isLast:
                    return False
            except TimeoutError:
                if isLast:
                    raise


class Sending(_Moving):
    """A read access: the bytes are copied to another place."""

    def __init__(
        self, openBuffer: OpenBuffer, timeout: float | None, look: Callable[[], object]
    ) -> None:
        super().__init__(_SENDING_CALLS, openBuffer, timeout, look)

    if not TYPE_CHECKING:
        __enter__, __exit__ = atomics.readingEnter, atomics.readingExit

    def _attach(self) -> None:
        super()._attach()
        refuseOwnWriter(self._openBuffer)

    def _awaitOthers(self, until: Until) -> None:
        self._refuseLeft()
        self._awaitWork(until, writing=False)


class Receiving(_Moving):
    """A write access: bytes are copied into the buffer, wherever it is."""

    def __init__(
        self, openBuffer: OpenBuffer, timeout: float | None, look: Callable[[], object]
    ) -> None:
        super().__init__(self._callsOfKind(), openBuffer, timeout, look)

    @staticmethod
    def _callsOfKind() -> int:
        return _RECEIVING_CALLS

    if not TYPE_CHECKING:
        __enter__, __exit__ = atomics.writingEnter, atomics.writingExit

    def _awaitOthers(self, until: Until) -> None:
        openBuffer = self._openBuffer
        if not self._inSlices(until, lambda seconds: awaitReaders(openBuffer, seconds)):
            raise TimeoutError(
                f"others have been reading {openBuffer.description.name!r} for "
                f"{shown(self._timeout)}"
            )
        self._awaitWork(until, writing=True)

    def _end(self, kind: type[BaseException] | None) -> None:
        super()._end(kind)
        if kind is None:
            fences.mend(self._openBuffer)


class WritingBack(Receiving):
    """A write access that must find one generation, whole: otherwise it is
    `WritebackConflict`, and nothing has changed.

    Parameters
    ----------
    generation
        Returns that generation; called once no other process can change the buffer.
    areFollowed
        Waits for so many seconds until `generation` knows of what this process has
        published. Returns whether it does.
    isRepair
        Whether the whole buffer is written, and an access that did so has failed: the
        buffer may be half written, but no later generation may have been published.
    """

    def __init__(
        self,
        openBuffer: OpenBuffer,
        timeout: float | None,
        generation: Callable[[], int],
        areFollowed: Callable[[float], bool],
        isRepair: bool = False,
    ) -> None:
        super().__init__(openBuffer, timeout, lambda: None)
        # The C part then calls `_awaitOthers` in any case: with the owner lock, and
        # before the generation becomes odd, by which a dead writer's can not be told.
        self._kind = owners.KIND_STREAM
        self._promoted, self._areFollowed = generation, areFollowed
        self._isRepair = isRepair

    @staticmethod
    def _callsOfKind() -> int:
        return _BACK_CALLS

    def _awaitOthers(self, until: Until) -> None:
        super()._awaitOthers(until)
        # Asked now: another window of this process may just have been written back.
        if not self._inSlices(until, self._areFollowed):
            raise TimeoutError(
                f"another thread has been writing a window of "
                f"{self._openBuffer.description.name!r} back for {shown(self._timeout)}"
            )
        found, promoted = self._openBuffer.generation.value(), self._promoted()
        if found != promoted and not (self._isRepair and found == promoted + 1):
            left = "a writer has left it half written" if found & 1 else f"it is at {found}"
            raise WritebackConflict(
                f"{self._openBuffer.description.name!r} was written after a window of it was "
                f"promoted at generation {promoted}: {left}",
                _TORN_FIX if found & 1 else None,
            )


_SENDING_CALLS, _RECEIVING_CALLS, _BACK_CALLS, _AGAIN_CALLS = (
    owners.callsOf(kind) for kind in (Sending, Receiving, WritingBack, Again)
)
