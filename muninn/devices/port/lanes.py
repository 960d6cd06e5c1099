"""A lane: by which a copy between two GPUs is made again in one call of C."""

from __future__ import annotations

from abc import ABC, abstractmethod

from muninn.system.structures import LaneCalls


class Lane(ABC):
    """A stream for copies from one GPU straight to another one. Copies of several threads
    may be in it at once, so each waits for the others'. It ends with the object.

    Attributes
    ----------
    calls
        What the C part calls.
    """

    calls: LaneCalls

    @abstractmethod
    def fail(self, code: int) -> None:
        """Raise the error of a copy that the driver answered with `code`."""

    @abstractmethod
    def settle(self) -> None:
        """Wait until nothing is under way, whatever comes of it."""
