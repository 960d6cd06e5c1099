"""The arrays that users pass, as numpy arrays on the host with the type of their
elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from muninn.api import lending
from muninn.api.protocols import Protocols
from muninn.interop.arrays import isOnDevice
from muninn.interop.dlpack import takeTensor
from muninn.interop.elements import ElementType, asElement
from muninn.interop.hostarrays import HostArray, borrowed
from muninn.interop.tensors import isModule, isTensor, plainTensor

if TYPE_CHECKING:
    from muninn.session.mappings import Memory
    from muninn.system.structures import Extent
    from muninn.terms import Mode


#: The advice where a function does not take a module of PyTorch.
FOR_MODULES = "muninn.torch.shareModule shares a module"


class Source(Protocol):
    """An array that is copied into shared memory, from wherever it is."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def element(self) -> ElementType: ...
    @property
    def gpu(self) -> int | None: ...
    @property
    def place(self) -> object:
        """Equal for two arrays of the same elements on the same bytes."""

    def extentAt(self, offset: int, mode: Mode) -> Extent | None:
        """The bytes that are to be copied to `offset` of memory of this mode, which must
        be in host memory unless it is VRAM; None where only `copyTo` copies the array.
        """

    def copyTo(self, memory: Memory, offset: int) -> None:
        """Copy the elements, in C order, into shared memory from `offset` on."""


def asSource(value: Any) -> Source:
    """`value` as an array to be copied; on a GPU it stays where it is until then, and the
    caller waits for the work that writes it (`lending.awaitWriters`).
    """
    value = plainTensor(value)
    isFar = not value.is_cpu if isTensor(value) else isOnDevice(value)
    return lending.DeviceArray.of(value) if isFar else asArray(value)


def asArray(value: Any) -> HostArray:
    """`value`, which is not on a GPU, as an array of the host. A list or a number is
    refused, because its dtype would be a guess.
    """
    if isinstance(value, np.ndarray):
        if hasattr(value, "mask"):
            raise TypeError(
                "can not share a masked array, which would lose its mask: share its data and "
                "its mask"
            )
        source = value
    elif isinstance(value, Protocols):
        element = value._exposed().region.element
        return HostArray(value.view(element.bits), element)
    elif not isTensor(value) and (
        hasattr(value, "__array_interface__") or hasattr(value, "__array__")
    ):
        source = np.asarray(value)
    elif hasattr(value, "__dlpack__"):
        taken = takeTensor(value, None)
        return HostArray(borrowed(taken), taken.element)
    else:
        try:
            source = np.asarray(memoryview(value))
        except TypeError:
            raise TypeError(
                f"can not share a {type(value).__name__} as an array: {_adviceFor(value)}"
            ) from None
    return HostArray(source, asElement(source.dtype))


def _adviceFor(value: object) -> str:
    """How to share an object that is no array."""
    if isModule(value):
        return FOR_MODULES
    if isinstance(value, Mapping):
        return "muninn.shareBundle shares a mapping of arrays"
    return "pass an array (numpy.asarray makes one)"
