"""A picture for programs: what `top --json` prints."""

from __future__ import annotations

from typing import Any

from muninn.cli.top.buffers import Buffer
from muninn.cli.top.details import waitersOn
from muninn.cli.top.picture import Picture
from muninn.cli.top.rates import Flow
from muninn.cli.top.tables import heldBy
from muninn.cli.top.view import View, linesOf


def nobody(domain: str) -> dict[str, Any]:
    """The report of a domain in which no process is: the same keys, and nothing there."""
    return {
        "domain": domain,
        "members": [],
        "broker": None,
        "epoch": None,
        "draining": False,
        "seconds": 0.0,
        "tiers": [],
        "routes": {},
        "events": {},
        "revocations": {},
        "errors": {},
        "buffers": [],
    }


def reportOf(picture: Picture, view: View) -> dict[str, Any]:
    """Everything that `top` shows, with numbers as numbers. Sizes are in bytes, rates in
    a second.
    """
    rates, broker = picture.rates, picture.broker()
    numbers = [
        line for line in linesOf(picture.buffers, view, picture.titleOf) if isinstance(line, int)
    ]
    return {
        "domain": picture.domain,
        "members": _members(picture),
        "broker": None if broker is None else broker.pid,
        "epoch": picture.reading.epoch,
        "draining": picture.drainReason is not None,
        "seconds": rates.seconds,
        "tiers": [tier._asdict() for tier in picture.tiers],
        "routes": {route: _flow(flow) for route, flow in rates.routes.items()},
        "events": {event: _flow(flow) for event, flow in rates.events.items()},
        "revocations": rates.reasons["revocations"],
        "errors": rates.reasons["errors"],
        "buffers": [
            _buffer(picture, picture.buffers.one(number)) for number in dict.fromkeys(numbers)
        ],
    }


def _flow(flow: Flow) -> dict[str, float]:
    return flow._asdict()


def _members(picture: Picture) -> list[dict[str, Any]]:
    held, found = heldBy(picture), list[dict[str, Any]]()
    for slot, person in picture.people.items():
        usage = picture.usageOf(person)
        count, total = held.get(slot, (0, 0))
        found.append(
            {
                "pid": person.pid,
                "slot": slot,
                "program": person.program,
                "command": person.command,
                "user": person.user,
                "ancestors": [{"pid": pid, "name": name} for pid, name in person.ancestors],
                "isNear": person.isNear,
                "ageMs": max(0, picture.reading.atMs - person.joinedMs),
                "buffers": count,
                "heldBytes": total,
                "movedBytesPerSecond": picture.rates.moved.get(slot, 0.0),
                "processorPercent": None if usage is None else usage.processor,
                "residentBytes": None if usage is None else usage.residentBytes,
            }
        )
    return found


def _buffer(picture: Picture, buffer: Buffer) -> dict[str, Any]:
    slots = picture.buffers.slots.get(buffer.key[0], [])
    writer = picture.people.get(buffer.writer)
    waiters = waitersOn(picture, buffer) if buffer.isAwaited else []
    return {
        "bufferId": f"{buffer.key[0]}.{buffer.key[1]}",
        "name": buffer.name,
        "kind": buffer.kind,
        "mode": buffer.mode,
        "gpus": [int(gpu) for gpu in buffer.gpus.split(",") if gpu],
        "size": buffer.sizeBytes,
        "state": buffer.state,
        "tenant": buffer.tenant,
        "ageMs": buffer.ageMs,
        "generation": buffer.generation,
        "publicationsPerSecond": buffer.publications,
        "holders": [picture.people[slot].pid for slot in slots if slot in picture.people],
        "writer": None if writer is None else writer.pid,
        "isAwaited": buffer.isAwaited,
        "waiters": [
            {"pid": picture.people[each.slot].pid, "for": each.isFor}
            for each in waiters
            if each.slot in picture.people
        ],
    }
