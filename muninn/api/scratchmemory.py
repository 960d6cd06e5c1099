"""Scratch memory: a buffer of its own kind that the broker admits against the budgets of
the GPU and of the tenant.

It is freed with its last user, and a process that is killed leaves nothing. Its name
says of which buffer and which window it is. The name of a window that processes share
says nothing else, so that they find it; any other name ends with a random word.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from muninn.api.options import BufferOptions
from muninn.api.specs import specOf
from muninn.control.hints import Hints
from muninn.errors import (
    BufferExists,
    ControlBlockInvalid,
    HolderSilent,
    MuninnError,
    PromotionDenied,
    QuotaExceeded,
)
from muninn.session import creation
from muninn.session.gpus import deviceOf
from muninn.session.membership import current
from muninn.session.othersroom import askForBudget, askOthers
from muninn.session.reservation import PromotionQueued
from muninn.session.spec import windowSpec
from muninn.session.windownames import WindowPlace, windowsOf, wordOf
from muninn.system import clock
from muninn.system.deadlines import remaining
from muninn.terms import Mode, Priority
from muninn.transfer.arena import Arena, arenaOf, isHeld

if TYPE_CHECKING:
    from muninn.session.mappings import Memory
    from muninn.session.openbuffer import OpenBuffer
    from muninn.session.spec import BufferSpec
    from muninn.transfer.dirty import Range

#: How often a promotion asks again for room.
_PAUSE_SECONDS = 0.005
#: How often it asks other processes for theirs.
_TOLD_SECONDS = 2.0
#: As of memory that is allocated by itself.
_ALIGNMENT = 256
#: Makes the content of memory before another process can open it.
Fill = Callable[["Memory"], None]


class _Asked(NamedTuple):
    """What others were asked for, when, and whether it may help."""

    what: str
    atSeconds: float
    mayHelp: bool


class Claim(NamedTuple):
    """A claim of scratch memory for a window of a buffer.

    Attributes
    ----------
    base
        The buffer. The memory has its tenant and its access.
    belowRank
        Prefetched memory that ranks below this gives way.
    isQueued
        Whether windows that ask later wait behind it. A prefetch holds nobody back.
    deadline
        Until when to wait for room; None: for ever.
    look
        Called between two attempts; raises to end the wait.
    inside
        Makes the access inside which the memory is asked for and filled: a promotion that
        only waits for a writer of the buffer takes no place of those that copy.
    isFlags
        Whether it is for the flags of kernels, beside the window.
    """

    base: OpenBuffer
    gpu: int
    window: Range
    sizeBytes: int
    priority: Priority
    belowRank: int
    isQueued: bool
    deadline: float | None
    look: Callable[[], object]
    inside: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    isFlags: bool = False

    def spec(self, caller: str, ending: str = "") -> BufferSpec:
        """The spec of the memory. Without an ending its name can be found."""
        description = self.base.description
        wanted = specOf(
            caller,
            (self.sizeBytes,),
            np.uint8,
            BufferOptions(
                mode=Mode.FAST.value,
                preferredGpu=self.gpu,
                access=description.access.value,  # type: ignore[arg-type]  # a word of it
                tenant=description.tenant,
            ),
        )
        left = remaining(self.deadline)
        isWaiting = self.isQueued and (left is None or left > 0)
        return windowSpec(wanted, self.place().name(ending))._replace(
            hints=Hints(priority=self.priority), isWaiting=isWaiting
        )

    def place(self) -> WindowPlace:
        """Where the window is, as its name says it."""
        gpu = wordOf(deviceOf(self.base.context).gpuUuid(self.gpu))
        base = self.base.row, self.base.incarnation
        return WindowPlace(*base, gpu, *self.window, isFlags=self.isFlags)

    def shared(self, caller: str, fill: Fill) -> tuple[OpenBuffer, int]:
        """Memory that all processes share, and where the window is in it: one that has all
        its bytes, or made and filled now.

        Raises
        ------
        HolderSilent
            The memory has this name, and did not come to a new broker: a process that has
            it stands still.
        """
        wanted = self.spec(caller)
        while True:
            found = current().openBuffers.find(wanted.name)
            if found is not None:
                if self._isIn(found, 0):
                    return found, 0
                raise ControlBlockInvalid(
                    f"the row of {wanted.name!r} states {found.description.sizeBytes} bytes"
                )
            if (around := self._around()) is not None:
                return around
            with contextlib.suppress(BufferExists):  # another process makes it
                return self._granted(lambda: creation.create(wanted, fill=fill)), 0
            if (left := remaining(self.deadline)) is not None and left <= 0:
                raise TimeoutError(
                    "another process has been promoting the same window, and is not ready"
                )
            self.look()
            clock.sleep(_PAUSE_SECONDS)

    def _around(self) -> tuple[OpenBuffer, int] | None:
        """The memory of a larger window, which any process has promoted, and where this one
        is in it.
        """
        member, mine = current(), self.place()
        for row, incarnation, place in windowsOf(member.rows, mine.base, isShared=True):
            at = mine.offset - place.offset
            isWithin = at >= 0 and at + mine.sizeBytes <= place.sizeBytes
            if place.gpu == mine.gpu and isWithin and at % _ALIGNMENT == 0:
                # If its holder stands still, this window gets memory of its own.
                with contextlib.suppress(HolderSilent):
                    opened = member.openBuffers.hold(row, incarnation)
                    if opened is not None and isHeld(opened) and self._isIn(opened, at):
                        return opened, at
        return None

    def _isIn(self, memory: OpenBuffer, at: int) -> bool:
        """Whether memory has all bytes of the window from there on. Its name is what other
        processes have written: it may be damaged.
        """
        return at + self.sizeBytes <= memory.description.sizeBytes

    def private(self, caller: str, fill: Fill) -> OpenBuffer:
        """Memory for this process alone, filled: of the arena, or made now."""
        wanted, arena = self.spec(caller, os.urandom(8).hex()), arenaOf(self.base.context)

        def make() -> OpenBuffer:
            kept = arena.take(self.gpu, self.base.description.tenant, self.sizeBytes, self.place())
            if kept is None:
                return creation.create(wanted, fill=fill)
            try:
                fill(kept.memory)
            except BaseException:
                # A copy may go on after an interruption, and so the memory is not kept: not
                # by the error either, which keeps this frame.
                del kept
                raise
            return kept

        return self._granted(make)

    def _granted(self, make: Callable[[], OpenBuffer]) -> OpenBuffer:
        """What `make` makes inside the access, as soon as the budgets allow it. Who waits
        for the executor or for a writer has no memory of the arena yet, so others find it.
        """
        arena, asked = arenaOf(self.base.context), _Asked("", -_TOLD_SECONDS, False)
        while True:
            try:
                with self.inside():
                    return make()
            except (PromotionDenied, QuotaExceeded) as error:
                if self._hasMadeRoom(arena, error):
                    continue
                what = f"{type(error).__name__} {getattr(error, 'short', '')}"
                if what != asked.what or clock.now() - asked.atSeconds >= _TOLD_SECONDS:
                    asked = _Asked(what, clock.now(), self._hasAsked(error))
                if not isinstance(error, PromotionQueued) and not asked.mayHelp:
                    raise  # a wait would not help
                left = remaining(self.deadline)
                if left is not None and left <= 0:
                    raise self._denied(error) from None
                self.look()
                clock.sleep(_PAUSE_SECONDS)

    def _hasAsked(self, error: MuninnError) -> bool:
        """Whether other processes have scratch memory where there is no room, and were asked
        for it.
        """
        if not self.isQueued:
            return False
        if isinstance(error, PromotionQueued):
            tenant = None if error.short == "gpu" else self.base.description.tenant
            return bool(error.short) and askForBudget(current(), self.gpu, tenant, self.belowRank)
        return isinstance(error, QuotaExceeded) and askOthers(
            current(), self.gpu, self.sizeBytes, self.belowRank
        )

    @staticmethod
    def _denied(error: MuninnError) -> MuninnError:
        if isinstance(error, PromotionQueued):
            wait = "Wait longer (`timeout=`), or give it a higher priority"
            return PromotionDenied(error.reason, None if error.short else wait)
        return PromotionDenied(
            f"{error.reason}, and windows of other processes are there",
            "Wait longer (`timeout=`), or free buffers: `python -m muninn list --holders` shows "
            "who has the windows, and `evict NAME --windows` ends those of a buffer",
        )

    def _hasMadeRoom(self, arena: Arena, error: MuninnError) -> bool:
        """Whether the arena has given memory back that counted where there was no room."""
        rank, gpu, tenant = self.belowRank, self.gpu, self.base.description.tenant
        if isinstance(error, PromotionQueued):
            whose = {"gpu": (gpu, None), "tenant": (gpu, tenant)}.get(error.short)
            return whose is not None and arena.makeRoom(rank, *whose)
        if isinstance(error, PromotionDenied):
            return False
        # A quota of VRAM, or the driver: the nearest memory first.
        nearest = ((gpu, tenant), (gpu, None), (None, tenant), (None, None))
        return any(arena.makeRoom(rank, *whose) for whose in nearest)
