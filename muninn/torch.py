"""Modules of PyTorch whose weights are shared: loaded once, attached by every process
that serves them.

    import muninn.torch                                # imports torch; `import muninn` does not
    muninn.torch.shareModule(model, "model")           # one process
    muninn.torch.attachModule(model, "model")          # the others, also of meta tensors

`shareModule` makes one bundle of a module's parameters and buffers, each under its name,
and those that are tied once. `attachModule` puts views of that memory
in their place. Nothing is copied. `followModule` does so again, between two calls,
when a newer version was published.

On host memory the views are copy-on-write: a module that was not put into `eval()`, or
an optimizer, writes to pages of this process, and the shared bytes stay as they are. On
VRAM there is no such memory, and PyTorch has no read-only tensors: a write through a view
changes the weights of every process if the bundle allows writing, and otherwise ends
this process's work on that GPU (`illegal address`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import isasyncgen, isawaitable, isgenerator
from types import CoroutineType
from typing import Any, NamedTuple, Unpack

import torch

from muninn.api import views
from muninn.api.buffer import MuninnBuffer
from muninn.api.bundle import Bundle
from muninn.api.modules import sharedModule
from muninn.api.opening import openAny
from muninn.api.options import NamedKeywords, optionsOf, takesOptions
from muninn.arguments import named
from muninn.errors import BufferMismatch, InvalidArgument
from muninn.interop import arrays
from muninn.interop.tensors import Place, isLazy, placesOf
from muninn.sync import fences
from muninn.sync.versions import Version
from muninn.system.green import Condition, identity
from muninn.terms import Access, Mode

#: The version of DLPack in which a capsule tells that values are padded.
_VERSION = (1, 1)


class Attached(NamedTuple):
    """What `attachModule` did.

    Attributes
    ----------
    bundle
        The open bundle. The module's tensors keep its memory, also when it is closed.
    missingKeys, unexpectedKeys
        As `load_state_dict` returns them.
    """

    bundle: Bundle
    missingKeys: list[str]
    unexpectedKeys: list[str]


@named
@takesOptions
def shareModule(
    module: torch.nn.Module, name: str | None = None, **options: Unpack[NamedKeywords]
) -> Bundle:
    """Share the parameters and buffers of a module in one bundle.

    Parameters
    ----------
    module
        Its tensors may be on the CPU or on GPUs. A tensor that has several names, as
        tied weights have, is there once. Buffers that are not persistent are shared
        too, so that a module of meta tensors can be attached whole.
    **options
        As in `muninn.api.options.BufferOptions`. Without `mode`, the bundle is in VRAM
        if the tensors are; without `access`, it is ``"readOnly"``.

    Raises
    ------
    InvalidArgument
        The module has no tensor; or its state has a part that is no tensor, by
        `get_extra_state`.
    InvalidDtype, BufferExists, QuotaExceeded, HostMemoryFull
    """
    return sharedModule("shareModule", module, optionsOf(shareModule, name=name, **options))


@named
def attachModule(module: torch.nn.Module, name: str, strict: bool = True) -> Attached:
    """Put the shared tensors of a bundle in the place of a module's own.

    Parameters
    ----------
    module
        Its own tensors are dropped; they may be on the device ``"meta"``. Tied weights
        stay tied, hooks and `requires_grad` stay.
    strict
        Whether a key that only one side has is an error.

    Raises
    ------
    BufferMismatch
        A shape differs, or tensors are tied on one side only; or with `strict` a key.
        The module is as it was.
    BufferNotFound
        There is no such name.
    """
    return _attached(module, placesOf(module), _opened(name), strict)


def _attached(
    module: torch.nn.Module, places: list[Place], bundle: Bundle, strict: bool
) -> Attached:
    """`attachModule` of an open bundle, which is closed if it does not fit."""
    try:
        found, problems = _newOnes(places, _tensorsOf(bundle))
        missing = [
            place.key
            for place in places
            if id(place.tensor) not in found and (place.isNeeded or place.tensor.is_meta)
        ]
        unexpected = sorted(set(bundle) - {place.key for place in places})
        if strict:
            problems += [f"{key} is missing" for key in missing]
            problems += [f"{key} is not the module's" for key in unexpected]
        if problems:
            raise BufferMismatch(
                f"bundle {bundle.name!r} does not fit a {type(module).__name__}: "
                f"{_listed(problems)}",
                "Attach it to the module of the same configuration, or pass strict=False for "
                "keys that only one side has",
            )
        _replace(places, found)
    except BaseException:
        found = {}  # whoever keeps the error keeps this frame, and not the memory
        bundle.close()
        raise
    return Attached(bundle, missing, unexpected)


def _replace(places: list[Place], found: dict[int, torch.Tensor]) -> None:
    """Put the shared tensors of `found` into their places. An interruption leaves the
    module as it was.
    """
    # Keeps the old ones, and so their ids.
    before = [(place, place.tensor) for place in places if id(place.tensor) in found]
    new = {id(old): _like(old, found[id(old)]) for _, old in before}
    try:
        for place, old in before:
            place.parts[place.name] = new[id(old)]
    except BaseException:
        for place, old in before:
            place.parts[place.name] = old
        raise


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

    def __init__(self, module: torch.nn.Module, name: str, strict: bool) -> None:
        self.module = module
        self.bundle = attachModule(module, name, strict).bundle
        self._name = name
        self._strict = strict
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
        tensors. A block within a block, or beside it on the same thread, as tasks of
        one event loop have, goes on with its version.

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
                while not (self.bundle.isCurrent or thread in self._inside.values()):
                    self._refuseAgain()
                    if self._inside:
                        self._changed.wait()
                    else:
                        self._change()
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

    def _change(self) -> None:
        """Attach the newest version in the place of the one that the module is on."""
        places, newest = placesOf(self.module), _opened(self._name)
        version = Version.of(newest.buffer._checked())
        try:
            _attached(self.module, places, newest, self._strict)
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
def followModule(module: torch.nn.Module, name: str, strict: bool = True) -> Follower:
    """Attach a module, and change to a newer version of its weights between two calls.

    Parameters
    ----------
    module, name, strict
        As in `attachModule`.

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
    return Follower(module, name, strict)


