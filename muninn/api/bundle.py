"""Bundles: many arrays found by one name, in one segment, or in one on each of several
GPUs.

The manifest {key: offset, shape, dtype, segment} stands after the data of the first
segment, and the creator writes it before any process can open the bundle. Arrays begin
at multiples of 256 bytes, as vector units and CUDA's texture alignment require.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, Unpack

import numpy as np

from muninn.api.buffer import MuninnBuffer
from muninn.api.lending import DeviceArray, awaitWriters
from muninn.api.manifests import unpacked
from muninn.api.notebooks import bundleHtml, entriesHtml, shownOr
from muninn.api.opening import openAny
from muninn.api.options import BufferOptions, NamedKeywords, optionsOf, takesOptions
from muninn.api.placement import endOf, keyed, planned
from muninn.api.protocols import Exposure
from muninn.api.sharedarray import SharedArray
from muninn.api.sources import Source, asSource
from muninn.api.views import Region
from muninn.arguments import requireCallable
from muninn.control import layout
from muninn.errors import BufferMismatch
from muninn.interop.hostarrays import Flat
from muninn.interop.hostarrays import fill as fillMemory
from muninn.observe.calls import named
from muninn.session import creation
from muninn.session.mappings import Memory
from muninn.session.openbuffer import OpenBuffer
from muninn.session.privatememory import PrivateMemory
from muninn.system import markup
from muninn.system.closable import Closable
from muninn.system.structures import Extent
from muninn.terms import OpenAccessWord, RenewWord, asRenew


class Bundle(Mapping[str, Any], Closable):
    """A shared set of arrays: a mapping from key to array, read-only unless opened for
    writing. Nothing is copied.

    Attributes
    ----------
    buffer
        The bytes of all arrays as one buffer, for accesses, handles and lifetime. Of a
        bundle on several GPUs it has the bytes of the first one only; its accesses cover
        all.
    """

    def __init__(self, buffer: MuninnBuffer) -> None:
        description = buffer._description
        if description.kind != layout.ROW_KIND_BUNDLE:
            raise BufferMismatch(
                f"{buffer.name!r} is an array and no bundle", "Open it by muninn.open"
            )
        self.buffer = buffer
        self._entries = unpacked(buffer._checked())

    @classmethod
    def _of(cls, buffer: MuninnBuffer, entries: dict[str, Region]) -> Self:
        """The bundle that this process has just made, with what its manifest says."""
        bundle = cls.__new__(cls)
        bundle.buffer, bundle._entries = buffer, entries
        return bundle

    @property
    def name(self) -> str:
        return self.buffer.name

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, alignment included."""
        held = self.buffer._held()
        return sum(each.description.sizeBytes for each in held.segments)

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that have arrays of it, by their indices in this process; none for
        host memory.
        """
        held = self.buffer._held()
        gpus = (each.memory.gpu for each in held.segments)
        return tuple(gpu for gpu in gpus if gpu is not None)

    @property
    def isCurrent(self) -> bool:
        """As `MuninnBuffer.isCurrent`."""
        return self.buffer.isCurrent

    @named
    def waitNewer(self, timeout: float | None = None) -> None:
        """As `MuninnBuffer.waitNewer`."""
        self.buffer.waitNewer(timeout)

    @named
    async def waitNewerAsync(self, timeout: float | None = None) -> None:
        """As `MuninnBuffer.waitNewerAsync`."""
        await self.buffer.waitNewerAsync(timeout)

    def __getitem__(self, key: str) -> Any:
        """The live bytes of one array, without a copy: a plain numpy array, or where
        the bytes are in VRAM, or numpy alone does not have the type (bfloat16 and its
        like), a `SharedArray` for the other libraries.

        If the bundle is open for reading, the array is read-only. numpy refuses to
        write to it; PyTorch does not, and the process ends by SIGSEGV:
        `torch.from_numpy(bundle[key])` warns, `torch.from_dlpack(bundle[key])` does
        not. `openBundle(name, access="copyOnWrite")` gives arrays whose changes in
        place stay in this object, `access="readWrite"` arrays whose changes all
        processes see, and `torch.tensor(bundle[key])` makes a copy.
        """
        region, openBuffer = self._entries[key], self.buffer._checked()
        memory = self._memoryOf(openBuffer, region.segment)
        exposure = Exposure(openBuffer, memory, region, self.buffer.writable)
        if memory.isHostVisible and region.element.isNumpys:
            return exposure.hostArray()
        return SharedArray(exposure)

    def _memories(self, openBuffer: OpenBuffer) -> list[Memory | PrivateMemory]:
        """The memories of the segments, as this object may use them."""
        return [self._memoryOf(openBuffer, number) for number in range(len(openBuffer.segments))]

    def _memoryOf(self, openBuffer: OpenBuffer, segment: int) -> Memory | PrivateMemory:
        if segment:
            return openBuffer.segments[segment].memory
        return self.buffer._bytes(openBuffer)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def describe(self) -> dict[str, Any]:
        """`MuninnBuffer.describe`, and ``"entries"``: key to shape and dtype."""
        entries = {
            key: {"shape": list(region.shape), "dtype": region.element.text}
            for key, region in self._entries.items()
        }
        return {**self.buffer.describe(), "entries": entries}

    def close(self) -> None:
        self.buffer.close()

    def free(self) -> None:
        self.buffer.free()

    def __repr__(self) -> str:
        return (
            f"<muninn.Bundle {self.buffer!r} of {len(self)} arrays>"
            if self.buffer._openBuffer
            else "<muninn.Bundle closed>"
        )

    def __reduce__(self) -> tuple[Any, tuple[MuninnBuffer]]:
        return Bundle, (self.buffer,)

    def _repr_html_(self) -> str:
        return shownOr(
            "Bundle", lambda: bundleHtml("Bundle", self.buffer.describe(), self._entries, {})
        )


class BundleDraft:
    """A bundle that is being filled: ``draft[key]`` is a writable array. No other
    process can open the bundle before `fill` has returned.

    All its memory is there from the beginning, so a loader can read files straight into
    place.
    """

    def __init__(self, entries: dict[str, Region], flats: Sequence[Flat]) -> None:
        self._entries = entries
        self._flats = flats

    def __getitem__(self, key: str) -> np.ndarray[Any, np.dtype[Any]]:
        region = self._entries[key]
        return self.bytesOf(key).view(region.element.dtype).reshape(region.shape)

    def bytesOf(self, key: str) -> Flat:
        """The bytes of one array, flat, for elements of any type."""
        region = self._entries[key]
        return self._flats[region.segment][region.offset : region.offset + region.sizeBytes]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __repr__(self) -> str:
        return f"<muninn.BundleDraft of {len(self._entries)} arrays>"

    def _repr_html_(self) -> str:
        facts = {"arrays": len(self._entries), "state": "being filled: no process can open it yet"}
        return markup.card("BundleDraft", facts, entriesHtml(self._entries))


@named
@takesOptions
def loadBundle(
    specs: Mapping[str, tuple[Any, Any]],
    fill: Callable[[BundleDraft], None],
    name: str | None = None,
    **options: Unpack[NamedKeywords],
) -> Bundle:
    """Make a bundle whose arrays `fill` writes.

    Parameters
    ----------
    specs
        Key to (shape, dtype), the dtype as numpy takes it or as text, ``"bfloat16"``.
    fill
        Called once with the `BundleDraft`. If it raises, the bundle is abandoned.
    **options
        As in `muninn.api.options.BufferOptions`.
    """
    return _loaded("loadBundle", specs, fill, optionsOf(loadBundle, name=name, **options))


def _loaded(
    caller: str,
    specs: Mapping[str, tuple[Any, Any]],
    fill: Callable[[BundleDraft], None],
    options: BufferOptions,
) -> Bundle:
    """`loadBundle`. The user called the function `caller`."""
    requireCallable("loadBundle: fill", fill)

    renewal = asRenew(options.renew, caller)
    pairs = {key: _asPair(key, spec) for key, spec in keyed("loadBundle: specs", specs).items()}
    entries, wanted = planned(caller, pairs, options)

    def fillAll(*segments: Memory) -> None:
        def fillNext(*flats: Flat) -> None:
            """Fill the segments from `len(flats)` on: all are there when `fill` is
            called.
            """
            number = len(flats)
            if number == len(segments):
                fill(BundleDraft(entries, flats))
            else:
                sizeBytes = endOf(entries, number)
                fillMemory(segments[number], sizeBytes, lambda flat: fillNext(*flats, flat))

        fillNext()

    openBuffer = creation.create(wanted, fill=fillAll, progress=options.progress)
    return Bundle._of(MuninnBuffer._of(openBuffer, wanted.access, renewal), entries)


def _asPair(key: Any, spec: Any) -> tuple[Any, Any]:
    try:
        shape, dtype = spec
    except (TypeError, ValueError):
        raise TypeError(
            f"loadBundle: specs[{key!r}] must be a pair of shape and dtype, not {spec!r}"
        ) from None
    return shape, dtype


@named
@takesOptions
def shareBundle(
    arrays: Mapping[str, Any], name: str | None = None, **options: Unpack[NamedKeywords]
) -> Bundle:
    """Share many arrays in one segment.

    Parameters
    ----------
    arrays
        Key to array, as in `share`. Arrays that are on the same bytes, as tied weights
        are, are copied once and stay on the same bytes. Arrays on a GPU are copied
        there: without `mode`, if all arrays are on GPUs, or with ``mode="fastMode"``,
        each stays on its own GPU, and the others go to the first of these.
    **options
        As in `muninn.api.options.BufferOptions`. With `preferredGpu`, all arrays go to
        that GPU.

    Raises
    ------
    InvalidArgument, InvalidDtype, BufferExists, QuotaExceeded, HostMemoryFull
    """
    return sharedBundle("shareBundle", arrays, optionsOf(shareBundle, name=name, **options))


def sharedBundle(caller: str, arrays: Mapping[str, Any], options: BufferOptions) -> Bundle:
    """`shareBundle`. The user called the function `caller`."""
    sources = {key: asSource(array) for key, array in keyed(f"{caller}: arrays", arrays).items()}
    specs: dict[str, tuple[Any, Any]] = {}
    first: dict[object, str] = {}
    aliases: dict[str, str] = {}
    for key, source in sources.items():
        if (original := first.setdefault(source.place, key)) != key:
            aliases[key] = original
        specs[key] = (source.shape, source.element)
    renewal = asRenew(options.renew, caller)
    awaitWriters(source.written for source in sources.values() if isinstance(source, DeviceArray))
    gpus = {key: source.gpu for key, source in sources.items()}
    entries, wanted = planned(caller, specs, options, aliases, gpus)
    extents: list[list[Extent]] = [[] for _ in range(1 + len(wanted.parts))]
    others: list[tuple[Source, Region]] = []
    for key, source in sources.items():
        region = entries[key]
        if key in aliases:
            continue
        extent = source.extentAt(region.offset, wanted.mode)
        if extent is None:
            others.append((source, region))
        else:
            extents[region.segment].append(extent)

    def fill(*segments: Memory) -> None:
        for source, region in others:
            source.copyTo(segments[region.segment], region.offset)

    openBuffer = creation.create(wanted, fill=fill, extents=extents, progress=options.progress)
    return Bundle._of(MuninnBuffer._of(openBuffer, wanted.access, renewal), entries)


@named
def openBundle(
    name: str,
    access: OpenAccessWord = "readOnly",
    timeout: float | None = None,
    *,
    tenant: str | None = None,
    renew: RenewWord = "auto",
) -> Bundle:
    """Open a bundle, as `muninn.open` does. Raises `BufferMismatch` for an array's
    name.
    """
    return Bundle(openAny(name, access, timeout, tenant=tenant, renew=renew, caller="openBundle"))
