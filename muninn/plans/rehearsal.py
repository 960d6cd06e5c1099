"""The test double of an executor: it answers as it is told, and notes what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from muninn.errors import PromotionDenied
from muninn.plans.grendel import setExecutor
from muninn.transfer.execution import GO, Answer, Executor, Reservation, Topology, Work


class Ended(NamedTuple):
    """Work that is over."""

    work: Work
    seconds: float
    error: BaseException | None


class Rehearsal:
    """An executor for tests, and one to derive from: ``with Rehearsal(…) as rehearsal:``
    sets it for the block.

    Parameters
    ----------
    answers
        The answers, one for each question, and then `GO` for ever; or a function of the
        work.

    Attributes
    ----------
    asked
        The works that it was asked about, also the same one again.
    over
        Those that are over.
    """

    def __init__(self, answers: Iterable[Answer] | Callable[[Work], Answer] = ()) -> None:
        self._answers = answers if callable(answers) else iter(list(answers))
        self.asked = list[Work]()
        self.over = list[Ended]()
        self._before: Executor | None = None

    def decide(self, work: Work) -> Answer:
        """See `Executor`."""
        self.asked.append(work)
        if callable(self._answers):
            return self._answers(work)
        return next(self._answers, GO)

    def ended(self, work: Work, seconds: float, error: BaseException | None) -> None:
        """See `Executor`."""
        self.over.append(Ended(work, seconds, error))

    def topology(self) -> Topology:
        """See `Executor`: no GPUs."""
        return Topology((), {})

    def reserve(self, buffer: Any, offset: int, length: int, targetGpu: int) -> Reservation:
        """See `Executor`: there is no room."""
        raise PromotionDenied(f"a rehearsal reserves nothing on GPU {targetGpu}")

    def __enter__(self) -> Rehearsal:
        self._before = setExecutor(self)
        return self

    def __exit__(self, *_: object) -> None:
        setExecutor(self._before)
