"""Attaching: the tensors of a bundle in the places of a module's own."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import torch

from muninn.api import views
from muninn.api.buffer import MuninnBuffer
from muninn.api.bundle import Bundle
from muninn.api.modules import sharedModule
from muninn.api.opening import openAny
from muninn.api.options import NamedKeywords, optionsOf, takesOptions
from muninn.errors import BufferMismatch
from muninn.interop import arrays
from muninn.interop.tensors import Place, isLazy, placesOf
from muninn.observe.calls import named
from muninn.sync import fences
from muninn.system.beside import rest
from muninn.terms import Access, Mode

#: The version of DLPack in which a capsule tells that values are padded.
_VERSION = (1, 1)
#: What modules that wrap another one put before its keys.
_WRAPPERS = {"module.": "DistributedDataParallel", "_orig_mod.": "torch.compile"}


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


class Change(NamedTuple):
    """A tensor of a module, and the shared one that takes its place."""

    place: Place
    old: torch.Tensor
    new: torch.Tensor

    @property
    def isInForce(self) -> bool:
        """Whether the new one still learns as the old one does."""
        same: bool = self.old.requires_grad == self.new.requires_grad
        return same


class Fit(NamedTuple):
    """How a bundle fits a module: what changes, and the keys that only one side has."""

    changes: list[Change]
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
    return attached(module, placesOf(module), opened(name), strict)


@named
def stateDict(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a bundle by their keys, for `load_state_dict(…, assign=True)` and
    other loaders: views of the shared memory, on host memory copy-on-write.
    """
    bundle = opened(name)
    holdBack(bundle)
    return _tensorsOf(bundle)


def attached(
    module: torch.nn.Module, places: list[Place], bundle: Bundle, strict: bool
) -> Attached:
    """`attachModule` of an open bundle, which is closed if it does not fit."""
    fit = Fit([], [], [])
    try:
        holdBack(bundle)
        fit = fitOf(module, places, bundle, strict)
        apply(fit.changes)
    except BaseException:
        fit.changes.clear()  # whoever keeps the error keeps this frame, and not the memory
        bundle.close()
        raise
    return Attached(bundle, fit.missingKeys, fit.unexpectedKeys)


def fitOf(module: torch.nn.Module, places: list[Place], bundle: Bundle, strict: bool) -> Fit:
    """How an open bundle fits a module; nothing is changed.

    Raises
    ------
    BufferMismatch
        It does not fit.
    """
    shared = _tensorsOf(bundle)
    try:
        found, problems = _newOnes(places, shared)
        missing = [
            place.key
            for place in places
            if id(place.tensor) not in found and (place.isNeeded or place.tensor.is_meta)
        ]
        own, theirs = {place.key for place in places}, set(bundle)
        unexpected = sorted(theirs - own)
        if strict:
            problems += [f"{key} is missing" for key in missing]
            problems += [f"{key} is not the module's" for key in unexpected]
        if problems:
            raise BufferMismatch(
                f"bundle {bundle.name!r} does not fit a {type(module).__name__}: "
                f"{_listed(problems)}",
                _fixFor(own, theirs),
            )
        return Fit(_changes(places, found), missing, unexpected)
    except BaseException:
        shared, found = {}, {}  # as in `attached`
        raise


def _fixFor(own: set[str], theirs: set[str]) -> str:
    """What to do about a bundle that does not fit, by the keys of the module and its."""
    for prefix, wrapper in _WRAPPERS.items():
        inner = prefix.removesuffix(".")
        if theirs == {prefix + key for key in own}:
            return f"Share the `.{inner}` of the module that {wrapper} made"
        if own == {prefix + key for key in theirs}:
            return f"Attach it to the `.{inner}` of the module that {wrapper} made"
    return (
        "Attach it to the module of the same configuration, or pass strict=False for keys that "
        "only one side has"
    )


def _changes(places: list[Place], found: dict[int, torch.Tensor]) -> list[Change]:
    """The changes of the places for whose tensor there is one in `found`, by its id."""
    before = [place for place in places if id(place.tensor) in found]
    # One for all places of a tensor.
    new = {}
    for place in before:
        new[id(place.tensor)] = _like(place.tensor, found[id(place.tensor)])
        rest()
    return [Change(place, place.tensor, new[id(place.tensor)]) for place in before]


def apply(changes: list[Change]) -> None:
    """Put the shared tensors into their places. An interruption leaves the module as it
    was.
    """
    try:
        for place, _, new in changes:
            place.parts[place.name] = new
    except BaseException:
        for place, old, _ in changes:
            place.parts[place.name] = old
        raise


def holdBack(bundle: Bundle) -> None:
    """Let the current stream of each GPU of a bundle wait for its writer."""
    openBuffer = bundle.buffer._checked()
    for gpu in bundle.gpus:
        if openBuffer.memory.isHostVisible:
            continue  # an emulated one, which PyTorch does not use
        stream = torch.cuda.current_stream(gpu).cuda_stream or arrays.LEGACY_STREAM
        fences.holdBack(openBuffer, stream, writing=False, timeout=None, gpu=gpu)


def _tensorsOf(bundle: Bundle) -> dict[str, torch.Tensor]:
    """The arrays of an open bundle as tensors, on the same bytes."""
    openBuffer = bundle.buffer._checked()
    memories, isWritable = bundle._memories(openBuffer), bundle.buffer.writable
    # Capsules, and not arrays: PyTorch has no read-only tensors, and would be warned of
    # that for each.
    found: dict[str, torch.Tensor] = {}
    for number, memory in enumerate(memories):
        regions = {
            key: region for key, region in bundle._entries.items() if region.segment == number
        }
        capsules = views.tensors(memory, regions, isWritable, _VERSION)
        for key, capsule in capsules.items():
            found[key] = torch.utils.dlpack.from_dlpack(capsule)
            rest()
    return {key: found[key] for key in bundle}


def opened(name: str) -> Bundle:
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
        rest()
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
