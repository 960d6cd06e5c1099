"""Logs: Muninn writes its messages through `logging`, which runs code of the program:
handlers, filters, and a `time.time` that the program may have replaced.

An exception of that code must not end the thread that logs: the end of the background
thread would tell the other members that the process is dead.

Beside the program's logging there may be one sink of Muninn's own (`Sink`), for a user
who has asked for lines and has configured nothing. It is no handler of a logger, and it
has a level of its own. So the program's handlers show no more than the program has
asked for, and no `dictConfig` of the program takes the sink away.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

#: With this level, Muninn leaves the level to the program.
_USUAL = "warning"
#: Frames between the caller of a method of `Log` and `logging`.
_FRAMES = 3


class Sink(Protocol):
    """Where the lines go that a user has asked for."""

    level: int
    #: Whether it shows people what `logging` would show them if it has no handler.
    isForPeople: bool

    def show(self, record: logging.LogRecord) -> None:
        """Show a record. Waits for nobody, and raises nothing that is the sink's fault."""

    def isSeenAnyway(self, logger: logging.Logger, level: int) -> bool:
        """Whether handlers of the program show the record in the same place."""


class Surroundings:
    """What each line of this process says beside its own.

    Attributes
    ----------
    sink
        Where the lines go that a user has asked for, or None.
    fields
        The domain that the process has joined last.
    span
        Returns the ids of the span that is open now, if any.
    """

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.fields: dict[str, object] = {"domain": ""}
        self.span: Callable[[], Mapping[str, object]] = dict


surroundings = Surroundings()


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
        #: Whether the program's logging shows this level.
        self.isEnabledFor = self._logger.isEnabledFor

    def _say(
        self, level: int, message: str, values: tuple[object, ...], excInfo: Any = None
    ) -> None:
        self.say(level, message, values, {}, excInfo, _FRAMES + 1)

    def say(
        self,
        level: int,
        message: str,
        values: tuple[object, ...],
        fields: Mapping[str, object],
        excInfo: Any = None,
        frames: int = _FRAMES,
    ) -> None:
        """Write a message with fields, which are attributes of the record.

        Parameters
        ----------
        values
            What `message` is formatted with.
        frames
            How many calls above this one the line of code is that has something to say.
        """
        sink = surroundings.sink
        # There is no other place to report an error of the program's logging.
        with contextlib.suppress(Exception):
            if not self.isOn(level):
                return
            extra = {**surroundings.fields, **surroundings.span(), **fields}
            isSinks = sink is not None and level >= sink.level
            if sink is not None and isSinks and not sink.isSeenAnyway(self._logger, level):
                record = logging.LogRecord(
                    self._logger.name, level, "", 0, message, values, excInfo
                )
                record.__dict__.update(extra)
                sink.show(record)
            isLast = sink is not None and isSinks and sink.isForPeople
            if not isLast or self._logger.hasHandlers():
                self._logger.log(
                    level, message, *values, stacklevel=frames, extra=extra, exc_info=excInfo
                )

    def isOn(self, level: int) -> bool:
        """Whether this level goes anywhere, for a caller whose text takes long to make."""
        sink = surroundings.sink
        return (sink is not None and level >= sink.level) or self._logger.isEnabledFor(level)

    def debug(self, message: str, *values: object) -> None:
        self._say(logging.DEBUG, message, values)

    def info(self, message: str, *values: object) -> None:
        self._say(logging.INFO, message, values)

    def warning(self, message: str, *values: object) -> None:
        self._say(logging.WARNING, message, values)

    def error(self, message: str, *values: object, exc_info: BaseException | None = None) -> None:
        self._say(
            logging.ERROR,
            message,
            values,
            exc_info and (type(exc_info), exc_info, exc_info.__traceback__),
        )

    def exception(self, message: str, *values: object) -> None:
        """An error, with the exception that is being handled."""
        self._say(logging.ERROR, message, values, sys.exc_info())
