"""The grammar of the commands about the machine: whether it can run Muninn, and how fast."""

from __future__ import annotations

from muninn.cli.housekeeping import Add
from muninn.cli.numbers import percent


def addMachine(add: Add) -> None:
    """`doctor`, `prof`."""
    command = add(
        "doctor",
        "doctor:runDoctor",
        "check whether this machine can run Muninn, and advise",
        "doctor",
    )
    command.add_argument(
        "--repair",
        action="store_true",
        help="rebuild a damaged control block; no process may be in the domain",
    )
    command = add(
        "prof",
        "prof:runProf",
        "measure Muninn on this machine, beside what the machine itself can do",
        "prof --csv today.csv --compare yesterday.csv",
    )
    command.add_argument("--quick", action="store_true", help="seconds, with smaller sizes")
    command.add_argument(
        "--only", action="append", metavar="ROW", help="only this row; again for more"
    )
    command.add_argument("--list", action="store_true", help="say which rows there are")
    command.add_argument("--csv", metavar="FILE", help="write the rows to this file too")
    command.add_argument(
        "--compare",
        metavar="OLD.csv",
        help="compare with that run; the exit status is 1 if a row is slower",
    )
    command.add_argument(
        "--within",
        type=percent,
        metavar="PERCENT",
        help="by how much the p50 and p95 of a row may be larger than before (default: 10)",
    )
