"""The description of a buffer in its row: its properties, and its part of the domain's
limits.

The creator writes it while the row is CREATING, and the CAS to LIVE publishes it. No
process changes it until the row is FREE again. A reader copies it, and checks the copy
before it uses it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from muninn.control import layout
from muninn.errors import ControlBlockInvalid
from muninn.terms import ACCESSES, LIFETIMES, MODES, TRANSPORTS, Access, Lifetime, Mode

_DESCRIPTION = struct.Struct(
    f"<QQQQQIBBBBhBBBBBB{layout.MAX_NDIM}Q{layout.MAX_DTYPE_BYTES}s{layout.MAX_TENANT_BYTES}s{layout.MAX_NAME_BYTES}sQQ"
)
#: Positions in an unpacked description.
_MODE, _KIND, _GPU, _TENANT_LENGTH, _TENANT = 6, 9, 10, 14, 26
DESCRIPTION_OFFSET = layout.ROW_SIZE_OFFSET
assert DESCRIPTION_OFFSET + _DESCRIPTION.size == layout.ROW_HEAD_OFFSET + 8

#: Bytes of a description.
DESCRIPTION_BYTES = _DESCRIPTION.size


class Head(NamedTuple):
    """The row of the bundle of which a row is a part, and which part it is, from 1 on."""

    row: int
    incarnation: int
    number: int

    def packed(self) -> int:
        return int(
            layout.HEAD_ROW.put(self.row + 1)
            | layout.HEAD_NUMBER.put(self.number)
            | layout.HEAD_INCARNATION.put(self.incarnation)
        )

    @staticmethod
    def unpacked(word: int) -> Head | None:
        """None if the row is no part."""
        row = layout.HEAD_ROW.of(word) - 1
        return (
            Head(row, layout.HEAD_INCARNATION.of(word), layout.HEAD_NUMBER.of(word))
            if row >= 0
            else None
        )


class RowDescription(NamedTuple):
    """The description of a buffer. Sizes are in bytes, times in monotonic milliseconds."""

    sizeBytes: int
    segmentBytes: int
    createdMs: int
    deadlineMs: int
    metaOffset: int
    metaBytes: int
    mode: Mode
    access: Access
    lifetime: Lifetime
    kind: int
    gpu: int
    flags: int
    transport: str
    shape: tuple[int, ...]
    dtype: str
    tenant: str
    name: str
    #: The identity in the segment's name if another block made the segment; 0: this
    #: block did.
    origin: int = 0
    #: The bundle of which this is a part.
    head: Head | None = None

    def packed(self) -> bytes:
        name, tenant, dtype = self.name.encode(), self.tenant.encode(), self.dtype.encode()
        shape = (*self.shape, *(0,) * (layout.MAX_NDIM - len(self.shape)))
        words = (
            MODES.index(self.mode),
            ACCESSES.index(self.access),
            LIFETIMES.index(self.lifetime),
            self.kind,
            self.gpu,
            len(self.shape),
            self.flags,
        )
        lengths = (len(name), len(tenant), len(dtype), TRANSPORTS.index(self.transport))
        return _DESCRIPTION.pack(
            *self[:6],
            *words,
            *lengths,
            *shape,
            dtype,
            tenant,
            name,
            self.origin,
            0 if self.head is None else self.head.packed(),
        )

    @staticmethod
    def unpacked(raw: bytes) -> RowDescription:
        """The description in `raw`, a private copy. Raises `ControlBlockInvalid` if it
        is out of range.
        """
        if len(raw) != _DESCRIPTION.size:
            raise ControlBlockInvalid(
                f"a row's description has {len(raw)} bytes, and not {_DESCRIPTION.size}"
            )
        (
            sizeBytes,
            segmentBytes,
            createdMs,
            deadlineMs,
            metaOffset,
            metaBytes,
            mode,
            access,
            lifetime,
            kind,
            gpu,
            ndim,
            flags,
            nameLength,
            tenantLength,
            dtypeLength,
            transport,
            *shape,
            dtype,
            tenant,
            name,
            origin,
            head,
        ) = _DESCRIPTION.unpack(raw)
        try:
            description = RowDescription(
                sizeBytes,
                segmentBytes,
                createdMs,
                deadlineMs,
                metaOffset,
                metaBytes,
                MODES[mode],
                ACCESSES[access],
                LIFETIMES[lifetime],
                kind,
                gpu,
                flags,
                TRANSPORTS[transport],
                tuple(shape[:ndim]),
                dtype[:dtypeLength].decode("ascii"),
                tenant[:tenantLength].decode(),
                name[:nameLength].decode(),
                origin,
                Head.unpacked(head),
            )
        except (IndexError, UnicodeDecodeError) as error:
            isText = isinstance(error, UnicodeDecodeError)
            what = "bytes that are no text" if isText else "a number that means nothing"
            raise ControlBlockInvalid(f"a row's description has {what}") from error
        inRange = (
            0 <= sizeBytes <= segmentBytes <= 1 << 62 and metaOffset + metaBytes <= segmentBytes
        )
        if ndim > layout.MAX_NDIM or not inRange:
            raise ControlBlockInvalid(f"the row of {description.name!r} states impossible sizes")
        return description


class Taken(NamedTuple):
    """The part of the domain's limits that a row takes."""

    mode: Mode
    tenant: str
    gpu: int
    sizeBytes: int
    deadlineMs: int
    #: Whether it is the scratch memory of a promoted window.
    isWindow: bool = False

    @staticmethod
    def unpacked(raw: bytes) -> Taken:
        """Take the values from the description in `raw`. Only the values that
        `RowReader.sums` has checked are valid.
        """
        values = _DESCRIPTION.unpack(raw)
        tenant = bytes(values[_TENANT][: values[_TENANT_LENGTH]]).decode(errors="replace")
        isWindow = values[_KIND] == layout.ROW_KIND_WINDOW
        return Taken(MODES[values[_MODE]], tenant, values[_GPU], values[1], values[3], isWindow)
