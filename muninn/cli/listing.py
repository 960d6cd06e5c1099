"""`list`, `describe`, and what the bare command prints."""

from __future__ import annotations

import argparse
import os
from typing import Any

from muninn.cli.output import age, printJson, size, table

_HEADINGS = ("BUFFER", "MODE", "SIZE", "TENANT", "GPU", "IMPORTERS", "LEASE", "AGE")


def runList(arguments: argparse.Namespace) -> int:
    import muninn

    info, buffers = muninn.domainInfo(), muninn.listBuffers()
    if arguments.mode is not None:
        from muninn.terms import asMode

        wanted = asMode(arguments.mode)
        buffers = [buffer for buffer in buffers if buffer["mode"] == wanted]
    if arguments.tenant is not None:
        buffers = [buffer for buffer in buffers if buffer["tenant"] == arguments.tenant]
    if arguments.json:
        printJson({**info, "buffers": buffers})
        return 0
    lines = table(_HEADINGS, [_row(buffer) for buffer in buffers])
    if arguments.holders:
        lines = [lines[0], *(line for text, buffer in zip(lines[1:], buffers, strict=True) for line in (text, *_holders(buffer)))]
    print("\n".join(lines))
    if not buffers:
        print(f"(no buffer in domain {info['domain']!r})")
    elif arguments.holders:
        print(f"\ndomain {info['domain']!r}: {len(info['members'])} members, broker {info['brokerPid'] or 'none'}, epoch {info['epoch']}")
    return 0


def runDescribe(arguments: argparse.Namespace) -> int:
    import muninn

    with muninn.open(arguments.name) as buffer:
        described = buffer.describe()
    described["importers"] = [holder for holder in described["importers"] if holder["pid"] != os.getpid()]
    if arguments.json:
        printJson(described)
        return 0
    width = max(map(len, described))
    for key, value in described.items():
        if key == "importers":
            continue
        shown = f"{value} ({size(value)})" if key == "size" else value
        print(f"{key.ljust(width)}  {'-' if shown is None else shown}")
    print(f"{'importers'.ljust(width)}  {len(described['importers'])}")
    for line in _holders(described):
        print(line)
    return 0


def _row(buffer: dict[str, Any]) -> tuple[str, ...]:
    gpu = "-" if buffer["gpu"] is None else str(buffer["gpu"])
    importers = str(len(buffer["importers"]))
    return (buffer["name"], buffer["mode"], size(buffer["size"]), buffer["tenant"], gpu, importers, _lease(buffer), age(buffer["ageMs"]))


def _lease(buffer: dict[str, Any]) -> str:
    """The state of a buffer's leases in a word: what is not as it should be, if anything is."""
    if buffer["state"] != "live":
        return str(buffer["state"])
    leases = {holder["lease"] for holder in buffer["importers"]}
    return ",".join(sorted(leases - {"ok"})) or ("ok" if leases else "-")


def _holders(buffer: dict[str, Any]) -> list[str]:
    return [f"  held by {holder['pid']} {holder['program']} ({holder['lease']})" for holder in buffer["importers"]]
