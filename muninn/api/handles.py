"""Handles: opening a buffer by the 64 bytes that name it, with at most the rights in
them.

A handle is a capability (`wire/handles.py`): a process made it with the secret of a
control block, for one buffer, one tenant and stated rights. A process that opens it
checks the bytes with the same secret, then takes a lease on the row, and then compares
the size and the tenant in the handle with the row. A stale handle costs this look: its
incarnation is not the row's any more.
"""

from __future__ import annotations

from muninn.errors import BufferNotFound, HandleInvalid, PermissionDenied
from muninn.session.lateimports import load
from muninn.session.membership import current
from muninn.session.openbuffer import OpenBuffer
from muninn.terms import Access, asTenant

#: Rights that change no shared bytes.
_READING = (Access.READ_ONLY, Access.COPY_ON_WRITE)


def held(
    handle: bytes, name: str | None = None, access: Access | None = None, tenant: str | None = None
) -> tuple[OpenBuffer, Access]:
    """The open buffer that a handle names, and the rights that it gives. `name` only
    makes the error clearer.

    Raises
    ------
    HandleInvalid, BufferNotFound, PermissionDenied
    """
    membership, capabilities = current(), load().handles
    capability = capabilities.check(membership.block.secret, handle)
    inRange = capability.row < membership.rows.count()
    openBuffer = (
        membership.openBuffers.hold(capability.row, capability.incarnation) if inRange else None
    )
    if openBuffer is None:
        ended = (
            "has a newer version"
            if inRange and membership.rows.isReplaced(capability.row, capability.incarnation)
            else "was freed"
        )
        raise BufferNotFound(
            f"the buffer {name!r} of this handle {ended}"
            if name
            else f"the buffer of this handle {ended}"
        )
    description = openBuffer.description
    if (
        capability.tenantDigest != capabilities.tenantDigest(description.tenant)
        or capability.sizeBytes != description.sizeBytes
    ):
        raise HandleInvalid(f"the handle does not match the buffer {description.name!r}")
    if tenant is not None and asTenant(tenant) != description.tenant:
        raise PermissionDenied(f"the handle is for tenant {description.tenant!r}, not {tenant!r}")
    granted = capability.access
    if access not in (None, *_READING) and granted is Access.READ_ONLY:
        raise PermissionDenied(
            f"the handle of {description.name!r} allows reading only",
            "Take the handle of an object that is open for writing",
        )
    return openBuffer, granted if access is None else access
