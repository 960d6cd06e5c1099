"""The command `plan`: say what a plan would do and why, or do it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from muninn.cli.ending import hold, say, stopped
from muninn.cli.output import Row, counted, printable, printJson, printTable, waitingBy

if TYPE_CHECKING:
    from muninn.plans import AppliedPlan, Decisions

_SECTIONS = ("buffers", "promotions", "prefetches")
_MOST_NAME = 24
_HEADINGS = ("PATH", "ACTION", "BUFFER", "WHY")


def runPlan(arguments: argparse.Namespace) -> int:
    if arguments.verb == "check":
        if arguments.seconds is not None or arguments.timeout is not None:
            arguments.fail("--seconds and --timeout are for `plan apply`")
        return _check(arguments)
    try:
        return _apply(arguments)
    except BaseException as error:
        # After Ctrl-C, or a timeout, they say what was undone and what still stands.
        for note in getattr(error, "__notes__", ()):
            print(f"muninn: {printable(note)}", file=sys.stderr)
        raise


def _check(arguments: argparse.Namespace) -> int:
    from muninn.plans.deciding import decide
    from muninn.plans.facts import factsOf
    from muninn.plans.reading import planOf
    from muninn.session.membership import current

    plan = planOf(arguments.file)
    facts = factsOf(current(), plan)
    decisions = decide(plan, facts)
    if arguments.json:
        printJson({**decisions.asDict(), "facts": facts.asDict()})
    else:
        _print(decisions)
    return 1 if decisions.refusals else 0


def _print(decisions: Decisions) -> None:
    lines = [(step.path, step.action.value, step.buffer, step.why) for step in decisions.steps]
    lines += [
        (each.path, "refuse", each.buffer, f"{each.code} {each.reason}. Fix: {each.fix}.")
        for each in decisions.refusals
    ]
    lines.sort(key=_placeOf)
    if lines:
        _printTable(_HEADINGS, lines)
        print()
    if refused := len(decisions.refusals):
        what = "entry of the plan" if refused == 1 else "entries of the plan"
        print(f"{refused} {what} can not be: nothing would be done")
        return
    print(_summary([step.action.value for step in decisions.steps], "would"))


def _printTable(headings: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> None:
    rows = [Row.of((path, action, _short(name), why)) for path, action, name, why in lines]
    printTable(headings, rows, wrapping=True)


def _short(name: str) -> str:
    """A name for a terminal, whose lines have no room for a long one. Its ends tell most."""
    half = _MOST_NAME // 2
    if len(name) <= _MOST_NAME or not sys.stdout.isatty():
        return name
    return f"{name[: half - 1]}…{name[-half:]}"


def _placeOf(line: tuple[str, ...]) -> tuple[int, int]:
    """Where an entry stands in the order in which the plan is carried out."""
    section, _, number = line[0].partition("[")
    return _SECTIONS.index(section), int(number.partition("]")[0])


def _summary(actions: list[str], how: str) -> str:
    """Such as `would create 2, keep 1, skip 1`."""
    if not actions:
        return "the plan is empty: nothing to do"
    counts = [f"{word} {actions.count(word)}" for word in dict.fromkeys(actions)]
    return f"{how} {', '.join(counts)}"


def _apply(arguments: argparse.Namespace) -> int:
    import muninn

    timeout = 10.0 if arguments.timeout is None else arguments.timeout
    with waitingBy("--timeout"), muninn.applyPlan(arguments.file, timeout=timeout) as applied:
        reason = _heldFor(applied)
        # The handlers are set before the message tells the user to press Ctrl-C.
        stop = stopped() if reason else None
        if not arguments.json and applied.outcomes:
            lines = [
                (each.step.path, each.step.action.value, each.step.buffer, each.note)
                for each in applied.outcomes
            ]
            _printTable((*_HEADINGS[:3], "OUTCOME"), lines)
            print()
        text = _summary([each.step.action.value for each in applied.outcomes], "done:")
        bound = "" if arguments.seconds is None else f"for {arguments.seconds:g} s, or "
        ending = f"\n{reason}: held {bound}until Ctrl-C" if reason else ""
        status = say(arguments, _described(applied), printable(text) + ending)
        if stop is not None:
            held = list(applied.buffers.values())
            hold(lambda: [each.handle for each in held], stop, arguments.seconds)
    return status


def _heldFor(applied: AppliedPlan) -> str:
    """Why the command stays, for people; "" if it need not."""
    if applied.windows:
        return f"{counted(len(applied.windows), 'window')} in VRAM"
    if any(each.step.action == "prefetch" for each in applied.outcomes):
        return "prefetched ranges in VRAM"
    if any(each.mode == "fastMode" for each in applied.buffers.values()):
        return "fastMode memory goes with the last process of the domain"
    if any(each.describe()["lifetime"] == "lastClose" for each in applied.buffers.values()):
        return 'buffers of the lifetime "lastClose" go with their last user'
    return ""


def _described(applied: AppliedPlan) -> dict[str, Any]:
    return {
        "created": applied.created,
        "outcomes": [
            {
                "path": each.step.path,
                "action": each.step.action.value,
                "buffer": each.step.buffer,
                "note": each.note,
            }
            for each in applied.outcomes
        ],
        "windows": [
            {"buffer": step.buffer, **step.values}
            for step in applied.decisions.steps
            if step.action == "promote"
        ],
    }
