"""Sharing and finding arrays: `share`, `open`, `array`, `shareOnce`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ctypes import ArgumentError
from typing import Any, Never, Unpack

import numpy as np

from muninn.api import lending
from muninn.api.buffer import MuninnBuffer
from muninn.api.handles import held
from muninn.api.options import ArrayKeywords, BufferOptions, NamedKeywords, ShareKeywords, optionsOf, takesOptions
from muninn.api.specs import asItems, specOf
from muninn.arguments import checkKeywords, isTruth, keywordsOf, named, requireCallable, secondsOf, timeoutOf, unwrapped
from muninn.control import layout
from muninn.errors import (
    BufferExists,
    BufferMismatch,
    DomainChanged,
    HolderSilent,
    InvalidArgument,
    PermissionDenied,
)
from muninn.interop.arrays import isOnDevice
from muninn.interop.dtypes import dtypeOf, shown
from muninn.interop.hostarrays import Flat, addressOf
from muninn.interop.hostarrays import fill as fillMemory
from muninn.session import creation
from muninn.session.creation import Source
from muninn.session.member import Membership
from muninn.session.membership import current
from muninn.session.names import LOOK, NameWait, absent
from muninn.session.openbuffers import Holding
from muninn.session.spec import BufferSpec
from muninn.sync.lock import Lock
from muninn.system import clock
from muninn.system.deadlines import deadlineOf, remaining
from muninn.system.digests import digestOf
from muninn.terms import (
    Access,
    AccessWord,
    LifetimeWord,
    Mode,
    ModeWord,
    RenewWord,
    Reserve,
    asAccess,
    asMode,
    asName,
    asRenew,
    asTenant,
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
    """Put an array where every process of this host can use it. The bytes are copied once, here.

    Parameters
    ----------
    array
        A numpy array, or anything that numpy takes without guessing (`__array_interface__`, the buffer protocol, `__dlpack__` on
        the CPU). Not a list. Or an array on a GPU: anything with `__cuda_array_interface__` or `__dlpack__` (Numba, CuPy, PyTorch,
        JAX); it goes to VRAM of the same GPU, by a copy there, and outlives this process.
    copy
        False shares an array on a GPU where it lies, without a copy. It is kept as long as this buffer is open here, and goes with
        this process: those who have it open then get `OwnerDied`. `close`, and the end of the process, wait for them for
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
    given = optionsOf(share, name=name, mode=mode, access=access, tenant=tenant, preferredGpu=preferredGpu, lifetime=lifetime, **options)
    return _shared("share", array, copy, given)


def _shared(caller: str, value: Any, copy: bool, options: BufferOptions) -> MuninnBuffer:
    """`share`; a user called the function `caller`."""
    renewal = asRenew(options.renew, caller)
    if not isTruth(copy):
        raise TypeError(f"{caller}: copy must be True or False, not {type(copy).__name__}")
    if isOnDevice(value):
        return lending.shareDevice(caller, value, copy, options)
    if not copy:
        raise InvalidArgument("only an array on a GPU can be shared where it lies", "Leave copy out: the bytes are copied once")
    source, progress = _asArray(value), options.progress
    wanted = specOf(caller, source.shape, source.dtype, options)
    if source.flags.c_contiguous:
        holding = creation.create(wanted, source=Source(addressOf(source), source.nbytes), progress=progress)
    else:
        wanted = wanted._replace(reserve=Reserve.FULL)  # the copy touches every page, and on a full host that is to be an error

        def write(flat: Flat) -> None:
            np.copyto(flat.view(source.dtype).reshape(source.shape), source)

        holding = creation.create(wanted, fill=lambda memory: fillMemory(memory, source.nbytes, write), progress=progress)
    return MuninnBuffer._of(holding, wanted.access, renewal)


@named
@takesOptions
def loadArray(
    shape: Any,
    dtype: Any,
    fill: Callable[[np.ndarray[Any, np.dtype[Any]]], None],
    name: str | None = None,
    **options: Unpack[NamedKeywords],
) -> MuninnBuffer:
    """Make an array that `fill` puts in place: a loader reads straight into shared memory.

    Parameters
    ----------
    shape, dtype
        Of the array.
    fill
        Called once with the writable array, before anybody else can open it; what it raises abandons the buffer.
    **options
        As in `muninn.api.options.BufferOptions`.
    """
    given = optionsOf(loadArray, name=name, **options)
    requireCallable("loadArray: fill", fill)
    renewal, wanted = asRenew(given.renew, "loadArray"), specOf("loadArray", shape, dtype, given)

    def write(flat: Flat) -> None:
        fill(flat.view(np.dtype(dtype)).reshape(wanted.shape))

    holding = creation.create(wanted, fill=lambda memory: fillMemory(memory, wanted.sizeBytes, write), progress=given.progress)
    return MuninnBuffer._of(holding, wanted.access, renewal)


