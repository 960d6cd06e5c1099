"""The grammar of the commands about domains as a whole, and about the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable

#: (name, function that runs it, help text, an example) → its parser.
Add = Callable[[str, str, str, str], argparse.ArgumentParser]


def addHousekeeping(add: Add) -> None:
    """`domains`, `purge`, `completion`."""
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
        help="also remove, without a question, buffers that the next process would adopt",
    )
    command.add_argument(
        "--user", metavar="UID", help="as root: the domains of this user, or of `all` users"
    )
    command = add(
        "completion",
        "completion:runCompletion",
        "print what completes this command line in a shell; with --json the words alone",
        "completion bash > ~/.local/share/bash-completion/completions/muninn",
    )
    command.add_argument("shell", metavar="SHELL", help="bash, zsh or fish")
