"""From the options of a user to the spec of a buffer. Every option is checked, and
every error of it raised, before anything is made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

import numpy as np

from muninn.api import hints
from muninn.api.lifetimes import asDeadline
from muninn.arguments import asInteger
from muninn.config import asBytes
from muninn.config.sizes import exactly
from muninn.control import layout
from muninn.control.hints import NO_HINTS, Hints
from muninn.errors import InvalidArgument
from muninn.interop.dtypes import encoded
from muninn.interop.elements import ElementType, asElement
from muninn.interop.layouts import layoutProblem
from muninn.session.gpus import deviceOf
from muninn.session.membership import current
from muninn.session.spec import BufferSpec, versionSpec
from muninn.terms import Lifetime, Mode, asAccess, asLifetime, asMode, asName, asReserve, asTenant

if TYPE_CHECKING:
    from muninn.api.options import BufferOptions
    from muninn.session.member import Membership

_MAX_BYTES = 1 << 56
#: Types whose iteration may give integers that are no lengths, or not in their order.
_NO_SHAPES = (bytes, bytearray, memoryview, Set, Mapping)


def asSize(value: int | str) -> int:
    """Bytes above 0 from a number or text like ``"128G"``, or `InvalidArgument`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer | str):
        raise TypeError(
            f'size must be a number of bytes or text like "128G", not {type(value).__name__}'
        )
    sizeBytes = asBytes(value) if isinstance(value, str) else int(value)
    if not 0 < sizeBytes <= _MAX_BYTES:
        raise InvalidArgument(
            f"a size of {exactly(sizeBytes)} can not be", f"Use 1 B to {exactly(_MAX_BYTES)}"
        )
    return sizeBytes


def asShape(value: Any) -> tuple[int, ...]:
    """A tuple of lengths, at most 8, or `InvalidArgument`."""
    lengths = (value,) if isinstance(value, int | np.integer) else value
    try:
        # numpy's shapes need no look at each length: a bundle has thousands of them.
        isPlain = type(lengths) is tuple and {int}.issuperset(map(type, lengths))
        found = list(lengths) if isPlain else [asInteger(length) for length in lengths]
    except TypeError:
        found = [None]
    if isinstance(value, _NO_SHAPES):
        found = [None]
    shape = tuple(length for length in found if length is not None)
    if len(shape) != len(found):
        raise InvalidArgument(f"{value!r} is no shape", "Pass a length or a tuple of lengths")
    if len(shape) > layout.MAX_NDIM or any(length < 0 for length in shape):
        raise InvalidArgument(
            f"shape {shape} can not be", f"Use at most {layout.MAX_NDIM} lengths, none below 0"
        )
    return shape


def asItems(shape: Any, dtype: Any) -> tuple[tuple[int, ...], ElementType]:
    """The lengths, and the type of an element. Elements that are arrays themselves add
    lengths, as in numpy.
    """
    element = asElement(dtype)
    if element.structure is None:
        return asShape(shape), element
    structure = element.structure
    return asShape((*asShape(shape), *structure.shape)), asElement(structure.base)


def specOf(
    caller: str,
    shape: Any,
    dtype: Any,
    options: BufferOptions,
    kind: int = layout.ROW_KIND_ARRAY,
    manifest: bytes = b"",
) -> BufferSpec:
    """The spec of a buffer. Checks the options that a user passed to the function
    `caller`, and fills in the options that were left out.
    """
    membership = current()
    settings = membership.settings
    asked = asMode(options.mode, caller) if options.mode is not None else Mode.BIG
    lengths, element = asItems(shape, dtype)
    text, described = encoded(element)
    sizeBytes = math.prod(lengths) * element.itemBytes
    if sizeBytes > _MAX_BYTES:
        raise InvalidArgument(
            f"{exactly(sizeBytes)} can not be", f"Use at most {exactly(_MAX_BYTES)}"
        )
    if problem := layoutProblem(0, lengths, None, element.itemBytes):
        raise InvalidArgument(f"an array of shape {lengths} can not be: {problem}", "Use less")
    gpu = _asGpu(membership, asked, options.preferredGpu)
    made = f"anonymous-{os.urandom(8).hex()}"
    asLasting = Lifetime.LAST_CLOSE if options.name is None else Lifetime.KEEP
    spec = BufferSpec(
        name=made if options.name is None else asName(options.name),
        tenant=settings.tenancy.defaultTenant
        if options.tenant is None
        else asTenant(options.tenant),
        mode=asked,
        access=asAccess(
            settings.promotion.defaultPolicy if options.access is None else options.access, caller
        ),
        lifetime=asLasting if options.lifetime is None else asLifetime(options.lifetime, caller),
        kind=kind,
        gpu=gpu,
        shape=lengths,
        dtype=text,
        sizeBytes=sizeBytes,
        manifest=manifest or described,
        reserve=asReserve(options.reserve, caller),
        deadlineMs=asDeadline(caller, options.lifetimeMs),
        numaNode=_asNode(options.numaNode),
        hints=_asHints(caller, options.hints, kind, sizeBytes),
    )
    return versionSpec(spec) if options.replaces else spec


def _asGpu(membership: Membership, mode: Mode, preferredGpu: object) -> int:
    if preferredGpu is None:
        return 0 if mode is Mode.FAST else -1
    if (number := asInteger(preferredGpu)) is None:
        raise TypeError(f"preferredGpu must be an int, not {type(preferredGpu).__name__}")
    preferredGpu = number
    if not 0 <= preferredGpu < 1 << 15:
        raise InvalidArgument(
            f"GPU {preferredGpu} can not be",
            "Use the number of a GPU that `python -m muninn doctor` lists",
        )
    if mode is Mode.FAST:
        deviceOf(membership).requireGpu(preferredGpu)
    return preferredGpu if mode is Mode.FAST else -1


def _asHints(caller: str, given: object, kind: int, sizeBytes: int) -> Hints:
    if given is None:
        return NO_HINTS
    hints.requireArray(caller, kind)
    return hints.changed(caller, NO_HINTS, given, sizeBytes)


def _asNode(numaNode: int | None) -> int | None:
    if numaNode is None:
        return None
    number = asInteger(numaNode)
    if number is None:
        raise TypeError(f"numaNode must be an int, not {type(numaNode).__name__}")
    if not 0 <= number < 64:
        raise InvalidArgument(f"NUMA node {numaNode!r} can not be", "Use a node's number, from 0")
    return number
