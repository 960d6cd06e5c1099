"""Handles: 64 bytes that are valid only in the domain that issued them, and unaltered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muninn.errors import HandleInvalid
from muninn.terms import ACCESSES, Access
from muninn.wire import handles

_SECRET = bytes(range(32))


@given(
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 24) - 1),
    st.sampled_from(ACCESSES),
    st.integers(0, (1 << 64) - 1),
    st.text(),
)
def test_saysWhatWasIssued(
    row: int, incarnation: int, access: Access, sizeBytes: int, tenant: str
) -> None:
    handle = handles.issue(_SECRET, row, incarnation, access, sizeBytes, tenant)
    assert len(handle) == handles.HANDLE_BYTES
    assert handles.check(_SECRET, handle) == (
        row,
        incarnation,
        access,
        sizeBytes,
        handles.tenantDigest(tenant),
    )


@given(st.integers(0, 64 * 8 - 1))
def test_refusesAnyFlippedBit(bit: int) -> None:
    handle = bytearray(handles.issue(_SECRET, 1, 2, Access.READ_WRITE, 3, "a"))
    handle[bit // 8] ^= 1 << bit % 8
    with pytest.raises(HandleInvalid):
        handles.check(_SECRET, bytes(handle))


@given(st.binary(max_size=80))
def test_refusesGarbage(raw: bytes) -> None:
    with pytest.raises(HandleInvalid):
        handles.check(_SECRET, raw)


def test_refusesTheHandleOfAnotherDomain() -> None:
    handle = handles.issue(_SECRET, 1, 2, Access.READ_ONLY, 3, "a")
    with pytest.raises(HandleInvalid):
        handles.check(bytes(32), handle)


@pytest.mark.parametrize("head", [(b"MNNX", 1, 0), (b"MNNH", 2, 0), (b"MNNH", 1, len(ACCESSES))])
def test_refusesWhatAnotherVersionSigned(head: tuple[bytes, int, int]) -> None:
    """The MAC is right. Broken: only the MAC was checked, and the fields were read as
    this version writes them.
    """
    body = handles._BODY.pack(*head, 1, 2, 3, bytes(16))
    with pytest.raises(HandleInvalid):
        handles.check(_SECRET, body + handles._mac(_SECRET, body))
