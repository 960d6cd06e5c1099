"""Finding shared buffers: `open` by a name or a handle, and `free` by a name.

*Open.* The process looks the name up among its open buffers, then in the index of the
control block. From the index it gets a row. It takes a lease on the row first, and then
reads the row's state and name. If the row is live and has the name, the lease holds and
the process maps the memory. Otherwise it gives the lease back. If the index has no such
name, it asks the broker. With a timeout, it then sleeps on the word of the name until
the broker changes that (`session/names.py`), and looks again.

*Free.* The process finds the row in the same way, without a lease, and asks the broker
to free that incarnation of it. The name is free at once; the memory when the last lease
on it is gone.

The index is only a hint. A stale entry costs one look at a row with another state, name
or incarnation; an entry that is missing costs one question to the broker.
"""

from __future__ import annotations

from ctypes import ArgumentError
from typing import TYPE_CHECKING, Never

from muninn.api.buffer import MuninnBuffer
from muninn.api.copying import OpenRouteWord, openedFor
from muninn.api.handles import held
from muninn.arguments import checkKeywords, keywordsOf, secondsOf, unwrapped
from muninn.control import layout
from muninn.errors import (
    BufferMismatch,
    DomainChanged,
    HolderSilent,
    InvalidArgument,
    MuninnError,
    PermissionDenied,
)
from muninn.observe import spans
from muninn.observe.calls import countError, named
from muninn.observe.counters import OPENS, Latency
from muninn.session.membership import current
from muninn.session.names import LOOK, NameWait, absent
from muninn.session.spec import fieldsOf
from muninn.system import atomics, clock
from muninn.system.deadlines import deadlineOf, shown
from muninn.terms import Mode, OpenAccessWord, RenewWord, asName, asOpenAccess, asRenew, asTenant

if TYPE_CHECKING:
    from muninn.session.member import Membership
    from muninn.session.openbuffer import OpenBuffer


#: Opens that took a lease. To time the others would take longer than they do.
_LATENCY = {mode: Latency("opens", f"openLatency/{mode.value}") for mode in Mode}


def open(
    name: str | bytes,
    access: OpenAccessWord = "readOnly",
    timeout: float | None = None,
    *,
    tenant: str | None = None,
    renew: RenewWord = "auto",
    targetGpu: int | None = None,
    route: OpenRouteWord | None = None,
    **unknown: Never,
) -> MuninnBuffer:
    """Open a shared buffer, by its name or by a handle.

    Parameters
    ----------
    name
        The name, or the 64 bytes of a handle.
    access
        ``"readOnly"``; ``"readWrite"`` (``"readMostly"`` means the same here) where the
        buffer allows it; or ``"copyOnWrite"``: the arrays of this object may be
        written, and what is written goes to pages of this object alone. Another open
        and other processes never see it, and ``write()`` publishes none of it. A page
        (4 KiB) that was never written shows what others write to the shared bytes
        later; a page that was written does not any more. Host memory only.
    timeout
        Seconds to wait until the name is there; None does not wait. A copy to
        `targetGpu` takes as long as it takes.
    tenant
        If given, the buffer must be this tenant's.
    renew
        ``"auto"`` or ``"onUse"``, as in `MuninnBuffer`.
    targetGpu
        Open it for kernels of this GPU. If its bytes are elsewhere, the buffer that is
        returned is a copy of one generation in this GPU's VRAM, which goes with its
        last user; `MuninnBuffer.copyTo` has the rest.
    route
        How the bytes get to `targetGpu` if they are elsewhere: ``"p2p"`` or
        ``"staged"`` demands this way from another GPU, as for `MuninnBuffer.copyTo`,
        and ``"mapped"`` copies nothing: kernels of `targetGpu` read and write the
        buffer where it is.

    Raises
    ------
    BufferNotFound, PermissionDenied, HandleInvalid, DescriptorsExhausted, TableFull
    InvalidArgument
        The buffer is fastMode, which can not be opened copyOnWrite.
    TopologyNotPeerable
        `route` is demanded, and can not be: the reason is in the text.
    """
    if unknown:  # not by `named`, which would make each call a tenth slower
        checkKeywords("open", unknown, keywordsOf(open))
    try:
        buffer = openAny(name, access, timeout, tenant=tenant, renew=renew)
    except MuninnError as error:
        countError(error)
        raise
    except ArgumentError as error:
        raise unwrapped(error) from None
    if buffer._held().description.kind == layout.ROW_KIND_BUNDLE:
        raise BufferMismatch(
            f"{buffer.name!r} is a bundle of arrays", "Open it by muninn.openBundle"
        )
    if targetGpu is None:
        if route is not None:
            raise InvalidArgument(
                f"open: route {route!r} is the way to a GPU, and none is named", "Pass targetGpu"
            )
        return buffer
    try:
        there = openedFor(buffer, "open", targetGpu, route)
    except BaseException:
        buffer.close()
        raise
    if there is not buffer:
        buffer.close()
    return there


