"""The outlet: where the lines go that a user has asked for by `MUNINN_LOG` (`server.log`).

To stderr they go as text if it is a terminal, and else as JSON; to a file as JSON. Several
processes may append to one file or pipe. One write is one line, and the file is opened
with O_APPEND for each line: so a file that was moved away is made anew, a program may
close all descriptors that it does not know, and a fork shares nothing.

A line waits for nobody: who writes it may be the broker. What a full disk, a reader that
has stopped or a missing folder refuses is dropped and counted, and the first line that
gets through afterwards says how many are missing. A process that dies in the middle of a
line leaves the beginning of it; the next line begins on a line of its own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import stat
import sys

from muninn.errors import InvalidConfig
from muninn.system import clock, green
from muninn.system.descriptors import Descriptor, Socket, duplicate, own
from muninn.system.logs import surroundings

STDERR = 2
_STDERR_PATH = f"/proc/self/fd/{STDERR}"
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
#: How long a line waits for a reader of the pipe or the terminal to take something. It
#: does not wait at all if the line before has waited in vain.
_PATIENCE_MS = 10
_LOOKS = 10


class Outlet:
    """Lines of one level and above, to stderr or to a file.

    Parameters
    ----------
    path
        An absolute path; "" is stderr.
    """

    def __init__(self, level: str, path: str) -> None:
        # Few processes write lines, and none can import when it ends.
        from muninn.observe import lines

        self._lines = lines
        self.level = int(logging.getLevelName(level.upper()))
        self.path = path
        self.isForPeople = not path
        self._dropped = 0
        #: The size of the file after the last line of this process; -1 if it is not whole.
        self._end = 0

    def require(self) -> None:
        """Raise `InvalidConfig` if no line can be written."""
        if not self.path:
            return
        try:
            self._opened(_FLAGS).close()
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a pipe whose reader is still to come
            raise InvalidConfig(
                f"server.log (MUNINN_LOG) is {self.path}, which can not be written: "
                f"{error.strerror}",
                "Name a file that this process may append to, or `info` for stderr",
            ) from None

    def show(self, record: logging.LogRecord) -> None:
        """Write one record."""
        isText = not self.path and os.isatty(STDERR)
        line = self._lines.asText(record) if isText else self._lines.asJson(record)
        if self._dropped and self._write(self._gap(record, isText)):
            self._dropped = 0
        if self._dropped or not self._write(line):
            self._dropped += 1

    def isSeenAnyway(self, logger: logging.Logger, level: int) -> bool:
        """Whether the program shows the record on the same terminal. In a file, two lines
        are better than none that a machine reads.
        """
        if self.path or not logger.isEnabledFor(level) or not os.isatty(STDERR):
            return False
        each: logging.Logger | None = logger
        while each is not None:
            for handler in each.handlers:
                if handler.level <= level and getattr(handler, "stream", None) is sys.stderr:
                    return True
            each = each.parent if each.propagate else None
        return False

    def _gap(self, record: logging.LogRecord, isText: bool) -> bytes:
        """The line that says how many are missing."""
        text = "%d lines before this one could not be written"
        gap = logging.LogRecord(record.name, logging.WARNING, "", 0, text, (self._dropped,), None)
        vars(gap).update(surroundings.fields, event="linesLost", lines=self._dropped)
        return self._lines.asText(gap) if isText else self._lines.asJson(gap)

    def _write(self, line: bytes) -> bool:
        """Write a line, or return False. Part of it may be there then."""
        try:
            if not self.path:
                # Without a stderr, the number may be a file of the program's.
                return sys.stderr is not None and self._toStderr(line)
            descriptor = self._opened(_FLAGS)
            try:
                return self._put(descriptor.number, line)
            finally:
                descriptor.close()
        except OSError:
            return False

    def _toStderr(self, line: bytes) -> bool:
        kind = os.fstat(STDERR).st_mode
        if stat.S_ISREG(kind):
            return self._put(STDERR, line)
        # Ready is who has room for something, and a whole line may be more: it is written
        # by a description of its own, which does not block. The program's stays as it is.
        if not self._isReady(STDERR):
            return False
        if stat.S_ISSOCK(kind):
            copy = Socket(-1, -1, -1, duplicate(STDERR).release())
            with contextlib.closing(copy):
                return copy.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(line)
        try:
            descriptor = own(os.open(_STDERR_PATH, _FLAGS & ~os.O_CREAT))
        except OSError:
            # The terminal of another user, as after `su`, can not be opened once more.
            return os.write(STDERR, line) == len(line)
        try:
            return os.write(descriptor.number, line) == len(line)
        finally:
            descriptor.close()

    def _put(self, descriptor: int, line: bytes) -> bool:
        status = os.fstat(descriptor)
        isFile = stat.S_ISREG(status.st_mode)
        if not isFile and not self._isReady(descriptor):
            return False
        if isFile and self.path and status.st_size != self._end and not self._endsLine():
            line = b"\n" + line
        written = os.write(descriptor, line)
        isWhole = written == len(line)
        self._end = status.st_size + written if isWhole else -1
        return isWhole

    def _endsLine(self) -> bool:
        """Whether the file ends with a whole line. One that can not be read is believed
        to.
        """
        if self._end < 0:
            return False
        try:
            descriptor = self._opened(os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return True
        number = descriptor.number
        try:
            # Another process may be in the midst of its write: an end that is not whole is
            # looked at again, unless such a wait was in vain just now.
            for _ in range(1 if self._dropped else _LOOKS):
                end = os.lseek(number, 0, os.SEEK_END)
                if end == 0 or os.pread(number, 1, end - 1) == b"\n":
                    return True
                clock.sleep(_PATIENCE_MS / 1e3 / _LOOKS)
            return False
        finally:
            descriptor.close()

    def _opened(self, flags: int) -> Descriptor:
        """The file, which may be a link of the user's."""
        return own(os.open(self.path, flags, 0o600))

    def _isReady(self, descriptor: int) -> bool:
        """Whether a pipe or a terminal takes a line at once: a pipe with room for less is
        not ready.
        """
        ready = green.poll()
        ready.register(descriptor, select.POLLOUT)
        events = ready.poll(0 if self._dropped else _PATIENCE_MS)
        return bool(events) and bool(events[0][1] & select.POLLOUT)


def isFile(setting: str) -> bool:
    """Whether `server.log` names a file."""
    return bool(setting.partition(":")[2])


#: The value of the setting that this process has looked at last.
_asked = [""]


def attach(setting: str) -> None:
    """Write the lines that `server.log` asks for, from now on.

    Raises
    ------
    InvalidConfig
        The file can not be written. This is found out once: a process that joins again,
        perhaps under another uid, goes on without its lines.
    """
    if setting == _asked[0]:
        return
    level, _, path = setting.partition(":")
    outlet = Outlet(level, os.path.abspath(path) if path else "") if setting else None
    if outlet is not None:
        outlet.require()
    surroundings.sink, _asked[0] = outlet, setting
