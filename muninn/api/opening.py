"""Finding what somebody shared: `open` by a name or a handle, and `free` by a name.

`open` looks the name up in what this process has open, then in the index of the control
block, and asks the broker last. The index is a hint: a stale entry leads to a row whose
state or name is another, which is seen after the lease was taken, and costs that look;
a name that is missing from the index costs one question to the broker. With a timeout,
`open` sleeps on the word of the name until the broker changes it (`session/names.py`).
"""

from __future__ import annotations

from ctypes import ArgumentError
from typing import Never

from muninn.api.buffer import MuninnBuffer
from muninn.api.handles import held
from muninn.arguments import checkKeywords, keywordsOf, named, secondsOf, unwrapped
from muninn.control import layout
from muninn.errors import (
    BufferMismatch,
    DomainChanged,
    HolderSilent,
    PermissionDenied,
)
from muninn.session.member import Membership
from muninn.session.membership import current
from muninn.session.names import LOOK, NameWait, absent
from muninn.session.openbuffer import OpenBuffer
from muninn.system import clock
from muninn.system.deadlines import deadlineOf
from muninn.terms import (
    AccessWord,
    RenewWord,
    asAccess,
    asName,
    asRenew,
    asTenant,
)


def open(
    name: str | bytes,
    access: AccessWord = "readOnly",
    timeout: float | None = None,
    *,
    tenant: str | None = None,
    renew: RenewWord = "auto",
    **unknown: Never,
) -> MuninnBuffer:
    """Open a buffer that somebody shared, by its name or by a handle.

    Parameters
    ----------
    name
        The name, or the 64 bytes of a handle.
    access
        ``"readOnly"``, or ``"readWrite"`` (``"readMostly"`` means the same here) where
        the buffer allows it.
    timeout
        Seconds to wait for the name to appear; None does not wait.
    tenant
        If given, the buffer must be this tenant's.
    renew
        ``"auto"`` or ``"onUse"``, as in `MuninnBuffer`.

    Raises
    ------
    BufferNotFound, PermissionDenied, HandleInvalid, DescriptorsExhausted, TableFull
    """
    if unknown:  # not by `named`, which would cost a tenth of it
        checkKeywords("open", unknown, keywordsOf(open))
    try:
        buffer = openAny(name, access, timeout, tenant=tenant, renew=renew)
    except ArgumentError as error:
        raise unwrapped(error) from None
    if buffer._held().description.kind == layout.ROW_KIND_BUNDLE:
        raise BufferMismatch(
            f"{buffer.name!r} is a bundle of arrays", "Open it by muninn.openBundle"
        )
    return buffer


def openAny(
    name: str | bytes,
    access: AccessWord = "readOnly",
    timeout: float | None = None,
    *,
    tenant: str | None = None,
    renew: RenewWord = "auto",
    caller: str = "open",
) -> MuninnBuffer:
    """`open`, also for the bytes of a bundle; a user called the function `caller`."""
    wanted, renewal = asAccess(access, caller), asRenew(renew, caller)
    if not isinstance(name, str) and isinstance(name, bytes | bytearray | memoryview):
        return MuninnBuffer._of(*held(bytes(name), None, wanted, tenant), renewal)
    openBuffer = _findAnywhere(
        asName(name), None if timeout is None else secondsOf(caller, timeout)
    )
    if tenant is not None and openBuffer.description.tenant != asTenant(tenant):
        raise PermissionDenied(f"{name!r} belongs to another tenant than {tenant!r}")
    return MuninnBuffer._of(openBuffer, wanted, renewal)


@named
def free(name: str) -> None:
    """Free a buffer by its name, without opening it: the name now, the memory when its
    last holder lets go.

    Raises
    ------
    BufferNotFound
    """
    membership = current()
    pair = _indexed(membership, asName(name).encode())
    if pair is None:
        found, _ = membership.client.request("find", name=name)
        if not found.get("live"):
            raise absent(membership.tables, name)
        pair = found["row"], found["incarnation"]
    membership.client.free(*pair)


def _findAnywhere(name: str, timeout: float | None) -> OpenBuffer:
    """`_find`, once more if the control block was removed meanwhile: this process is in
    another one then.
    """
    membership = current()
    try:
        return _find(membership, name, timeout)
    except DomainChanged:
        if not membership.isLost():
            raise
        return _find(current(), name, timeout)


def _find(membership: Membership, name: str, timeout: float | None) -> OpenBuffer:
    try:
        openBuffer = (
            membership.openBuffers.known(name)
            if timeout is not None
            else membership.openBuffers.find(name)
        )
    except HolderSilent:
        if timeout is None:
            raise
        openBuffer = None
    if openBuffer is None and timeout is not None:
        waiting, deadline = NameWait(membership.openBuffers, name), deadlineOf(timeout)
        while (openBuffer := _lookOut(waiting, deadline)) is None and waiting.sleep(deadline):
            pass
    if openBuffer is None:
        waited = "" if timeout is None else f" within {timeout} s"
        raise absent(membership.tables, name, waited, LOOK if waited else None)
    return openBuffer


def _lookOut(waiting: NameWait, deadline: float | None) -> OpenBuffer | None:
    """See `NameWait.look`. Memory that a process is still to bring is waited for too,
    while there is time.
    """
    while True:
        try:
            return waiting.look()
        except HolderSilent:  # after a second or so
            if deadline is not None and clock.now() >= deadline:
                raise


def _indexed(membership: Membership, encoded: bytes) -> tuple[int, int] | None:
    """(row, incarnation) of a live name that the index knows; None says little."""
    rows = membership.rows
    return next(
        (
            pair
            for pair in membership.index.candidates(encoded)
            if rows.isLive(*pair) and rows.nameIs(pair[0], encoded)
        ),
        None,
    )
