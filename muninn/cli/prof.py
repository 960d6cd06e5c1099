"""The command `prof`: Muninn measured on this machine, in a domain of its own.

Exit status: 0 if all was measured, and nothing is slower than in the run that it is
compared with; 1 if a row is slower, or could not be measured, or if none could be
compared.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import types

from muninn.cli.output import bar, printJson, printProblem
from muninn.cli.profreport import (
    Report,
    asJson,
    comparisonText,
    listed,
    printComparison,
    printList,
    printReport,
    printWrapped,
)
from muninn.prof import results
from muninn.prof.comparison import Comparison, better, compared
from muninn.prof.measuring import Outcome, measured
from muninn.prof.results import Result
from muninn.prof.rows import GPU, ROWS, RowSpec
from muninn.prof.run import Run, gpusHere, isBusy, machineText
from muninn.system import clock
from muninn.terms import nearest

_WITHIN_PERCENT = 10.0
#: How often a row that is slower is measured again, before it counts as such.
_REPEATS = 2


def runProf(arguments: argparse.Namespace) -> int:
    """Measure, and say what that means."""
    rows = _rowsOf(arguments)
    if arguments.list:
        if arguments.json:
            printJson(listed(rows))
        else:
            printList(rows)
        return 0
    old = None if arguments.compare is None else _oldOf(arguments, rows)
    _requireWritable(arguments)
    within = _WITHIN_PERCENT if arguments.within is None else arguments.within
    run = Run(gpusHere(), arguments.quick)
    busy = isBusy()
    _announce(run, rows, busy)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    with run.ground:
        outcomes = _measuredAll(run, rows)
        comparison = None if old is None else _comparedAll(run, old, outcomes, within)
    if arguments.csv is not None:
        results.write(_resultsOf(outcomes), arguments.csv)
    report = Report(machineText(), run.gpus, arguments.quick, outcomes, busy, run.smallBytes)
    if arguments.json:
        printJson(asJson(report, comparison, within))
    else:
        printReport(report)
        if comparison is not None:
            printComparison(comparison, arguments.compare, within, busy)
        if arguments.csv is not None:
            print(f"\nwritten to {arguments.csv}")
    for outcome in outcomes:
        if outcome.isFailure:
            printProblem(f"{outcome.row.name} was not measured: {outcome.reason}", asJson=False)
    if comparison is not None and (comparison.regressed or not comparison.changes):
        print(f"muninn: {comparisonText(comparison, within)}", file=sys.stderr)
        return 1
    return 1 if any(outcome.isFailure for outcome in outcomes) else 0


def _rowsOf(arguments: argparse.Namespace) -> list[RowSpec]:
    """The rows that are asked for, in the order of the table. Wrong usage ends here."""
    if arguments.domain is not None:
        arguments.fail("prof measures in a domain of its own: leave --domain out")
    if arguments.within is not None and arguments.compare is None:
        arguments.fail("--within is for --compare")
    asked = arguments.only or list(ROWS)
    for name in asked:
        if name not in ROWS:
            meant = nearest(name, list(ROWS))
            hint = f" (did you mean {meant!r}?)" if meant else ""
            arguments.fail(f"there is no row {name!r}{hint}: `prof --list` shows them")
    return [row for name, row in ROWS.items() if name in asked]


def _oldOf(arguments: argparse.Namespace, rows: list[RowSpec]) -> list[Result]:
    """The rows of the older run, of those that are asked for."""
    old = results.read(arguments.compare)
    if _isSameFile(arguments.csv, arguments.compare):
        arguments.fail("--csv would replace the file of --compare: give another name")
    if all(each.isQuick != arguments.quick for each in old):
        arguments.fail(
            f"{arguments.compare} was measured {'with' if old[0].isQuick else 'without'} --quick: "
            "measure it again, or do as it did"
        )
    if arguments.only is None:
        return old
    names = {row.name for row in rows}
    return [each for each in old if each.row in names]


def _isSameFile(path: str | None, other: str) -> bool:
    return path is not None and os.path.exists(path) and os.path.samefile(path, other)


def _requireWritable(arguments: argparse.Namespace) -> None:
    """Say before the measurement, and not after it, that a file can not be written."""
    if arguments.csv is None:
        return
    folder = os.path.dirname(os.path.abspath(arguments.csv))
    if os.path.isdir(arguments.csv) or not os.access(folder, os.W_OK | os.X_OK):
        arguments.fail(f"--csv: {arguments.csv} can not be written")


def _announce(run: Run, rows: list[RowSpec], busy: str) -> None:
    seconds = sum(run.secondsOf(row) for row in rows)
    where = ""
    if any(row.group == GPU for row in rows):
        emulated = "there is no GPU here, so GPUs are emulated"
        where = f"; {emulated if run.gpus.isEmulated else run.gpus.name}"
    printWrapped(
        f"prof: {len(rows)} row{'s' * (len(rows) != 1)}, about {max(1, round(seconds))} s, in a "
        f"domain of its own{where}",
        sys.stderr,
    )
    if busy:
        worse = "it takes longer, and the figures will be worse than this machine's"
        printWrapped(f"prof: {busy}: {worse}", sys.stderr)
    sys.stderr.flush()


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


def _measuredAll(run: Run, rows: list[RowSpec]) -> list[Outcome]:
    outcomes, total = list[Outcome](), sum(run.secondsOf(row) for row in rows)
    began, done = clock.now(), 0.0
    with bar("measuring") as show:
        for number, row in enumerate(rows, 1):
            # By what the rows took so far: a busy machine takes longer.
            pace = max(1.0, (clock.now() - began) / done) if done else 1.0
            left = f"about {max(1, round((total - done) * pace))} s left"
            what = f"{row.name} ({number} of {len(rows)})"
            show(what, round(done * 10), round(total * 10), left)
            outcomes.append(measured(run, row))
            done += run.secondsOf(row)
    return outcomes


def _comparedAll(run: Run, old: list[Result], outcomes: list[Outcome], within: float) -> Comparison:
    """Compare, and measure again what is slower. The smaller figures replace those of
    `outcomes`.
    """
    comparison = compared(old, _resultsOf(outcomes), within)
    for repeat in range(1, _REPEATS + 1):
        slower = [change.new.row for change in comparison.regressed]
        if not slower:
            break
        what = f"again, as slower than before ({repeat} of {_REPEATS})"
        with bar(what) as show:
            for number, name in enumerate(slower):
                show(f"{name}, {what}", number, len(slower), "")
                place = next(i for i, each in enumerate(outcomes) if each.row.name == name)
                again, before = measured(run, ROWS[name]).result, outcomes[place].result
                if again is not None and before is not None:
                    outcomes[place] = outcomes[place]._replace(result=better(before, again))
        comparison = compared(old, _resultsOf(outcomes), within)
    return comparison


def _resultsOf(outcomes: list[Outcome]) -> list[Result]:
    return [each.result for each in outcomes if each.result is not None]
