"""Ways: how bytes get from one place to another, in windows, with copies that overlap.

A way belongs to two places, of which one is a GPU, or to host memory alone. It has its
streams, and its pieces if it needs some, for as long as it lives, so a copy allocates
nothing. One copy uses it at a time.

`send` returns when the bytes have arrived. It gives the GPU some windows ahead, and
then waits for the oldest: so the caller hears of each window, can stop the copy between
two of them, and the GPU is never idle meanwhile. If the caller's function raises, no
further window is begun, and `send` raises after those that were. A second interruption
may end that wait at any bytecode; the way is busy then, until `settle` has waited.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from muninn.devices.pieces import HostPieces, PeerPieces, Pieces
from muninn.devices.port import Device, Mark, Stream
from muninn.system import atomics
from muninn.system.closable import Closable
from muninn.system.pages import PAGE_BYTES

#: Called with the bytes that have arrived since the last call; raises to stop.
Told = Callable[[int], object]
#: Returns what keeps the memory of a copy.
Anchor = Callable[[], object]
#: What the caller does while the last bytes are on their way.
Meanwhile = Callable[[], object]
#: Windows of a copy without pieces: a millisecond of NVLink or of PCIe.
_WINDOW_BYTES, HOST_WINDOW_BYTES = 512 << 20, 64 << 20
#: The pieces between two GPUs with a link, or a smaller part of what is free.
_LINK_PIECE_BYTES, _LINK_PIECES, _PART_OF_FREE = 128 << 20, 2, 64
#: How many windows a GPU is given ahead.
_AHEAD = 6


def _nothing() -> None:
    """The caller keeps the memory, and has nothing to do meanwhile."""


class Way(Closable):
    """A way that one copy uses at a time.

    Attributes
    ----------
    isBusy
        Whether its streams may be at work.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._end = contextlib.ExitStack()
        self.isBusy = False
        self._held: object = None

    @property
    @abstractmethod
    def _streams(self) -> tuple[Stream, ...]: ...

    @abstractmethod
    def _windows(self, source: int, target: int, sizeBytes: int) -> Iterable[tuple[Mark, int]]:
        """Submit the windows one after the other, and give the mark after each, and its
        bytes.
        """

    def send(
        self,
        source: int,
        target: int,
        sizeBytes: int,
        told: Told,
        anchor: Anchor = _nothing,
        meanwhile: Meanwhile = _nothing,
    ) -> None:
        """Copy, and wait for the copy. What `anchor` returns is held as long as streams are
        at work. It is a function, so that an error, which keeps this frame, keeps no
        memory. `meanwhile` is called once the streams were given all of the copy.

        Raises
        ------
        DeviceUnavailable
            The work of a GPU failed.
        """
        under = deque[tuple[Mark, int]]()
        self._held, self.isBusy = anchor(), True
        try:
            for window in self._windows(source, target, sizeBytes):
                under.append(window)
                if len(under) > _AHEAD:
                    _arrive(under, told)
            meanwhile()
            while under:
                _arrive(under, told, isLast=len(under) == 1)
            self._held, self.isBusy = None, False
        finally:
            self.settle()
        for stream in self._streams:
            stream.check()

    def settle(self) -> None:
        """Wait until the streams have done what they were given, if they are at work."""
        if self.isBusy:
            interruption = _drained(self._streams)
            self._held, self.isBusy = None, False
            if interruption is not None:
                raise interruption

    def _stream(self, gpu: int) -> Stream:
        """A stream that is closed with the way."""
        stream = self._device.createStream(gpu)
        self._end.callback(stream.close)
        # So the thread that it may need is there before anything is changed.
        stream.mark().close()
        return stream

    def close(self) -> None:
        self._end.close()


def drain(streams: Iterable[Stream]) -> None:
    """Wait for all that the streams were given, also if an interruption comes meanwhile,
    which is raised afterwards: the memory is the caller's again after this. The caller
    raises an error of the streams itself.
    """
    if (interruption := _drained(streams)) is not None:
        raise interruption


def _drained(streams: Iterable[Stream]) -> BaseException | None:
    """The interruption that came meanwhile."""
    interruption: BaseException | None = None
    waiting = list(streams)
    while waiting:
        try:
            waiting[-1].settle()
            waiting.pop()
        except BaseException as error:
            interruption = error
    return interruption


@contextlib.contextmanager
def streamFor(device: Device, gpu: int) -> Iterator[Stream]:
    """A stream for the time of a block, whose work is over at its end, however it ends.

    Two interruptions in a row may end that wait. The stream is not closed then: `drain`
    waits for one that is open only, and whoever has it can wait for its work.
    """
    stream = device.createStream(gpu)
    try:
        yield stream
        stream.synchronize()
    except BaseException:
        interruption = _drained((stream,))
        stream.close()
        if interruption is not None:
            raise interruption  # noqa: B904  # what was under way before is its context
        raise
    stream.close()


def _arrive(under: deque[tuple[Mark, int]], told: Told, isLast: bool = False) -> None:
    mark, sizeBytes = under[0]
    # Only the end of the last one is waited for: the others end while it is copied.
    mark.wait(isNear=isLast)
    under.popleft()
    told(sizeBytes)


