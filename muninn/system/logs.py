"""Logs: Muninn writes its messages through `logging`, which runs code of the program:
handlers, filters, and a `time.time` that the program may have replaced.

An exception of that code must not end the thread that logs: the end of the background
thread would tell the other members that the process is dead.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

#: With this level, Muninn leaves the level to the program.
_USUAL = "warning"


def setLevel(level: str) -> None:
    """Set the level of all loggers below `muninn`. Does nothing if the program has set
    one itself, or if `level` is the usual one.
    """
    if level != _USUAL and (logger := logging.getLogger("muninn")).level == logging.NOTSET:
        logger.setLevel(level.upper())


class Log:
    """A logger of the standard library that raises nothing."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def _say(self, level: int, message: str, *values: object, **keywords: Any) -> None:
        with contextlib.suppress(Exception):  # there is no other place to report it
            self._logger.log(level, message, *values, stacklevel=3, **keywords)

    def isInfo(self) -> bool:
        """Whether `info` goes anywhere, for a caller whose text takes long to make."""
        return self._logger.isEnabledFor(logging.INFO)

    def debug(self, message: str, *values: object) -> None:
        self._say(logging.DEBUG, message, *values)

    def info(self, message: str, *values: object) -> None:
        self._say(logging.INFO, message, *values)

    def warning(self, message: str, *values: object) -> None:
        self._say(logging.WARNING, message, *values)

    def error(self, message: str, *values: object, exc_info: BaseException | None = None) -> None:
        self._say(logging.ERROR, message, *values, exc_info=exc_info)

    def exception(self, message: str, *values: object) -> None:
        """An error, with the exception that is being handled."""
        self._say(logging.ERROR, message, *values, exc_info=True)
