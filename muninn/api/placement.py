"""Placement: where each array of a new bundle will be: on which GPU, in which segment,
and where in that.

Everything here is computed before anything is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from muninn.api.manifests import packed
from muninn.api.options import BufferOptions
from muninn.api.sources import FOR_MODULES
from muninn.api.specs import asItems, specOf
from muninn.api.views import Region
from muninn.arguments import asInteger
from muninn.control import layout
from muninn.errors import InvalidArgument, InvalidDtype
from muninn.interop.tensors import isModule
from muninn.session.gpus import deviceOf
from muninn.session.membership import current
from muninn.session.spec import partSpec
from muninn.terms import Mode, asMode

if TYPE_CHECKING:
    from muninn.session.spec import BufferSpec

_ALIGNMENT = 256
_MAX_KEYS = 1 << 20


def planned(
    caller: str,
    specs: Mapping[str, tuple[Any, Any]],
    options: BufferOptions,
    aliases: Mapping[str, str] | None = None,
    sources: Mapping[str, int | None] | None = None,
) -> tuple[dict[str, Region], BufferSpec]:
    """(the entries of a bundle that is to be made, its spec). The user called the
    function `caller`.

    Parameters
    ----------
    specs
        From each key to its shape and dtype.
    aliases
        The arrays that are on the bytes of others, with these.
    sources
        The GPUs on which the arrays are now, or None for the host. Without it all are
        on the host.
    """
    first = aliases or {}
    own = [key for key in specs if key not in first]
    options, gpuOf = _placed(caller, own, sources or {}, options)
    gpus = sorted(set(gpuOf.values()))
    entries = _laidOut(specs, first, {key: gpus.index(gpu) for key, gpu in gpuOf.items()})
    shape, manifest = (endOf(entries),), packed(entries)
    wanted = specOf(caller, shape, np.uint8, options, layout.ROW_KIND_BUNDLE, manifest)
    for gpu in gpus[1:]:
        deviceOf(current()).requireGpu(gpu)
    parts = tuple(
        partSpec(wanted, gpu, endOf(entries, number)) for number, gpu in enumerate(gpus[1:], 1)
    )
    return entries, wanted._replace(parts=parts)


def keyed(what: str, given: Any) -> dict[str, Any]:
    """A mapping that a user passed, with its keys checked."""
    if not callable(getattr(given, "items", None)):
        raise TypeError(
            f"{what} must be a mapping by key, such as a dict, not {type(given).__name__}"
            + (f"; {FOR_MODULES}" if isModule(given) else "")
        )
    return {_asKey(key): value for key, value in given.items()}


def _asKey(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the keys of a bundle are str, not {type(key).__name__}")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(
            f"the key {key!r} is not valid Unicode", "Use keys that can be written as UTF-8"
        ) from None
    return key


def endOf(entries: Mapping[str, Region], segment: int = 0) -> int:
    """Bytes of the data of a segment."""
    return max(
        region.offset + region.sizeBytes for region in entries.values() if region.segment == segment
    )


def _placed(
    caller: str,
    keys: Iterable[str],
    sources: Mapping[str, int | None],
    options: BufferOptions,
) -> tuple[BufferOptions, dict[str, int]]:
    """(the options, for one segment; the GPU of each array, where arrays may be on
    several).
    """
    asked = None if options.mode is None else asMode(options.mode, caller)
    preferred, gpus = options.preferredGpu, set(sources.values())
    if isinstance(preferred, Mapping):
        if asked is Mode.BIG:
            return replace(options, preferredGpu=None), {}
        gpuOf = {key: _preferred(key, preferred) for key in keys}
    elif asked is Mode.BIG or gpus <= {None}:
        return options, {}
    elif preferred is not None:
        return replace(options, mode=Mode.FAST.value), {}
    elif None in gpus and asked is None:
        raise InvalidArgument(
            "the arrays are on "
            + " and ".join(sorted("the host" if gpu is None else f"GPU {gpu}" for gpu in gpus)),
            'Say where the bundle is to be: mode="bigMode", or mode="fastMode"',
        )
    else:
        first = min(gpu for gpu in gpus if gpu is not None)
        gpuOf = {key: first if (gpu := sources[key]) is None else gpu for key in keys}
    one = min(gpuOf.values(), default=0)
    return replace(options, mode=Mode.FAST.value, preferredGpu=one), gpuOf


def _preferred(key: str, preferred: Mapping[str, Any]) -> int:
    """The GPU of a key, by its longest beginning that is named: ``"layers.0"`` stands
    for ``"layers.0.weight"`` too, and ``""`` for all others.
    """
    parts = key.split(".")
    for length in range(len(parts), -1, -1):
        named = ".".join(parts[:length])
        if named in preferred:
            gpu = asInteger(preferred[named])
            if gpu is None or gpu < 0:
                raise TypeError(
                    f"preferredGpu[{named!r}] must be the number of a GPU, not {preferred[named]!r}"
                )
            return gpu
    raise InvalidArgument(
        f"preferredGpu names no GPU for {key!r}",
        'Name one for it, for a beginning of it, or for all others by ""',
    )


def _laidOut(
    specs: Mapping[str, tuple[Any, Any]],
    aliases: Mapping[str, str],
    segmentOf: Mapping[str, int],
) -> dict[str, Region]:
    """The regions of a bundle's arrays. Those that are not in `segmentOf` are in the
    first segment.
    """
    if not 0 < len(specs) <= _MAX_KEYS:
        raise InvalidArgument(
            f"a bundle of {len(specs)} arrays can not be", f"Use 1 to {_MAX_KEYS} arrays"
        )
    entries: dict[str, Region] = {}
    ends: defaultdict[int, int] = defaultdict(int)
    for key, (shape, dtype) in specs.items():
        lengths, element = asItems(shape, dtype)
        if element.structure is not None:
            raise InvalidDtype(
                f"{key!r} has dtype {element}: a bundle holds plain types",
                "Share it as an array of its own",
            )
        if key in aliases:
            entries[key] = entries[aliases[key]]
            continue
        segment = segmentOf.get(key, 0)
        offset = -(-ends[segment] // _ALIGNMENT) * _ALIGNMENT
        entries[key] = region = Region(offset, lengths, element, segment)
        ends[segment] = offset + region.sizeBytes
    return entries