def openAny(
    name: str | bytes,
    access: OpenAccessWord = "readOnly",
    timeout: float | None = None,
    *,
    tenant: str | None = None,
    renew: RenewWord = "auto",
    caller: str = "open",
) -> MuninnBuffer:
    """`open`, also for a bundle as bytes. The user called the function `caller`."""
    wanted, renewal = asOpenAccess(access, caller), asRenew(renew, caller)
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
    last holder closes it.

    Raises
    ------
    BufferNotFound
    """
    membership = current()
    pair = _indexed(membership, asName(name).encode())
    if pair is None:
        pair = membership.located(name)
    membership.client.free(*pair)


def _findAnywhere(name: str, timeout: float | None) -> OpenBuffer:
    """`_find`, again if the control block was removed meanwhile, or another thread has
    left the domain: then this process joins anew.
    """
    membership = current()
    if (openBuffer := membership.openBuffers.openedAgain(name)) is not None:
        return openBuffer
    begunNs = atomics.monotonicNs()
    try:
        with spans.span("open", bufferId=name) as span:
            openBuffer = _find(membership, name, timeout)
            if spans.isOn():
                span.describe(fieldsOf(openBuffer.description))
    except DomainChanged:
        if not membership.isStale():
            raise
        openBuffer = _find(current(), name, timeout)
    if timeout is None:
        _LATENCY[openBuffer.description.mode].ended(begunNs)
    else:  # a wait for the name says nothing about the open
        OPENS.add()
    return openBuffer


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
    waited = ""
    if openBuffer is None and timeout is not None:
        waiting, deadline = NameWait(membership.openBuffers, name), deadlineOf(timeout)
        while (openBuffer := _lookOut(waiting, deadline)) is None and waiting.sleep(deadline):
            pass
        comes = ", although a process is creating it" if waiting.isComing else ""
        waited = f" within {shown(timeout)}{comes}"
    if openBuffer is None:
        raise absent(membership.tables, name, waited, LOOK if waited else None)
    return openBuffer


def _lookOut(waiting: NameWait, deadline: float | None) -> OpenBuffer | None:
    """`NameWait.look`. Within the deadline it also waits for a process that has not yet
    brought its memory to a new broker.
    """
    while True:
        try:
            return waiting.look()
        except HolderSilent:  # after a second or so
            if deadline is not None and clock.now() >= deadline:
                raise


def _indexed(membership: Membership, encoded: bytes) -> tuple[int, int] | None:
    """(row, incarnation) of a live name, by the index. None does not mean that there is
    no such name.
    """
    rows = membership.rows
    return next(
        (
            pair
            for pair in membership.index.candidates(encoded)
            if rows.isLive(*pair) and rows.nameIs(pair[0], encoded)
        ),
        None,
    )
