"""The command `purge`: remove what domains without a living process have left.

It looks at each domain from outside and asks before it removes a buffer that the next
process would adopt. Where nobody can be asked, such buffers stay unless `--yes` says
otherwise. Root works on the domain of another user as that user (`owner.py`). So what
was done is told as JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from muninn.cli.fitting import shortened
from muninn.cli.output import counted, printable, printJson
from muninn.cli.owner import asOwner
from muninn.config.sizes import asText
from muninn.errors import MuninnError, PermissionDenied
from muninn.storage.paths import Paths, takenBytes

if TYPE_CHECKING:
    from muninn.broker.purging import Inhabited, Remains

#: How many buffers a question names.
_LISTED = 10
#: How much of a name stands in a line with other words.
_NAME_WIDTH = 40


class _Outcome(NamedTuple):
    """What a purge did with one domain, or would do.

    Attributes
    ----------
    kept
        What was kept, in words; empty: nothing was.
    isOneKept
        Whether that is one thing.
    livingPid
        The process that is in the domain.
    hiddenPid
        A process of which it is not to be known whether it is in the domain.
    error
        The error in words, and its code, if it has one.
    """

    domain: str
    uid: int
    removed: list[str] = []  # noqa: RUF012  # nobody changes it
    bytes: int = 0
    kept: str = ""
    isOneKept: bool = False
    keptBuffers: dict[str, int] = {}  # noqa: RUF012
    keptWhy: str | None = None
    livingPid: int | None = None
    hiddenPid: int | None = None
    error: dict[str, str | None] | None = None


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
    # The owner may not be able to read the files of this program: what it needs is
    # imported before.
    from muninn.broker import purging

    del purging
    paths = Paths(uid, name)
    return _Outcome(**asOwner(paths, lambda: _done(arguments, paths)._asdict()))


def _done(arguments: argparse.Namespace, paths: Paths) -> _Outcome:
    from muninn.broker.purging import Inhabited, purge, remainsOf

    outcome = _Outcome(paths.domain, paths.uid)
    try:
        remains = remainsOf(paths)
        if isinstance(remains, Inhabited):
            return _inhabited(outcome, remains)
        if not (remains.loose or remains.needed):
            return outcome
        isTold = remains.isNeeded() and _mayTake(arguments, paths, remains)
        sizes = {path: takenBytes([path]) for path in (*remains.loose, *remains.needed)}
        if not arguments.dry_run:
            done = purge(paths, remains if isTold else None)
            if isinstance(done, Inhabited):
                return _inhabited(outcome, done)
            remains = done
        elif isTold:
            remains = remains._replace(loose=[*remains.loose, *remains.needed], needed=[])
    except MuninnError as error:
        return outcome._replace(
            error={"code": error.code, "reason": error.reason, "text": str(error)}
        )
    except OSError as error:  # the other domains go on
        return outcome._replace(error={"code": None, "reason": str(error), "text": str(error)})
    outcome = outcome._replace(
        removed=remains.loose,
        bytes=sum(sizes.get(path, 0) for path in remains.loose if path != paths.blockPath),
    )
    return _keeping(outcome, remains) if remains.needed else outcome


def _inhabited(outcome: _Outcome, found: Inhabited) -> _Outcome:
    return (
        outcome._replace(livingPid=found.pid)
        if found.isCertain
        else outcome._replace(hiddenPid=found.pid)
    )


def _keeping(outcome: _Outcome, remains: Remains) -> _Outcome:
    return outcome._replace(
        kept=_needed(remains),
        isOneKept=len(remains.known) + bool(remains.why) == 1,
        keptBuffers=remains.buffers,
        keptWhy=remains.why or None,
    )


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
    name = f"domain {outcome.domain!r}"
    if outcome.uid != os.geteuid():
        name += f" of uid {outcome.uid}"
    if outcome.error is not None:
        return f"{name}: {outcome.error['text']}"
    if outcome.livingPid is not None:
        return f"{name}: process {outcome.livingPid} is in it: nothing to remove"
    if outcome.hiddenPid is not None:
        return (
            f"{name}: process {outcome.hiddenPid} hides its files, and may be in it: nothing to "
            "remove before it ends"
        )
    would = "would remove" if isDry else "removed"
    parts = []
    if outcome.removed:
        files = counted(len(outcome.removed), "file")
        parts.append(f"{would} {files}, {asText(outcome.bytes)}")
    if outcome.kept:
        those = "it" if outcome.isOneKept else "them"
        parts.append(f"kept {outcome.kept}: --yes removes {those} too")
    return f"{name}: {'; '.join(parts) or 'nothing to remove'}"


def _total(outcomes: list[_Outcome], isDry: bool) -> str:
    files = sum(len(each.removed) for each in outcomes)
    would = "would remove" if isDry else "removed"
    taken = asText(sum(each.bytes for each in outcomes))
    living = sum((each.livingPid or each.hiddenPid) is not None for each in outcomes)
    others = f"; {counted(living, 'domain')} with living processes left alone" if living else ""
    return f"{would} {counted(files, 'file')}, {taken} of /dev/shm{others}"


def _described(outcome: _Outcome) -> dict[str, Any]:
    """The same for programs."""
    error = outcome.error
    return {
        "domain": outcome.domain,
        "uid": outcome.uid,
        "removed": outcome.removed,
        "bytes": outcome.bytes,
        "keptBuffers": outcome.keptBuffers,
        "keptWhy": outcome.keptWhy,
        "livingPid": outcome.livingPid,
        "hiddenPid": outcome.hiddenPid,
        "error": None if error is None else {"code": error["code"], "reason": error["reason"]},
    }
