"""Wakeup: the words on which the background thread sleeps, and how the other threads of
its process end that sleep.

While it serves as broker it sleeps on an eventfd among its sockets, otherwise on the
broker's robust word. Private to the process.
"""

from __future__ import annotations

from muninn.control.block import ControlBlock
from muninn.session.watch import Watcher
from muninn.system.descriptors import OwnEvent


class Wakeup:
    """The wakeup of one membership."""

    def __init__(self, block: ControlBlock, slot: int) -> None:
        self.event = OwnEvent()
        self.watcher = Watcher(block, slot)

    def wake(self) -> None:
        """Wake the background thread of this process, and no other. Takes no lock,
        since finalizers call it.
        """
        self.event.set()
        self.watcher.wake()

    def close(self) -> None:
        self.event.close()
