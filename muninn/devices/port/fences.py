"""Fences of the port: the word of shared memory that says that a fence is reached, and
the functions that wait for it and report it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

#: For how long a back-end lets `ready` block at a time: how late it may notice that the
#: wait has become pointless.
READY_SLICE_SECONDS = 0.2
#: Is the fence reached? Blocks for at most the seconds given; raises when it never will
#: be (`OwnerDied`).
Ready = Callable[[float], bool]
#: Called once when a fence is reached: with None, or with the error because of which it
#: never will be.
OnReached = Callable[[BaseException | None], None]


class FenceWord(NamedTuple):
    """A word of shared memory that CPUs and GPUs of several processes reach, and the
    value that says that a fence is reached.

    Attributes
    ----------
    address
        Of eight bytes; for the GPU, as a `Registration` gives it.
    value
        Reached is this value, or a greater one.
    """

    address: int
    value: int
