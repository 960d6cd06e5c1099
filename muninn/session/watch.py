"""The watcher: how a member's background thread sleeps, and how it is woken alone.

It waits for three words at once (`cshim/watch.h`): the robust word of the broker, which
the kernel marks at the broker's end and which all members watch; the election word,
which changes with each term; and a word of this process, which a wake-up changes. A
wake-up wakes the thread of this process, and no other. A change between the look and
the sleep is not missed, because the sleep compares each word with the value that the
look has read.
"""

from __future__ import annotations

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.system import atomics

#: The kernel wakes one watcher of a broker that died, and that one wakes the others.
#: Should it be stopped or killed before that, they look after so long. A look is some
#: microseconds in C, without the interpreter.
_LOOK_NS = 1_000_000_000


class Watcher:
    """The sleep of one member's background thread."""

    def __init__(self, block: ControlBlock, slot: int) -> None:
        self._block = block
        self._slot = slot
        # The process's own: its wake-ups, and whether the thread sleeps where only a
        # bit of the robust word tells it from others.
        self._words = atomics.indexBuffer(2)
        self._wakeOwner = atomics.addressOf(self._words)
        self._seen = 0
        self._robust: int | None = None

    def look(self) -> None:
        """A request that comes from here on ends the next sleep. Called before the
        thread looks for work.
        """
        # SYNC wake: pairs with Watcher.wake. The word is read before the look for work,
        # so work that comes afterwards ends the next sleep.
        self._seen = int(atomics.loadAcquire32(self._wakeOwner))

    def sleep(self, slot: int, electionWord: int, timeoutNs: int) -> None:
        """Sleep until the broker in `slot` dies, the election word differs, a thread of
        this process calls `wake`, or the bound is reached.

        Returns at once if that has come since `look`.
        """
        self._robust = self._block.memberAddress(slot) + layout.MEMBER_ROBUST_OFFSET
        # SYNC watch: pairs with Election.replace, and with the kernel's
        # exit_robust_list.
        atomics.watch(
            self._robust,
            self._block.electionAddress,
            electionWord & 0xFFFFFFFF,
            self._wakeOwner,
            self._seen,
            self._slot,
            max(0, timeoutNs),
            _LOOK_NS,
        )

    def wake(self) -> None:
        """Wake the thread, and no other. Takes no lock, since finalizers and signal
        handlers call it.
        """
        # SYNC wake: pairs with Watcher.look; the request that the thread is to see was
        # stored before.
        atomics.wakeWatcher(self._wakeOwner, self._robust, self._slot)
