"""Following: a module that changes to newer versions of its weights between two calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import isasyncgen, isawaitable, isgenerator
from types import CoroutineType
from typing import Any, NamedTuple

import torch

from muninn.api.bundle import Bundle
from muninn.api.upcoming import Prepared, Upcoming
from muninn.errors import BufferMismatch, InvalidArgument
from muninn.interop.tensors import Structure, placesOf
from muninn.observe.calls import named
from muninn.sync.versions import Version
from muninn.system import beside, markup
from muninn.system.beside import rest
from muninn.system.green import Condition, identity
from muninn.torch.attaching import Change, apply, attached, attachModule, fitOf, holdBack, opened


class _Refused(NamedTuple):
    """A version that does not fit the module."""

    version: Version
    reason: str
    fix: str


class _Plan(NamedTuple):
    """The changes of a module to a version that is prepared, and what it was then."""

    structure: Structure
    changes: list[Change]


class Follower:
    """A module on the newest version of its weights. `followModule` makes one.

    Attributes
    ----------
    module
        The module, whose tensors are replaced.
    bundle
        The version that the module is on.
    """

    def __init__(self, module: torch.nn.Module, name: str, strict: bool, ahead: bool) -> None:
        self.module = module
        self.bundle = attachModule(module, name, strict).bundle
        self._name = name
        self._strict = strict
        self._upcoming = (
            Upcoming(self.bundle, partial(opened, name), partial(_planned, module, strict))
            if ahead
            else None
        )
        self._refused: _Refused | None = None
        #: The thread of each use of the module that is going on.
        self._inside: dict[object, int] = {}
        self._changed = Condition()

    def __repr__(self) -> str:
        return f"<muninn.torch.Follower of {type(self.module).__name__} on {self._name!r}>"

    def _repr_html_(self) -> str:
        bundle = self.bundle
        version = "the newest" if bundle.isCurrent else "the next call has a newer one"
        facts = {"module": type(self.module).__name__, "weights": self._name, "version": version}
        return markup.card("Follower", facts)

    @contextmanager
    def held(self) -> Iterator[torch.nn.Module]:
        """The module, on the newest version, which it stays on within the ``with``
        block. All methods of the module may be called there, and generators and
        coroutines of it run.

        If there is a newer version than the module is on, the beginning of the block
        waits until the blocks and calls of other threads are done, and replaces the
        tensors; with `ahead`, once that version is ready. A block within a block, or
        beside it on the same thread, as tasks of one event loop have, goes on with its
        version.

        Raises
        ------
        BufferMismatch
            The newest version does not fit. The module stays on its own. It is said
            again at each use, until there is another version.
        BufferNotFound
            The name was freed, and nothing was published since.
        """
        use, thread = object(), identity()
        try:
            with self._changed.lock:
                while thread not in self._inside.values() and (change := self._nextChange()):
                    if self._inside:
                        self._changed.wait()
                    else:
                        change()
                self._inside[use] = thread
            yield self.module
        finally:
            with self._changed.lock:
                self._inside.pop(use, None)
                self._changed.notifyAll()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the module within `held`.

        Raises
        ------
        InvalidArgument
            Its `forward` is a generator or a coroutine, whose work comes after the
            call.
        BufferMismatch, BufferNotFound
            As from `held`.
        """
        with self.held() as module:
            result = module(*arguments, **keywords)
            if isgenerator(result) or isasyncgen(result) or isawaitable(result):
                raise self._later(result)
            return result

    def _nextChange(self) -> Callable[[], object] | None:
        """What brings the module to the newest version that it can be on now; None if it
        is on that. Raises as `held`.
        """
        if self.bundle.isCurrent:
            return None
        upcoming = self._upcoming
        if upcoming is None or upcoming.hasFailed:
            self._refuseAgain()
            return self._change
        prepared = upcoming.ready()
        if prepared is None or prepared.bundle is self.bundle:
            return None
        return partial(self._takeOver, prepared)

    def _takeOver(self, prepared: Prepared[_Plan]) -> None:
        """Change to a version that is prepared, unless the program has changed the
        module meanwhile.
        """
        plan, before = prepared.value, self.bundle
        if not (plan.structure.isInForce and all(each.isInForce for each in plan.changes)):
            self._refuseAgain()
            self._change()
            return
        holdBack(prepared.bundle)
        apply(plan.changes)
        self.bundle = prepared.bundle
        beside.begin(partial(_letGo, before, plan))

    def _change(self) -> None:
        """Attach the newest version in the place of the one that the module is on."""
        places, newest = placesOf(self.module), opened(self._name)
        version = Version.of(newest.buffer._checked())
        try:
            attached(self.module, places, newest, self._strict)
        except BufferMismatch as error:
            self._refused = _Refused(version, error.reason, error.fix)
            raise
        before, self.bundle = self.bundle, newest
        if self._upcoming is not None:
            self._upcoming.forget()
        before.close()

    def _refuseAgain(self) -> None:
        """Raise `BufferMismatch` if the newest version is one that did not fit."""
        if self._refused is not None and self._refused.version.isCurrent:
            raise BufferMismatch(self._refused.reason, self._refused.fix)

    def _later(self, result: Any) -> InvalidArgument:
        """The error for a result whose work comes after the call. It is not begun."""
        if isinstance(result, CoroutineType):
            result.close()  # or Python warns that nothing has awaited it
        return InvalidArgument(
            f"a call of a {type(self.module).__name__} returns a {type(result).__name__}, whose "
            "work comes after the call, when the weights may be those of a newer version",
            "Use it within `with follower.held() as module:`",
        )


@named
def followModule(
    module: torch.nn.Module, name: str, strict: bool = True, *, ahead: bool = False
) -> Follower:
    """Attach a module, and change to a newer version of its weights between two calls.

    Parameters
    ----------
    module, name, strict
        As in `attachModule`.
    ahead
        Whether a thread of this process opens newer versions and makes their tensors.
        Calls do not wait for that then: they go on with the version before until the
        newer one is ready, a tenth of a second after its publication. A call attaches it
        itself where the thread could not, where the program has changed the module, and
        at first in a forked child. Without `ahead`, a call that begins after a
        publication is on what was published.

    Returns
    -------
    Follower
        Called like the module, by any thread. Before each call it looks at a word of
        shared memory; if there is a newer version (`muninn.publish`), it attaches that.
        No call sees two versions. For other methods than `forward`, for generators and
        for coroutines: ``with follower.held() as module:``. The memory of the older
        version is freed when the last process has let it go.

    Raises
    ------
    BufferMismatch, BufferNotFound
        As from `attachModule`.
    """
    return Follower(module, name, strict, ahead)


def _letGo(bundle: Bundle, plan: _Plan) -> None:
    """Close the version before, and forget its tensors, to which the plan refers."""
    plan.structure.forget()
    while plan.changes:
        plan.changes.pop()
        rest()
    bundle.close()


def _planned(module: torch.nn.Module, strict: bool, bundle: Bundle) -> _Plan:
    """What an open version changes in the module, made on a thread beside the program."""
    structure = Structure(module)  # first: what changes from here on is seen
    return _Plan(structure, fitOf(module, placesOf(module), bundle, strict).changes)
