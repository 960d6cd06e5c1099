"""Loading once: `shareOnce`, which opens a name, or lets one process make it.

The process looks for the name. If it is not there, it takes the lock of that name
(`sync/lock.py`), looks again, and loads only if the name is still not there. If the
process dies while it loads, the next one takes the lock over. `share` does not take the
lock; a buffer that a process makes by it meanwhile is waited for and opened.

A stale look costs a loaded array that is dropped. What is there is opened as what it
is, an array or a bundle: the first process decides, and no other one can know what its
own loader would have returned.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Unpack, overload

from muninn.api.buffer import MuninnBuffer
from muninn.api.bundle import Bundle, sharedBundle
from muninn.api.loading import loadedFile
from muninn.api.modules import sharedModule
from muninn.api.options import BufferOptions, NamedKeywords, optionsOf, takesOptions
from muninn.api.sharing import shared
from muninn.api.sources import FOR_MODULES
from muninn.arguments import requireCallable, timeoutOf
from muninn.control import layout
from muninn.errors import BufferExists, InvalidArgument
from muninn.interop.tensors import isModule
from muninn.observe.calls import named
from muninn.session.membership import current
from muninn.session.names import NameWait
from muninn.sync.lock import OwnLock
from muninn.system.deadlines import deadlineOf, remaining
from muninn.terms import Access, asName

if TYPE_CHECKING:
    from muninn.session.member import Membership
    from muninn.session.openbuffer import OpenBuffer

#: The kinds of a path.
_PATHS = (str, os.PathLike)


@overload
def shareOnce(
    name: str,
    loader: Callable[[], Mapping[str, Any]],
    *,
    timeout: float | None = None,
    copy: bool = True,
    **options: Unpack[NamedKeywords],
) -> Bundle: ...
@overload
def shareOnce(
    name: str,
    loader: Callable[[], Any],
    *,
    timeout: float | None = None,
    copy: bool = True,
    **options: Unpack[NamedKeywords],
) -> MuninnBuffer: ...
@overload
def shareOnce(
    name: str,
    loader: str | os.PathLike[str],
    *,
    timeout: float | None = None,
    **options: Unpack[NamedKeywords],
) -> Bundle | MuninnBuffer: ...
@named
@takesOptions
def shareOnce(
    name: str,
    loader: Callable[[], Any] | str | os.PathLike[str],
    *,
    timeout: float | None = None,
    copy: bool = True,
    **options: Unpack[NamedKeywords],
) -> Bundle | MuninnBuffer:
    """Open the named buffer. If there is none, the first caller loads it, and all other
    callers wait for that.

    The caller that loaded it gets it for reading too, so that no program depends on the
    order. If another process makes a buffer of that name meanwhile, for example by
    `share`, this call waits for it and opens it.

    Parameters
    ----------
    loader
        Returns the array to share, or a mapping of arrays or a module of PyTorch for a
        bundle. It runs in one process only. When that process dies, or the loader
        raises, the next caller loads. Or the path of a file, which is read as by
        `load`.
    timeout
        Seconds to wait for another process's loader; None waits as long as that process
        lives.
    copy
        As in `share`, for an array.
    **options
        As in `muninn.api.options.BufferOptions`.

    Returns
    -------
    MuninnBuffer or Bundle
        What has the name: an array or a bundle, as the process made it that loaded.

    Raises
    ------
    TimeoutError
        Another process was still loading after `timeout` seconds.
    FileInvalid
        As from `load`.
    """
    given = optionsOf(shareOnce, name=name, **options)
    if not isinstance(loader, _PATHS):
        _requireLoader(loader)
    membership, deadline = current(), deadlineOf(timeoutOf("shareOnce", timeout))
    openBuffer = membership.openBuffers.find(asName(name))
    if openBuffer is None:
        with OwnLock("shareOnce", name, deadline).held(remaining(deadline)):
            openBuffer = _openOrLoad(membership, name, loader, deadline, copy, given)
    buffer = MuninnBuffer._of(openBuffer, Access.READ_ONLY)
    return Bundle(buffer) if openBuffer.description.kind == layout.ROW_KIND_BUNDLE else buffer


def _requireLoader(loader: object) -> None:
    """Raise `TypeError` for what is neither a function nor a path. A module of PyTorch can
    be called, and loads nothing.
    """
    if isModule(loader):
        raise TypeError(
            f"shareOnce: loader must be a path, or a function that returns the "
            f"{type(loader).__name__}; {FOR_MODULES} that is there"
        )
    requireCallable("shareOnce: loader", loader)


def _openOrLoad(
    membership: Membership,
    name: str,
    loader: Callable[[], Any] | str | os.PathLike[str],
    deadline: float | None,
    copy: bool,
    options: BufferOptions,
) -> OpenBuffer:
    """The open buffer of a name. The caller has the lock of its `shareOnce`, and this
    function waits for a process that shares the name in another way.
    """
    waiting, loaded = NameWait(membership.openBuffers, name), None
    while True:
        openBuffer = waiting.look()
        if openBuffer is not None:
            return openBuffer
        if not waiting.isComing:
            if not isinstance(loader, _PATHS):
                loaded = loader() if loaded is None else loaded
            # Another process may have shared the name since the look.
            with contextlib.suppress(BufferExists):
                return _made(loader if isinstance(loader, _PATHS) else loaded, copy, options)
        if not waiting.sleep(deadline):
            raise TimeoutError(
                f"another process has been creating {name!r}, and was not ready in time"
            )


def _made(loaded: Any, copy: bool, options: BufferOptions) -> OpenBuffer:
    """The open buffer of what was loaded: a path, a module, a mapping of arrays, or an
    array.
    """
    if copy is False and (isModule(loaded) or isinstance(loaded, (*_PATHS, Mapping))):
        raise InvalidArgument(
            "only one array on a GPU can be shared where it lies",
            "Leave copy out: the bytes are copied once",
        )
    if isinstance(loaded, _PATHS):
        made = loadedFile("shareOnce", loaded, options)
    elif isModule(loaded):
        made = sharedModule("shareOnce", loaded, options)
    elif isinstance(loaded, Mapping):
        made = sharedBundle("shareOnce", loaded, options)
    else:
        made = shared("shareOnce", loaded, copy, options)
    return (made.buffer if isinstance(made, Bundle) else made)._checked()