def open(
    name: str | bytes, access: AccessWord = "readOnly", timeout: float | None = None, *, tenant: str | None = None,
    renew: RenewWord = "auto", **unknown: Never,
) -> MuninnBuffer:  # fmt: skip
    """Open a buffer that somebody shared, by its name or by a handle.

    Parameters
    ----------
    name
        The name, or the 64 bytes of a handle.
    access
        ``"readOnly"``, or ``"readWrite"`` (``"readMostly"`` means the same here) where the buffer allows it.
    timeout
        Seconds to wait for the name to appear; None does not wait.
    tenant
        If given, the buffer must be this tenant's.
    renew
        ``"auto"`` or ``"onUse"``, as in `MuninnBuffer`.

    Raises
    ------
    BufferNotFound, PermissionDenied, HandleInvalid, DescriptorsExhausted, TableFull
    """
    if unknown:  # not by `named`, which would cost a tenth of it
        checkKeywords("open", unknown, keywordsOf(open))
    try:
        buffer = openAny(name, access, timeout, tenant=tenant, renew=renew)
    except ArgumentError as error:
        raise unwrapped(error) from None
    if buffer._held().description.kind == layout.ROW_KIND_BUNDLE:
        raise BufferMismatch(f"{buffer.name!r} is a bundle of arrays", "Open it by muninn.openBundle")
    return buffer


def openAny(
    name: str | bytes,
    access: AccessWord = "readOnly",
    timeout: float | None = None,
    *,
    tenant: str | None = None,
    renew: RenewWord = "auto",
    caller: str = "open",
) -> MuninnBuffer:
    """`open`, also for the bytes of a bundle; a user called the function `caller`."""
    wanted, renewal = asAccess(access, caller), asRenew(renew, caller)
    if not isinstance(name, str) and isinstance(name, bytes | bytearray | memoryview):
        return MuninnBuffer._of(*held(bytes(name), None, wanted, tenant), renewal)
    holding = _findAnywhere(asName(name), None if timeout is None else secondsOf(caller, timeout))
    if tenant is not None and holding.description.tenant != asTenant(tenant):
        raise PermissionDenied(f"{name!r} belongs to another tenant than {tenant!r}")
    return MuninnBuffer._of(holding, wanted, renewal)


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
        What this object may do. Others may write what was created here in any case, or it would be zeros for ever.
    timeout
        Seconds to wait for somebody who is creating it right now.
    **options
        As in `muninn.api.options.BufferOptions`.

    Raises
    ------
    BufferMismatch
        The name exists with another shape or dtype.
    """
    given = optionsOf(array, name=name, access="readWrite" if access == "readOnly" else access, **options)
    (lengths, itemType), own, renewal = asItems(shape, dtype), asAccess(access, "array"), asRenew(given.renew, "array")
    asName(name)  # None, which makes a name up elsewhere, is none here
    wanted = specOf("array", lengths, itemType, given)
    holding = _attachOrCreate(current(), wanted, secondsOf("array", timeout), given.progress)
    _compare(holding, lengths, itemType, wanted.mode)
    return MuninnBuffer._of(holding, own, renewal)


@named
def free(name: str) -> None:
    """Free a buffer by its name, without opening it: the name now, the memory when its last holder lets go.

    Raises
    ------
    BufferNotFound
    """
    membership = current()
    pair = _indexed(membership, asName(name).encode())
    if pair is None:
        found, _ = membership.client.request("find", name=name)
        if not found.get("live"):
            raise absent(membership.tables, name)
        pair = found["row"], found["incarnation"]
    membership.client.free(*pair)


def _indexed(membership: Membership, encoded: bytes) -> tuple[int, int] | None:
    """(row, incarnation) of a live name that the index knows; None says little."""
    rows = membership.rows
    return next((pair for pair in membership.index.candidates(encoded) if rows.isLive(*pair) and rows.nameIs(pair[0], encoded)), None)


@named
@takesOptions
def shareOnce(
    name: str, loader: Callable[[], Any], *, timeout: float | None = None, copy: bool = True, **options: Unpack[NamedKeywords]
) -> MuninnBuffer:
    """Open the named buffer; if there is none, the first who asks loads it and all others wait for that.

    Whoever loaded gets it for reading too, so that a program does not depend on who came first. A buffer that somebody else makes under
    that name meanwhile, by `share` say, is waited for and opened.

    Parameters
    ----------
    loader
        Returns the array to share. It runs in one process only; when that one dies, or the loader raises, the next one takes its turn.
    timeout
        Seconds to wait for another's loader; None waits as long as that process lives.
    copy
        As in `share`.
    **options
        As in `muninn.api.options.BufferOptions`.

    Raises
    ------
    TimeoutError
    BufferMismatch
        The name is a bundle's.
    """
    given = optionsOf(shareOnce, name=name, **options)
    requireCallable("shareOnce: loader", loader)
    membership, deadline = current(), deadlineOf(timeoutOf("shareOnce", timeout))
    holding = membership.holdings.find(asName(name))
    if holding is None:
        with Lock(f"shareOnce:{_asLockName(name)}").held(remaining(deadline)):
            holding = _openOrLoad(membership, name, loader, deadline, copy, given)
    if holding.description.kind != layout.ROW_KIND_ARRAY:
        raise BufferMismatch(f"{name!r} is a bundle of arrays", "Open it by muninn.openBundle")
    return MuninnBuffer._of(holding, Access.READ_ONLY)


def _openOrLoad(
    membership: Membership, name: str, loader: Callable[[], Any], deadline: float | None, copy: bool, options: BufferOptions
) -> Holding:
    """The holding of a name that nobody else loads by `shareOnce` now; who shares it otherwise is waited for."""
    waiting, loaded = NameWait(membership.holdings, name), None
    while True:
        holding = waiting.look()
        if holding is not None:
            return holding
        if not waiting.isComing:
            loaded = loader() if loaded is None else loaded
            with contextlib.suppress(BufferExists):  # somebody has shared the name since the look
                return _shared("shareOnce", loaded, copy, options)._checked()
        if not waiting.sleep(deadline):
            raise TimeoutError(f"another process has been creating {name!r}, and was not ready in time")


def _asLockName(name: str) -> str:
    """`name`, or what stands for it where a lock's name has no room for all of it."""
    encoded = name.encode()
    if len(encoded) <= _LOCKED_NAME_BYTES:
        return name
    return digestOf(encoded, 32).hex()


