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
from muninn.arguments import named
from muninn.errors import BufferMismatch, InvalidArgument, ThreadsExhausted
from muninn.interop.tensors import placesOf
from muninn.sync.versions import Version
from muninn.system import threads
from muninn.system.beside import besideTheProgram, rest
from muninn.system.green import Condition, identity
from muninn.torch.attaching import Change, apply, attached, attachModule, fitOf, opened


class _Refused(NamedTuple):
    """A version that does not fit the module."""

    version: Version
    reason: str
    fix: str


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
            Upcoming(self.bundle, partial(opened, name), partial(_prepared, module, strict))
            if ahead
            else None
        )
        self._refused: _Refused | None = None
        #: The thread of each use of the module that is going on.
        self._inside: dict[object, int] = {}
        self._changed = Condition()

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

    def _takeOver(self, prepared: Prepared[list[Change]]) -> None:
        """Change to a version that is prepared, unless the program has changed the
        module meanwhile.
        """
        if not all(change.isInForce for change in prepared.value):
            self._change()
            return
        apply(prepared.value)
        before, self.bundle = self.bundle, prepared.bundle
        letGo = partial(_letGo, before, prepared.value)
        try:
            threads.startBare(letGo)
        except (ThreadsExhausted, RuntimeError):
            letGo()

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
        Whether a thread of this process opens newer versions and makes their tensors. No
        call waits for that then: calls go on with the version before until the newer one
        is ready, milliseconds after its publication. Without it the call opens it, and a
        call that begins after a publication is on what was published.

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


def _letGo(bundle: Bundle, changes: list[Change]) -> None:
    """Close the version before, and forget its tensors, to which the changes refer."""
    with besideTheProgram():
        while changes:
            changes.pop()
            rest()
        bundle.close()


def _prepared(module: torch.nn.Module, strict: bool, bundle: Bundle) -> list[Change]:
    """What an open version changes in the module, made on a thread beside the program's."""
    return fitOf(module, placesOf(module), bundle, strict).changes
