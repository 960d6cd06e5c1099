"""What an operator asks of a domain: evict, drain, keep, repair."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from muninn.control import leases
from muninn.errors import BrokerUnavailable, BufferNotFound
from muninn.session import membership
from muninn.session.names import LOOK, absent
from muninn.terms import asName, asTenant

#: What a member has open when it looks whether it can serve.
_OF_A_MEMBER = 2


def evict(
    name: str | None = None,
    tenant: str | None = None,
    pid: int | None = None,
    reason: str = "evicted",
) -> int:
    """Revoke leases: their holders' next operation is `LeaseRevoked`, and the memory
    goes when they let go or die.

    Parameters
    ----------
    name, tenant, pid
        Whose leases; what is None is not asked for, but one of the first two must be
        given.
    reason
        One of `muninn.control.leases.REVOCATION_REASONS`.

    Returns
    -------
    int
        How many leases were revoked.
    """
    if name is None and tenant is None:
        raise TypeError("evict needs a name or a tenant")
    wantedName, wantedTenant = (
        "" if name is None else asName(name),
        "" if tenant is None else asTenant(tenant),
    )
    request = membership.current().client.request
    reply, _ = request("evict", name=wantedName, tenant=wantedTenant, pid=pid or 0, reason=reason)
    if not reply["buffers"]:
        wanted = " and ".join(
            f"{what} {value!r}"
            for what, value in (("name", name), ("tenant", tenant))
            if value is not None
        )
        raise BufferNotFound(
            f"there is no buffer of {wanted} in domain {membership.current().paths.domain!r}", LOOK
        )
    return int(reply["revoked"])


class Holder(NamedTuple):
    """A lease on a buffer, and whose it is. A pid is that of the holder's own PID
    namespace: of several containers each may have a 1.
    """

    hold: leases.Hold
    pid: int
    program: str
    process: tuple[int, int, int]  #: what tells it from any other, see `MemberIdentity.process`


def holders(name: str) -> list[Holder]:
    """Who holds the named buffer. Raises `BufferNotFound`."""
    member = membership.current()
    found, _ = member.client.request("find", name=asName(name))
    if not found.get("live"):
        raise absent(member.tables, name)
    holds = leases.scanHolds(member.block, member.members, found["row"])
    living = [
        hold
        for hold in holds
        if hold.incarnation == found["incarnation"] and member.members.isThere(hold.slot)
    ]
    identities = [(hold, member.members.identity(hold.slot)) for hold in living]
    return [
        Holder(hold, it.pid, member.members.program(hold.slot), it.process)
        for hold, it in identities
    ]


def revoke(held: list[Holder]) -> int:
    """Revoke these leases; returns how many were."""
    block = membership.current().block
    return sum(leases.revoke(block, holder.hold, "evicted") for holder in held)


def drain(on: bool = True, reason: str = "") -> int:
    """Let the domain create nothing new, or again. Returns how many leases are still
    held.
    """
    reply, _ = membership.current().client.request("drain", on=on, reason=reason[:200])
    return int(reply["holds"])


def keep(stop: threading.Event) -> None:
    """Be an ordinary member that stays, and is preferred as broker, until `stop` is
    set.
    """
    member = membership.joinPreferred()
    stop.wait()
    member.leave()


def fewestDescriptors() -> int:
    """How many descriptors a process that has as many open as this one must be allowed,
    to join a domain and be its broker.
    """
    import os

    from muninn.broker.candidacy import OWN_DESCRIPTORS

    # with the one that lists them, as the broker counts
    taken = len(os.listdir("/proc/thread-self/fd"))
    return taken + _OF_A_MEMBER + OWN_DESCRIPTORS + 1


def repair() -> dict[str, Any]:
    """Rebuild a control block that is damaged or of another version, from the journals.
    Nobody may be in the domain.

    Returns
    -------
    dict
        ``recovered``: the names of the buffers that are there again; ``discarded``:
        segments that nothing knew; ``kept``: segments that a journal, or the old block,
        knows and that could not be taken over.

    Raises
    ------
    BrokerUnavailable
        A process is in the domain, this one perhaps.
    """
    import os

    from muninn.broker.repair import rebuild
    from muninn.config import loadSettings
    from muninn.control.geometry import Geometry
    from muninn.storage.paths import Paths

    control = loadSettings().control
    if membership.isJoined():
        raise BrokerUnavailable(
            f"this process is in domain {control.domain!r} itself", "Repair from another process"
        )
    return rebuild(
        Paths(os.geteuid(), control.domain),
        Geometry.of(control.maxMembers, control.maxBuffers, control.maxLeases),
    )
