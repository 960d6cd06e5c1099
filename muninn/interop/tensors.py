"""PyTorch's tensors, as what of them can be shared: the values, without gradient,
conjugate or sign put off. PyTorch is not imported for that: a tensor can only come from
a program that has done so.
"""

from __future__ import annotations

import operator
import sys
from typing import Any, NamedTuple

from muninn.errors import InvalidArgument
from muninn.interop.arrays import LEGACY_STREAM, ForeignArray
from muninn.interop.elements import torchElement
from muninn.interop.layouts import packedStrides
from muninn.system.beside import rest

#: The parts of a tensor whose values are not in one array, by its layout.
_PARTS = {
    "torch.sparse_coo": ("coalesce().indices()", "coalesce().values()"),
    "torch.sparse_csr": ("crow_indices()", "col_indices()", "values()"),
    "torch.sparse_bsr": ("crow_indices()", "col_indices()", "values()"),
    "torch.sparse_csc": ("ccol_indices()", "row_indices()", "values()"),
    "torch.sparse_bsc": ("ccol_indices()", "row_indices()", "values()"),
    "torch.jagged": ("values()", "offsets()"),
    "torch._mkldnn": ("to_dense()",),
}


def isTensor(value: object) -> bool:
    """Whether a value is a tensor of PyTorch."""
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(value, kind)


def plainTensor(value: Any) -> Any:
    """A tensor as `detach().resolve_conj().resolve_neg()` gives it: without a gradient,
    and with its values in memory. Any other object as it is.

    Raises
    ------
    InvalidArgument
        The tensor's values are not in one array; the fix names its parts.
    InvalidDtype
        No other library has its type.
    """
    if not isTensor(value):
        return value
    if isLazy(value):
        raise InvalidArgument(
            f"the {type(value).__name__} of a lazy module has no values yet",
            "Call the module once, so that it makes them",
        )
    if parts := _partsOf(value):
        named = ", ".join(f"tensor.{part}" for part in parts)
        raise InvalidArgument(
            f"the values of {_kindOf(value)} are not in one array",
            f"Share {named}, and make the tensor of it again where it is opened",
        )
    if value.is_meta:
        raise InvalidArgument(
            "a tensor on the device 'meta' has no values", "Load it on the CPU or on a GPU first"
        )
    torchElement(str(value.dtype).removeprefix("torch."))  # refuses a type that others lack
    return value.detach().resolve_conj().resolve_neg()


def cudaTensor(value: Any) -> ForeignArray | None:
    """A tensor of PyTorch on a GPU, as `plainTensor` gives it, described as
    `describeArray` would; None for any other object. It is asked itself, because its
    protocols take twenty times as long to say the same. A consumer waits for the stream
    in which PyTorch works now on the tensor's GPU, as PyTorch's own export makes it do.
    """
    torch = sys.modules.get("torch")
    if torch is None or type(value) not in (torch.Tensor, torch.nn.Parameter) or not value.is_cuda:
        return None
    element = torchElement(str(value.dtype).removeprefix("torch."))
    shape, gpu = tuple(value.shape), value.get_device()
    strides = tuple(step * element.itemBytes for step in value.stride())
    return ForeignArray(
        address=value.data_ptr(),
        shape=shape,
        strides=packedStrides(shape, strides, element.itemBytes),
        element=element,
        readOnly=False,
        stream=torch.cuda.current_stream(gpu).cuda_stream or LEGACY_STREAM,
        deviceId=gpu,
        isOrdered=True,
        keepAlive=value,
    )


def _kindOf(value: Any) -> str:
    if value.is_quantized:
        return "a quantized tensor"
    if value.is_nested:
        return "a nested tensor"
    if str(value.layout) in _PARTS:
        return f"a tensor of layout {value.layout}"
    return f"a {type(value).__name__}"


