"""Rows as output: a table for people, a CSV file for programs."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

from rich.table import Table

from bench.harness import Row
from muninn.prof.run import machineText

RESULTS = Path(__file__).parent / "results"


def shown(values: list[float], unit: str) -> str:
    middle = f"{statistics.median(values):.3g} {unit}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g}–{max(values):.3g})"


def tableOf(rows: list[Row], title: str = "Muninn beside its peers, in one run") -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for heading in ("what", "ours", "peer", "ratio", "must", "go for", "verdict"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        ratio = shown(row.ratios, "×") if row.peer else "-"
        bounds = [
            ("-" if bound is None else f"{bound:.3g}{' ×' if row.peer else f' {row.unit}'}")
            for bound in (row.limit, row.goal)
        ]
        peer = f"{shown(row.peer, row.unit)} {row.peerName}" if row.peer else row.note or "-"
        colour = {"SHORT": "red", "goal": "green"}.get(row.verdict, "")
        table.add_row(
            row.what,
            shown(row.ours, row.unit),
            peer,
            ratio,
            *bounds,
            f"[{colour}]{row.verdict}" if colour else row.verdict,
        )
    return table


def write(rows: list[Row], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    machine = machineText()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "what",
                "unit",
                "ours",
                "peer",
                "peerName",
                "ratio",
                "must",
                "goFor",
                "verdict",
                "note",
                "machine",
            ]
        )
        for row in rows:
            peer, ratio = (
                (statistics.median(row.peer), statistics.median(row.ratios))
                if row.peer
                else ("", "")
            )
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
