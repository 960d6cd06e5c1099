"""The details of the chosen buffer: its holders with their parents, and what waits."""

from __future__ import annotations

from rich.text import Text

from muninn.cli.top.buffers import Buffer
from muninn.cli.top.picture import Picture
from muninn.cli.top.tables import commandOf
from muninn.cli.top.texts import shortened, throughput
from muninn.cli.top.waiters import Waiter
from muninn.config.sizes import asText
from muninn.control.leases import reasonName

_MAX_PARENTS = 3


def waitersOn(picture: Picture, buffer: Buffer) -> list[Waiter]:
    """The processes that wait for something of a buffer, among its holders."""
    slots = picture.buffers.slots.get(buffer.key[0], ())
    people = [picture.people[slot] for slot in slots if slot in picture.people]
    return [each for each in picture.waitersOf(people) if each.row == buffer.key[0]]


def detailLines(picture: Picture, buffer: Buffer, width: int, room: int) -> list[Text]:
    """At most `room` lines about a buffer."""
    head = (
        f"{buffer.name}: {buffer.kind}, {asText(buffer.sizeBytes)} of {buffer.mode}"
        f"{f' on GPU {buffer.gpus}' if buffer.gpus else ''}, tenant {buffer.tenant}, "
        f"generation {buffer.generation}"
    )
    lines = [Text(shortened(head, width), "bold underline")]
    slots = picture.buffers.slots.get(buffer.key[0], [])
    if not slots:
        lines.append(Text("no process holds it", "dim"))
    waits = dict[int, list[str]]()
    for waiter in waitersOn(picture, buffer):
        waits.setdefault(waiter.slot, []).append(waiter.isFor)
    reasons = _reasons(picture, buffer.key[0])
    # Those that write and wait come first.
    slots = sorted(slots, key=lambda slot: (slot != buffer.writer, slot not in waits, slot))
    shown = slots if len(slots) < room else slots[: room - 2]
    lines += [_holderLine(picture, buffer, slot, waits, reasons, width) for slot in shown]
    if len(shown) < len(slots):
        lines.append(Text(f"and {len(slots) - len(shown)} more; t has all processes", "dim"))
    return lines[:room]


def _reasons(picture: Picture, row: int) -> dict[int, str]:
    """Why leases on a row were revoked, by the slots of their members."""
    held = picture.reading.held
    isOn = (held.row == row) & (held.reason > 0)
    pairs = zip(held.slot[isOn].tolist(), held.reason[isOn].tolist(), strict=True)
    return {slot: reasonName(reason) for slot, reason in pairs}


def _holderLine(
    picture: Picture,
    buffer: Buffer,
    slot: int,
    waits: dict[int, list[str]],
    reasons: dict[int, str],
    width: int,
) -> Text:
    """A holder: what it does, its command line, its numbers, and its parents upward."""
    person = picture.people.get(slot)
    if person is None:
        return Text("a process that has just gone", "dim")
    line = Text.assemble((f"{person.pid:>8} ", "bold"))
    if slot == buffer.writer:
        line.append("writes ", "bold yellow")
    if slot in waits:
        line.append(f"waits for {', '.join(waits[slot])} ", "bold yellow")
    if slot in reasons:
        line.append(f"revoked ({reasons[slot]}) ", "bold red")
    if moved := picture.rates.moved.get(slot):
        line.append(f"moves {throughput(moved)} ", "green")
    line.append(shortened(commandOf(person), max(12, width - line.cell_len)))
    usage = picture.usageOf(person)
    if usage is not None:
        line.append(f"  cpu {usage.processor:.0f}%, rss {asText(usage.residentBytes)}", "dim")
    if person.ancestors:
        parents = " < ".join(f"{name}({pid})" for pid, name in person.ancestors[:_MAX_PARENTS])
        line.append(f"  < {parents}", "dim")
    line.truncate(width, overflow="ellipsis")
    return line