@named
def stateDict(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a bundle by their keys, for `load_state_dict(…, assign=True)` and
    other loaders: views of the shared memory, on host memory copy-on-write.
    """
    return _tensorsOf(_opened(name))


def _tensorsOf(bundle: Bundle) -> dict[str, torch.Tensor]:
    """The arrays of an open bundle as tensors, on the same bytes. The current stream waits
    for a writer.
    """
    openBuffer = bundle.buffer._checked()
    memories, isWritable = bundle._memories(openBuffer), bundle.buffer.writable
    for gpu in {memory.gpu for memory in memories if not memory.isHostVisible}:
        stream = torch.cuda.current_stream(gpu).cuda_stream or arrays.LEGACY_STREAM
        fences.holdBack(openBuffer, stream, writing=False, timeout=None, gpu=gpu)
    # Capsules, and not arrays: PyTorch has no read-only tensors, and would be warned of
    # that for each.
    found: dict[str, torch.Tensor] = {}
    for number, memory in enumerate(memories):
        regions = {
            key: region for key, region in bundle._entries.items() if region.segment == number
        }
        capsules = views.tensors(memory, regions, isWritable, _VERSION)
        found |= {key: torch.utils.dlpack.from_dlpack(each) for key, each in capsules.items()}
    return {key: found[key] for key in bundle}


def _opened(name: str) -> Bundle:
    """The bundle, so that writes of this process do not reach the others where there is
    such memory.
    """
    with openAny(name) as buffer:
        # A version of the name, whichever is the newest by now.
        openBuffer = buffer._checked()
        isVram = openBuffer.description.mode is Mode.FAST
        access = Access.READ_ONLY if isVram else Access.COPY_ON_WRITE
        return Bundle(MuninnBuffer._of(openBuffer, access))


def _newOnes(
    places: list[Place], shared: dict[str, torch.Tensor]
) -> tuple[dict[int, torch.Tensor], list[str]]:
    """(the shared tensor for each of a module's own that has one, by its `id`; what does
    not fit). A tensor with several names takes that of any of them.
    """
    found: dict[int, torch.Tensor] = {}
    problems = []
    for place in places:
        old, new = place.tensor, shared.get(place.key)
        if new is None:
            continue
        if isLazy(old):
            problems.append(f"{place.key} has no shape yet: call the lazy module once")
        elif new.shape != old.shape:
            problems.append(
                f"{place.key} has shape {tuple(new.shape)}, and the module's {tuple(old.shape)}"
            )
        elif found.setdefault(id(old), new).data_ptr() != new.data_ptr():
            problems.append(f"{place.key} is tied in the module, and not in the bundle")
    return found, problems


def _like(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """A shared tensor in the kind of the one whose place it takes."""
    if not isinstance(old, torch.nn.Parameter):
        return new
    mayLearn = new.is_floating_point() or new.is_complex()
    return torch.nn.Parameter(new, requires_grad=old.requires_grad and mayLearn)


def _listed(problems: list[str]) -> str:
    """The first problems, and how many more there are."""
    shown, more = problems[:5], len(problems) - 5
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
