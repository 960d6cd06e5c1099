"""Modules of PyTorch whose weights are shared: loaded once, attached by every process
that serves them.

    import muninn.torch                                # imports torch; `import muninn` does not
    muninn.torch.shareModule(model, "model")           # one process
    muninn.torch.attachModule(model, "model")          # the others, also of meta tensors

`shareModule` makes one bundle of a module's parameters and buffers, each under its name
in `state_dict()`, and those that are tied once. `attachModule` puts views of that memory
in their place. Nothing is copied. `followModule` does so again, between two calls,
when a newer version was published.

On host memory the views are copy-on-write: a module that was not put into `eval()`, or
an optimizer, writes to pages of this process, and the shared bytes stay as they are. On
VRAM there is no such memory, and PyTorch has no read-only tensors: a write through a view
changes the weights of every process if the bundle allows writing, and otherwise ends
this process's work on that GPU (`illegal address`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, Unpack

import torch

from muninn.api import views
from muninn.api.bundle import Bundle, openBundle, shareBundle
from muninn.api.opening import openAny
from muninn.api.options import NamedKeywords, takesOptions
from muninn.arguments import named
from muninn.errors import BufferMismatch
from muninn.interop import arrays
from muninn.interop.tensors import moduleState, sharedState
from muninn.sync import fences
from muninn.system.green import Condition, identity
from muninn.terms import Mode

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
    if options.get("access") is None:
        options["access"] = "readOnly"
    return shareBundle(sharedState(module), name, **options)


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
        A shape differs, or with `strict` a key. The module is as it was.
    BufferNotFound
        There is no such name.
    """
    bundle, own = _opened(name), moduleState(module)
    missing = [key for key in module.state_dict(keep_vars=True) if key not in bundle]
    unexpected = [key for key in bundle if key not in own]
    problems = [f"{key} is missing" for key in missing] if strict else []
    problems += [f"{key} is not the module's" for key in unexpected] if strict else []
    shared = _tensorsOf(bundle)
    tensors = {key: shared[key] for key in own if key in shared}
    problems += [
        f"{key} has shape {tuple(tensor.shape)}, and the module's {tuple(own[key].shape)}"
        for key, tensor in tensors.items()
        if tensor.shape != own[key].shape
    ]
    if problems:
        raise BufferMismatch(
            f"bundle {name!r} does not fit a {type(module).__name__}: {_listed(problems)}",
            "Attach it to the module of the same configuration, or pass strict=False for "
            "keys that only one side has",
        )
    _replaceAll(module, tensors)
    return Attached(bundle, missing, unexpected)


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
        #: How many calls of each thread are inside the module.
        self._inside: Counter[int] = Counter()
        self._changed = Condition()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the module, on the newest version. If there is a newer one than the
        module is on, this call waits until the calls of other threads are done, and
        replaces the tensors.

        Raises
        ------
        BufferMismatch
            The newest version does not fit. The module stays on its own.
        """
        thread = identity()
        with self._changed:
            # A call from within the module goes on with its version.
            while not (self.bundle.isCurrent or self._inside[thread]):
                if not self._inside.total():
                    before = self.bundle
                    self.bundle = attachModule(self.module, self._name, self._strict).bundle
                    before.close()
                else:
                    self._changed.wait()
            self._inside[thread] += 1
        try:
            return self.module(*arguments, **keywords)
        finally:
            with self._changed:
                self._inside[thread] -= 1
                self._inside += Counter()  # forgets the threads that are not inside
                self._changed.notifyAll()


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
        No call sees two versions. The memory of the older one is freed when the last
        process has let it go.

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
    openBuffer, memory, _, isWritable = bundle.buffer._exposed()
    if memory.gpu is not None:
        stream = torch.cuda.current_stream(memory.gpu).cuda_stream or arrays.LEGACY_STREAM
        fences.holdBack(openBuffer, stream, writing=False, timeout=None)
    # Capsules, and not arrays: PyTorch has no read-only tensors, and would be warned of
    # that for each.
    return {
        key: torch.utils.dlpack.from_dlpack(
            views.tensor(memory, region, isWritable, max_version=_VERSION)
        )
        for key, region in bundle._entries.items()
    }


def _opened(name: str) -> Bundle:
    """The bundle, so that writes of this process do not reach the others where there is
    such memory.
    """
    with openAny(name) as buffer:
        isVram = buffer.mode == Mode.FAST.value
        return openBundle(name, access="readOnly" if isVram else "copyOnWrite")


def _replaceAll(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put tensors into the places of a module's own, and one object wherever the module
    has one.
    """
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by the id of the old one, kept alive
    for key, parts, name in _placesOf(module):
        if key in tensors:
            old = parts[name]
            if id(old) not in made:
                made[id(old)] = (old, _like(old, tensors[key]))
            parts[name] = made[id(old)][1]


def _placesOf(module: torch.nn.Module) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(key, a submodule's dict of parameters or buffers, name in it) of all of them."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for parts in (owner._parameters, owner._buffers):
            for name, value in parts.items():
                if value is not None:
                    yield (f"{prefix}.{name}" if prefix else name), parts, name


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
