"""The command `purge`: remove what domains without a living process have left.

It looks at each domain from outside and asks before it removes a buffer that the next
process would adopt. Where nobody can be asked, such buffers stay unless `--yes` says
otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from muninn.cli.fitting import shortened
from muninn.cli.output import counted, printable, printJson
from muninn.config.sizes import asText
from muninn.errors import MuninnError, PermissionDenied

if TYPE_CHECKING:
    from muninn.broker.purging import Remains
    from muninn.storage.paths import Paths

#: How many buffers a question names.
_LISTED = 10
#: How much of a name stands in a line with other words.
_NAME_WIDTH = 40


class _Outcome(NamedTuple):
    """What a purge did with one domain, or would do."""

    paths: Paths
    removed: list[str]
    bytes: int
    kept: Remains | None
    livingPid: int | None
    error: MuninnError | None


def runPurge(arguments: argparse.Namespace) -> int:
    outcomes = [_one(arguments, uid, name) for uid, name in _chosen(arguments)]
    shown = [each for each in outcomes if each.removed or each.kept or each.error]
    if arguments.domains:  # whoever names a domain is told of it in any case
        shown = outcomes
    if arguments.json:
        printJson({"dryRun": arguments.dry_run, "domains": [_described(each) for each in shown]})
    else:
        for each in shown:
            print(printable(_said(each, arguments.dry_run)))
        if len(outcomes) != 1:
            print(_total(outcomes, arguments.dry_run))
    return 1 if any(each.error for each in outcomes) else 0


def _chosen(arguments: argparse.Namespace) -> list[tuple[int, str]]:
    """(uid, name) of the domains that the user means."""
    from muninn.service.domains import found

    wanted = set(arguments.domains or ([arguments.domain] if arguments.domain else []))
    uids = _uids(arguments)
    every = [each for each in found() if uids is None or each[0] in uids]
    if missing := wanted - {name for _, name in every}:
        arguments.fail(f"there is no domain {', '.join(map(repr, sorted(missing)))}")
    return [each for each in every if not wanted or each[1] in wanted]


def _uids(arguments: argparse.Namespace) -> set[int] | None:
    """The users whose domains are meant; None: of all."""
    own = os.geteuid()
    if arguments.user is None:
        return {own}
    if arguments.user != "all" and not (arguments.user.isascii() and arguments.user.isdecimal()):
        arguments.fail(f"--user {arguments.user!r} is neither a uid nor `all`")
    uids = None if arguments.user == "all" else {int(arguments.user)}
    if own != 0 and uids != {own}:
        raise PermissionDenied("the domains of other users are theirs", "Do it as root")
    return uids


def _one(arguments: argparse.Namespace, uid: int, name: str) -> _Outcome:
    from muninn.broker.purging import Inhabited, purge, remainsOf, sizeOf
    from muninn.storage.paths import Paths

    paths = Paths(uid, name)
    outcome = _Outcome(paths, [], 0, None, None, None)
    try:
        with _as(uid):
            remains = remainsOf(paths)
            if isinstance(remains, Inhabited):
                return outcome._replace(livingPid=remains.pid)
            if not (remains.loose or remains.needed):
                return outcome
            isTold = remains.isNeeded() and _mayTake(arguments, paths, remains)
            sizes = {path: sizeOf([path]) for path in (*remains.loose, *remains.needed)}
            if not arguments.dry_run:
                done = purge(paths, remains if isTold else None)
                if isinstance(done, Inhabited):
                    return outcome._replace(livingPid=done.pid)
                remains = done
            elif isTold:
                loose = [*remains.loose, *remains.needed]
                remains = remains._replace(loose=loose, needed=[])
    except MuninnError as error:
        return outcome._replace(error=error)
    gone = sum(sizes.get(path, 0) for path in remains.loose if path != paths.blockPath)
    return outcome._replace(
        removed=remains.loose, bytes=gone, kept=remains if remains.needed else None
    )


@contextlib.contextmanager
def _as(uid: int) -> Iterator[None]:
    """As root, act as this user: a file of theirs may be a trap for root."""
    own = os.geteuid()
    if uid == own:
        yield
        return
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(own)


def _mayTake(arguments: argparse.Namespace, paths: Paths, remains: Remains) -> bool:
    """Whether the user allows that what is needed goes too."""
    if arguments.yes:
        return True
    if arguments.dry_run or arguments.json or not sys.stdin.isatty():
        return False
    print(printable(f"domain {paths.domain!r}: {_needed(remains)}"), file=sys.stderr)
    for name, size in list(remains.buffers.items())[:_LISTED]:
        print(printable(f"  {asText(size):>6}  {name}"), file=sys.stderr)
    if (more := len(remains.buffers) - _LISTED) > 0:
        print(f"          and {more} more", file=sys.stderr)
    print("Remove that too? It can not be had back. [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _needed(remains: Remains) -> str:
    """What would be lost."""
    names = list(remains.buffers)
    parts = []
    if names:
        total = asText(sum(remains.buffers.values()))
        which = f" ({shortened(names[0], _NAME_WIDTH)})" if len(names) == 1 else ""
        parts.append(f"{counted(len(names), 'buffer')} of {total} for the next process{which}")
    if others := len(remains.known) - len(names):
        parts.append(f"{counted(others, 'segment')} of which it is not known whose")
    return ", ".join([*parts, *([remains.why] if remains.why else [])])


def _said(outcome: _Outcome, isDry: bool) -> str:
    name = f"domain {outcome.paths.domain!r}"
    if outcome.paths.uid != os.geteuid():
        name += f" of uid {outcome.paths.uid}"
    if outcome.error is not None:
        return f"{name}: {outcome.error}"
    if outcome.livingPid is not None:
        return f"{name}: process {outcome.livingPid} is in it: nothing to remove"
    would = "would remove" if isDry else "removed"
    parts = []
    if outcome.removed:
        files = counted(len(outcome.removed), "file")
        parts.append(f"{would} {files}, {asText(outcome.bytes)}")
    if outcome.kept is not None:
        those = "it" if len(outcome.kept.known) + bool(outcome.kept.why) == 1 else "them"
        parts.append(f"kept {_needed(outcome.kept)}: --yes removes {those} too")
    return f"{name}: {'; '.join(parts) or 'nothing to remove'}"


def _total(outcomes: list[_Outcome], isDry: bool) -> str:
    files = sum(len(each.removed) for each in outcomes)
    would = "would remove" if isDry else "removed"
    taken = asText(sum(each.bytes for each in outcomes))
    living = sum(each.livingPid is not None for each in outcomes)
    others = f"; {counted(living, 'domain')} with living processes left alone" if living else ""
    return f"{would} {counted(files, 'file')}, {taken} of /dev/shm{others}"


def _described(outcome: _Outcome) -> dict[str, Any]:
    """The same for programs."""
    kept, error = outcome.kept, outcome.error
    return {
        "domain": outcome.paths.domain,
        "uid": outcome.paths.uid,
        "removed": outcome.removed,
        "bytes": outcome.bytes,
        "keptBuffers": {} if kept is None else kept.buffers,
        "keptWhy": None if kept is None or not kept.why else kept.why,
        "livingPid": outcome.livingPid,
        "error": None if error is None else {"code": error.code, "reason": error.reason},
    }
