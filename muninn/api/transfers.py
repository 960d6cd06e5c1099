"""The work of a copy between two places: the accesses, the way, and the new buffer.

The accesses are entered in the order of the buffers' rows. Otherwise two processes that
copy between two buffers in both directions could wait for each other. The engine is
imported at the first copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from muninn.api.attachment import Attachment
from muninn.api.options import BufferOptions
from muninn.api.specs import specOf
from muninn.arguments import requireCallable, timeoutOf
from muninn.control import layout
from muninn.errors import BufferMismatch, InvalidArgument, PermissionDenied
from muninn.interop.dtypes import elementOf
from muninn.session import creation
from muninn.session.gpus import deviceOf
from muninn.sync.access import Receiving, Sending
from muninn.system import threads
from muninn.system.threads import refuseImports
from muninn.terms import Mode
from muninn.transfer.handle import Transfer
from muninn.transfer.routes import Route
from muninn.transfer.tiers import Place, Tier, Window

if TYPE_CHECKING:
    from muninn.devices.port import Allocation
    from muninn.session.mappings import Memory
    from muninn.session.openbuffer import OpenBuffer
    from muninn.transfer.engine import Engine

#: How often a transfer that waits for an access looks whether it is to stop.
_LOOK_SECONDS = 0.2
Progress = Callable[[int], object]
Result = TypeVar("Result")
Buffer = TypeVar("Buffer", bound=Attachment)


class Copy(NamedTuple, Generic[Result]):
    """A transfer, and the function that makes its result."""

    transfer: Transfer[Result]
    openBuffer: OpenBuffer
    work: Callable[[], Result]

    def run(self) -> Result:
        _engineOf(self.openBuffer).run(self.transfer, self.work)
        return self.transfer.result(0)

    def start(self) -> Transfer[Result]:
        engine, transfer, work = _engineOf(self.openBuffer), self.transfer, self.work
        threads.start(lambda: engine.run(transfer, work), "muninn-transfer")
        return transfer


def copyTo(
    buffer: Buffer,
    caller: str,
    gpu: int,
    name: str | None,
    access: str | None,
    asked: Route | None,
    timeout: float | None,
    progress: Progress | None,
) -> Copy[Buffer]:
    openBuffer = buffer._checked()
    description = openBuffer.description
    if description.kind != layout.ROW_KIND_ARRAY:
        raise InvalidArgument(
            f"{description.name!r} is a bundle of arrays, which can not be copied as one array",
            "Publish its arrays anew, with preferredGpu",
        )
    device = deviceOf(openBuffer.context)
    options = BufferOptions(
        name=name,
        mode=Mode.FAST.value,
        preferredGpu=device.requireGpu(gpu),
        access=description.access.value if access is None else access,  # type: ignore[arg-type]
        tenant=description.tenant,
    )
    wanted = specOf(caller, description.shape, elementOf(openBuffer), options)
    wanted = wanted._replace(isOverwritten=True)
    target = Place(Tier.VRAM, wanted.gpu)
    transfer = _transferOf(caller, openBuffer, target, timeout, progress)

    def work() -> Buffer:
        def fill(memory: Memory) -> None:
            source = _windowOf(openBuffer)
            engine = _engineOf(openBuffer)
            with (
                engine.way(transfer, source, target, asked) as way,
                _entered(lambda seconds: Sending(openBuffer, seconds), transfer),
            ):
                engine.send(transfer, way, source, memory.address)

        made = creation.create(wanted, fill=fill)
        copied = type(buffer)._of(made, wanted.access)
        copied._transfer = transfer
        return copied

    return Copy(transfer, openBuffer, work)


def copyFrom(
    buffer: Attachment,
    caller: str,
    source: Attachment,
    asked: Route | None,
    timeout: float | None,
    progress: Progress | None,
) -> Copy[int]:
    if not isinstance(source, Attachment):
        raise TypeError(f"{caller}: the source must be a buffer, not {type(source).__name__}")
    into, out = buffer._checked(), source._checked()
    _requireAlike(buffer, source, into, out)
    target = _placeOf(into)
    transfer = _transferOf(caller, out, target, timeout, progress)

    def work() -> int:
        engine = _engineOf(into)
        sent, received = _windowOf(out), _windowOf(into)
        with (
            engine.way(transfer, sent, target, asked) as way,
            contextlib.ExitStack() as accesses,
        ):
            entries: list[tuple[int, Callable[[float], Any]]] = [
                (out.row, lambda seconds: Sending(out, seconds)),
                (into.row, lambda seconds: Receiving(into, seconds)),
            ]
            for _, make in sorted(entries, key=lambda entry: entry[0]):
                accesses.enter_context(_entered(make, transfer))
            engine.send(transfer, way, sent, received.address)
        return buffer.generation

    return Copy(transfer, into, work)


def _requireAlike(
    buffer: Attachment, source: Attachment, into: OpenBuffer, out: OpenBuffer
) -> None:
    if not buffer.writable or buffer._isPrivate:
        raise PermissionDenied(
            f"{buffer.name!r} is open for reading, or copyOnWrite",
            'Open it with access="readWrite"',
        )
    if source._isPrivate:
        raise InvalidArgument(
            f"{source.name!r} is open copyOnWrite, and a copy would be of what is shared",
            "Write its array into the view of write()",
        )
    if into.tables is not out.tables or (into.row, into.incarnation) == (out.row, out.incarnation):
        raise InvalidArgument(
            f"{buffer.name!r} can not be copied from itself, or from another domain",
            "Pass another buffer of this domain",
        )
    mine, theirs = (
        (each.description.shape, str(elementOf(each)), each.description.kind)
        for each in (into, out)
    )
    if mine != theirs:
        raise BufferMismatch(
            f"{buffer.name!r} has shape {mine[0]} and dtype {mine[1]}, and {source.name!r} shape "
            f"{theirs[0]} and dtype {theirs[1]}",
            "Copy between buffers of one shape and dtype",
        )


def _transferOf(
    caller: str,
    source: OpenBuffer,
    target: Place,
    timeout: float | None,
    progress: Progress | None,
) -> Transfer[Any]:
    if progress is not None:
        requireCallable(f"{caller}: progress", progress)
    return Transfer(
        _placeOf(source),
        target,
        source.description.sizeBytes,
        timeoutOf(caller, timeout),
        progress,
    )


def _engineOf(openBuffer: OpenBuffer) -> Engine:
    # Most processes copy nothing, and the engine and what it needs take a while.
    refuseImports("this process has copied nothing between GPUs yet")
    from muninn.transfer.engines import engineOf

    return engineOf(openBuffer.context)


def _placeOf(openBuffer: OpenBuffer) -> Place:
    gpu = openBuffer.memory.gpu
    return Place(Tier.HOST) if gpu is None else Place(Tier.VRAM, gpu)


def _windowOf(openBuffer: OpenBuffer) -> Window:
    """All bytes of a buffer. Host memory is mapped for the GPUs."""
    memory = openBuffer.memory
    memory.device = device = deviceOf(openBuffer.context)
    place, sizeBytes = _placeOf(openBuffer), openBuffer.description.sizeBytes
    address = memory.devicePointer(device)
    if place.tier is Tier.HOST:
        return Window(place, address, sizeBytes)
    allocation: Allocation = memory.source  # type: ignore[assignment]  # VRAM is an allocation
    return Window(place, address, sizeBytes, allocation.isReachedBy, allocation.letReach)


@contextlib.contextmanager
def _entered(make: Callable[[float], Any], transfer: Transfer[Any]) -> Any:
    """An access, for which a transfer waits as long as it is not to stop."""
    while True:
        left = transfer.secondsLeft
        access = make(_LOOK_SECONDS if left is None else max(0.0, min(_LOOK_SECONDS, left)))
        try:
            access.__enter__()
        except TimeoutError:
            if (left := transfer.secondsLeft) is not None and left <= 0:
                raise
            transfer.check()
            continue
        break
    with _Entered(access):
        yield


class _Entered:
    """An access that was entered: leaving it leaves the access."""

    def __init__(self, access: Any) -> None:
        self._access = access

    def __enter__(self) -> None:
        """It was entered before."""

    def __exit__(self, *error: Any) -> None:
        self._access.__exit__(*error)
