"""Executing: the executor of this process is asked before bytes move for a user
(`transfer/execution.py` has the contract).

Each membership has a default executor, which asks the driver for the heat and the power
of its GPUs. A program may set another one, for all memberships of the process. A copy
that is made again and again (`api/repeats.py`) keeps the permit of its first one for a
second, and is not asked about meanwhile. All of it is private to the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from muninn.api.permits import FRESH_SECONDS, Permit
from muninn.errors import PromotionDenied
from muninn.system import clock
from muninn.system.logs import Log
from muninn.system.threads import refuseImports
from muninn.transfer.execution import Answer, Executor, Verdict, Work

if TYPE_CHECKING:
    from muninn.session.context import Context

#: For how long work waits whose caller has set no bound.
LONGEST_SECONDS = 30.0
#: The shortest pause between two questions, whatever the executor says.
_LEAST_PAUSE_SECONDS = 0.001
#: How often work that waits looks whether it is to end, whatever the executor says.
_SLICE_SECONDS = 0.05
_log = Log("muninn.transfer")


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
    """The question whether work may begin, and then the work while it is under way.

    Its user enters it twice, ``with admission, admission:``, and asks then. So the
    executor is told the end of all work that it let go, once: an interruption finds the
    question not asked, or its answer kept, and one at the beginning of the first exit is
    followed by the second.
    """

    __slots__ = ("_answers", "_begunSeconds", "_executor", "_untold", "_work")

    def __init__(self, executor: Executor, work: Work) -> None:
        self._executor, self._work = executor, work
        self._begunSeconds = 0.0
        #: The last answer.
        self._answers = list[Answer]()
        #: Yields the work that was asked about, until its end is told.
        self._untold: Iterator[Work] = iter(())

    @classmethod
    def of(cls, context: Context, work: Work) -> Admission:
        """By the executor that decides about the work of a membership."""
        return cls(executorOf(context), work)

    @property
    def hasGone(self) -> bool:
        """Whether the executor has let it go."""
        said = self._answers
        return bool(said) and isinstance(said[0], Answer) and said[0].verdict is Verdict.GO

    def ask(self, secondsLeft: float | None, look: Callable[[], object]) -> Answer:
        """Wait until the executor lets the work begin; returns its answer.

        Parameters
        ----------
        secondsLeft
            For how long it may wait; None: as long as any work.
        look
            Called now and then while it waits; raises to end the wait.

        Raises
        ------
        PromotionDenied
            The executor refuses, or the time is over; with its reason.
        """
        begun = clock.now()
        most = LONGEST_SECONDS if secondsLeft is None else min(secondsLeft, 1e9)
        work = self._work._replace(timeoutSeconds=secondsLeft)
        while True:
            answer = self._answerTo(work)
            if answer.verdict is Verdict.GO:
                self._begunSeconds = clock.now()
                return answer
            left = most - (clock.now() - begun)
            if answer.verdict is Verdict.REFUSE or left <= 0:
                raise _denied(work, answer, clock.now() - begun)
            _pause(max(_LEAST_PAUSE_SECONDS, min(answer.pauseSeconds, left)), look)
            work = work._replace(waitedSeconds=clock.now() - begun)

    def _answerTo(self, work: Work) -> Answer:
        self._answers.clear()
        self._untold, self._begunSeconds = iter((work,)), clock.now()
        # By one call of C: no interruption comes between the answer and its keeping.
        self._answers.extend(map(self._executor.decide, (work,)))
        (answer,) = self._answers
        if not isinstance(answer, Answer):
            raise TypeError(f"decide must return an Answer, not {type(answer).__name__}")
        if not isinstance(answer.verdict, Verdict):
            raise TypeError(f"decide: the verdict must be a Verdict, not {answer.verdict!r}")
        return answer

    def __enter__(self) -> Admission:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.hasGone:
            return
        seconds = clock.now() - self._begunSeconds
        try:
            # By one call of C, which takes the work and calls: it is told once.
            list(map(self._executor.ended, self._untold, (seconds,), (error,)))
        except Exception:
            # The bytes have moved, so it is no error of the copy.
            _log.exception("the executor has failed at the end of a %s", self._work.kind)


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


def _pause(seconds: float, look: Callable[[], object]) -> None:
    end = clock.now() + seconds
    while (left := end - clock.now()) > 0:
        look()
        clock.sleep(min(left, _SLICE_SECONDS))


def _denied(work: Work, answer: Answer, seconds: float) -> PromotionDenied:
    waited = f" for {seconds:.1f} s" if answer.verdict is Verdict.LATER else ""
    why = answer.reason or "the executor gives no reason"
    return PromotionDenied(
        f"the {work.kind} of {work.sizeBytes} bytes of {work.name!r} to {work.target} may not "
        f"begin{waited}: {why}",
        "Wait longer (`timeout=`), or try again later",
    )
