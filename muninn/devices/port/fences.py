"""Fences of the port: the word of shared memory that tells when a fence is reached, and
the functions that wait for it and report it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

#: For how long a back-end lets `ready` block at a time. So much later it may see that
#: the wait has become pointless.
READY_SLICE_SECONDS = 0.2
#: Returns whether the fence is reached. Blocks for at most the seconds given; raises
#: when the fence can not be reached any more (`OwnerDied`).
Ready = Callable[[float], bool]
#: Called once: with None when the fence is reached, or with the error because of which
#: it can not be reached any more.
OnReached = Callable[[BaseException | None], None]


class FenceWord(NamedTuple):
    """A word of shared memory that CPUs and GPUs of several processes reach, and the
    value that it has once a fence is reached.

    Attributes
    ----------
    address
        The address of the eight bytes for the GPU, as a `Registration` gives it.
    value
        The fence is reached once the word has this value, or a greater one.
    """

    address: int
    value: int
