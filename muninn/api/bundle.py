"""Bundles: many arrays in one segment, found by one name.

The manifest {key: offset, shape, dtype} stands after the data, and the creator writes
it before any process can open the bundle. Arrays begin at multiples of 256 bytes, as
vector units and CUDA's texture alignment require.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from muninn.api.buffer import MuninnBuffer
from muninn.api.manifests import packed, unpacked
from muninn.api.opening import openAny
from muninn.api.options import BufferOptions, NamedKeywords, optionsOf, takesOptions
from muninn.api.protocols import Exposure
from muninn.api.sharedarray import SharedArray
from muninn.api.sources import Source, asSource
from muninn.api.specs import asItems, specOf
from muninn.api.views import Region
from muninn.arguments import named, requireCallable
from muninn.control import layout
from muninn.errors import BufferMismatch, InvalidArgument, InvalidDtype
from muninn.interop.hostarrays import Flat
from muninn.interop.hostarrays import fill as fillMemory
from muninn.session import creation
from muninn.session.mappings import Memory
from muninn.terms import Mode, OpenAccessWord, RenewWord, asRenew

if TYPE_CHECKING:
    from muninn.session.spec import BufferSpec

_ALIGNMENT = 256
_MAX_KEYS = 1 << 20


class Bundle(Mapping[str, Any]):
    """A shared set of arrays: a mapping from key to array, read-only unless opened for
    writing. Nothing is copied.
    """

    def __init__(self, buffer: MuninnBuffer) -> None:
        description = buffer._description
        if description.kind != layout.ROW_KIND_BUNDLE:
            raise BufferMismatch(
                f"{buffer.name!r} is an array and no bundle", "Open it by muninn.open"
            )
        self.buffer = buffer
        self._entries = unpacked(buffer._checked())

    @property
    def name(self) -> str:
        return self.buffer.name

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, alignment included."""
        return self.buffer.nbytes

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
        exposure = Exposure(
            openBuffer, self.buffer._bytes(openBuffer), region, self.buffer.writable
        )
        if openBuffer.memory.isHostVisible and region.element.isNumpys:
            return exposure.hostArray()
        return SharedArray(exposure)

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

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<muninn.Bundle {self.buffer!r} of {len(self)} arrays>"
            if self.buffer._openBuffer
            else "<muninn.Bundle closed>"
        )

    def __reduce__(self) -> tuple[Any, tuple[MuninnBuffer]]:
        return Bundle, (self.buffer,)

    def _repr_html_(self) -> str:
        return self.buffer._repr_html_()


class BundleDraft:
    """A bundle that is being filled: ``draft[key]`` is a writable array. No other
    process can open the bundle before `fill` has returned.

    All its memory is there from the beginning, so a loader can read files straight into
    place.
    """

    def __init__(self, entries: dict[str, Region], flat: Flat) -> None:
        self._entries = entries
        self._flat = flat

    def __getitem__(self, key: str) -> np.ndarray[Any, np.dtype[Any]]:
        region = self._entries[key]
        return self.bytesOf(key).view(region.element.dtype).reshape(region.shape)

    def bytesOf(self, key: str) -> Flat:
        """The bytes of one array, flat, for elements of any type."""
        region = self._entries[key]
        return self._flat[region.offset : region.offset + region.sizeBytes]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


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

    def fillAll(memory: Memory, entries: dict[str, Region]) -> None:
        def write(flat: Flat) -> None:
            fill(BundleDraft(entries, flat))

        fillMemory(memory, _endOf(entries), write)

    return _made(caller, specs, {}, fillAll, options)


def _made(
    caller: str,
    specs: Mapping[str, tuple[Any, Any]],
    aliases: Mapping[str, str],
    fill: Callable[[Memory, dict[str, Region]], None],
    options: BufferOptions,
) -> Bundle:
    """A new bundle, whose memory `fill` writes. The arrays of `aliases` are on the bytes
    of others.
    """
    renewal = asRenew(options.renew, caller)
    entries, wanted = planned(caller, specs, options, aliases)
    openBuffer = creation.create(
        wanted, fill=lambda memory: fill(memory, entries), progress=options.progress
    )
    return Bundle(MuninnBuffer._of(openBuffer, wanted.access, renewal))


