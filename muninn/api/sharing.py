"""Making arrays that others open: `share`, `loadArray`, `array`, `shareOnce`.

Each checks its arguments, builds the specification of the buffer and lets
`session/creation.py` make it. `array` and `shareOnce` open the name where it is there
already; of several processes that make it at once the broker grants it to one, and the
others wait for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Unpack

import numpy as np

from muninn.api import lending
from muninn.api.buffer import MuninnBuffer
from muninn.api.options import (
    ArrayKeywords,
    BufferOptions,
    NamedKeywords,
    ShareKeywords,
    optionsOf,
    takesOptions,
)
from muninn.api.sources import asArray
from muninn.api.specs import asItems, specOf
from muninn.arguments import isTruth, named, requireCallable, secondsOf, timeoutOf
from muninn.control import layout
from muninn.errors import (
    BufferExists,
    BufferMismatch,
    InvalidArgument,
)
from muninn.interop.arrays import isOnDevice
from muninn.interop.dtypes import dtypeOf, shown
from muninn.interop.hostarrays import Flat, addressOf
from muninn.interop.hostarrays import fill as fillMemory
from muninn.session import creation
from muninn.session.creation import Source
from muninn.session.member import Membership
from muninn.session.membership import current
from muninn.session.names import NameWait
from muninn.session.openbuffer import OpenBuffer
from muninn.session.spec import BufferSpec
from muninn.sync.lock import Lock
from muninn.system.deadlines import deadlineOf, remaining
from muninn.system.digests import digestOf
from muninn.terms import (
    Access,
    AccessWord,
    LifetimeWord,
    Mode,
    ModeWord,
    Reserve,
    asAccess,
    asMode,
    asName,
    asRenew,
)

_CREATION_BOUND_SECONDS = 60.0
#: Names up to here are a part of the name of `shareOnce`'s lock.
_LOCKED_NAME_BYTES = 100


@named
@takesOptions
def share(
    array: Any,
    name: str | None = None,
    mode: ModeWord | None = None,
    access: AccessWord | None = None,
    tenant: str | None = None,
    preferredGpu: int | None = None,
    lifetime: LifetimeWord | None = None,
    *,
    copy: bool = True,
    **options: Unpack[ShareKeywords],
) -> MuninnBuffer:
    """Put an array where every process of this host can use it. The bytes are copied
    once, here.

    Parameters
    ----------
    array
        A numpy array, or anything that numpy takes without guessing
        (`__array_interface__`, the buffer protocol, `__dlpack__` on the CPU). Not a
        list. Or an array on a GPU: anything with `__cuda_array_interface__` or
        `__dlpack__` (Numba, CuPy, PyTorch, JAX); it goes to VRAM of the same GPU, by a
        copy there, and outlives this process.
    copy
        False shares an array on a GPU where it lies, without a copy. It is kept as long
        as this buffer is open here, and goes with this process: those who have it open
        then get `OwnerDied`. `close`, and the end of the process, wait for them for
        `devices.ipcGraceMs`.
    **options
        As in `muninn.api.options.BufferOptions`.

    Returns
    -------
    MuninnBuffer
        Of the same shape and dtype; writable unless shared ``"readOnly"``.

    Raises
    ------
    InvalidDtype, InvalidArgument, BufferExists, QuotaExceeded, HostMemoryFull
    """
    given = optionsOf(
        share,
        name=name,
        mode=mode,
        access=access,
        tenant=tenant,
        preferredGpu=preferredGpu,
        lifetime=lifetime,
        **options,
    )
    return _shared("share", array, copy, given)


def _shared(caller: str, value: Any, copy: bool, options: BufferOptions) -> MuninnBuffer:
    """`share`; a user called the function `caller`."""
    renewal = asRenew(options.renew, caller)
    if not isTruth(copy):
        raise TypeError(f"{caller}: copy must be True or False, not {type(copy).__name__}")
    if isOnDevice(value):
        return lending.shareDevice(caller, value, copy, options)
    if not copy:
        raise InvalidArgument(
            "only an array on a GPU can be shared where it lies",
            "Leave copy out: the bytes are copied once",
        )
    source, progress = asArray(value), options.progress
    wanted = specOf(caller, source.shape, source.dtype, options)
    if source.flags.c_contiguous:
        openBuffer = creation.create(
            wanted, source=Source(addressOf(source), source.nbytes), progress=progress
        )
    else:
        # the copy touches every page, and on a full host that is to be an error
        wanted = wanted._replace(reserve=Reserve.FULL)

        def write(flat: Flat) -> None:
            np.copyto(flat.view(source.dtype).reshape(source.shape), source)

        openBuffer = creation.create(
            wanted, fill=lambda memory: fillMemory(memory, source.nbytes, write), progress=progress
        )
    return MuninnBuffer._of(openBuffer, wanted.access, renewal)


@named
@takesOptions
def loadArray(
    shape: Any,
    dtype: Any,
    fill: Callable[[np.ndarray[Any, np.dtype[Any]]], None],
    name: str | None = None,
    **options: Unpack[NamedKeywords],
) -> MuninnBuffer:
    """Make an array that `fill` puts in place: a loader reads straight into shared
    memory.

    Parameters
    ----------
    shape, dtype
        Of the array.
    fill
        Called once with the writable array, before anybody else can open it; what it
        raises abandons the buffer.
    **options
        As in `muninn.api.options.BufferOptions`.
    """
    given = optionsOf(loadArray, name=name, **options)
    requireCallable("loadArray: fill", fill)
    renewal, wanted = asRenew(given.renew, "loadArray"), specOf("loadArray", shape, dtype, given)

    def write(flat: Flat) -> None:
        fill(flat.view(np.dtype(dtype)).reshape(wanted.shape))

    openBuffer = creation.create(
        wanted,
        fill=lambda memory: fillMemory(memory, wanted.sizeBytes, write),
        progress=given.progress,
    )
    return MuninnBuffer._of(openBuffer, wanted.access, renewal)


@named
@takesOptions
def array(
    name: str,
    shape: Any,
    dtype: Any = np.float64,
    *,
    access: AccessWord = "readWrite",
    timeout: float = _CREATION_BOUND_SECONDS,
    **options: Unpack[ArrayKeywords],
) -> MuninnBuffer:
    """Attach to the named array, or create it filled with zeros.

    Parameters
    ----------
    name, shape, dtype
        What must be there, or will be.
    access
        What this object may do. Others may write what was created here in any case, or
        it would be zeros for ever.
    timeout
        Seconds to wait for somebody who is creating it right now.
    **options
        As in `muninn.api.options.BufferOptions`.

    Raises
    ------
    BufferMismatch
        The name exists with another shape or dtype.
    """
    given = optionsOf(
        array, name=name, access="readWrite" if access == "readOnly" else access, **options
    )
    (lengths, itemType), own, renewal = (
        asItems(shape, dtype),
        asAccess(access, "array"),
        asRenew(given.renew, "array"),
    )
    asName(name)  # None, which makes a name up elsewhere, is none here
    wanted = specOf("array", lengths, itemType, given)
    openBuffer = _attachOrCreate(current(), wanted, secondsOf("array", timeout), given.progress)
    _compare(openBuffer, lengths, itemType, wanted.mode)
    return MuninnBuffer._of(openBuffer, own, renewal)


@named
@takesOptions
def shareOnce(
    name: str,
    loader: Callable[[], Any],
    *,
    timeout: float | None = None,
    copy: bool = True,
    **options: Unpack[NamedKeywords],
) -> MuninnBuffer:
    """Open the named buffer; if there is none, the first who asks loads it and all
    others wait for that.

    Whoever loaded gets it for reading too, so that a program does not depend on who
    came first. A buffer that somebody else makes under that name meanwhile, by `share`
    say, is waited for and opened.

    Parameters
    ----------
    loader
        Returns the array to share. It runs in one process only; when that one dies, or
        the loader raises, the next one takes its access.
    timeout
        Seconds to wait for another's loader; None waits as long as that process lives.
    copy
        As in `share`.
    **options
        As in `muninn.api.options.BufferOptions`.

    Raises
    ------
    TimeoutError BufferMismatch
        The name is a bundle's.
    """
    given = optionsOf(shareOnce, name=name, **options)
    requireCallable("shareOnce: loader", loader)
    membership, deadline = current(), deadlineOf(timeoutOf("shareOnce", timeout))
    openBuffer = membership.openBuffers.find(asName(name))
    if openBuffer is None:
        with Lock(f"shareOnce:{_asLockName(name)}").held(remaining(deadline)):
            openBuffer = _openOrLoad(membership, name, loader, deadline, copy, given)
    if openBuffer.description.kind != layout.ROW_KIND_ARRAY:
        raise BufferMismatch(f"{name!r} is a bundle of arrays", "Open it by muninn.openBundle")
    return MuninnBuffer._of(openBuffer, Access.READ_ONLY)


def _openOrLoad(
    membership: Membership,
    name: str,
    loader: Callable[[], Any],
    deadline: float | None,
    copy: bool,
    options: BufferOptions,
) -> OpenBuffer:
    """The holding of a name that nobody else loads by `shareOnce` now; who shares it
    otherwise is waited for.
    """
    waiting, loaded = NameWait(membership.openBuffers, name), None
    while True:
        openBuffer = waiting.look()
        if openBuffer is not None:
            return openBuffer
        if not waiting.isComing:
            loaded = loader() if loaded is None else loaded
            with contextlib.suppress(BufferExists):  # somebody has shared the name since the look
                return _shared("shareOnce", loaded, copy, options)._checked()
        if not waiting.sleep(deadline):
            raise TimeoutError(
                f"another process has been creating {name!r}, and was not ready in time"
            )


def _asLockName(name: str) -> str:
    """`name`, or what stands for it where a lock's name has no room for all of it."""
    encoded = name.encode()
    if len(encoded) <= _LOCKED_NAME_BYTES:
        return name
    return digestOf(encoded, 32).hex()


def _attachOrCreate(
    membership: Membership,
    wanted: BufferSpec,
    timeout: float,
    progress: Callable[[int], None] | None,
) -> OpenBuffer:
    waiting, deadline = NameWait(membership.openBuffers, wanted.name), deadlineOf(timeout)
    while True:
        openBuffer = waiting.look()
        if openBuffer is not None:
            return openBuffer
        try:
            return creation.create(wanted, progress=progress)
        except BufferExists:
            # Somebody is creating it, and has not committed yet.
            if not waiting.sleep(deadline):
                raise


def _compare(
    openBuffer: OpenBuffer, shape: tuple[int, ...], dtype: np.dtype[Any], mode: Mode
) -> None:
    description = openBuffer.description
    if description.kind != layout.ROW_KIND_ARRAY:
        raise BufferMismatch(
            f"{description.name!r} is a bundle of arrays", "Open it by muninn.openBundle"
        )
    there = (description.shape, dtypeOf(openBuffer), asMode(description.mode))
    if there != (shape, dtype, mode):
        raise BufferMismatch(
            f"{description.name!r} has shape {there[0]}, dtype {shown(there[1])} and "
            f"{there[2].value}; "
            f"wanted {shape}, {shown(dtype)} and {mode.value}"
        )
