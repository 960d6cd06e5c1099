"""Executing: the executor of this process is asked before bytes move for a user
(`transfer/execution.py` has the contract).

Each membership has a default executor, which asks the driver for the heat and the power
of its GPUs. A program may set another one, for all memberships of the process. A copy
that is made again and again (`api/repeats.py`) keeps the permit of its first one for a
second, and is not asked about meanwhile. All of it is private to the process.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from muninn.api.permits import FRESH_SECONDS, Permit
from muninn.errors import PromotionDenied
from muninn.system import clock
from muninn.system.threads import refuseImports
from muninn.transfer.execution import Answer, Executor, Verdict, Work

if TYPE_CHECKING:
    from muninn.session.context import Context

#: For how long work waits whose caller has set no bound.
LONGEST_SECONDS = 30.0
#: The shortest pause between two questions, whatever the executor says.
_LEAST_PAUSE_SECONDS = 0.001


class _Process:
    """What is set in this process.

    Attributes
    ----------
    executor
        The program's own; None: the default of each membership.
    permits
        Those that hold now, by the GPUs. Each `use` ends them.
    """

    def __init__(self) -> None:
        self.executor: Executor | None = None
        self.permits: dict[tuple[int, ...], Permit] = {}

    def use(self, executor: Executor | None) -> Executor | None:
        """Set the program's own executor; returns the one before."""
        before, self.executor = self.executor, executor
        # Repeats that hold one of these take the long way from now on.
        ended, self.permits = self.permits, {}
        for each in list(ended.values()):
            each.untilSeconds = 0.0
        return before


process = _Process()


def executorOf(context: Context) -> Executor:
    """The executor that decides about the work of a membership."""
    if process.executor is not None:
        return process.executor
    # Most processes copy nothing, and what the default needs takes a while.
    refuseImports("this process has copied nothing between GPUs yet")
    from muninn.api.inprocess import InProcess

    return context.gpus.companion(InProcess, lambda: InProcess(context))


class Admission:
    """Work that may begin: in the ``with`` block it is under way.

    Attributes
    ----------
    answer
        What the executor has said.
    """

    __slots__ = ("_begunSeconds", "_executor", "_work", "answer")

    def __init__(self, executor: Executor, work: Work, answer: Answer) -> None:
        self._executor, self._work, self.answer = executor, work, answer
        self._begunSeconds = clock.now()

    def __enter__(self) -> Admission:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.ended(self._work, clock.now() - self._begunSeconds, error)


def admitted(
    context: Context, work: Work, secondsLeft: float | None, look: Callable[[], object]
) -> Admission:
    """Wait until the executor lets the work begin. The caller enters at once what is
    returned: the executor is told the end.

    Parameters
    ----------
    secondsLeft
        For how long it may wait; None: as long as any work.
    look
        Called between two questions; raises to end the wait.

    Raises
    ------
    PromotionDenied
        The executor refuses, or the time is over; with its reason.
    """
    executor = executorOf(context)
    return Admission(executor, work, _awaited(executor, work, secondsLeft, look))


def permitted(work: Work) -> Permit | None:
    """A permit for copies like one that has just gone; None if the program's own executor
    is asked each time.
    """
    permit = process.permits.setdefault(work.gpus, Permit())
    permit.untilSeconds = clock.now() + FRESH_SECONDS
    if process.executor is not None:  # perhaps set since the line above
        permit.untilSeconds = 0.0
        return None
    return permit


def _awaited(
    executor: Executor, work: Work, secondsLeft: float | None, look: Callable[[], object]
) -> Answer:
    begun = clock.now()
    most = LONGEST_SECONDS if secondsLeft is None else min(secondsLeft, 1e9)
    while True:
        answer = executor.decide(work)
        if not isinstance(answer, Answer):
            raise TypeError(f"decide must return an Answer, not {type(answer).__name__}")
        if answer.verdict is Verdict.GO:
            return answer
        left = most - (clock.now() - begun)
        if answer.verdict is Verdict.REFUSE or left <= 0:
            raise _denied(work, answer, clock.now() - begun)
        look()
        clock.sleep(max(_LEAST_PAUSE_SECONDS, min(answer.pauseSeconds, left)))
        work = work._replace(waitedSeconds=clock.now() - begun)


def _denied(work: Work, answer: Answer, seconds: float) -> PromotionDenied:
    waited = f" for {seconds:.1f} s" if answer.verdict is Verdict.LATER else ""
    why = answer.reason or "the executor gives no reason"
    return PromotionDenied(
        f"the {work.kind} of {work.sizeBytes} bytes of {work.name!r} to {work.target} may not "
        f"begin{waited}: {why}",
        "Wait longer (`timeout=`), or try again later",
    )
