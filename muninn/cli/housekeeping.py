"""The grammar of the commands about domains as a whole, and about the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from muninn.cli.numbers import port

#: (name, function that runs it, help text, an example) → its parser.
Add = Callable[[str, str, str, str], argparse.ArgumentParser]
#: The port of the metrics in the specification.
_USUAL_PORT = 9618


def addHousekeeping(add: Add) -> None:
    """`keep`, `domains`, `purge`, `completion`."""
    _addKeep(add)
    _addDomains(add)
    command = add(
        "completion",
        "completion:runCompletion",
        "print what completes this command line in a shell; with --json the words alone",
        "completion bash > ~/.local/share/bash-completion/completions/muninn",
    )
    command.add_argument("shell", metavar="SHELL", help="bash, zsh or fish")


def _addKeep(add: Add) -> None:
    command = add(
        "keep",
        "keep:runKeep",
        "stay in the domain, and be its broker, until Ctrl-C",
        "keep --metrics",
    )
    command.add_argument(
        "--metrics",
        type=port,
        nargs="?",
        const=_USUAL_PORT,
        metavar="PORT",
        help=f"serve the domain's metrics for Prometheus, by default on port {_USUAL_PORT} of "
        "this machine",
    )
    command.add_argument(
        "--http",
        action="store_true",
        help="serve HTTP for plans, and the live page, on a Unix socket of this user",
    )
    command.add_argument(
        "--http-port",
        type=port,
        metavar="PORT",
        help="and on this port of 127.0.0.1, with a bearer token that is printed, or that "
        "MUNINN_HTTP_TOKEN has",
    )
    command.add_argument(
        "--systemd",
        action="store_true",
        help="tell systemd when it is ready, when it stops, and that it is not stuck",
    )


def _addDomains(add: Add) -> None:
    command = add(
        "domains",
        "domains:runDomains",
        "list the domains of this machine, also those without a process; root sees those of "
        "all users",
        "domains --processes",
    )
    command.add_argument("--processes", action="store_true", help="show the processes too")
    command.add_argument(
        "--all",
        action="store_true",
        help="also the domains of which only the lock file is left, and those that only their "
        "user and root may read",
    )
    command = add(
        "purge",
        "purge:runPurge",
        "remove what domains without a living process have left and nobody needs; ask before "
        "bytes are lost",
        "purge --dry-run",
    )
    command.add_argument(
        "domains", metavar="DOMAIN", nargs="*", help="only these (default: all of this user)"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="say what would be removed, and remove nothing"
    )
    command.add_argument(
        "--yes",
        action="store_true",
        help="also remove, without a question, what the next process would have, as buffers",
    )
    command.add_argument(
        "--user", metavar="UID", help="as root: the domains of this user, or of `all` users"
    )
