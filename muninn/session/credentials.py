"""Credentials: a process whose effective uid, or root directory, is another one than
that with which it joined.

A domain belongs to one uid. A call after `os.setuid` or `os.seteuid` belongs to the new
uid: the process gives up its old membership, and joins the domain of the new uid.

The process can no longer remove files, create files or connect in the old domain's
directory. So the end of the old membership looks like a death: the process gives the
election word to another member, its background thread ends, and it releases the byte of
its slot. A broker sees both and reclaims the member's leases and locks. Until then the
process can read and write the memory that it has mapped. If the uid changes back before
the next call, only the broker has changed.

After a chroot the process stays a member, since none of its calls is meant for another
domain. While it does not see `/dev/shm`, it does not serve as broker and sends no
request.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from muninn.errors import DomainChanged
from muninn.observe import events
from muninn.system import atomics, clock
from muninn.system.files import openFile
from muninn.system.oserrors import missingShm

if TYPE_CHECKING:
    from muninn.control.election import Election
    from muninn.session.tables import Tables

_PAUSE_SECONDS = 0.05
_TID_MASK = 0x3FFFFFFF


def isDisplaced(uid: int) -> bool:
    """Whether the calling thread has another uid than the thread that joined."""
    return os.geteuid() != uid


def isAstray(uid: int) -> bool:
    """Whether the calling thread has another uid, or this process has another
    `/dev/shm` than the one of the domain, so that it finds no member's files there.
    """
    return isDisplaced(uid) or missingShm() is not None


def requireWhole(tables: Tables) -> None:
    """Raise `DomainChanged` when only the calling thread has another uid, by a system
    call of its own. A process is in one domain, so a single thread can not change it.
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
    """While the process is astray, its background thread can neither serve nor connect.
    It gives the election word to a successor, and goes on renewing leases.
    """
    clock.sleep(_PAUSE_SECONDS)
    term = election.term()
    if term.slot == slot and election.replace(term, successor) is not None:
        reason = "its process has another uid or another /dev/shm now"
        events.say("handover", term=term.epoch, reason=reason)
