"""Handles: the 64 opaque bytes by which one process passes a buffer to another.

A handle names one incarnation of one row, states the rights and the tenant, and carries
a MAC under the domain's secret. Within one uid this keeps accidents apart, not
attackers: a process that may read the control block may read the secret. Handles are
checked, in this order: length, magic, version, MAC, and then the row.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from muninn.errors import HandleInvalid
from muninn.system.digests import digestOf, isSameMac
from muninn.terms import ACCESSES, Access

HANDLE_BYTES = 64
_MAGIC = b"MNNH"
_VERSION = 1
_BODY = struct.Struct("<4sBBxxIIQ16s")
_MAC_BYTES = HANDLE_BYTES - _BODY.size


class Capability(NamedTuple):
    """The content of a valid handle."""

    row: int
    incarnation: int
    access: Access
    sizeBytes: int
    tenantDigest: bytes


def tenantDigest(tenant: str) -> bytes:
    return digestOf(tenant.encode(), 16)


def issue(
    secret: bytes, row: int, incarnation: int, access: Access, sizeBytes: int, tenant: str
) -> bytes:
    """The handle of a buffer.

    Returns
    -------
    bytes
        `HANDLE_BYTES` long.
    """
    body = _BODY.pack(
        _MAGIC, _VERSION, ACCESSES.index(access), row, incarnation, sizeBytes, tenantDigest(tenant)
    )
    return body + _mac(secret, body)


def check(secret: bytes, handle: bytes) -> Capability:
    """Check the handle and return its content. Raises `HandleInvalid`."""
    if len(handle) != HANDLE_BYTES:
        raise HandleInvalid(f"a handle has {HANDLE_BYTES} bytes, not {len(handle)}")
    body, mac = handle[: _BODY.size], handle[_BODY.size :]
    magic, version, access, row, incarnation, sizeBytes, digest = _BODY.unpack(body)
    if magic != _MAGIC or version != _VERSION:
        raise HandleInvalid("these bytes are no handle of this version of Muninn")
    if not isSameMac(mac, _mac(secret, body), secret) or access >= len(ACCESSES):
        raise HandleInvalid("the handle was not issued in this domain, or was altered")
    return Capability(row, incarnation, ACCESSES[access], sizeBytes, digest)


def _mac(secret: bytes, body: bytes) -> bytes:
    return digestOf(body, _MAC_BYTES, secret)