def planned(
    caller: str,
    specs: Mapping[str, tuple[Any, Any]],
    options: BufferOptions,
    aliases: Mapping[str, str] | None = None,
) -> tuple[dict[str, Region], BufferSpec]:
    """(the entries of a bundle that is to be made, its spec). `specs` is that of
    `loadBundle`; the arrays of `aliases` are on the bytes of others. The user called
    the function `caller`.
    """
    entries = _laidOut(specs, aliases or {})
    shape, manifest = (_endOf(entries),), packed(entries)
    return entries, specOf(caller, shape, np.uint8, options, layout.ROW_KIND_BUNDLE, manifest)


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
        there; without `mode`, the bundle is in VRAM if all of them are on one GPU.
    **options
        As in `muninn.api.options.BufferOptions`.

    Raises
    ------
    InvalidArgument, InvalidDtype, BufferExists, QuotaExceeded, HostMemoryFull
    """
    return sharedBundle("shareBundle", arrays, optionsOf(shareBundle, name=name, **options))


def sharedBundle(caller: str, arrays: Mapping[str, Any], options: BufferOptions) -> Bundle:
    """`shareBundle`. The user called the function `caller`."""
    sources = {_asKey(key): asSource(array) for key, array in _items(f"{caller}: arrays", arrays)}
    specs: dict[str, tuple[Any, Any]] = {}
    first: dict[object, str] = {}
    aliases: dict[str, str] = {}
    for key, source in sources.items():
        if (original := first.setdefault(source.place, key)) != key:
            aliases[key] = original
        specs[key] = (source.shape, source.element)

    def fill(memory: Memory, entries: dict[str, Region]) -> None:
        for key, source in sources.items():
            if key not in aliases:
                source.copyTo(memory, entries[key].offset)

    return _made(caller, specs, aliases, fill, _placed(sources, options))


def _placed(sources: Mapping[str, Source], options: BufferOptions) -> BufferOptions:
    """The options, with VRAM as the place of arrays that are all on one GPU, where the
    user has named none.
    """
    gpus = {source.gpu for source in sources.values()}
    if options.mode is not None or gpus <= {None}:
        return options
    if len(gpus) > 1:
        raise InvalidArgument(
            "the arrays are on "
            + " and ".join(sorted("the host" if gpu is None else f"GPU {gpu}" for gpu in gpus)),
            'Say where the bundle is to be: mode="bigMode", or mode="fastMode" and preferredGpu',
        )
    return replace(options, mode=Mode.FAST.value, preferredGpu=gpus.pop())


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


def _laidOut(specs: Mapping[str, tuple[Any, Any]], aliases: Mapping[str, str]) -> dict[str, Region]:
    items = _items("loadBundle: specs", specs)
    if not 0 < len(items) <= _MAX_KEYS:
        raise InvalidArgument(
            f"a bundle of {len(items)} arrays can not be", f"Use 1 to {_MAX_KEYS} arrays"
        )
    entries: dict[str, Region] = {}
    end = 0
    for key, (shape, dtype) in ((_asKey(key), _asPair(key, spec)) for key, spec in items):
        lengths, element = asItems(shape, dtype)
        if element.structure is not None:
            raise InvalidDtype(
                f"{key!r} has dtype {element}: a bundle holds plain types",
                "Share it as an array of its own",
            )
        if key in aliases:
            entries[key] = entries[aliases[key]]
            continue
        offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        entries[key] = region = Region(offset, lengths, element)
        end = offset + region.sizeBytes
    return entries


def _endOf(entries: Mapping[str, Region]) -> int:
    return max(region.offset + region.sizeBytes for region in entries.values())


def _items(what: str, given: Any) -> list[tuple[Any, Any]]:
    if not callable(getattr(given, "items", None)):
        raise TypeError(
            f"{what} must be a mapping by key, such as a dict, not {type(given).__name__}"
        )
    return list(given.items())


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


def _asPair(key: Any, spec: Any) -> tuple[Any, Any]:
    try:
        shape, dtype = spec
    except (TypeError, ValueError):
        raise TypeError(
            f"loadBundle: specs[{key!r}] must be a pair of shape and dtype, not {spec!r}"
        ) from None
    return shape, dtype
