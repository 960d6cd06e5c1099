"""`python -m bench`: measure, show a table, and write `bench/results/*.csv`."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import bulk, crowd, opens
from bench.harness import Options, Row

RESULTS = Path(__file__).parent / "results"
GROUPS: dict[str, Callable[[Options], list[Row]]] = {
    "import": opens.importing,
    "open": opens.opening,
    "exchange": opens.exchanging,
    "stream": bulk.streaming,
    "share": bulk.sharing,
    "takeover": crowd.takeover,
    "crowd": crowd.crowding,
    "idle": crowd.idling,
    "memory": crowd.memory,
}


def shown(values: list[float], unit: str) -> str:
    middle = f"{statistics.median(values):.3g} {unit}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g}–{max(values):.3g})"


def tableOf(rows: list[Row]) -> Table:
    table = Table(title="Muninn beside its peers, in one run", title_justify="left", box=None, padding=(0, 1))
    for heading in ("what", "ours", "peer", "ratio", "must", "go for", "verdict"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        ratio = shown(row.ratios, "×") if row.peer else "-"
        bounds = [("-" if bound is None else f"{bound:.3g}{' ×' if row.peer else f' {row.unit}'}") for bound in (row.limit, row.goal)]
        peer = f"{shown(row.peer, row.unit)} {row.peerName}" if row.peer else row.note or "-"
        colour = {"SHORT": "red", "goal": "green"}.get(row.verdict, "")
        table.add_row(row.what, shown(row.ours, row.unit), peer, ratio, *bounds, f"[{colour}]{row.verdict}" if colour else row.verdict)
    return table


def write(rows: list[Row], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Linux {platform.release()}, Python {platform.python_version()}"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["what", "unit", "ours", "peer", "peerName", "ratio", "must", "goFor", "verdict", "note", "machine"])
        for row in rows:
            peer, ratio = (statistics.median(row.peer), statistics.median(row.ratios)) if row.peer else ("", "")
            writer.writerow(
                [
                    row.what,
                    row.unit,
                    statistics.median(row.ours),
                    peer,
                    row.peerName,
                    ratio,
                    row.limit,
                    row.goal,
                    row.verdict,
                    row.note,
                    machine,
                ]
            )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure Muninn beside its peers. Takes some minutes; a quiet machine helps."
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: whether it runs, not what it shows")
    parser.add_argument("--only", action="append", choices=sorted(GROUPS), help="only this group of rows (may be repeated)")
    arguments = parser.parse_args()
    console, options = Console(), Options(arguments.quick)
    rows: list[Row] = []
    for name, measure in GROUPS.items():
        if arguments.only and name not in arguments.only:
            continue
        with console.status(f"measuring: {name}"):
            rows += measure(options)
    console.print(tableOf(rows))
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.csv"
    write(rows, path)
    console.print(f"\nwritten to {path}")
    short = [row.what for row in rows if row.verdict == "SHORT"]
    if short:
        console.print(f"[red]short of what it must reach:[/] {'; '.join(short)}")
    for entry in os.listdir("/dev/shm"):
        if entry.startswith(f"muninn-{os.getuid()}-bench-"):
            path = Path("/dev/shm") / entry
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return 1 if short and not arguments.quick else 0


if __name__ == "__main__":
    sys.exit(main())
