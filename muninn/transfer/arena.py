"""The arena: scratch memory of this process that no window uses, kept for the next one.

To allocate a GiB takes a tenth of the time of copying one to it. So scratch memory that
this process had for itself stays allocated for some seconds, and the next window of
about its size on the same GPU gets it. It counts against the budgets meanwhile, and is
given back at once when a promotion finds no room. Private to the process; with it the
memory goes.
"""

from __future__ import annotations

import _thread
from typing import TYPE_CHECKING, NamedTuple

from muninn.system import clock

if TYPE_CHECKING:
    from muninn.session.context import Context
    from muninn.session.openbuffer import OpenBuffer

IDLE_SECONDS = 4.0
#: Memory of more than so many times the wanted size is left to a larger window.
_MOST_TIMES = 2


class _Idle(NamedTuple):
    gpu: int
    tenant: str
    memory: OpenBuffer
    sinceSeconds: float

    @property
    def sizeBytes(self) -> int:
        return self.memory.description.sizeBytes


class Arena:
    """The idle scratch memory of one membership."""

    def __init__(self) -> None:
        self._idle: list[_Idle] = []
        self._isClosed = False
        self._changing = _thread.RLock()

    def take(self, gpu: int, tenant: str, sizeBytes: int) -> OpenBuffer | None:
        """Memory of at least so many bytes, and not much more; None if there is none."""
        with self._changing:
            fitting = [
                each
                for each in self._idle
                if (each.gpu, each.tenant) == (gpu, tenant)
                and sizeBytes <= each.sizeBytes <= _MOST_TIMES * sizeBytes
            ]
            if not fitting:
                return None
            best = min(fitting, key=lambda each: each.sizeBytes)
            self._idle.remove(best)
            return best.memory

    def giveBack(self, gpu: int, memory: OpenBuffer) -> None:
        """No work uses the memory any more."""
        if self._isClosed:
            return
        with self._changing:
            self._idle.append(_Idle(gpu, memory.description.tenant, memory, clock.now()))

    def trim(self, olderThanSeconds: float = IDLE_SECONDS) -> bool:
        """Let go of memory that was idle for so long; returns whether there was any."""
        if not self._idle:
            return False
        oldest = clock.now() - olderThanSeconds
        with self._changing:
            dropped = [each for each in self._idle if each.sinceSeconds <= oldest]
            self._idle = [each for each in self._idle if each.sinceSeconds > oldest]
        return bool(dropped)

    def close(self) -> None:
        """The membership ends."""
        self._isClosed = True
        self.trim(0.0)


def arenaOf(context: Context) -> Arena:
    """The arena of a membership, made at its first use."""
    return context.gpus.companion(Arena, Arena)
