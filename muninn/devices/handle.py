"""The handle of device memory: at most 128 bytes from its exporter for its importers.

It names the driver and the GPU that made the memory, so that a mismatch is an error
with both names in it and not a fault of a kernel, and it states the size. It comes
through shared memory and is hostile until `unpacked` has checked it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from muninn.errors import IpcHandleMismatch

#: The reason for the transport of a memory, by its number in the handle: a word for
#: programs, and a sentence for people.
REASONS = (
    "",
    "descriptorExport: the GPU exports memory as a descriptor, so it outlives its owner",
    "noDescriptorExport: the GPU exports no descriptors, so the memory is its owner's",
    "lentInPlace: another library allocated it, and it is shared where it lies",
)
DESCRIPTOR_EXPORT, NO_DESCRIPTOR_EXPORT, LENT_IN_PLACE = 1, 2, 3
#: The length of the driver's handles (`cuIpcGetMemHandle`).
IPC_BYTES = 64
_LAYOUT = struct.Struct(f"<4sI16sIIQQ{IPC_BYTES}s")
_KINDS = {b"MNv1": "vmm", b"MNi1": "cudaIpc"}
_MAGICS = {kind: magic for magic, kind in _KINDS.items()}
assert _LAYOUT.size <= 128


class Handle(NamedTuple):
    """A handle, unpacked.

    Attributes
    ----------
    transport
        `vmm` or `cudaIpc`.
    driverVersion, gpuUuid, ownerPid
        The exporter's driver, GPU and process.
    reason
        Index into `REASONS`.
    offset, sizeBytes
        Where the memory begins in the allocation that `ipc` names, and its size.
    ipc
        The driver's own handle; zeros for `vmm`.
    """

    transport: str
    driverVersion: int
    gpuUuid: bytes
    ownerPid: int
    reason: int
    offset: int
    sizeBytes: int
    ipc: bytes = bytes(IPC_BYTES)

    def packed(self) -> bytes:
        return _LAYOUT.pack(
            _MAGICS[self.transport],
            self.driverVersion,
            self.gpuUuid,
            self.ownerPid,
            self.reason,
            self.offset,
            self.sizeBytes,
            self.ipc,
        )


def unpacked(raw: bytes, driverVersion: int) -> Handle:
    """The handle in `raw`, which may be padded with zeros. Raises `IpcHandleMismatch`
    when it is damaged, or was made by a driver of another version.
    """
    if len(raw) < _LAYOUT.size or raw[:4] not in _KINDS or any(raw[_LAYOUT.size :]):
        raise IpcHandleMismatch(
            "the handle is none of the CUDA back-end",
            "Use the same back-end in all processes (MUNINN_DEVICE)",
        )
    magic, version, gpuUuid, ownerPid, reason, offset, sizeBytes, ipc = _LAYOUT.unpack(
        raw[: _LAYOUT.size]
    )
    if not 0 < reason < len(REASONS) or not 0 < sizeBytes < 1 << 47 or offset >= 1 << 47:
        raise IpcHandleMismatch("the handle is damaged")
    if version != driverVersion:
        raise IpcHandleMismatch(
            f"it was exported by CUDA driver {_dotted(version)}, and this process has "
            f"{_dotted(driverVersion)}"
        )
    return Handle(_KINDS[magic], version, gpuUuid, ownerPid, reason, offset, sizeBytes, ipc)


def reasonIn(raw: bytes) -> str:
    """The reason for the transport of the memory behind a handle, for people; empty
    when `raw` is no handle.
    """
    try:
        version = _LAYOUT.unpack(raw[: _LAYOUT.size])[1]
        return REASONS[unpacked(raw, version).reason]
    except (struct.error, IpcHandleMismatch):
        return ""


def gpuText(gpuUuid: bytes) -> str:
    """A GPU's UUID as `nvidia-smi -L` writes it."""
    import uuid  # `import muninn` does without it, and each process with a GPU has it

    return f"GPU-{uuid.UUID(bytes=gpuUuid)}"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
