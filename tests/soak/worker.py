"""One worker of the soak: it performs its role over and over, and reports the results
to the supervisor, one line of JSON at a time.

An ordinary worker ends politely when its standard input ends. The anchor, which lives
as long as the soak, performs all roles in turn, and gets commands: `warm`, `run`,
`clean`.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import logging
import os
import random
import select
import signal
import sys
import time
import traceback
from collections import Counter

import muninn
from tests.soak import unrest
from tests.soak.role import Role, Violation
from tests.soak.roles import ROLES, releaseAll

_REPORT_SECONDS = 0.5
#: A pipe takes lines up to PIPE_BUF whole, also from a process that is killed the
#: moment after.
_LINE_BYTES = 4000
_PR_SET_PDEATHSIG = 1


class Report:
    """The lines that this worker has to send."""

    def __init__(self) -> None:
        self._operations = 0
        self._errors: Counter[str] = Counter()
        self._dueAt = 0.0

    def count(self, operations: int = 1) -> None:
        self._operations += operations

    def expected(self, error: BaseException) -> None:
        self._errors[getattr(error, "code", type(error).__name__)] += 1

    def unexpected(self, kind: str, role: str) -> None:
        """Send the exception that is being handled, with its traceback."""
        text = f"{role}: {traceback.format_exc()}"
        self.say(
            **{
                kind: text
                if len(text) < _LINE_BYTES // 2
                else f"{text[: _LINE_BYTES // 4]}\n[...]\n{text[-_LINE_BYTES // 4 :]}"
            }
        )

    def flush(self, atOnce: bool = False) -> None:
        if atOnce or time.monotonic() >= self._dueAt:
            self.say(operations=self._operations, errors=dict(self._errors))
            self._operations = 0
            self._errors.clear()
            self._dueAt = time.monotonic() + _REPORT_SECONDS

    def say(self, **fields: object) -> None:
        os.write(sys.stdout.fileno(), json.dumps(fields).encode()[:_LINE_BYTES] + b"\n")


def step(
    role: Role, report: Report, interrupts: contextlib.AbstractContextManager[None] | None = None
) -> None:
    """One step of a role; expected errors are counted, and others are reported."""
    try:
        with interrupts or contextlib.nullcontext():
            operations = role.step()
        report.count(operations)
    except Violation:
        report.unexpected("violation", type(role).__name__)
    except role.expected as error:
        report.expected(error)
    except Exception:
        report.unexpected("unexpected", type(role).__name__)


class Commands:
    """Standard input, a line at a time, with a bounded wait."""

    def __init__(self) -> None:
        self._pending = b""
        self.ended = False

    def next(self, seconds: float) -> str | None:
        if b"\n" not in self._pending and not self.ended and select.select([0], [], [], seconds)[0]:
            read = os.read(0, 4096)
            self.ended = not read
            self._pending += read
        line, found, rest = self._pending.partition(b"\n")
        if not found:
            return None
        self._pending = rest
        return line.decode()


def work(name: str, seed: int, report: Report) -> None:
    """An ordinary worker's life, with the deeds that it gets as commands."""
    chance, interrupts, commands = random.Random(seed), unrest.Interrupts(), Commands()
    unrest.countSwallowed(report.expected)
    role = ROLES[name](chance)
    while not commands.ended:
        said = commands.next(role.pause())
        if said in unrest.DEEDS:
            report.flush(atOnce=True)
        try:
            if said == "fork":
                unrest.fork(chance)
            elif said == "exec":
                unrest.replace(name, chance)
            elif said == "endBusy":
                unrest.endBusy(chance)
            step(role, report, interrupts)
        except KeyboardInterrupt as error:
            report.expected(error)
            role = ROLES[name](chance)  # The role's state may be wrong after an interrupted step.
        except muninn.MuninnError as error:
            report.expected(error)  # in a deed: another process has freed or evicted its buffer
        report.flush()
    role.close()


def anchor(seed: int, report: Report) -> None:
    """The anchor's life: all roles, and answers to commands."""
    chance, commands, isRunning = random.Random(seed), Commands(), False
    roles = [ROLES[name](random.Random(seed + index)) for index, name in enumerate(sorted(ROLES))]
    kept: list[muninn.Lock] = []
    while not commands.ended:
        said = commands.next(0.05 if isRunning else 1.0)
        if said == "run":
            isRunning = True
            # A lock that no process has open forgets that its holder died.
            kept = [muninn.Lock(f"lock-{index}") for index in range(3)]
        elif said == "warm":
            for role in roles * 4:
                step(role, report)
        elif said == "clean":
            isRunning = False
            for role in roles:
                role.close()
            kept.clear()
            report.say(freed=releaseAll())
            gc.collect()
        elif isRunning:
            step(chance.choice(roles), report)
        report.flush(atOnce=said is not None)
        if said is not None:
            report.say(done=said)


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(
        stream=sys.stderr, format=f"%(asctime)s {os.getpid()} %(levelname)s %(name)s %(message)s"
    )
    name, seed = sys.argv[1], int(sys.argv[2])
    report = Report()
    try:
        anchor(seed, report) if name == "anchor" else work(name, seed, report)
    except Exception:
        report.unexpected("unexpected", name)
    report.flush(atOnce=True)


if __name__ == "__main__":
    main()
