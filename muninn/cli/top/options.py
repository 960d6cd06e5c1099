"""The options of `top`, and the words that they take. The grammar loads this for every
command, so it imports nothing.
"""

from __future__ import annotations

import argparse

GROUPS = ("none", "tenant", "mode", "gpu", "process")
SORTS = ("name", "size", "holders", "rate", "age", "tenant", "gpu")
#: Texts are sorted from the first letter on, and numbers from the largest down.
UPWARD = ("name", "tenant", "gpu")
FASTEST_SECONDS, SLOWEST_SECONDS = 0.5, 60.0


def _interval(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not FASTEST_SECONDS <= value <= SLOWEST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from {FASTEST_SECONDS} to {SLOWEST_SECONDS:g}"
        )
    return value


def addOptions(command: argparse.ArgumentParser) -> None:
    """Add the options to the parser of the command."""
    command.add_argument(
        "--once", action="store_true", help="print one look and end, as into a pipe"
    )
    command.add_argument(
        "--interval",
        type=_interval,
        metavar="S",
        help="look every S seconds (default: 2); with --once, measure so long (default: 0.5)",
    )
    command.add_argument(
        "--sort", choices=SORTS, default="size", help="the order of the buffers (default: size)"
    )
    command.add_argument("--reverse", action="store_true", help="turn the order around")
    command.add_argument(
        "--group",
        choices=GROUPS,
        default="none",
        help="headings with the sums of their buffers (default: none)",
    )
    command.add_argument(
        "--filter",
        default="",
        metavar="TEXT",
        help="only what has TEXT in its name, tenant or a holder",
    )
    command.add_argument(
        "--processes", action="store_true", help="begin with the tree of processes"
    )
    command.add_argument(
        "--user", metavar="U", help="the domain of user U, by name or uid; root may look"
    )
