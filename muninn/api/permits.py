"""Permits: for how long copies that are made again need not be asked about."""

from __future__ import annotations

#: For how long what a driver told about a GPU is taken for true, and a permit holds.
FRESH_SECONDS = 1.0


class Permit:
    """Until when copies between the same places go without a question to the executor.
    The executor's process may end it sooner.
    """

    __slots__ = ("untilSeconds",)

    def __init__(self) -> None:
        self.untilSeconds = 0.0
