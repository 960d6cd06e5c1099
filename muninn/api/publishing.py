"""Publishing: a new version of a name, which becomes visible in one step.

`publish` makes the new version as `share` and `shareBundle` make a buffer, under a name
of its own, and the commit gives it the public name (`broker/succession.py`). Until then
`open` gives the version before, and from then on the new one; processes that have the
older one open keep it until they let go. If the name is free, the new version is the
first one.

1. The process takes the lock of the name (`sync/lock.py`), so that one process prepares
   a version at a time. If it dies, the next publisher takes the lock over.
2. It compares the kind and the tenant with the version that is there. The broker does
   so again at the commit.
3. It makes the new version. Where there is no room for both, it waits until its
   deadline, and tries again.

A death before the commit leaves the version before; a death after it leaves the new
one. An interruption leaves one of the two as well: a version that may have been
committed is never taken back, and this process holds it until the program has it, or
until it is replaced or freed (`session/unclaimed.py`). A stale look in step 2 costs a
copy that the commit then refuses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from muninn.api.buffer import MuninnBuffer
from muninn.api.bundle import Bundle, sharedBundle
from muninn.api.loading import loadedFile
from muninn.api.modules import sharedModule
from muninn.api.options import (
    BufferOptions,
    NamedKeywords,
    optionsOf,
    takesOptions,
    versionOf,
)
from muninn.api.sharing import shared
from muninn.arguments import timeoutOf
from muninn.broker.policy.heirs import requireHeir
from muninn.config.sizes import exactly
from muninn.control import layout
from muninn.control.descriptions import RowDescription
from muninn.errors import (
    BrokerUnavailable,
    BufferExists,
    DomainChanged,
    HostMemoryFull,
    QuotaExceeded,
)
from muninn.interop.tensors import isModule
from muninn.observe import events, spans
from muninn.observe.calls import named
from muninn.session.membership import current
from muninn.session.names import NameWatch
from muninn.sync.lock import OwnLock
from muninn.system.deadlines import deadlineOf, remaining
from muninn.terms import asName, asTenant

if TYPE_CHECKING:
    from muninn.session.member import Membership

#: A publisher that waits for room, or for another creator, looks at least so often.
_LOOK_NS = 50_000_000
#: How often it looks for the version that is there, when that one changes meanwhile.
_ATTEMPTS = 32
_Made = MuninnBuffer | Bundle
_Arguments = ParamSpec("_Arguments")
_Version = TypeVar("_Version", bound=_Made)


def _claimed(publisher: Callable[_Arguments, _Version]) -> Callable[_Arguments, _Version]:
    """Wrap `publisher`, so that the version which it returns is the program's, and this
    process does not hold it any more. Stands outermost.
    """

    @wraps(publisher)
    def call(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Version:
        made = publisher(*arguments, **keywords)
        openBuffer = (made.buffer if isinstance(made, Bundle) else made)._held()
        memories = openBuffer.context.unclaimed.memories
        version = openBuffer.row, openBuffer.incarnation
        if version in memories:
            # No signal handler runs between this step and the return.
            memories[version] = None
        return made

    return call


@overload
def publish(
    name: str,
    source: Mapping[str, Any],
    *,
    timeout: float | None = None,
    **options: Unpack[NamedKeywords],
) -> Bundle: ...
@overload
def publish(
    name: str,
    source: Any,
    *,
    timeout: float | None = None,
    **options: Unpack[NamedKeywords],
) -> MuninnBuffer: ...
@_claimed
@named
@takesOptions
def publish(
    name: str,
    source: Any,
    *,
    timeout: float | None = None,
    **options: Unpack[NamedKeywords],
) -> MuninnBuffer | Bundle:
    """Make a new version of a named buffer visible in one step.

    `open` gives the version before until this call has made the new one, and the new
    one from then on. Who has an older version open keeps it: every operation on it goes
    on, its memory is freed when the last of them lets go, and `isCurrent` of it is
    False. If the name does not exist, this call creates it.

    Parameters
    ----------
    name
        The name. It keeps its kind, an array or a bundle, and its tenant; all other
        options are the new version's own.
    source
        An array as in `share`, a mapping from key to array as in `shareBundle`, a module
        of PyTorch as in `muninn.torch.shareModule` (without `access` it is
        ``"readOnly"``), or the path of a file as in `load`.
        This call copies the bytes.
    timeout
        Seconds to wait for room for both versions, and for another process that
        publishes or creates the name. None waits as long as that process lives, and
        does not wait for room.
    **options
        As in `muninn.api.options.BufferOptions`.

    Returns
    -------
    MuninnBuffer or Bundle
        The new version.

    Raises
    ------
    BufferMismatch
        The name is an array's, and the source is a mapping, or the other way round.
    PermissionDenied
        The name is another tenant's.
    QuotaExceeded, HostMemoryFull
        There is no room for both versions.
    TimeoutError
        Another process was publishing or creating the name after `timeout` seconds.
    BrokerUnavailable
        This thread is creating the name, and was interrupted by this call.
    FileInvalid, InvalidDtype, InvalidArgument, TableFull, DomainDraining
    """
    given = optionsOf(publish, name=name, **options)
    version, bound = versionOf(given), timeoutOf("publish", timeout)
    make, kind = _makerOf(source)
    deadline = deadlineOf(bound)
    while True:
        membership = current()
        try:
            with OwnLock("publish", asName(name), deadline).held(remaining(deadline)):
                return _published(name, make, kind, version, deadline)
        except (DomainChanged, BrokerUnavailable):
            # With the lock of a lost control block this process could not join another
            # one. Now it can, and publishes there.
            if not membership.isLost():
                raise


def _makerOf(source: Any) -> tuple[Callable[[BufferOptions], _Made], int]:
    """The function that makes a buffer of the source, and the kind of the buffer."""
    if isinstance(source, (str, os.PathLike)):
        isArray = Path(source).suffix.lower() == ".npy"
        kind = layout.ROW_KIND_ARRAY if isArray else layout.ROW_KIND_BUNDLE
        return lambda options: loadedFile("publish", source, options), kind
    if isModule(source):
        return lambda options: sharedModule("publish", source, options), layout.ROW_KIND_BUNDLE
    if callable(getattr(source, "items", None)):
        return lambda options: sharedBundle("publish", source, options), layout.ROW_KIND_BUNDLE
    return lambda options: shared("publish", source, True, options), layout.ROW_KIND_ARRAY


@spans.spanned("publication", lambda name, *_: {"bufferId": name})
def _published(
    name: str,
    make: Callable[[BufferOptions], _Made],
    kind: int,
    options: BufferOptions,
    deadline: float | None,
) -> _Made:
    """The new version. The caller has the lock of the name."""
    while True:
        membership = current()
        membership.openBuffers.creating.refuseOwn(name)
        watch = NameWatch(membership.tables, name)
        watch.see()
        there, isBeingCreated = _requireHeir(membership, name, kind, options)
        if isBeingCreated:
            # Another process creates the name and has not filled it yet.
            if not watch.sleep(deadline, _LOOK_NS):
                raise TimeoutError(f"another process was still creating {name!r}")
            continue
        try:
            made = make(options)
            buffer = made.buffer if isinstance(made, Bundle) else made
            fields = {"tenant": buffer.tenant, "bytes": buffer.nbytes}
            spans.describe(fields)
            events.say("publication", bufferId=name, **fields)
            return made
        except (QuotaExceeded, HostMemoryFull) as error:
            if deadline is None or not watch.sleep(deadline, _LOOK_NS):
                raise _forBoth(error, name, there) from None
        except BufferExists:
            # Another process began to create the name after the look. The refusal itself
            # has changed the word.
            watch.see()
            if not watch.sleep(deadline, _LOOK_NS):
                raise


def _forBoth(
    error: QuotaExceeded | HostMemoryFull, name: str, there: RowDescription | None
) -> QuotaExceeded | HostMemoryFull:
    """The error of a version that finds no room, with the bytes of the version that is
    there.
    """
    if there is None:
        return error
    return type(error)(
        f"{error.reason}; the version of {name!r} that is there has "
        f"{exactly(there.segmentBytes)}, and stays until its last holder lets go",
        f"{error.fix}; or give a timeout, which waits for room",
    )


def _requireHeir(
    membership: Membership, name: str, kind: int, options: BufferOptions
) -> tuple[RowDescription | None, bool]:
    """(the description of the version that is there; whether a process is creating
    one). Raises if the new one may not take its name.
    """
    there, isBeingCreated = _there(membership, name)
    if there is not None:
        usual = membership.settings.tenancy.defaultTenant
        requireHeir(there, kind, usual if options.tenant is None else asTenant(options.tenant))
    return there, isBeingCreated


def _there(membership: Membership, name: str) -> tuple[RowDescription | None, bool]:
    """(the description of the version that is there; whether a process is creating it).

    This process has no lease on it, so the state of the row is read after the
    description.
    """
    rows = membership.rows
    for _ in range(_ATTEMPTS):
        pair, isBeingCreated = membership.client.find(name)
        if pair is None:
            return None, isBeingCreated
        description = rows.packed(pair[0])
        if rows.mayBeFreed(*pair):
            return RowDescription.unpacked(description), False
        # It was freed since the answer, or a newer version has the name.
    return None, False