def _partsOf(value: Any) -> tuple[str, ...]:
    """The parts to share, as expressions on the tensor; none if its values are in one
    array.
    """
    if value.is_quantized:
        scales = (
            ("q_per_channel_scales()", "q_per_channel_zero_points()")
            if "channel" in str(value.qscheme())
            else ("q_scale()", "q_zero_point()")
        )
        return ("int_repr()", *scales)
    if value.is_nested and str(value.layout) == "torch.strided":
        return ("unbind()",)
    if (parts := _PARTS.get(str(value.layout))) is not None:
        return parts
    # A subclass that wraps other tensors, as torchao's and DTensor do, tells them by
    # the protocol of torch.compile.
    flatten = getattr(value, "__tensor_flatten__", None)
    if flatten is None:
        return ()
    names, _ = flatten()
    return tuple(names)


def isLazy(value: Any) -> bool:
    """Whether a tensor is a parameter or a buffer of a lazy module, and has no shape yet."""
    isOne: bool = sys.modules["torch"].nn.parameter.is_lazy(value)
    return isOne


def isModule(value: object) -> bool:
    """Whether a value is a module of PyTorch."""
    kind = getattr(getattr(sys.modules.get("torch"), "nn", None), "Module", None)
    return kind is not None and isinstance(value, kind)


class Place(NamedTuple):
    """Where a module keeps one of its parameters or buffers, and which one it was when
    the place was looked up.

    Attributes
    ----------
    key
        Its name, with those of the modules that it is in.
    parts, name
        The submodule's dict of parameters or buffers, and the name in that.
    isNeeded
        Whether the module is not whole without a value for it: all but buffers that are
        not persistent, which a module makes itself.
    """

    key: str
    parts: dict[str, Any]
    name: str
    isNeeded: bool
    tensor: Any


class Structure:
    """What a module and its submodules are made of, to be told whether they still are."""

    def __init__(self, module: Any) -> None:
        self._parts = [
            parts
            for owner in module.modules()
            for parts in (owner._modules, owner._parameters, owner._buffers)
        ]
        self._values = self._now()

    @property
    def isInForce(self) -> bool:
        """Whether no submodule, parameter or buffer was added, taken away or replaced."""
        now = self._now()
        return len(now) == len(self._values) and all(map(operator.is_, now, self._values))

    def forget(self) -> None:
        """Keep nothing any more. It is in force never again."""
        self._parts, self._values = [], [None]

    def _now(self) -> list[Any]:
        return [value for parts in self._parts for value in parts.values()]


def placesOf(module: Any) -> list[Place]:
    """The places of all parameters and buffers; one that has several names, as tied
    weights have, has a place for each. Raises `TypeError` if it is no module.
    """
    if not isModule(module):
        raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}")
    found = []
    for prefix, owner in module.named_modules(remove_duplicate=False):
        own = owner._non_persistent_buffers_set
        for parts in (owner._parameters, owner._buffers):
            found += [
                Place(f"{prefix}.{name}" if prefix else name, parts, name, name not in own, value)
                for name, value in parts.items()
                if value is not None
            ]
            rest()
    return found


def moduleState(module: Any) -> dict[str, Any]:
    """The tensors of a module that is to be shared, by their names.

    Raises
    ------
    InvalidArgument
        The module has no tensor; or its state has more than its parameters and
        buffers, as by `get_extra_state`.
    """
    state = {place.key: place.tensor for place in placesOf(module)}
    known = {id(tensor) for tensor in state.values()}
    others = {
        key: value
        for key, value in module.state_dict(keep_vars=True).items()
        if id(value) not in known
    }
    if others:
        key, value = min(others.items(), key=lambda item: isTensor(item[1]))
        raise InvalidArgument(
            f"{key} of a {type(module).__name__} is neither a parameter nor a buffer, so that "
            "attaching a module would lose it",
            "Share its state by shareBundle, and load that by load_state_dict"
            if isTensor(value)
            else f"It is a {type(value).__name__}: share the module as it was before it was "
            "quantized or packed, and do that in each process",
        )
    if not state:
        raise InvalidArgument(
            f"a {type(module).__name__} has no parameters and no buffers to share",
            "Share a module that has weights",
        )
    return state
