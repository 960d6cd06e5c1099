"""Lists of the buffers, their holders and the members of a domain, as plain dicts for
people and programs.

A list takes no locks. It reads each row's state before and after its description, and
leaves a row out whose state has changed meanwhile. A stale read costs an entry that is
missing, or that has just ended.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from muninn.api import hints
from muninn.api.freedmemory import lingering
from muninn.api.notebooks import BufferList, DomainDict
from muninn.control import cells, layout, leases
from muninn.control.drain import Drain
from muninn.control.generations import Generation
from muninn.devices import handle
from muninn.errors import ControlBlockInvalid, MuninnError
from muninn.interop.dtypes import nameOf, plain
from muninn.observe.calls import named
from muninn.observe.families import FAMILIES
from muninn.session.membership import current
from muninn.session.windownames import WindowPlace
from muninn.system import aside, clock
from muninn.system.clock import monotonicMs
from muninn.system.pages import hugePages
from muninn.terms import Mode

if TYPE_CHECKING:
    from muninn.control.descriptions import RowDescription
    from muninn.control.rowstate import RowState
    from muninn.session.gpus import Gpus
    from muninn.session.member import Membership
    from muninn.session.tables import Tables

_KINDS = {
    layout.ROW_KIND_ARRAY: "array",
    layout.ROW_KIND_BUNDLE: "bundle",
    layout.ROW_KIND_LOCK: "lock",
    layout.ROW_KIND_WINDOW: "window",
}
#: A part is listed with its bundle.
_UNLISTED = (layout.ROW_KIND_LOCK, layout.ROW_KIND_PART)
_STATES = {
    layout.ROW_CREATING: "creating",
    layout.ROW_LIVE: "live",
    layout.ROW_PROBING: "live",
    layout.ROW_DYING: "dying",
    layout.ROW_DEAD: "dying",
    layout.ROW_REPLACED: "replaced",
}
#: How long a list waits for a broker. After that it shows the rows as the last broker
#: left them.
_ANSWER_SECONDS = 1.0
_LOOK_SECONDS = 0.001
_TRANSPORT_REASONS = {
    "segment": "hostMemory: it has a name that outlives every process",
    "memfd": "emulatedVram: the host back-end passes it by descriptor, and it outlives its owner",
}


@named
def listBuffers() -> list[dict[str, Any]]:
    """`describe()` of every buffer of the domain, by name. Locks are not among them.

    Memory that was freed and that other processes still map, as forked children may, is
    there with the state ``freed`` and no name.
    """
    membership = current()
    rows = membership.rows.notFree()
    if any(
        state.state == layout.ROW_LIVE and membership.rows.isFastMode(row) for row, state in rows
    ):
        # Once the broker answers, it has freed the names of lost fastMode memory.
        membership.client.awaitAnswer(_ANSWER_SECONDS)
        rows = membership.rows.notFree()
    described, deadline = _listed(membership, rows), clock.now() + _ANSWER_SECONDS
    while (
        (over := [each for each in described if _isOver(each)])
        and not aside.isOwn()
        and clock.now() < deadline
    ):
        # The broker has not come to the buffer yet, or is about to confirm the death of
        # the process that held it.
        for each in over:
            row, incarnation = map(int, each["bufferId"].split("."))
            with contextlib.suppress(MuninnError):
                membership.client.once("tryReclaim", row=row, incarnation=incarnation)
        clock.sleep(_LOOK_SECONDS)
        described = _listed(membership, membership.rows.notFree())
    described += lingering(membership.tables, {buffer["bufferId"] for buffer in described})
    return BufferList(sorted(described, key=lambda buffer: buffer["name"]))


def describedById(row: int, incarnation: int) -> dict[str, Any] | None:
    """The entry of `listBuffers` for one buffer; None if it is not there (any more)."""
    membership = current()
    rows = membership.rows
    if row >= rows.count():
        return None
    if rows.isLive(row, incarnation) and rows.isFastMode(row):
        membership.client.awaitAnswer(_ANSWER_SECONDS)
    state = rows.state(row)
    if state.incarnation != incarnation or state.state == layout.ROW_FREE:
        return None
    described = _listed(membership, [(row, state)], row)
    return None if not described or _isOver(described[0]) else described[0]


def _isOver(described: dict[str, Any]) -> bool:
    """Whether a buffer has ended and no process holds it. It is there only until a
    broker reclaims it.
    """
    return described["state"] in ("dying", "replaced") and not described["importers"]


def _listed(
    membership: Membership, rows: list[tuple[int, RowState]], only: int | None = None
) -> list[dict[str, Any]]:
    """`describe()` of these rows, without locks and without rows that are being created
    or are gone. `only` is the row, if it is one.
    """
    holds = leases.scanHolds(membership.block, membership.members, only)
    moment = _Moment(membership.tables, membership.gpus, holds)
    described = []
    for row, state in rows:
        description = stableDescription(membership.tables, row, state)
        if description is None or description.kind in _UNLISTED or _isFlags(description):
            continue
        # A damaged row must not hide the others; `doctor` reports it.
        with contextlib.suppress(ControlBlockInvalid):
            described.append(moment.describe(row, description))
    return described


def _isFlags(description: RowDescription) -> bool:
    """Whether it is the memory of the flags of a window, which is listed itself."""
    place = WindowPlace.of(description.name)
    return description.kind == layout.ROW_KIND_WINDOW and place is not None and place.isFlags


@named
def domainInfo() -> dict[str, Any]:
    """The domain, its broker and its members.

    Returns
    -------
    dict
        ``domain``, ``brokerPid`` (None between two brokers), ``epoch``, ``draining``,
        ``drainReason``, ``members``: a list of ``pid``, ``program``, ``slot``,
        ``preferred`` and ``leases``. Of all processes since the domain began:
        ``transfers``, the copies to and between GPUs, by ``route/reason``: the ``times``,
        the ``bytes`` and the nanoseconds, ``ns``; and ``promotions``, the windows whose
        use was marked, by GPU: the ``times``, the ``bytes``, and the ``usedBytes`` among
        them.
    """
    membership = current()
    counted = cells.sums(membership.block)
    term = membership.election.term()
    members = [_describeMember(membership.tables, key.slot) for key in membership.members.there()]
    broker = next((member["pid"] for member in members if member["slot"] == term.slot), None)
    why = Drain(membership.block).reason()
    said = {
        "domain": membership.domain,
        "brokerPid": broker,
        "epoch": term.epoch,
        "draining": why is not None,
        "drainReason": why or None,
        "members": members,
        "transfers": _happened("transfers", counted),
        "promotions": {
            f"GPU {gpu}": sums for gpu, sums in _happened("usedWindows", counted).items()
        },
    }
    return DomainDict(said)


def _happened(family: str, counted: list[int]) -> dict[str, dict[str, int]]:
    """The sums of a family, without the labels that were never counted."""
    read = FAMILIES[family].read(counted)
    return {label: sums for label, sums in sorted(read.items()) if sums["times"]}


def describeRow(
    tables: Tables, gpus: Gpus, row: int, description: RowDescription
) -> dict[str, Any]:
    """One buffer as a plain dict. Sizes in bytes, times in ms."""
    return _Moment(tables, gpus, leases.scanHolds(tables.block, tables.members, row)).describe(
        row, description
    )


class _Moment:
    """The values that the descriptions of one list have in common. They are read once,
    and not again for each row or holder.
    """

    def __init__(self, tables: Tables, gpus: Gpus, holds: list[leases.Hold]) -> None:
        self._tables = tables
        self._gpus = gpus
        self._now = monotonicMs()
        self._holders: dict[int, list[leases.Hold]] = {}
        dead = {slot for slot in {hold.slot for hold in holds} if not tables.members.isThere(slot)}
        for hold in holds:
            if hold.slot not in dead:  # the next broker reclaims their leases
                self._holders.setdefault(hold.row, []).append(hold)
        self._programs: dict[int, tuple[int, str, bool]] = {}
        self._processes: dict[int, tuple[int, int, int]] = {}
        self._hugePages: str | None = None
        self._topology: dict[str, list[str]] | None = None

    def describe(self, row: int, description: RowDescription) -> dict[str, Any]:
        """See `describeRow`."""
        tables, now = self._tables, self._now
        state = tables.rows.state(row)
        mapped = description.mode is Mode.BIG
        topology: dict[str, list[str]] = (
            {"p2p": [], "staged": []} if mapped else self._deviceTopology()
        )
        parts = self._partsOf(row, state, description)
        return {
            "bufferId": f"{row}.{state.incarnation}",
            "name": description.name,
            "kind": _KINDS.get(description.kind, "unknown"),
            "windowOf": self._windowOf(description),
            "mode": description.mode.value,
            "gpu": description.gpu if description.gpu >= 0 else None,
            "gpus": [each.gpu for each in (description, *parts) if each.gpu >= 0],
            "size": description.sizeBytes + sum(part.sizeBytes for part in parts),
            "shape": list(description.shape),
            "dtype": _dtypeName(description.dtype)
            if description.kind == layout.ROW_KIND_ARRAY
            else None,
            "access": description.access.value,
            "tenant": description.tenant,
            "state": _stateOf(state, description),
            "generation": Generation(tables.block.rowAddress(row)).value(),
            "lifetime": description.lifetime.value,
            "leaseTtlMs": tables.settings.security.leaseTtlMs,
            "ageMs": max(0, now - description.createdMs),
            "hints": hints.described(hints.hintsOf(tables, row).get(), description.sizeBytes),
            "endsInMs": max(0, description.deadlineMs - now) if description.deadlineMs else None,
            "reserve": "lazy" if description.flags & layout.ROW_FLAG_LAZY else "full",
            "transport": description.transport,
            "transportReason": _transportReason(tables, row, description),
            "segment": tables.paths.segmentName(row, state.incarnation, description.origin)
            if mapped
            else None,
            "hugePages": self._ofHugePages() if mapped else None,
            "peerable": mapped or not topology["staged"],
            "topology": topology,
            "importers": self._importers(
                [
                    hold
                    for hold in self._holders.get(row, ())
                    if hold.incarnation == state.incarnation
                ]
            ),
        }

    def _partsOf(
        self, row: int, state: RowState, description: RowDescription
    ) -> list[RowDescription]:
        """The further segments of a bundle. They may end meanwhile, as the bundle may."""
        if not description.flags & layout.ROW_FLAG_PARTS:
            return []
        rows = self._tables.rows
        described = (
            stableDescription(self._tables, part, rows.state(part))
            for part, _ in rows.partsOf(row, state.incarnation)
        )
        return [each for each in described if each is not None]

    def _windowOf(self, description: RowDescription) -> dict[str, Any] | None:
        """The buffer of which scratch memory is a window; its name is None if it is gone."""
        place = WindowPlace.of(description.name)
        if place is None or description.kind != layout.ROW_KIND_WINDOW:
            return None
        rows, base = self._tables.rows, None
        if place.row < rows.count() and rows.state(place.row).incarnation == place.incarnation:
            base = stableDescription(self._tables, place.row, rows.state(place.row))
        return {
            "bufferId": f"{place.row}.{place.incarnation}",
            "name": None if base is None else base.name,
            "offset": place.offset,
            "size": place.sizeBytes,
        }

    def _importers(self, holds: list[leases.Hold]) -> list[dict[str, Any]]:
        """The processes that have a buffer open. One process may be two members: it has
        imported Muninn anew, or joined again while an old access was still open.
        """
        if len(holds) < 2:
            return [self._describeHold(hold) for hold in holds]
        found: dict[tuple[int, int, int], dict[str, Any]] = {}
        for hold in holds:
            process, described = self._process(hold.slot), self._describeHold(hold)
            if process not in found or found[process]["lease"] != "ok":
                found[process] = described
        return list(found.values())

    def _process(self, slot: int) -> tuple[int, int, int]:
        if slot not in self._processes:
            self._processes[slot] = self._tables.members.identity(slot).process
        return self._processes[slot]

    def _deviceTopology(self) -> dict[str, list[str]]:
        if self._topology is None:
            self._topology = self._gpus.chosen().topology()
        return {route: list(names) for route, names in self._topology.items()}

    def _ofHugePages(self) -> str:
        if self._hugePages is None:
            self._hugePages = hugePages()
        return self._hugePages

    def _describeHold(self, hold: leases.Hold) -> dict[str, Any]:
        if hold.slot not in self._programs:
            members = self._tables.members
            isBelieved = clock.knowsHostTime() and members.timeNamespace(hold.slot) != 0
            self._programs[hold.slot] = (
                members.identity(hold.slot).pid,
                members.program(hold.slot),
                isBelieved,
            )
        pid, program, isBelieved = self._programs[hold.slot]
        expired = "expired" if isBelieved and hold.expiryMs <= self._now else "ok"
        return {
            "pid": pid,
            "program": program,
            "slot": hold.slot,
            "lease": f"revoked ({hold.reason})" if hold.reason else expired,
            "leaseExpiresMs": max(0, hold.expiryMs - self._now),
            "revoked": hold.reason or None,
        }


def _stateOf(state: RowState, description: RowDescription) -> str:
    said = _STATES.get(state.state, "free")
    # After its deadline no process opens the buffer, although a broker may not have
    # freed it yet.
    return "dying" if said == "live" and clock.isOver(description.deadlineMs) else said


@functools.lru_cache(maxsize=1024)
def _dtypeName(text: str) -> str:
    return nameOf(plain(text))


def _transportReason(tables: Tables, row: int, description: RowDescription) -> str:
    return _TRANSPORT_REASONS.get(description.transport) or handle.reasonIn(tables.rows.handle(row))


def _describeMember(tables: Tables, slot: int) -> dict[str, Any]:
    identity = tables.members.identity(slot)
    return {
        "pid": identity.pid,
        "program": tables.members.program(slot),
        "slot": slot,
        "preferred": bool(identity.flags & layout.MEMBER_FLAG_PREFERRED),
        "leases": leases.heldBy(tables.block, tables.members, slot),
        "ageMs": max(0, monotonicMs() - identity.joinedMs),
    }


def stableDescription(tables: Tables, row: int, state: RowState) -> RowDescription | None:
    """The description of a row on which this process may have no lease. It is believed
    if the state is the same before and after the read.
    """
    if state.state == layout.ROW_CREATING:
        return None
    try:
        description = tables.rows.description(row)
    except ControlBlockInvalid:
        return None
    after = tables.rows.state(row)
    return (
        description
        if (after.state, after.incarnation) == (state.state, state.incarnation)
        else None
    )
