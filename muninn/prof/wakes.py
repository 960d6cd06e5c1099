"""Wakes: two processes that wake each other by futexes in memory of their own, and copy
bytes there and back. It is what the kernel and the memory of this machine can do, and
Muninn takes no part but for its C primitives.

The memory has a page for the words and then the bytes of each way. Each process writes
its own word only. Nothing survives either process.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

import numpy as np

from muninn.system import atomics, descriptors
from muninn.system.descriptors import Descriptor

_WORD_OFFSETS = (0, 64)
_PAYLOAD_OFFSET, _LOOK_NS, _BOUND_LOOKS = 4096, 1_000_000_000, 30


class Wakes:
    """One side of two: 0 asks, 1 answers."""

    def __init__(self, descriptor: int, side: int, payloadBytes: int) -> None:
        sizeBytes = _PAYLOAD_OFFSET + 2 * payloadBytes
        self._memory = np.frombuffer(mmap.mmap(descriptor, sizeBytes), np.uint8)
        address = int(self._memory.ctypes.data)
        self._own, self._other = (address + _WORD_OFFSETS[each] for each in (side, 1 - side))
        ways = [address + _PAYLOAD_OFFSET + each * payloadBytes for each in range(2)]
        self._there, self._back = ways[side], ways[1 - side]
        self._private = np.ones(payloadBytes, np.uint8)
        self._sizeBytes, self._posted, self._seen = payloadBytes, 0, 0

    def ask(self) -> None:
        """There and back once."""
        self.post()
        self.awaited()

    def answer(self) -> None:
        """Answer one question."""
        self.awaited()
        self.post()

    def post(self) -> None:
        """Copy the bytes to the other side, and wake it."""
        if self._sizeBytes:
            atomics.copy(self._there, self._private.ctypes.data, self._sizeBytes)
        self._posted += 1
        # SYNC bareWake: pairs with Wakes.awaited; the copied bytes are there before the word.
        atomics.storeRelease32(self._own, self._posted)
        atomics.futexWake32(self._own, 1)

    def awaited(self) -> None:
        """Sleep until the other side has woken this one, and copy its bytes."""
        for _ in range(_BOUND_LOOKS):
            # SYNC bareWake: pairs with Wakes.post.
            if atomics.loadAcquire32(self._other) != self._seen:
                self._seen += 1
                break
            atomics.futexWait32(self._other, self._seen, _LOOK_NS)
        else:
            raise TimeoutError("the other process did not wake this one")
        if self._sizeBytes:
            atomics.copy(self._private.ctypes.data, self._back, self._sizeBytes)


def memoryFor(payloadBytes: int) -> Descriptor:
    """A descriptor of new memory for both sides, which the caller closes."""
    made = descriptors.memfd("prof")
    os.ftruncate(made.number, _PAYLOAD_OFFSET + 2 * payloadBytes)
    return made


def answering(descriptor: int, payloadBytes: int, ready: Callable[[], object]) -> None:
    """Answer questions for as long as this process lives."""
    wakes = Wakes(descriptor, 1, payloadBytes)
    ready()
    while True:
        wakes.answer()
