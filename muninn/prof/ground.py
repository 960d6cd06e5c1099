"""The ground of a measurement: domains of its own, with random names, that are gone
afterwards.

Each run makes a mark in `/dev/shm` before its first domain, and locks it (`flock`). Its
peers have the descriptor too, so the lock ends with the last process of the run. The
mark goes last.

| crash | what is left |
|---|---|
| kill -9 after the mark was made | the mark, and perhaps domains, until the next run |
| kill -9 of a peer | nothing: this process removes its domains |
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import types
from typing import Self

from muninn.config import variableOf
from muninn.errors import HostMemoryFull
from muninn.prof.peer import Peer
from muninn.session import membership
from muninn.system import clock
from muninn.system.descriptors import Descriptor, opened
from muninn.system.oserrors import SHM_ROOT, fileError

_KIND = "prof"
_TRIES = 10
#: How long the end waits for peers that it does not know; then the next run removes it.
_LAST_SECONDS, _LOOK_SECONDS = 5.0, 0.01


class Ground:
    """A place to measure in; ``with`` leaves nothing behind.

    Parameters
    ----------
    settings
        Settings for this process and its peers, by their keys.
    kind
        The beginning of the names.
    """

    def __init__(self, settings: dict[str, str] | None = None, kind: str | None = None) -> None:
        self._settings = {variableOf(key): value for key, value in (settings or {}).items()}
        self._prefix = kind or _KIND
        self._peers, self._domains = list[Peer](), 0
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> Self:
        sweep(self._prefix)
        self._token, self._mark = _marked(self._prefix)
        for variable in (*self._settings, variableOf("domain")):
            self._before[variable] = os.environ.get(variable)
        os.environ.update(self._settings)
        membership.leave()
        return self

    def fresh(self) -> str:
        """Go to a new domain with this process, and the peers from now on; end the peers
        of the one before.
        """
        self._clear()
        return self.another()

    def another(self) -> str:
        """Go to a new domain, and keep those of before until the end."""
        self._domains += 1
        return enter(f"{self._prefix}-{self._token}-{self._domains}")

    def peer(self, function: str, *arguments: object, passing: tuple[int, ...] = ()) -> Peer:
        """Start a peer, which ends with this domain at the latest."""
        self._peers.append(Peer(function, *arguments, passing=(self._mark.number, *passing)))
        return self._peers[-1]

    def file(self) -> str:
        """The path of a file in `/dev/shm` that goes with this domain."""
        return f"{SHM_ROOT}/{_stem(self._prefix)}-{self._token}-file"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        try:
            self._clear()
        finally:
            for variable, value in self._before.items():
                os.environ.pop(variable, None)
                if value is not None:
                    os.environ[variable] = value
            self._mark.close()
            _removeWithLast(self._prefix, self._token)

    def _clear(self) -> None:
        """End what belongs to the present domain, and remove it."""
        for peer in self._peers:
            peer.end(kill=True)
        self._peers.clear()
        membership.leave()
        for path in _entries(f"{_stem(self._prefix)}-{self._token}-"):
            _removeAt(path)


def enter(name: str) -> str:
    """Leave the present domain; this process, and those that it starts, use another one
    from now on.
    """
    membership.leave()
    os.environ[variableOf("domain")] = name
    return name


def sweep(kind: str | None = None) -> list[str]:
    """Remove what runs have left of which no process lives any more; returns their
    tokens.
    """
    gone, kind = list[str](), kind or _KIND
    for path in _entries(f"{_stem(kind)}-"):
        match = re.fullmatch(
            rf"{re.escape(_stem(kind))}-([0-9a-f]{{8}})\.mark", path.rpartition("/")[2]
        )
        if match and _isRemoved(path, kind, match[1]):
            gone.append(match[1])
    return gone


def _marked(kind: str) -> tuple[str, Descriptor]:
    """A new token, and the locked descriptor of its mark."""
    for _ in range(_TRIES):
        token = secrets.token_hex(4)
        path = _markPath(kind, token)
        try:
            mark = opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            continue
        except OSError as error:
            raise fileError(error, path) from error
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(mark.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(mark.number).st_nlink:
                return token, mark
        mark.close()  # another run took it for a dead one's, before it was locked
    raise HostMemoryFull(f"no mark of a measurement could be made in {SHM_ROOT}", "Try again")


def _isRemoved(path: str, kind: str, token: str) -> bool:
    """Remove a run of which no process lives, while its mark is locked here: a run that
    has made its mark, and not locked it yet, takes another token then.
    """
    try:
        mark = opened(path, os.O_RDONLY)
    except OSError:
        return False  # it has gone meanwhile, or is no mark
    try:
        if not stat.S_ISREG(os.fstat(mark.number).st_mode):
            return False
        fcntl.flock(mark.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(kind, token)
    except BlockingIOError:
        return False
    finally:
        mark.close()
    return True


def _removeWithLast(kind: str, token: str) -> None:
    """Remove a run when its last process has ended. An interruption may have come between
    the start of a peer and its place in the list: such a peer ends by itself.
    """
    path, deadline = _markPath(kind, token), clock.now() + _LAST_SECONDS
    while os.path.exists(path) and not _isRemoved(path, kind, token) and clock.now() < deadline:
        clock.sleep(_LOOK_SECONDS)


def _remove(kind: str, token: str) -> None:
    """Remove the domains of a run, and then its mark."""
    for path in _entries(f"{_stem(kind)}-{token}-"):
        _removeAt(path)
    _removeAt(_markPath(kind, token))


def _entries(stem: str) -> list[str]:
    """The paths of this user's files in `/dev/shm` whose names begin so."""
    with os.scandir(SHM_ROOT) as entries:
        return sorted(
            each.path for each in entries if each.name.startswith(stem) and _isOwn(each.path)
        )


def _isOwn(path: str) -> bool:
    """Whether it is this user's; not if it has gone, as another run may be ending."""
    try:
        return os.lstat(path).st_uid == os.geteuid()
    except FileNotFoundError:
        return False


def _removeAt(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _markPath(kind: str, token: str) -> str:
    return f"{SHM_ROOT}/{_stem(kind)}-{token}.mark"


def _stem(kind: str) -> str:
    return f"muninn-{os.geteuid()}-{kind}"
