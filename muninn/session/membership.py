"""The membership of this process in its domain.

A process joins at its first use of the domain, joins again after a fork or when its
membership has ended, and leaves at exit. One process is one member.

The join runs on a thread that signals do not reach. A thread that is interrupted while
it waits for the join leaves the join running; the next call waits for the same join, or
finds its result.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from muninn.config import loadSettings
from muninn.devices.choose import importBackEnd
from muninn.errors import BrokerUnavailable, MuninnError
from muninn.session.credentials import isDisplaced, requireWhole
from muninn.session.departure import awaitPast
from muninn.session.lateimports import load, patiently, settingsToJoin
from muninn.session.leaving import LEAVE_BOUND_SECONDS, changing
from muninn.session.services import wanted
from muninn.session.standing import JOIN_BOUND_SECONDS, Standing
from muninn.system import green
from muninn.system.aside import Job, refuseOwn
from muninn.system.beside import worksBeside
from muninn.system.logs import Log
from muninn.system.oserrors import typedErrors

if TYPE_CHECKING:
    from muninn.session.finalization import FinalizingMembership
    from muninn.session.member import Membership

_log = Log("muninn.session")
_current: Membership | None = None
#: The join that is under way, if there is one. Single steps of C look it up and put it
#: in, since a signal handler may join as well.
_joining: dict[str, Job[Membership]] = {}


class _Classes(NamedTuple):
    """The two kinds of membership."""

    member: type[Membership]
    finalizing: type[FinalizingMembership]


_classes: list[_Classes] = []


def importEarly() -> None:
    """Import what the first join would, for a program that is about to join: 10 ms, and
    30 ms where the bindings of CUDA are new to it too. Joins and starts nothing.
    """
    with changing.lock:
        _loaded()
        try:
            importBackEnd()
        except Exception as error:
            # The first join says so, if it needs the back-end.
            _log.debug("the back-end can not be imported: %s", error)


def _loaded() -> _Classes:
    """Import the modules that a member needs and `import muninn` does not, at the first
    call. See `load`, whose rules hold here too.
    """
    load()
    if not _classes:
        _classes.append(patiently(_imported))
    return _classes[0]


def _imported() -> _Classes:
    from muninn.session.finalization import FinalizingMembership
    from muninn.session.member import Membership

    return _Classes(Membership, FinalizingMembership)


def current() -> Membership:
    """The membership of this process. The process joins at the first call, and again
    at the first call after a fork.
    """
    membership = _current
    if membership is None or membership.isStale() or os.geteuid() != membership.paths.uid:
        return _joinNow()
    return membership


def _joinNow(preferred: bool = False) -> Membership:
    """Join on a thread that signals do not reach, and wait for it. So one process is
    one member, and no caller ever sees a membership that is half made.

    An interruption of the wait leaves the join running; the next call waits for the
    same join, or finds its result.
    """
    global _current
    if worksBeside():
        raise BrokerUnavailable("to join the domain is the program's to do")
    if sys.is_finalizing():
        # Nothing can be imported any more, so this raises if the process never joined.
        finalizing = _loaded().finalizing
        _current = finalizing(loadSettings() if _current is None else _current.settings)
        return _current
    if _current is not None and not _current.isStale():
        requireWhole(_current.tables)
    refuseOwn()  # the join waits for the background thread of the membership before
    if green.areGreen():
        # Not later, where a real thread and a green thread would compete for the
        # import locks.
        _loaded()
    job = _joining.setdefault("now", Job(lambda: _joinAside(preferred)))
    if job.isOwn() or (_current is not None and _current.departure.isOwn()):
        raise BrokerUnavailable(
            "a finalizer or a handler ran on the thread that joins or leaves the domain, and "
            "can not wait for it",
            "Close buffers before their objects are garbage, and before the program ends",
        )
    membership = job.result(2 * JOIN_BOUND_SECONDS + LEAVE_BOUND_SECONDS)
    if membership is None:
        raise BrokerUnavailable("this process could not join in time")
    return membership


def _joinAside(preferred: bool) -> Membership:
    global _current
    try:
        with changing.lock, typedErrors("joining"):
            member = _loaded().member
            if _current is None or _partFrom(_current):
                settings = patiently(settingsToJoin)
                services = patiently(lambda: wanted(settings))
                _current = member(settings, preferred)
                _current.beginServices(services)
                awaitPast(_current.members, _current.key)
            return _current
    finally:
        _joining.pop("now", None)


def _partFrom(old: Membership) -> bool:
    """Give up the `old` membership if it is not in force any more; False if it is.
    Raises `BrokerUnavailable` as `abandon` does.
    """
    if old.tables.identity.isWiped():
        old.forgetInChild()
    elif old.isLost():
        old.leaving.abandon()
    elif not old.isStale():
        if not isDisplaced(old.paths.uid):
            return False
        old.leaving.moveOut()
    return True


def joinPreferred() -> Membership:
    """Join as a member that is preferred as broker. The process must not be a member
    yet.
    """
    membership = _joinNow(preferred=True)
    assert membership.role.isPreferred, "joined before as an ordinary member"
    return membership


def joined() -> Membership | None:
    """The membership of this process; None if it is in no domain now."""
    membership = _current
    return None if membership is None or membership.isStale() else membership


def isJoined() -> bool:
    """Whether this process is in a domain now."""
    return joined() is not None


def leave() -> None:
    """Leave the domain, if this process is in one, or is just joining it: an interruption
    has left the join running.
    """
    job = _joining.get("now")
    if job is not None and not job.isOwn():
        with contextlib.suppress(MuninnError):  # it has not joined, so there is nothing to leave
            job.result(2 * JOIN_BOUND_SECONDS + LEAVE_BOUND_SECONDS)
    if _current is not None:
        _current.leave()


def _leaveAtExit() -> None:
    Standing.isExiting = True
    if _current is not None and not _current.isStale():
        _current.leave()


def _resetInChild() -> None:
    _joining.clear()  # its thread was not forked
    if _current is not None:
        _current.forgetInChild()


atexit.register(_leaveAtExit)
os.register_at_fork(after_in_child=_resetInChild)
