"""The work of a copy between two places: the accesses, the way, and the new buffer.

The accesses are entered in the order of the buffers' rows. Otherwise two processes that
copy between two buffers in both directions could wait for each other. The engine is
imported at the first copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from muninn.api.attachment import Attachment, readsOnly
from muninn.api.executing import Admission, permitted
from muninn.api.options import BufferOptions
from muninn.api.repeats import Repeat, remember
from muninn.api.specs import specOf
from muninn.arguments import requireCallable, timeoutOf
from muninn.control import layout
from muninn.errors import (
    BufferMismatch,
    InvalidArgument,
    TopologyNotPeerable,
)
from muninn.interop.dtypes import elementOf
from muninn.observe import spans
from muninn.session import creation
from muninn.session.gpus import deviceOf
from muninn.sync.moves import Receiving, Sending
from muninn.system import threads
from muninn.system.threads import refuseImports
from muninn.terms import Mode
from muninn.transfer.execution import Answer, Kind, Work
from muninn.transfer.handle import Transfer
from muninn.transfer.routes import Route
from muninn.transfer.tiers import Place, Tier, Window

if TYPE_CHECKING:
    from muninn.devices.port import Allocation
    from muninn.session.mappings import Memory
    from muninn.session.openbuffer import OpenBuffer
    from muninn.transfer.engine import Engine

Progress = Callable[[int], object]
Result = TypeVar("Result")
Buffer = TypeVar("Buffer", bound=Attachment)


class Copy(NamedTuple, Generic[Result]):
    """A transfer, and the function that makes its result."""

    transfer: Transfer[Result]
    openBuffer: OpenBuffer
    work: Callable[[], Result]

    def run(self) -> Result:
        return engineFor(self.openBuffer).run(self.transfer, self.work)

    def start(self) -> Transfer[Result]:
        engine, transfer, work = engineFor(self.openBuffer), self.transfer, self.work
        run = spans.carried(lambda: engine.runAside(transfer, work))
        threads.start(run, "muninn-transfer")
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
    *,
    isOpening: bool = False,
) -> Copy[Buffer]:
    """`MuninnBuffer.copyTo`. If `isOpening`, the new object has the rights of `buffer`."""
    openBuffer = buffer._checked()
    requireArray(buffer, openBuffer)
    description = openBuffer.description
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
        admission = Admission.of(openBuffer.context, _workOf(openBuffer, transfer))
        with admission, admission:
            return made(_routeOf(_admitted(admission, transfer), asked))

    def made(route: Route | None) -> Buffer:
        def fill(memory: Memory) -> None:
            into, anchor = memory.address, weakref.ref(memory)
            del memory  # an error keeps this frame, and not the memory
            source, engine = windowOf(openBuffer, transfer.check), engineFor(openBuffer)
            access = Sending(openBuffer, transfer.secondsLeft, transfer.checkCancelled)
            with engine.way(transfer, source, target, route) as way, access:
                access.covers(way.settle)
                engine.send(transfer, way, source, into, anchor)

        opened = creation.create(wanted, fill=fill)
        if isOpening:
            copied = type(buffer)._of(opened, buffer._rights, buffer._renewed)
        else:
            copied = type(buffer)._of(opened, wanted.access)
        copied._transfer = transfer.report()
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
    target = placeOf(into)
    transfer = _transferOf(caller, out, target, timeout, progress)

    def work() -> int:
        asking = _workOf(out, transfer)
        admission = Admission.of(out.context, asking)
        with admission, admission:
            return copied(asking, _routeOf(_admitted(admission, transfer), asked))

    def copied(asking: Work, route: Route | None) -> int:
        engine = engineFor(into)
        sent, received = _windowsOf(out, into, transfer.check)
        with engine.way(transfer, sent, target, route, received) as way:
            accesses = (
                Sending(out, transfer.secondsLeft, transfer.checkCancelled),
                Receiving(into, transfer.secondsLeft, transfer.checkCancelled),
            )
            first, second = accesses if out.row < into.row else accesses[::-1]
            with first, second:
                for each in accesses:
                    each.covers(way.settle)
                engine.send(transfer, way, sent, received.address)
                # Odd inside; leaving the access publishes the next one.
                generation = into.generation.value() + 1
            # An object whose lease is renewed by its use takes the long way.
            isRenewed = not buffer._expiresMs and not source._expiresMs
            lane = engine.laneFor(way, sent, received) if isRenewed else None
            permit = permitted(asking)
            if lane is None or permit is None:
                buffer._repeats.pop(id(source), None)  # the way may be another one by now
            else:
                repeat = Repeat(source, out, into, asked, lane, permit, transfer.record())
                remember(buffer._repeats, source, repeat)
            return generation

    return Copy(transfer, into, work)


def _workOf(source: OpenBuffer, transfer: Transfer[Any]) -> Work:
    name, size = source.description.name, transfer.sizeBytes
    return Work(Kind.COPY, name, transfer.source, transfer.target, size)


def _admitted(admission: Admission, transfer: Transfer[Any]) -> Answer:
    """Wait until the executor lets a copy go. The wait has the transfer's deadline itself:
    its end is an error with the reason of the executor.
    """
    return admission.ask(transfer.secondsLeft, transfer.checkCancelled)


def _routeOf(answer: Answer, asked: Route | None) -> Route | None:
    """The route that the caller demands, or else the executor."""
    return Route.STAGED if asked is None and answer.byHost else asked


def requireArray(buffer: Attachment, openBuffer: OpenBuffer) -> None:
    """Raise `InvalidArgument` for a bundle, and for an object whose bytes are private."""
    if buffer._isPrivate:
        raise InvalidArgument(
            f"{buffer.name!r} is open copyOnWrite, and a copy would be of what is shared",
            "Copy its array: muninn.share(buffer.array)",
        )
    if openBuffer.description.kind != layout.ROW_KIND_ARRAY:
        raise InvalidArgument(
            f"{buffer.name!r} is a bundle of arrays, which can not be copied as one array",
            "Publish its arrays anew, with preferredGpu",
        )


def requireLink(openBuffer: OpenBuffer, gpu: int) -> None:
    """Raise `TopologyNotPeerable` if kernels of a GPU do not reach the bytes of a buffer,
    or if what they read would not be what is there. A link is verified at its first use.
    """
    home = openBuffer.memory.gpu
    if home is None or home == gpu:
        return
    try:
        engineFor(openBuffer).requireLink(home, gpu)
    except TopologyNotPeerable as error:
        raise TopologyNotPeerable(
            f"route mapped goes over the link, and {error.reason}", error.fix
        ) from error


def _requireAlike(
    buffer: Attachment, source: Attachment, into: OpenBuffer, out: OpenBuffer
) -> None:
    if not buffer.writable or buffer._isPrivate:
        raise readsOnly(buffer)
    for each, opened in ((source, out), (buffer, into)):
        requireArray(each, opened)
    if into.tables is not out.tables:
        raise InvalidArgument(
            f"{source.name!r} is of another control block than {buffer.name!r}",
            "Open both in this domain",
        )
    if (into.row, into.incarnation) == (out.row, out.incarnation):
        raise InvalidArgument(
            f"{buffer.name!r} can not be copied from itself", "Pass another buffer"
        )
    mine, theirs = ((each.description.shape, elementOf(each)) for each in (into, out))
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
        placeOf(source),
        target,
        source.description.sizeBytes,
        timeoutOf(caller, timeout),
        progress,
        source.description.name,
    )


def engineFor(openBuffer: OpenBuffer) -> Engine:
    # Most processes copy nothing, and the engine and what it needs take a while.
    refuseImports("this process has copied nothing between GPUs yet")
    from muninn.transfer.engines import engineOf

    return engineOf(openBuffer.context)


def placeOf(openBuffer: OpenBuffer) -> Place:
    gpu = openBuffer.memory.gpu
    return Place(Tier.HOST) if gpu is None else Place(Tier.VRAM, gpu)


def _windowsOf(
    source: OpenBuffer, target: OpenBuffer, look: Callable[[], object]
) -> tuple[Window, Window]:
    """All bytes of two buffers. Nothing is pinned where no GPU copies."""
    if source.memory.gpu is not None or target.memory.gpu is not None:
        return windowOf(source, look), windowOf(target, look)
    first, second = (
        Window(Place(Tier.HOST), each.memory.address, each.description.sizeBytes)
        for each in (source, target)
    )
    return first, second


def windowOf(openBuffer: OpenBuffer, look: Callable[[], object]) -> Window:
    """All bytes of a buffer. Host memory is mapped for the GPUs, which pins it; `look` is
    called between two pieces, and raises to end that.
    """
    memory = openBuffer.memory
    memory.device = device = deviceOf(openBuffer.context)
    place, sizeBytes = placeOf(openBuffer), openBuffer.description.sizeBytes

    def pinned(_: int) -> None:
        look()

    address = memory.devicePointer(device, pinned)
    if place.tier is Tier.HOST:
        return Window(place, address, sizeBytes)
    allocation: Allocation = memory.source  # type: ignore[assignment]  # VRAM is an allocation
    return Window(place, address, sizeBytes, allocation)
