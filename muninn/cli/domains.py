"""The command `domains`: every domain of this machine that this user may see."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from muninn.cli.output import Row, counted, printable, printJson, printTable
from muninn.config.sizes import asText

if TYPE_CHECKING:
    from muninn.service.domains import Domain, Process

_HEADINGS = ("DOMAIN", "UID", "STATE", "BUFFERS", "SHM", "VRAM", "PROCESSES", "BROKER")
#: The columns that give way in a narrow window.
_SHRINKING = (0, 7)
#: What is listed only if the user asks for all.
_BACKGROUND = ("empty", "hidden")


def runDomains(arguments: argparse.Namespace) -> int:
    from muninn.service.domains import everyDomain

    every = everyDomain()
    if arguments.domain is not None:
        every = [each for each in every if each.domain == arguments.domain]
    if arguments.json:
        printJson({"domains": [_described(each) for each in every]})
        return 0
    shown = [each for each in every if arguments.all or each.state not in _BACKGROUND]
    rows = [Row.of(_cells(each), _notes(each, arguments.processes)) for each in shown]
    if rows:
        printTable(_HEADINGS, rows, _SHRINKING)
    print(printable(_footer(shown, every)))
    return 0


def _cells(domain: Domain) -> tuple[str, ...]:
    return (
        domain.domain,
        str(domain.uid),
        domain.state,
        _orDash(domain.buffers),
        "-" if domain.shmBytes is None else asText(domain.shmBytes),
        "-" if domain.vramBytes is None else asText(domain.vramBytes),
        "-" if domain.shmBytes is None else str(len(domain.processes)),
        "-" if domain.broker is None else _named(domain.broker),
    )


def _orDash(number: int | None) -> str:
    return "-" if number is None else str(number)


def _named(process: Process) -> str:
    return f"{process.pid} {process.program}".rstrip()


def _notes(domain: Domain, withProcesses: bool) -> list[str]:
    notes = [domain.why] if domain.why else []
    if withProcesses:
        notes += [f"process {_named(each)}" for each in domain.processes]
    return notes


def _footer(shown: list[Domain], every: list[Domain]) -> str:
    """The totals, and what is not listed."""
    processes = {each for domain in shown for each in domain.processes}
    taken = asText(sum(domain.shmBytes or 0 for domain in shown))
    vram = sum(domain.vramBytes or 0 for domain in shown)
    ofVram = f", {asText(vram)} of VRAM" if vram else ""
    text = (
        f"{counted(len(shown), 'domain')}, {_ofProcesses(len(processes))}, {taken} of "
        f"/dev/shm{ofVram}"
        if shown
        else "(no domain)"
    )
    left = Counter(domain.state for domain in every if domain not in shown)
    if left["empty"]:
        text += f"; {left['empty']} empty not listed"
    if left["hidden"]:
        own = f"; {left['hidden']} of other users not listed"
        text += own if os.geteuid() == 0 else f"{own}: root sees them"
    return text


def _ofProcesses(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _described(domain: Domain) -> dict[str, Any]:
    """A domain for programs."""
    return {
        "domain": domain.domain,
        "uid": domain.uid,
        "state": domain.state,
        "why": domain.why or None,
        "buffers": domain.buffers,
        "shmBytes": domain.shmBytes,
        "vramBytes": domain.vramBytes,
        "processes": [each._asdict() for each in domain.processes],
        "brokerPid": None if domain.broker is None else domain.broker.pid,
    }
