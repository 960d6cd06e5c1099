"""Files that become shared memory: `load`.

Everything that can be wrong with a file's headers, with the options and with the room
that is left is found before any memory is there. Then the bytes are read straight into
place (`session/loading.py`). No other process can open the name before the last byte is
there, and if a byte can not be read the buffer is abandoned.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Unpack

from muninn.api.buffer import MuninnBuffer
from muninn.api.bundle import Bundle
from muninn.api.options import BufferOptions, NamedKeywords, optionsOf, takesOptions
from muninn.api.placement import planned
from muninn.api.specs import asItems, specOf
from muninn.api.views import Region
from muninn.arguments import requireCallable
from muninn.errors import MuninnError
from muninn.observe.calls import named
from muninn.observe.progressbar import expect
from muninn.session import creation
from muninn.session.membership import current
from muninn.system.threads import refuseImports
from muninn.terms import asRenew

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muninn.formats import Source
    from muninn.session.mappings import Memory
    from muninn.session.spec import BufferSpec


@named
@takesOptions
def load(
    path: str | os.PathLike[str], name: str | None = None, **options: Unpack[NamedKeywords]
) -> Bundle | MuninnBuffer:
    """Read a file of arrays into shared memory, by several threads at once. No byte is
    anywhere else in this process.

    Parameters
    ----------
    path
        A ``.safetensors``, ``.npz`` or ``.npy`` file, or PyTorch's ``.pt``, ``.pth`` or
        ``.bin`` (a mapping of tensors, or one with the key ``"state_dict"`` whose value
        is one; PyTorch must be installed, and unpickles nothing else). Or a model in
        several files: its index, ``*.safetensors.index.json``, or the folder with
        ``model.safetensors.index.json``, or with one ``.safetensors`` file.
    progress
        Called on this thread with the bytes that were read since the last call; in all,
        those of the arrays.
    **options
        As in `muninn.api.options.BufferOptions`.

    Returns
    -------
    Bundle or MuninnBuffer
        A buffer of a ``.npy`` file, a bundle of all others. Every element type is kept.
        The metadata of a safetensors file is not.

    Raises
    ------
    FileInvalid
        The file is missing, damaged, shorter than it states, or of an unknown kind.
    InvalidArgument, InvalidDtype, BufferExists, QuotaExceeded, HostMemoryFull
    """
    return loadedFile("load", path, optionsOf(load, name=name, **options))


def loadedFile(
    caller: str, path: str | os.PathLike[str], options: BufferOptions
) -> Bundle | MuninnBuffer:
    """`load`. The user called the function `caller`."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{caller}: path must be a path, not {type(path).__name__}")
    refuseImports("threads read files, of which none can be started")
    from muninn.formats import openFile

    with openFile(path) as source:
        return loadedSource(caller, source, options)


def loadedSource(caller: str, source: Source, options: BufferOptions) -> Bundle | MuninnBuffer:
    """The arrays of a source in shared memory."""
    if options.progress is not None:
        requireCallable("progress", options.progress)
    _checkShareable(source)
    renewal = asRenew(options.renew, caller)
    if not source.isBundle:
        entry = source.entries[""]
        wanted = specOf(caller, entry.shape, entry.element, options)
        regions = {"": Region(0, entry.shape, entry.element)}
    else:
        regions, wanted = planned(caller, source.entries, options)
    expect(options.progress, sum(each.sizeBytes for each in source.entries.values()))
    made = _made(source, wanted, regions, options)
    buffer = MuninnBuffer._of(made, wanted.access, renewal)
    return Bundle(buffer) if source.isBundle else buffer


def _made(
    source: Source, wanted: BufferSpec, regions: Mapping[str, Region], options: BufferOptions
) -> Any:
    from muninn.session import loading

    threads = current().settings.memory.loadThreads

    def fill(*segments: Memory) -> None:
        for number, memory in enumerate(segments):
            offsets = {
                key: region.offset for key, region in regions.items() if region.segment == number
            }
            loading.load(memory, source, offsets, threads, options.progress)

    return creation.create(wanted._replace(isFilledInParts=True), fill=fill)


def _checkShareable(source: Source) -> None:
    """Raise an error that names the first array that can not be shared."""
    from muninn.formats.source import shown

    for key, entry in source.entries.items():
        try:
            asItems(entry.shape, entry.element)
        except MuninnError as error:
            raise type(error)(f"{source.path}: {shown(key)}: {error.reason}", error.fix) from None
