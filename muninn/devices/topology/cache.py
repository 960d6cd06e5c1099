"""The verdicts that a user's processes keep for each other, in one JSON file.

A verdict holds for one boot, one driver and one ordered pair of GPUs, by their UUIDs.
The file belongs to one boot: of another boot's it is as if there were none, and the next
write replaces it. Entries of other drivers, as the emulated one, stay.

*Writing.* A process takes the lock of a second file (`flock`), reads the file, adds its
entries, writes the whole beside it, and renames that to its place. So two processes that
write at once lose nothing of each other's, and a process that is killed leaves the old
file. Its lock ends with it, and the next writer removes what it had begun. Nothing is
flushed to the disk: the file is of no use after the machine has gone down.

*Reading.* A reader takes no lock, because it finds either the old file or the new one.
It believes nothing: a file that is a link, that another user owns or can write, that is
too large, or in which anything is not as this module writes it, is as if there were
none. A stale read costs one more measurement.

No failure here is an error, since it costs no more than that: it is logged, as `debug`.
Where the boot is not known (`/proc` with `subset=pid`), nothing is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from muninn.control.header import bootId
from muninn.devices.port import Device
from muninn.devices.topology.verdict import Verdict
from muninn.errors import MuninnError
from muninn.system import clock, descriptors
from muninn.system.descriptors import Descriptor
from muninn.system.logs import Log
from muninn.system.ownership import isOwnFile

_log = Log("muninn.devices")
_FORMAT = 1
MAX_FILE_BYTES = 1 << 20
_MAX_TEXT_CHARACTERS = 200
_MAX_NUMBER = 1 << 50
_CHUNK_BYTES = 1 << 16
#: How long a writer waits for another one, which needs some milliseconds, and how often
#: it looks.
_LOCK_SECONDS, _LOOK_SECONDS = 2.0, 0.005
_NOWHERE = "-"


class _Pair(NamedTuple):
    """Which ways a verdict is about."""

    driver: str
    source: str
    target: str


class Kept:
    """The verdicts of this boot and one driver.

    Parameters
    ----------
    path
        The file; "" keeps nothing.
    driver
        The driver and its version, as `Device.driverText` has it.
    """

    def __init__(self, path: str, driver: str) -> None:
        self.path = path
        self._driver = driver[:_MAX_TEXT_CHARACTERS]

    def pairs(self) -> dict[tuple[str, str], Verdict]:
        """All verdicts, by the UUIDs of source and target."""
        return {
            (pair.source, pair.target): verdict
            for pair, verdict in self._read().items()
            if pair.driver == self._driver
        }

    def get(self, source: str, target: str) -> Verdict | None:
        """The verdict on the way from one GPU to another, by their UUIDs."""
        return self._read().get(_Pair(self._driver, source, target))

    def stamp(self) -> tuple[int, int] | None:
        """Another value after each write of any process; None: nothing is kept."""
        try:
            found = os.stat(self.path)
        except (OSError, ValueError):
            return None
        return found.st_ino, found.st_mtime_ns

    def putFigures(self, source: str, target: str, verdict: Verdict) -> None:
        """The same for what was measured: whether the link is intact stays as it is kept."""
        self.put(source, target, verdict, isMeasured=True)

    def put(self, source: str, target: str, verdict: Verdict, *, isMeasured: bool = False) -> None:
        """Keep a verdict, in place of an older one of this pair.

        Raises `ValueError` for one that a reader would not take.
        """
        pair, given = _entryOf(
            [
                self._driver,
                source,
                target,
                *verdict._replace(note=verdict.note[:_MAX_TEXT_CHARACTERS]),
            ]
        )

        def added(entries: dict[_Pair, Verdict]) -> None:
            # The newest come last: a file that would be too large loses its first.
            before, verdict = entries.pop(pair, None), given
            if isMeasured and before is not None and before.isIntact is not None:
                verdict = given._replace(isIntact=before.isIntact, note=before.note)
            entries[pair] = verdict

        self._change(added)

    def forget(self) -> None:
        """Drop all verdicts of this boot and driver."""

        def dropped(entries: dict[_Pair, Verdict]) -> None:
            for pair in [each for each in entries if each.driver == self._driver]:
                del entries[pair]

        self._change(dropped)

    def hindrance(self) -> str:
        """Why no verdict can be kept in the file; "" if nothing is known to forbid it. Does
        what a writer does first: makes the folder, and takes the lock.
        """
        if not any(bootId()):
            return "the boot is not known"
        try:
            _makeFolder(os.path.dirname(self.path))
            with _locked(f"{self.path}.lock"):
                return "it is a folder" if os.path.isdir(self.path) else ""
        except TimeoutError:
            return ""  # another process writes just now
        except (OSError, MuninnError, ValueError) as error:
            return str(getattr(error, "strerror", None) or error)

    def _read(self) -> dict[_Pair, Verdict]:
        boot = bootId()
        if not self.path or not any(boot):
            return {}
        try:
            return parsed(_bytesOf(self.path), boot)
        except FileNotFoundError:
            return {}
        except (OSError, MuninnError, ValueError) as error:
            _log.debug("the verdicts in %s are not used: %s", self.path, error)
            return {}

    def _change(self, change: Callable[[dict[_Pair, Verdict]], None]) -> None:
        boot = bootId()
        if not self.path or not any(boot):
            _log.debug("no verdict on links is kept: %s", self.path or "there is no place")
            return
        try:
            _makeFolder(os.path.dirname(self.path))
            with _locked(f"{self.path}.lock"):
                entries = self._read()
                change(entries)
                _replace(self.path, packed(entries, boot))
        except (OSError, MuninnError) as error:
            _log.debug("verdicts on links can not be kept in %s: %s", self.path, error)


def keptFor(device: Device, cachePath: str) -> Kept:
    """What is kept for the driver of a device, by the setting `topology.cachePath`."""
    path = cachePath or _usualPath()
    return Kept("" if path == _NOWHERE else path, device.driverText())


def _usualPath() -> str:
    """The place in the cache folder of this user; `_NOWHERE` where there is none.

    By the XDG Base Directory Specification, 0.8, a path that is not absolute does not
    count.
    """
    folder = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(folder):
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home) or _isStrangers(home):
            return _NOWHERE
        folder = os.path.join(home, ".cache")
    return os.path.join(folder, "muninn", "topology.json")


def _isStrangers(home: str) -> bool:
    """Whether root would make files in the home of another user, as under a `sudo` that
    keeps HOME. The user could not write there any more.
    """
    try:
        return os.geteuid() == 0 and os.stat(home).st_uid != 0
    except OSError:
        return True


def parsed(raw: bytes, boot: bytes) -> dict[_Pair, Verdict]:
    """The entries of a file's bytes; none if they are another boot's.

    Raises `ValueError` for bytes that this module has not written.
    """
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
    try:
        content = json.loads(raw.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"it is not of format {_FORMAT}")
    if content.get("boot") != boot.hex():
        return {}
    entries = content.get("pairs")
    if not isinstance(entries, list):
        raise ValueError("it has no list of pairs")
    return dict(map(_entryOf, entries))


def packed(entries: dict[_Pair, Verdict], boot: bytes) -> bytes:
    """The bytes of the file: a line for each pair. Only the last of them if all are too
    many for one file.
    """
    lines = [json.dumps([*pair, *verdict], allow_nan=False) for pair, verdict in entries.items()]
    head = f'{{"format": {_FORMAT}, "boot": "{boot.hex()}", "pairs": [\n'
    room = MAX_FILE_BYTES - len(head) - len("\n]}\n")
    first = len(lines)
    while first and (room := room - len(lines[first - 1]) - len(",\n")) >= 0:
        first -= 1
    return (head + ",\n".join(lines[first:]) + "\n]}\n").encode()


def _entryOf(entry: Any) -> tuple[_Pair, Verdict]:
    if not isinstance(entry, list) or len(entry) != len(_Pair._fields) + len(Verdict._fields):
        raise ValueError("an entry has another number of fields")
    driver, source, target, isIntact, p2p, staged, pieceBytes, pieceCount, note = entry
    if isIntact is not None and not isinstance(isIntact, bool):
        raise ValueError("an entry says neither that it is intact nor that it is not")
    return _Pair(_text(driver), _text(source), _text(target)), Verdict(
        isIntact,
        _figure(p2p),
        _figure(staged),
        _whole(pieceBytes),
        _whole(pieceCount),
        _text(note),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT_CHARACTERS:
        raise ValueError("an entry has something else where a short text was")
    return value


def _figure(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("an entry has something else where a number was")
    if not 0 <= value <= _MAX_NUMBER:  # nor is NaN
        raise ValueError(f"a number is not between 0 and {_MAX_NUMBER}")
    return float(value)


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError("an entry has something else where a whole number was")
    return int(_figure(value))


def _bytesOf(path: str) -> bytes:
    # A FIFO would wait for its other end.
    with contextlib.closing(descriptors.opened(path, os.O_RDONLY | os.O_NONBLOCK)) as fd:
        if not isOwnFile(os.fstat(fd.number), os.geteuid()):
            raise ValueError("it is no file of this user alone")
        parts, left = list[bytes](), MAX_FILE_BYTES + 1
        while left and (part := os.read(fd.number, min(left, _CHUNK_BYTES))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


def _makeFolder(folder: str) -> None:
    """Make the folder and those above it, for this user only."""
    missing = list[str]()
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.mkdir(each, 0o700)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock of the writers."""
    with contextlib.closing(descriptors.opened(path, os.O_RDWR | os.O_CREAT)) as fd:
        deadline = clock.now() + _LOCK_SECONDS
        while not _isTaken(fd):
            if clock.now() > deadline:
                raise TimeoutError(f"another process has locked {path} for {_LOCK_SECONDS:.0f} s")
            clock.sleep(_LOOK_SECONDS)
        try:
            yield
        finally:
            # A child that another thread has forked meanwhile has the descriptor too.
            fcntl.flock(fd, fcntl.LOCK_UN)


def _isTaken(fd: Descriptor) -> bool:
    # SYNC verdicts: pairs with _isTaken in another process, which then reads the file
    # that this process has put in place.
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(path: str, raw: bytes) -> None:
    """Put a whole file in place of the old one. The caller has the lock."""
    beside = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)  # of a writer that was killed
    try:
        with contextlib.closing(
            descriptors.opened(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        ) as fd:
            written = 0
            while written < len(raw):
                written += os.write(fd.number, raw[written : written + _CHUNK_BYTES])
        os.rename(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
