"""The base of the soak's roles: a step at a time, the buffers that a role keeps, and the
checks of contents.

Every content is made of int64, and a complete one has the same number everywhere: the
generation that published it, or a number that its creator chose.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

import muninn
from muninn.errors import BufferFreed, BufferNotFound, LeaseRevoked

CHANNEL_WORDS = (512, 4096, 16384, 65536)
#: The errors that a process may get when others free and evict the buffers that it
#: uses.
GONE = (BufferFreed, BufferNotFound, LeaseRevoked)


class Violation(AssertionError):
    """A promise that was broken."""


class Interrupted(Exception):
    """A writer gives up half way, on purpose."""


def require(holds: Any, what: str) -> None:
    if not holds:
        raise Violation(what)


def uniform(content: np.ndarray[Any, Any], what: str) -> int:
    """The number that `content` has everywhere."""
    first = int(content.flat[0])
    if not (content == first).all():
        values, counts = np.unique(content, return_counts=True)
        raise Violation(f"{what} is torn: {dict(zip(values.tolist()[:8], counts.tolist()[:8]))}")
    return first


class Role:
    """One step at a time. `expected`: the errors that others' frees, evictions and
    deaths explain.
    """

    expected: tuple[type[BaseException], ...] = GONE
    pauseSeconds = 0.012

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.held: dict[str, Any] = {}

    def pause(self) -> float:
        return self.pauseSeconds * self.chance.uniform(0.2, 1.8)

    def step(self) -> int:
        """Perform some operations; returns how many."""
        raise NotImplementedError

    def close(self) -> None:
        for buffer in self.held.values():
            buffer.close()
        self.held.clear()

    def channel(self, access: str, renew: str = "auto") -> Any:
        """One of the buffers that are written and read all the time, kept from an
        earlier step or opened anew.
        """
        index = self.chance.randrange(len(CHANNEL_WORDS))
        name = f"channel-{index}"
        buffer = self.held.pop(name, None)
        if buffer is not None and self.chance.random() < 0.1:
            buffer.close()
            buffer = None
        if buffer is None:
            buffer = muninn.array(name, CHANNEL_WORDS[index], np.int64, access=access, renew=renew)
        self.held[name] = buffer
        return buffer

    def forget(self, buffer: Any) -> None:
        """After an error: open the buffer anew at the next step."""
        for name in [name for name, held in self.held.items() if held is buffer]:
            self.held.pop(name).close()
