"""Credentials: a process whose effective uid, or root directory, is another one than that with which it joined.

A domain is one uid's, so a call after `os.setuid` or `os.seteuid` is the new uid's: it joins that one's domain, and the membership before
is given up. Nothing can be removed, made or connected to in the old one's directory any more, so it is given up as a death gives it up: the
office goes to another member, the thread ends, the slot's byte is let go, and a broker finds both and takes back what there was. Until then
what is open can be read and written: it is mapped. A uid that comes back before the next call has changed nothing but the office.

After a chroot the process stays a member, since no call is meant for another domain: it serves and asks no more, where `/dev/shm` is not.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from muninn.errors import BrokerUnavailable, DomainChanged, MuninnError
from muninn.system import atomics, clock
from muninn.system.files import openFile
from muninn.system.oserrors import missingShm

if TYPE_CHECKING:
    from muninn.control.election import Election
    from muninn.session.membership import Membership

_PAUSE_SECONDS = 0.05
_TID_MASK = 0x3FFFFFFF


def isDisplaced(membership: Membership) -> bool:
    """Whether the calling thread has another uid than the one that joined."""
    return os.geteuid() != membership.places.uid


def isAstray(membership: Membership) -> bool:
    """Whether that is so, or this process has another `/dev/shm` than the one that the domain is in: nobody is found or found out there."""
    return isDisplaced(membership) or missingShm() is not None


def requireWhole(membership: Membership) -> None:
    """Raise `DomainChanged` when the calling thread alone has another uid, by a system call of its own: the process is in one domain."""
    if isDisplaced(membership) and _uidOfOwnThread(membership) == membership.places.uid:
        raise DomainChanged(
            f"this process joined {membership.places.domain!r} as uid {membership.places.uid}, and this thread alone is uid "
            f"{os.geteuid()} now",
            f"Ask from a thread of uid {membership.places.uid}, or change the uid of all threads, as `os.setuid` does",
        )


def _uidOfOwnThread(membership: Membership) -> int | None:
    """The effective uid of the background thread."""
    thread = int(atomics.loadAcquire32(membership.members.robustAddress(membership.key.slot))) & _TID_MASK
    try:
        with openFile(f"/proc/self/task/{thread}/status") as file:
            return next((int(line.split()[2]) for line in file if line.startswith("Uid:")), None)
    except OSError:  # it has ended
        return None


def standAside(election: Election, slot: int, heir: int | None) -> None:
    """While the process is astray its background thread can serve nobody, and connect to nobody: it renews what is held."""
    clock.sleep(_PAUSE_SECONDS)
    term = election.term()
    if term.slot == slot:
        election.replace(term, heir)


def partFrom(old: Membership) -> bool:
    """Give up the membership before, if it is not in force any more; False when it is. Raises `BrokerUnavailable` as `abandon` does."""
    if old.identity.isWiped():
        old.forgetInChild()
    elif old.isLost():
        old.abandon()
    elif not old.isStale():
        if not isDisplaced(old):
            return False
        moveOut(old)
    return True


def moveOut(membership: Membership) -> None:
    """Give up the membership of another uid. Raises `BrokerUnavailable` while threads are at work in it."""
    membership.departure.begin()
    try:
        if not membership.departure.awaitOutside(membership.holdings.isInside, threading.current_thread()):
            raise BrokerUnavailable(
                f"this process joined as uid {membership.places.uid}, is uid {os.geteuid()} now, and has turns or locks in "
                f"{membership.places.domain!r}",
                "End those first",
            )
        with membership.leaseLock:
            membership._hasLeft = membership._stopping = True
            membership.holdings.owners.end()
        membership.members.disown()
        membership.kick()
        membership.abandon()
    finally:
        membership.departure.end()


def hasMovedOut(membership: Membership) -> bool:
    """At the end: whether there was another uid's membership, of which nobody can be told; what is not given up here its death gives up."""
    if isDisplaced(membership):
        with contextlib.suppress(MuninnError):
            moveOut(membership)
    return isDisplaced(membership)
