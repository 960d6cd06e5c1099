"""`python -m bench`: measure, show a table, and write `bench/results/*.csv`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from rich.console import Console

from bench import bulk, crowd, hints, loading, observing, opens, relays, versions, windows
from bench.harness import Options, Row
from bench.table import RESULTS, tableOf, write

GROUPS: dict[str, Callable[[Options], list[Row]]] = {
    "import": opens.importing,
    "open": opens.opening,
    "exchange": opens.exchanging,
    "stream": bulk.streaming,
    "share": bulk.sharing,
    "routes": relays.relaying,
    "windows": windows.promoting,
    "hints": hints.useful,
    "load": loading.toHost,
    "publication": versions.publishing,
    "attach": versions.attaching,
    "swaps": versions.swapping,
    "takeover": crowd.takeover,
    "crowd": crowd.crowding,
    "idle": crowd.idling,
    "wake": crowd.waking,
    "memory": crowd.memory,
    "scrape": observing.scraping,
    "counters": observing.counting,
    "tracing": observing.tracing,
    "unseen": observing.unseen,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Muninn beside its peers. Takes some minutes; a quiet machine helps.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes and few rounds: whether it runs, not what it shows",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=sorted(GROUPS),
        help="only this group of rows (may be repeated)",
    )
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
    return 1 if short and not arguments.quick else 0


if __name__ == "__main__":
    sys.exit(main())
