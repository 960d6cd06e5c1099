"""The operator's calls on a domain: evict, drain, keep, repair.

*Evict.* The broker sets the revocation bits of the leases. The next operation of a
process with such a lease is `LeaseRevoked`; the memory is freed when the process closes
the buffer or dies. The promoted windows of a named buffer go with it: they would hold
VRAM for a buffer that their processes may not use any more. This process revokes those,
after the buffer's own, without which no process promotes another window.

*Drain.* The broker writes the reason into the control block. From then on it refuses to
create buffers, and existing buffers can still be opened and used.

*Keep.* This process joins as a preferred broker, and stays until it is told to leave.

*Repair.* While no process is in the domain, this process builds a new control block and
takes over the buffers that the journals or the old block name (`broker/repair.py`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from muninn.broker import holders as holding
from muninn.control import layout, leases
from muninn.errors import BrokerUnavailable, BufferNotFound, ControlBlockInvalid
from muninn.observe import spans
from muninn.session import membership
from muninn.session.gpus import deviceOf
from muninn.session.names import LOOK
from muninn.session.windownames import windowsOf
from muninn.terms import asName, asTenant

if TYPE_CHECKING:
    from muninn.session.member import Membership

#: The states in which a row has leases that the broker revokes.
_EVICTED = (layout.ROW_LIVE, layout.ROW_PROBING, layout.ROW_REPLACED)
#: How many descriptors a member has open when it checks whether it can serve.
_OF_A_MEMBER = 2


class Evicted(NamedTuple):
    """How many leases were revoked in all, and on promoted windows of the named buffer."""

    revoked: int
    ofWindows: int


def evict(
    name: str | None = None,
    tenant: str | None = None,
    pid: int | None = None,
    reason: str = "evicted",
) -> Evicted:
    """Revoke leases: the next operation of their holders is `LeaseRevoked`, and the
    memory is freed when they close the buffer or die.

    Parameters
    ----------
    name, tenant, pid
        The leases on this buffer and on its promoted windows, of this tenant's buffers,
        and of this process. None selects all; a name or a tenant must be given.
    reason
        One of `muninn.control.leases.REVOCATION_REASONS`.

    Raises
    ------
    BufferNotFound
    """
    if name is None and tenant is None:
        raise TypeError("evict needs a name or a tenant")
    wantedName, wantedTenant = (
        "" if name is None else asName(name),
        "" if tenant is None else asTenant(tenant),
    )
    with spans.span("evict", bufferId=name, tenant=tenant, holderPid=pid, reason=reason):
        return _evicted(wantedName, wantedTenant, pid, reason)


def _evicted(name: str, tenant: str, pid: int | None, reason: str) -> Evicted:
    """`evict`. An empty name or tenant is any."""
    member = membership.current()
    called = _called(member, name) if name else []
    reply, _ = member.client.request("evict", name=name, tenant=tenant, pid=pid or 0, reason=reason)
    if not reply["buffers"]:
        wanted = " and ".join(
            f"{what} {value!r}" for what, value in (("name", name), ("tenant", tenant)) if value
        )
        raise BufferNotFound(f"there is no buffer of {wanted} in domain {member.domain!r}", LOOK)
    windows: set[int] = set()
    for base in called:
        windows |= _windows(member, base, tenant=tenant)
    ofWindows = _revokeOn(member, windows, reason, pid)
    return Evicted(int(reply["revoked"]) + ofWindows, ofWindows)


def evictWindows(name: str, gpu: int | None = None) -> int:
    """Revoke the leases on the promoted windows of a buffer, on one GPU or on all: whoever
    uses one gets `LeaseRevoked` from its next operation, and what nobody uses is freed.
    Returns how many leases were revoked.

    Raises
    ------
    BufferNotFound
    DeviceUnavailable
        There is no such GPU, as far as this process knows, and no window on it.
    """
    member = membership.current()
    windows = _windows(member, member.located(asName(name)), gpu)
    if gpu is not None and not windows and deviceOf(member).gpuCount:
        deviceOf(member).requireGpu(gpu)
    with spans.span("evict", bufferId=name, gpu=gpu, reason="evicted"):
        return _revokeOn(member, windows, "evicted")


def _called(member: Membership, name: str) -> list[tuple[int, int]]:
    """The rows of a name, with their incarnations: also of versions that were replaced."""
    return [
        (row, state.incarnation)
        for row, state in member.rows.notFree()
        if state.state in _EVICTED and member.rows.name(row) == name.encode()
    ]


def _windows(
    member: Membership, base: tuple[int, int], gpu: int | None = None, tenant: str = ""
) -> set[int]:
    """The rows of the windows of a buffer."""
    found = set()
    for row, _, _ in windowsOf(member.rows, base):
        with contextlib.suppress(ControlBlockInvalid):
            description = member.rows.description(row)
            if gpu in (None, description.gpu) and tenant in ("", description.tenant):
                found.add(row)
    return found


def _revokeOn(member: Membership, rows: set[int], reason: str, pid: int | None = None) -> int:
    """Revoke the leases on some rows, of one process or of all."""
    holds = leases.scanHolds(member.block, member.members) if rows else []
    meant = [each for each in holds if each.row in rows]
    ofProcess = (
        each for each in meant if pid is None or member.members.identity(each.slot).pid == pid
    )
    return holding.revoke(member.block, member.members, member.rows, ofProcess, reason)


class Holder(NamedTuple):
    """A lease on a buffer, and the process that has it. The pid is of the holder's own
    PID namespace: several containers may each have a 1.
    """

    hold: leases.Hold
    pid: int
    program: str
    process: tuple[int, int, int]  #: identifies the process, see `MemberIdentity.process`


def holders(name: str) -> list[Holder]:
    """The leases on the named buffer. Raises `BufferNotFound`."""
    member = membership.current()
    row, incarnation = member.located(asName(name))
    holds = leases.scanHolds(member.block, member.members, row)
    living = [
        hold
        for hold in holds
        if hold.incarnation == incarnation and member.members.isThere(hold.slot)
    ]
    identities = [(hold, member.members.identity(hold.slot)) for hold in living]
    return [
        Holder(hold, it.pid, member.members.program(hold.slot), it.process)
        for hold, it in identities
    ]


def revoke(held: list[Holder]) -> int:
    """Revoke these leases; returns how many were revoked."""
    member = membership.current()
    holds = (holder.hold for holder in held)
    with spans.span("evict", reason="evicted"):
        return holding.revoke(member.block, member.members, member.rows, holds, "evicted")


def drain(on: bool = True, reason: str = "") -> int:
    """Forbid the domain to create buffers, or allow it again. Returns how many leases
    there still are.
    """
    reply, _ = membership.current().client.request("drain", on=on, reason=reason[:200])
    return int(reply["holds"])


def fewestDescriptors() -> int:
    """The limit of descriptors that a process needs to join a domain and be its broker,
    if it has as many open as this one.
    """
    import os

    from muninn.broker.candidacy import OWN_DESCRIPTORS

    # The descriptor that lists them counts too, as for the broker.
    taken = len(os.listdir("/proc/thread-self/fd"))
    return taken + _OF_A_MEMBER + OWN_DESCRIPTORS + 1


def repair() -> dict[str, Any]:
    """Rebuild a control block that is damaged or of another version, from the journals.
    No process may be in the domain.

    Returns
    -------
    dict
        ``recovered``: the names of the buffers that are there again; ``discarded``:
        segments that no journal and no block names; ``kept``: segments that a journal,
        or the old block, names and that could not be taken over.

    Raises
    ------
    BrokerUnavailable
        A process is in the domain; it may be this one.
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
