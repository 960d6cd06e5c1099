"""The specification of a buffer that a process wants to create, as plain values.

`api` checks the options of a user and builds a `BufferSpec`; `session/creation.py`
creates the buffer. Only the creating process has the specification: the row of the new
buffer states the same for all others.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from muninn.control import layout
from muninn.control.descriptions import Head, RowDescription
from muninn.control.hints import NO_HINTS, Hints
from muninn.system.pages import pagesUp
from muninn.terms import INTERNAL_PREFIX, Access, Lifetime, Mode, Reserve


class LentMemory(NamedTuple):
    """Device memory that is shared where it lies, and the object that keeps it
    allocated.
    """

    address: int
    keepAlive: Any


class BufferSpec(NamedTuple):
    """A buffer as its creator wants it, with every option checked. Nothing of it exists
    yet.
    """

    name: str
    tenant: str
    mode: Mode
    access: Access
    lifetime: Lifetime
    kind: int
    gpu: int
    shape: tuple[int, ...]
    #: As it stands in the row: the text of an element type, or ``|V`` and the size of
    #: the data that `manifest` describes.
    dtype: str
    sizeBytes: int
    manifest: bytes
    reserve: Reserve
    deadlineMs: int
    numaNode: int | None
    #: Device memory that is shared where it lies.
    lent: LentMemory | None = None
    #: The name of the grant, if another buffer may have this one's name until the
    #: commit takes it; "" for a buffer whose name must be free.
    grantedAs: str = ""
    #: Whether the `fill` function allocates each page of the data before it writes there.
    isFilledInParts: bool = False
    #: Whether the `fill` function writes each byte of the data, so that VRAM need not be
    #: cleared before.
    isOverwritten: bool = False
    #: The further segments of a bundle that is on several GPUs.
    parts: tuple[BufferSpec, ...] = ()
    #: The bundle of which this is a part.
    head: Head | None = None
    #: How it will be used.
    hints: Hints = NO_HINTS
    #: Of a window: whether its creator asks again if there is no room now.
    isWaiting: bool = False

    @property
    def metaOffset(self) -> int:
        return pagesUp(max(1, self.sizeBytes)) if self.manifest else 0

    @property
    def segmentBytes(self) -> int:
        if self.lent is not None:
            return self.sizeBytes
        if self.kind == layout.ROW_KIND_LOCK:
            return 0
        # An array without elements has a page too, which is mapped and leased as any
        # other memory.
        return pagesUp(max(1, self.sizeBytes)) + pagesUp(len(self.manifest))


def fieldsOf(described: BufferSpec | RowDescription) -> dict[str, Any]:
    """What a line and a span say of a buffer. Names of Muninn's own say nothing."""
    isOwn = described.name.startswith(INTERNAL_PREFIX)
    return {
        "bufferId": None if isOwn else described.name,
        "tenant": described.tenant,
        "gpu": described.gpu if described.mode is Mode.FAST else None,
        "bytes": described.sizeBytes,
        "mode": described.mode.value,
    }


def versionSpec(wanted: BufferSpec) -> BufferSpec:
    """The spec of a new version of a name: its row is granted under a name that no
    other row has, and that no user can choose.
    """
    return wanted._replace(grantedAs=f"{INTERNAL_PREFIX * 2}next:{os.urandom(8).hex()}")


def partSpec(wanted: BufferSpec, gpu: int, sizeBytes: int) -> BufferSpec:
    """The spec of a further segment of a bundle, on a GPU of its own. It has a name that
    no user can choose, and ends with the bundle.
    """
    return wanted._replace(
        name=f"{INTERNAL_PREFIX * 2}part:{os.urandom(8).hex()}",
        lifetime=Lifetime.KEEP,
        kind=layout.ROW_KIND_PART,
        gpu=gpu,
        shape=(sizeBytes,),
        sizeBytes=sizeBytes,
        manifest=b"",
        deadlineMs=0,
        grantedAs="",
        parts=(),
        hints=NO_HINTS,
    )


def windowSpec(wanted: BufferSpec, name: str) -> BufferSpec:
    """The spec of the scratch memory of a promoted window: it ends with its last user."""
    return wanted._replace(
        name=name,
        kind=layout.ROW_KIND_WINDOW,
        lifetime=Lifetime.LAST_CLOSE,
        isOverwritten=True,
    )


def lockSpec(name: str) -> BufferSpec:
    """The spec of a row without memory, for `muninn.Lock`."""
    return BufferSpec(
        INTERNAL_PREFIX + name,
        "internal",
        Mode.BIG,
        Access.READ_WRITE,
        Lifetime.LAST_CLOSE,
        layout.ROW_KIND_LOCK,
        -1,
        (),
        "|u1",
        0,
        b"",
        Reserve.LAZY,
        0,
        None,
    )
