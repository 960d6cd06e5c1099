"""Credentials: a process whose effective uid, or root directory, is another one than
that with which it joined.

A domain is one uid's, so a call after `os.setuid` or `os.seteuid` is the new uid's: it
joins that one's domain, and the membership before is given up. Nothing can be removed,
made or connected to in the old one's directory any more, so it is given up as a death
gives it up: the office goes to another member, the thread ends, the slot's byte is let
go, and a broker finds both and takes back what there was. Until then what is open can
be read and written: it is mapped. A uid that comes back before the next call has
changed nothing but the office.

After a chroot the process stays a member, since no call is meant for another domain: it
serves and asks no more, where `/dev/shm` is not.
"""

from __future__ import annotations

import os

from muninn.control.election import Election
from muninn.errors import DomainChanged
from muninn.session.tables import Tables
from muninn.system import atomics, clock
from muninn.system.files import openFile
from muninn.system.oserrors import missingShm

_PAUSE_SECONDS = 0.05
_TID_MASK = 0x3FFFFFFF


def isDisplaced(uid: int) -> bool:
    """Whether the calling thread has another uid than the one that joined."""
    return os.geteuid() != uid


def isAstray(uid: int) -> bool:
    """Whether that is so, or this process has another `/dev/shm` than the one that the
    domain is in: nobody is found or found out there.
    """
    return isDisplaced(uid) or missingShm() is not None


def requireWhole(tables: Tables) -> None:
    """Raise `DomainChanged` when the calling thread alone has another uid, by a system
    call of its own: the process is in one domain.
    """
    if isDisplaced(tables.paths.uid) and _uidOfOwnThread(tables) == tables.paths.uid:
        raise DomainChanged(
            f"this process joined {tables.paths.domain!r} as uid {tables.paths.uid}, and this "
            f"thread alone is uid {os.geteuid()} now",
            f"Ask from a thread of uid {tables.paths.uid}, or change the uid of all threads, "
            "as `os.setuid` does",
        )


def _uidOfOwnThread(tables: Tables) -> int | None:
    """The effective uid of the background thread."""
    thread = int(atomics.loadAcquire32(tables.members.robustAddress(tables.key.slot))) & _TID_MASK
    try:
        with openFile(f"/proc/self/task/{thread}/status") as file:
            return next((int(line.split()[2]) for line in file if line.startswith("Uid:")), None)
    except OSError:  # it has ended
        return None


def standAside(election: Election, slot: int, successor: int | None) -> None:
    """While the process is astray its background thread can serve nobody, and connect
    to nobody: it renews what is held.
    """
    clock.sleep(_PAUSE_SECONDS)
    term = election.term()
    if term.slot == slot:
        election.replace(term, successor)