def _attachOrCreate(membership: Membership, wanted: BufferSpec, timeout: float, progress: Callable[[int], None] | None) -> Holding:
    waiting, deadline = NameWait(membership.holdings, wanted.name), deadlineOf(timeout)
    while True:
        holding = waiting.look()
        if holding is not None:
            return holding
        try:
            return creation.create(wanted, progress=progress)
        except BufferExists:
            # Somebody is creating it, and has not committed yet.
            if not waiting.sleep(deadline):
                raise


def _findAnywhere(name: str, timeout: float | None) -> Holding:
    """`_find`, once more if the control block was removed meanwhile: this process is in another one then."""
    membership = current()
    try:
        return _find(membership, name, timeout)
    except DomainChanged:
        if not membership.isLost():
            raise
        return _find(current(), name, timeout)


def _find(membership: Membership, name: str, timeout: float | None) -> Holding:
    try:
        holding = membership.holdings.known(name) if timeout is not None else membership.holdings.find(name)
    except HolderSilent:
        if timeout is None:
            raise
        holding = None
    if holding is None and timeout is not None:
        waiting, deadline = NameWait(membership.holdings, name), deadlineOf(timeout)
        while (holding := _lookOut(waiting, deadline)) is None and waiting.sleep(deadline):
            pass
    if holding is None:
        waited = "" if timeout is None else f" within {timeout} s"
        raise absent(membership.tables, name, waited, LOOK if waited else None)
    return holding


def _lookOut(waiting: NameWait, deadline: float | None) -> Holding | None:
    """See `NameWait.look`. Memory that a process is still to bring is waited for too, while there is time."""
    while True:
        try:
            return waiting.look()
        except HolderSilent:  # after a second or so
            if deadline is not None and clock.now() >= deadline:
                raise


def _compare(holding: Holding, shape: tuple[int, ...], dtype: np.dtype[Any], mode: Mode) -> None:
    description = holding.description
    if description.kind != layout.ROW_KIND_ARRAY:
        raise BufferMismatch(f"{description.name!r} is a bundle of arrays", "Open it by muninn.openBundle")
    there = (description.shape, dtypeOf(holding), asMode(description.mode))
    if there != (shape, dtype, mode):
        raise BufferMismatch(
            f"{description.name!r} has shape {there[0]}, dtype {shown(there[1])} and {there[2].value}; "
            f"wanted {shape}, {shown(dtype)} and {mode.value}"
        )


def _asArray(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """`value` as a numpy array, without guessing what a list or a number might mean."""
    if isinstance(value, np.ndarray):
        if hasattr(value, "mask"):
            raise TypeError("can not share a masked array, which would lose its mask: share its data and its mask")
        source = value
    elif isOnDevice(value):
        source = lending.hostCopy(value)
    elif hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
        source = np.asarray(value)
    elif hasattr(value, "__dlpack__"):
        source = np.from_dlpack(value)
    else:
        try:
            source = np.asarray(memoryview(value))
        except TypeError:
            raise TypeError(f"can not share a {type(value).__name__}: pass an array (numpy.asarray makes one)") from None
    if source.size == 0:
        raise InvalidArgument(f"an array of shape {source.shape} has no bytes to share", "Share at least one element")
    return source
