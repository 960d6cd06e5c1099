"""The commands that only look: `list`, which is also the command without a name, and
`describe`.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from muninn.cli.output import Row, age, counted, printable, printJson, printTable
from muninn.config.sizes import asText
from muninn.system import clock

_HEADINGS = ("BUFFER", "MODE", "SIZE", "TENANT", "GPU", "IMPORTERS", "LEASE", "AGE")
#: The columns whose texts users choose: they are cut in a narrow window, the name last.
_SHRINKING = (0, 3)
#: How long there may be no broker before a list says so, and how often it looks.
_BROKER_SECONDS, _LOOK_SECONDS = 1.0, 0.01


def runList(arguments: argparse.Namespace) -> int:
    import muninn

    info, every = domainNow(), muninn.listBuffers()
    buffers = every
    if arguments.mode is not None:
        from muninn.terms import asMode

        wanted = asMode(arguments.mode)
        buffers = [buffer for buffer in buffers if buffer["mode"] == wanted]
    if arguments.tenant is not None:
        buffers = [buffer for buffer in buffers if buffer["tenant"] == arguments.tenant]
    if arguments.json:
        del info["transfers"], info["promotions"]  # this command's own
        printJson({**info, "buffers": buffers})
        return 0
    printTable(
        _HEADINGS,
        [Row.of(_cells(each), _holders(each) if arguments.holders else ()) for each in buffers],
        _SHRINKING,
    )
    print(printable(_footer(arguments, info["domain"], buffers, len(every))))
    if arguments.holders or info["draining"]:
        print()
    if arguments.holders:
        for member in sorted(info["members"], key=lambda each: _isThis(each["pid"])):
            print(
                printable(
                    f"member {member['pid']} "
                    f"{member['program']}{' (this command)' * _isThis(member['pid'])}"
                )
            )
    if arguments.holders or info["draining"]:
        print(printable(domainLine(info)))
    return 0


def _footer(
    arguments: argparse.Namespace, domain: str, buffers: list[dict[str, Any]], count: int
) -> str:
    """The totals of a list, where the domain has `count` buffers: how many there are,
    and their bytes by tier. A window in VRAM is no buffer, and takes bytes.
    """
    mode = "" if arguments.mode is None else f"{arguments.mode} "
    tenant = "" if arguments.tenant is None else f" of tenant {arguments.tenant!r}"
    others = count - len(buffers)
    left = f"; {counted(others, 'other')} not listed" if others else ""
    if not buffers:
        return f"(no {mode}buffer{tenant} in domain {domain!r}{left})"
    windows = sum(buffer["windowOf"] is not None for buffer in buffers)
    parts = [counted(len(buffers) - windows, f"{mode}buffer") + tenant]
    parts += [counted(windows, "window")] if windows else []
    tiers = {"host": 0, "vram": 0}
    for buffer in buffers:
        tiers["vram" if buffer["mode"] == "fastMode" else "host"] += buffer["size"]
    shown = [f"{asText(size)} {tier}" for tier, size in tiers.items() if size]
    if len(shown) > 1:
        shown = [f"{asText(sum(tiers.values()))} ({', '.join(shown)})"]
    return f"{', '.join([*parts, *shown])}{left}"


def domainNow() -> dict[str, Any]:
    """`domainInfo()`. If the domain has no broker at the moment, as after its last one
    died or in a new domain, wait for a broker, for at most `_BROKER_SECONDS`.
    """
    import muninn

    info, deadline = muninn.domainInfo(), clock.now() + _BROKER_SECONDS
    while info["brokerPid"] is None and clock.now() < deadline:
        clock.sleep(_LOOK_SECONDS)
        info = muninn.domainInfo()
    return info


def domainLine(info: dict[str, Any]) -> str:
    """The members, the broker and the state of a domain, in a line. This command is a
    member like others while it looks.
    """
    pids = [member["pid"] for member in info["members"]]
    draining = (", draining" + f" ({info['drainReason']})" * bool(info["drainReason"])) * info[
        "draining"
    ]
    own = (" (this command)" if len(pids) == 1 else ", this command among them") * any(
        map(_isThis, pids)
    )
    broker = "this command" if _isThis(info["brokerPid"]) else info["brokerPid"] or "none"
    return (
        f"domain {info['domain']!r}: {counted(len(pids), 'member')}{own}, broker {broker}, "
        f"epoch {info['epoch']}{draining}"
    )


def _isThis(pid: int | None) -> bool:
    return pid == os.getpid()


def runDescribe(arguments: argparse.Namespace) -> int:
    described = _described(arguments.name)
    # This process has the buffer open only to describe it.
    described["importers"] = [
        holder for holder in described["importers"] if holder["pid"] != os.getpid()
    ]
    if arguments.json:
        printJson(described)
    else:
        printDescription(described)
    return 0


def printDescription(described: dict[str, Any]) -> None:
    """Everything that `describe()` returns, a line for each key; the holders of the
    buffer come last.
    """
    entries = described.get("entries", {})
    rows = [
        Row.of((key, _shown(key, value)))
        for key, value in described.items()
        if key not in ("importers", "entries")
    ]
    if entries:
        width = max(map(len, entries))
        notes = [
            f"{key.ljust(width)}  {entry['dtype']}  {_shown('shape', entry['shape'])}"
            for key, entry in entries.items()
        ]
        rows.append(Row.of(("entries", str(len(entries))), notes))
    rows.append(Row.of(("importers", str(len(described["importers"]))), _holders(described)))
    printTable(("", ""), rows, wrapping=True)


def _described(name: str) -> dict[str, Any]:
    import muninn
    from muninn.api.opening import openAny

    with openAny(name) as buffer:
        described = buffer.describe()
    if described["kind"] == "bundle":
        with muninn.openBundle(name) as bundle:
            described = bundle.describe()
    return described


def _shown(key: str, value: Any) -> str:
    """A value of a description as people read it."""
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "size":
        return f"{value} ({asText(value)})"
    if key in ("ageMs", "endsInMs"):
        return f"{value} ({age(value)})"
    if key == "hints":
        return hintsText(value)
    if isinstance(value, dict):
        return "; ".join(f"{part}: {_shown(part, inner)}" for part, inner in value.items())
    if isinstance(value, list):
        return (" x " if key == "shape" else ", ").join(map(str, value))
    return str(value)


def _cells(buffer: dict[str, Any]) -> tuple[str, ...]:
    gpu = ",".join(map(str, buffer["gpus"])) or "-"
    importers = str(len(buffer["importers"]))
    return (
        nameOf(buffer),
        buffer["mode"],
        asText(buffer["size"]),
        buffer["tenant"],
        gpu,
        importers,
        _lease(buffer),
        age(buffer["ageMs"]),
    )


def nameOf(buffer: dict[str, Any]) -> str:
    """The name of a buffer, or which window of which buffer it is."""
    window = buffer["windowOf"]
    if window is None:
        return str(buffer["name"])
    base = f"{window['bufferId']}, gone" if window["name"] is None else window["name"]
    return windowText(base, window["offset"], window["size"])


def hintsText(hints: dict[str, Any]) -> str:
    ranges = [f"{asText(at)} + {asText(length)}" for at, length in hints["hotRanges"]]
    left = hints["endsInMs"]
    ends = "no end" if left is None else f"ends in {f'{left}ms' if left < 1000 else age(left)}"
    return f"hot: {', '.join(ranges) or '-'}; priority: {hints['priority']}; {ends}"


def windowText(name: str, offset: int, sizeBytes: int) -> str:
    return f"{name}[{asText(offset)} + {asText(sizeBytes)}]"


def _lease(buffer: dict[str, Any]) -> str:
    """The state of a buffer's leases in a word: the bad states, if there is one,
    otherwise `ok`.
    """
    if buffer["state"] != "live":
        return str(buffer["state"])
    leases = {holder["lease"] for holder in buffer["importers"]}
    return ",".join(sorted(leases - {"ok"})) or ("ok" if leases else "-")


def _holders(buffer: dict[str, Any]) -> list[str]:
    return [
        f"held by {holder['pid']} {holder['program']} ({holder['lease']})"
        for holder in buffer["importers"]
    ]