class Direct(Way):
    """Without pieces: within a GPU, between a GPU and host memory that it has mapped, or
    between two of which one reaches the other's memory.

    Parameters
    ----------
    gpu
        The GPU whose stream copies; for two GPUs the one that sends.
    target
        The GPU that receives, if it is another one.
    windowBytes
        So many bytes are copied between two looks at whether to go on.
    """

    def __init__(
        self,
        device: Device,
        gpu: int,
        target: int | None = None,
        windowBytes: int = _WINDOW_BYTES,
    ) -> None:
        super().__init__(device)
        self._gpu, self._target, self._windowBytes = gpu, target, windowBytes
        self._copies = self._stream(gpu)

    @property
    def _streams(self) -> tuple[Stream, ...]:
        return (self._copies,)

    def _windows(self, source: int, target: int, sizeBytes: int) -> Iterator[tuple[Mark, int]]:
        for offset in range(0, sizeBytes, self._windowBytes):
            length = min(self._windowBytes, sizeBytes - offset)
            if self._target is None:
                self._device.copy(
                    target + offset, source + offset, length, self._copies, isMapped=True
                )
            else:
                self._device.copyAcross(
                    target + offset,
                    self._target,
                    source + offset,
                    self._gpu,
                    length,
                    self._copies,
                )
            yield self._copies.mark(), length


class _Over(Mark):
    """Nothing is under way."""

    def wait(self, isNear: bool = False) -> None:
        """Returns at once."""

    def close(self) -> None:
        """Does nothing."""


class ByProcessor(Way):
    """Within host memory: the processor copies, on the thread that sends."""

    @property
    def _streams(self) -> tuple[Stream, ...]:
        return ()

    def _windows(self, source: int, target: int, sizeBytes: int) -> Iterator[tuple[Mark, int]]:
        for offset in range(0, sizeBytes, HOST_WINDOW_BYTES):
            length = min(HOST_WINDOW_BYTES, sizeBytes - offset)
            atomics.copy(target + offset, source + offset, length)
            yield _Over(), length


class Relay(Way):
    """Through pieces: one stream fills them, and another one empties them meanwhile.

    Parameters
    ----------
    source, target
        The GPUs.
    """

    def __init__(self, device: Device, source: int, target: int, pieces: Pieces) -> None:
        super().__init__(device)
        self._source, self._target = source, target
        self._pieces = pieces
        self._end.callback(pieces.close)
        # A GPU writes to another one faster than it reads from it.
        self._isByPeer = isinstance(pieces, PeerPieces)
        try:
            self._filling = self._stream(source)
            self._emptying = self._stream(source if self._isByPeer else target)
        except BaseException:
            self.close()
            raise

    @classmethod
    def byHost(cls, device: Device, source: int, target: int, pieceBytes: int, count: int) -> Relay:
        """By pinned host memory near the GPU that sends."""
        return cls(device, source, target, HostPieces(device, source, pieceBytes, count))

    @property
    def _streams(self) -> tuple[Stream, ...]:
        return self._filling, self._emptying

    def _windows(self, source: int, target: int, sizeBytes: int) -> Iterator[tuple[Mark, int]]:
        addresses, pieceBytes = self._pieces.addresses, self._pieces.pieceBytes
        emptied = list[Mark]()
        for number, offset in enumerate(range(0, sizeBytes, pieceBytes)):
            length = min(pieceBytes, sizeBytes - offset)
            piece = addresses[number % len(addresses)]
            if number >= len(addresses):
                self._filling.follow(emptied[number % len(addresses)])
            self._device.copy(piece, source + offset, length, self._filling, isMapped=True)
            with self._filling.mark() as filled:
                self._emptying.follow(filled)
            self._empty(target + offset, piece, length)
            mark = self._emptying.mark()
            if number < len(addresses):
                emptied.append(mark)
            else:
                emptied[number % len(addresses)] = mark
            yield mark, length

    def _empty(self, target: int, piece: int, length: int) -> None:
        if self._isByPeer:
            self._device.copyAcross(
                target, self._target, piece, self._source, length, self._emptying
            )
        else:
            self._device.copy(target, piece, length, self._emptying, isMapped=True)


def byLink(device: Device, source: int, target: int) -> Way:
    """The way from a GPU straight to another one for any memory of the first: by pieces
    that the second reaches, unless each buffer can be reached at once.

    Raises
    ------
    TopologyNotPeerable
        There is no such way.
    QuotaExceeded
        The GPU has no room for the pieces.
    """
    if device.givesReachAtOnce:
        return Direct(device, source, target)
    pieceBytes = min(_LINK_PIECE_BYTES, device.memoryInfo(source).freeBytes // _PART_OF_FREE)
    pieceBytes = max(pieceBytes // PAGE_BYTES, 1) * PAGE_BYTES
    pieces = PeerPieces(device, source, target, pieceBytes, _LINK_PIECES)
    return Relay(device, source, target, pieces)
