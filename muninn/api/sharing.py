"""Making arrays that other processes open: `share`, `loadArray`, `array`.

Each function checks its arguments, builds the spec of the buffer and lets
`session/creation.py` make it. No other process can open the name before the bytes are
in place.

*array.* The process looks for the name. If it is there, the process opens it and
compares shape, type and mode. If not, it asks the broker to create it. Of several
processes that ask at once the broker grants the name to one; the others get
`BufferExists`, sleep until the name is live or free again, and look again.

A stale look costs a refused creation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Unpack

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
from muninn.arguments import requireCallable, requireTruth, secondsOf
from muninn.control import layout
from muninn.errors import BufferExists, BufferMismatch, InvalidArgument
from muninn.interop.arrays import isOnDevice
from muninn.interop.dtypes import elementOf
from muninn.interop.elements import ElementType
from muninn.interop.hostarrays import Flat, addressOf
from muninn.interop.hostarrays import fill as fillMemory
from muninn.interop.tensors import plainTensor
from muninn.observe.calls import named
from muninn.session import creation
from muninn.session.membership import current
from muninn.session.names import NameWait
from muninn.session.openbuffer import requirePages
from muninn.system.deadlines import deadlineOf
from muninn.system.structures import Extent
from muninn.terms import (
    Access,
    AccessWord,
    LifetimeWord,
    Mode,
    ModeWord,
    OpenAccessWord,
    Reserve,
    asMode,
    asName,
    asOpenAccess,
    asRenew,
)

if TYPE_CHECKING:
    from muninn.session.member import Membership
    from muninn.session.openbuffer import OpenBuffer
    from muninn.session.spec import BufferSpec

_CREATION_BOUND_SECONDS = 60.0


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
    """Put an array where every process of this host can use it. This call copies the
    bytes, once.

    Parameters
    ----------
    array
        A numpy array, or any object that numpy takes without guessing
        (`__array_interface__`, the buffer protocol, `__dlpack__` on the CPU). Not a
        list. Or an array on a GPU: any object with `__cuda_array_interface__` or
        `__dlpack__` (Numba, CuPy, PyTorch, JAX); it is copied to other VRAM of the same
        GPU, and the copy outlives this process. Elements of any type that is not a
        Python object, bfloat16, the 8-bit floats and packed ones too. Strides may be
        any (transposed, sliced, negative, 0 as of `expand`): the buffer has the
        elements in C order. On a GPU a kernel copies such an array, which needs
        numba-cuda and compiles for a second or two at its first use in a process. An
        array may have no dimensions or no elements. Of a tensor of PyTorch the values are shared,
        as `detach().resolve_conj().resolve_neg()` gives them.
    copy
        False shares an array on a GPU, whose elements are in C order, in place, without
        a copy. The array is kept as long as this buffer is open here, and is gone with
        this process: processes that still have it open get `OwnerDied`. `close`, and
        the end of the process, wait for them for `devices.ipcGraceMs`.
    **options
        As in `muninn.api.options.BufferOptions`.

    Returns
    -------
    MuninnBuffer
        A buffer of the same shape and dtype; writable unless shared ``"readOnly"``.

    Raises
    ------
    InvalidDtype, InvalidArgument, BufferExists, QuotaExceeded, HostMemoryFull
    DeviceUnavailable
        The array is on a GPU and has strides, and no kernel can be compiled here.
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
    return shared("share", array, copy, given)


def shared(caller: str, value: Any, copy: bool, options: BufferOptions) -> MuninnBuffer:
    """`share`. The user called the function `caller`."""
    renewal, value = asRenew(options.renew, caller), plainTensor(value)
    requireTruth(f"{caller}: copy", copy)
    if isOnDevice(value):
        return lending.shareDevice(caller, value, copy, options)
    if not copy:
        raise InvalidArgument(
            "only an array on a GPU can be shared where it lies",
            "Leave copy out: the bytes are copied once",
        )
    given, progress = asArray(value), options.progress
    source = given.array
    wanted = specOf(caller, source.shape, given.element, options)
    if source.flags.c_contiguous:
        openBuffer = creation.create(
            wanted, extents=[[Extent(0, addressOf(source), source.nbytes)]], progress=progress
        )
    else:
        # The copy touches every page. On a full host that must be an error, and no
        # SIGBUS.
        openBuffer = creation.create(
            wanted._replace(reserve=Reserve.FULL),
            fill=lambda memory: given.copyTo(memory, 0),
            progress=progress,
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
    """Make an array that `fill` writes, so that a loader reads straight into shared
    memory.

    Parameters
    ----------
    shape, dtype
        The shape and the dtype of the array.
    fill
        Called once with the writable array, before other processes can open it. If it
        raises, the buffer is abandoned.
    **options
        As in `muninn.api.options.BufferOptions`.
    """
    given = optionsOf(loadArray, name=name, **options)
    requireCallable("loadArray: fill", fill)
    renewal, itemType = asRenew(given.renew, "loadArray"), asItems(shape, dtype)[1].dtype
    wanted = specOf("loadArray", shape, dtype, given)

    def write(flat: Flat) -> None:
        fill(flat.view(itemType).reshape(wanted.shape))

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
    access: OpenAccessWord = "readWrite",
    timeout: float = _CREATION_BOUND_SECONDS,
    **options: Unpack[ArrayKeywords],
) -> MuninnBuffer:
    """Attach to the named array, or create it filled with zeros.

    Parameters
    ----------
    name, shape, dtype
        The name of the array, and the shape and dtype that it must have.
    access
        The rights of this object, as in `open`. Other processes may write an array that
        was created here in any case, or it would be zeros for ever.
    timeout
        Seconds to wait while another process is creating it.
    **options
        As in `muninn.api.options.BufferOptions`.

    Raises
    ------
    BufferMismatch
        The name exists with another shape or dtype.
    """
    isPrivate = isinstance(access, str) and access in ("readOnly", "copyOnWrite")
    shared: AccessWord = "readWrite" if isPrivate else access  # type: ignore[assignment]  # the rest
    given = optionsOf(array, name=name, access=shared, **options)
    (lengths, itemType), own, renewal = (
        asItems(shape, dtype),
        asOpenAccess(access, "array"),
        asRenew(given.renew, "array"),
    )
    asName(name)  # refuses None, which elsewhere makes a name up
    wanted = specOf("array", lengths, itemType, given)
    if own is Access.COPY_ON_WRITE:
        requirePages(wanted.mode, repr(name))
    openBuffer = _attachOrCreate(current(), wanted, secondsOf("array", timeout), given.progress)
    _compare(openBuffer, lengths, itemType, wanted.mode)
    return MuninnBuffer._of(openBuffer, own, renewal)


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
            # Another process is creating it, and has not committed yet.
            if not waiting.sleep(deadline):
                raise


def _compare(
    openBuffer: OpenBuffer, shape: tuple[int, ...], element: ElementType, mode: Mode
) -> None:
    description = openBuffer.description
    if description.kind != layout.ROW_KIND_ARRAY:
        raise BufferMismatch(
            f"{description.name!r} is a bundle of arrays", "Open it by muninn.openBundle"
        )
    there = (description.shape, elementOf(openBuffer), asMode(description.mode))
    if there != (shape, element, mode):
        raise BufferMismatch(
            f"{description.name!r} has shape {there[0]}, dtype {there[1]} and {there[2].value}; "
            f"wanted {shape}, {element} and {mode.value}"
        )
