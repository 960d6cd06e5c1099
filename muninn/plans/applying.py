"""Applying a plan: its decisions are carried out in their order, and undone if one fails.

Applications of one domain exclude each other, from the facts to the last step, by a lock
that the death of its holder frees. Each step is whole by itself, so an application that
is killed leaves buffers that the next one keeps.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from muninn.arguments import timeoutOf
from muninn.errors import BufferExists, BufferMismatch, DomainDraining, MuninnError
from muninn.plans.deciding import decide, differences
from muninn.plans.decisions import Action, Decisions, Step
from muninn.plans.facts import Facts, factsOf
from muninn.plans.hands import Hands, OwnHands, closed
from muninn.plans.reading import planOf
from muninn.plans.schemas import Plan
from muninn.session.membership import current
from muninn.sync.lock import OwnLock
from muninn.system.closable import Closable
from muninn.system.deadlines import deadlineOf, remaining

if TYPE_CHECKING:
    from muninn.api.buffer import MuninnBuffer
    from muninn.api.scratch import Scratch


class Outcome(NamedTuple):
    """What became of a step."""

    step: Step
    note: str


class AppliedPlan(Closable):
    """A plan that was applied. In a ``with`` block, or until `close`, its windows and its
    buffers are held; a buffer whose lifetime is ``"keep"`` stays after that.

    The end of the block ends each window as the end of a block of its own would: what
    was written there is copied back if the buffer is readWrite and no exception leaves.

    Attributes
    ----------
    decisions
        What was decided.
    outcomes
        What became of each step.
    buffers
        The buffers of the plan, by name.
    windows
        The promoted windows, in the order of the plan.
    created
        The names of the buffers that this application has made.
    """

    def __init__(self, decisions: Decisions) -> None:
        self.decisions = decisions
        self.outcomes = list[Outcome]()
        self.buffers: dict[str, MuninnBuffer] = {}
        self.windows: list[Scratch] = []
        self.created = list[str]()

    def close(self) -> None:
        """Let go of the windows, and copy nothing back; and then of the buffers."""
        with self._ending() as held:
            for window in self.windows:
                held.callback(window.close)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._ending() as held:
            for window in self.windows:
                held.callback(window.__exit__, kind, error, trace)

    @contextlib.contextmanager
    def _ending(self) -> Iterator[contextlib.ExitStack]:
        """Ends each window also if another one fails, and the buffers in any case."""
        with contextlib.ExitStack() as held:
            for buffer in self.buffers.values():
                held.callback(buffer.close)
            yield held
            self.windows, self.buffers = [], {}

    def __repr__(self) -> str:
        return (
            f"<AppliedPlan: {len(self.buffers)} buffers, {len(self.created)} of them new, "
            f"{len(self.windows)} windows>"
        )


def decided(plan: Mapping[str, Any] | str | os.PathLike[str]) -> Decisions:
    """See `checkPlan`."""
    checked = planOf(plan)
    return decide(checked, factsOf(current(), checked))


def applied(plan: Mapping[str, Any] | str | os.PathLike[str], timeout: float | None) -> AppliedPlan:
    """See `applyPlan`."""
    checked = planOf(plan)
    deadline = deadlineOf(timeoutOf("applyPlan", timeout))
    membership = current()
    with _alone(deadline):
        decisions = decide(checked, factsOf(membership, checked))
        decisions.require()
        return Application(checked, decisions, OwnHands(), timeout, _lookedUp(checked)).run()


def _alone(deadline: float | None) -> contextlib.AbstractContextManager[object]:
    """Excludes the other applications of the domain."""
    try:
        return OwnLock("plan", "apply", deadline).held(remaining(deadline))
    except DomainDraining:
        # The lock would be new as well. No application creates anything then, so none
        # has to undo what another one relies on.
        return contextlib.nullcontext()


#: The facts once more.
Look = Callable[[], Facts]


def _lookedUp(plan: Plan) -> Look:
    return lambda: factsOf(current(), plan)


class Application:
    """One application. Its caller has excluded the others.

    Parameters
    ----------
    look
        The facts as they are by then, if a name was taken since the decision.
    """

    def __init__(
        self, plan: Plan, decisions: Decisions, hands: Hands, timeout: float | None, look: Look
    ) -> None:
        self._planned = {each.path: each for each in plan.buffers}
        self._applied = AppliedPlan(decisions)
        self._hands, self._timeout, self._look = hands, timeout, look
        #: (what it undoes, how); None: it is not known whether there is anything to undo.
        self._undoing = list[tuple[str, Callable[[], object] | None]]()

    def run(self) -> AppliedPlan:
        for step in self._applied.decisions.steps:
            try:
                note = _DOING[step.action](self, step)
            except BaseException as error:
                self._fail(step, error)
                raise
            self._applied.outcomes.append(Outcome(step, note))
        return self._applied

    def _fail(self, step: Step, error: BaseException) -> None:
        standing = self._undone()
        said = f"still there: {'; '.join(standing)}" if standing else "what came before is undone"
        if isinstance(error, MuninnError):
            error.reason = f"{step.path} ({step.buffer!r}): {error.reason}; {said}"
        else:
            error.add_note(f"applyPlan: at {step.path} ({step.buffer!r}); {said}")

    def _undone(self) -> list[str]:
        """Undo all steps, the last one first; returns what stands nevertheless."""
        standing = [
            f"a window: {why}" for each in self._applied.windows[::-1] if (why := closed(each))
        ]
        self._applied.windows = []
        for what, undo in self._undoing[::-1]:
            try:
                if undo is not None:
                    undo()
                elif what in self._look().existing:
                    standing.append(f"perhaps {what!r}: it was being created, and is there")
            except (MuninnError, OSError) as error:
                standing.append(f"{what} ({error})")
        self._undoing = []
        for buffer in self._applied.buffers.values():
            closed(buffer)
        self._applied.buffers = {}
        return standing

    # --- steps -----------------------------------------------------------------------------

    def _create(self, step: Step) -> str:
        name, hands = step.buffer, self._hands
        # Until its object is here an interruption leaves it open whether it is there.
        self._undoing.append((name, None))
        try:
            buffer, note = hands.create(name, step.values)
        except BufferExists:
            self._undoing.pop()
            return self._takeOver(step)
        except Exception:
            self._undoing.pop()  # a creation that fails leaves nothing
            raise
        self._undoing[-1] = repr(name), lambda: hands.free(buffer)
        self._applied.buffers[name] = buffer
        self._applied.created.append(name)
        return note or "created"

    def _takeOver(self, step: Step) -> str:
        """Keep a buffer that a process without a plan has made since the decision."""
        facts = self._look()
        there = facts.existing.get(step.buffer)
        found = ["it is gone again"]
        if there is not None:
            found = differences(self._planned[step.path], there, facts)
        if found or there is None:
            raise BufferMismatch(
                f"another process has made {step.buffer!r} meanwhile, and {'; '.join(found)}",
                "Apply the plan again, or use another name",
            )
        buffer = self._hands.open(step.buffer, there.access)
        self._applied.buffers[step.buffer] = buffer
        if step.values["hints"]:
            self._setHints(step, buffer)
        return "kept: another process has made it meanwhile"

    def _keep(self, step: Step) -> str:
        self._applied.buffers[step.buffer] = self._hands.open(step.buffer, step.values["access"])
        return "kept"

    def _hint(self, step: Step) -> str:
        self._setHints(step, self._applied.buffers[step.buffer])
        return "said"

    def _setHints(self, step: Step, buffer: Any) -> None:
        hands = self._hands
        before = hands.hint(buffer, step.values["hints"])
        self._undoing.append((f"hints of {step.buffer!r}", lambda: hands.hint(buffer, before)))

    def _promote(self, step: Step) -> str:
        buffer = self._bufferOf(step)
        self._applied.windows.append(self._hands.promote(buffer, step.values, self._timeout))
        return "promoted"

    def _prefetch(self, step: Step) -> str:
        return self._hands.prefetch(self._bufferOf(step), step.values, self._timeout)

    def _bufferOf(self, step: Step) -> Any:
        """The buffer of a window, which may be one that the plan does not have among its
        own.
        """
        if step.buffer not in self._applied.buffers:
            access = self._look().existing[step.buffer].access
            self._applied.buffers[step.buffer] = self._hands.open(step.buffer, access)
        return self._applied.buffers[step.buffer]

    def _skip(self, step: Step) -> str:
        return step.why


_DOING: dict[Action, Callable[[Application, Step], str]] = {
    Action.CREATE: Application._create,
    Action.KEEP: Application._keep,
    Action.HINT: Application._hint,
    Action.PROMOTE: Application._promote,
    Action.PREFETCH: Application._prefetch,
    Action.SKIP: Application._skip,
}
