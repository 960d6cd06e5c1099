"""Probing: what is found out about two GPUs by sending bytes from one to the other.

Drivers are known that say "peer" and lose or change what is sent
(open-gpu-kernel-modules #1257), and links that are slower than the way by the host. So
a link is verified before the first byte of a user goes over it, and measured beside the
other way. The bytes are compared on the host, which takes no kernel and no compiler.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from muninn.devices.port import Allocation, Device
from muninn.devices.topology.verdict import Verdict
from muninn.devices.ways import Direct, Relay, Way
from muninn.errors import MuninnError, TopologyNotPeerable
from muninn.system import clock

#: As many bytes are verified: some milliseconds.
_VERIFIED_BYTES = 8 << 20
#: So many are measured, or a smaller part of what the GPUs have free.
_MEASURED_BYTES = 128 << 20
_PART_OF_FREE = 16
_ROUNDS = 4
#: A round takes about so long at most, and the first one has so many bytes.
_ROUND_SECONDS, _FIRST_BYTES = 0.05, 4 << 20
#: The pieces by which the way by the host is tried. Of one size, two were the best on
#: two H200 (16 MiB), and more are where a copy begins late.
#: Small ones stay in the cache of the processor, where it is the CPU that copies.
_CANDIDATES = ((1 << 20, 4), (4 << 20, 4), (16 << 20, 2), (16 << 20, 3))
#: The pieces until they were tuned.
USUAL_PIECES = 16 << 20, 2
_SIZE = np.dtype(np.uint64).itemsize
#: An odd number spreads the counter over all bytes of a word (Knuth's multiplicative
#: hashing).
_SPREAD = 0x9E3779B97F4A7C15

Words = np.ndarray[Any, np.dtype[np.uint64]]


def verify(device: Device, source: int, target: int, way: Way) -> Verdict:
    """Send bytes over the link and compare what arrives. Both GPUs keep as much room
    free as the bytes take while this runs.

    Raises
    ------
    TopologyNotPeerable
        One can not be given access to the other.
    """
    try:
        with (
            _rooms(device, source, target, _VERIFIED_BYTES) as rooms,
            Direct(device, source, target) as straight,
        ):
            if device.givesReachAtOnce:
                rooms.near.letReach(target)
            near, far = rooms.near.address, rooms.far.address
            # Twice, and not the same: bytes that were there before do not count.
            for begin, tried in _tried(device, rooms, way, straight):
                sent = _pattern(begin)
                _put(device, near, sent, source)
                tried.send(near, far, sent.nbytes, lambda sizeBytes: None)
                arrived = np.empty_like(sent)
                device.copyNow(_addressOf(arrived), far, arrived.nbytes, target)
                wrong = np.flatnonzero(arrived != sent)
                if wrong.size:
                    return Verdict(
                        isIntact=False,
                        note=f"{wrong.size} of {sent.size} words from GPU {source} arrived at "
                        f"GPU {target} changed, the first at byte {int(wrong[0]) * _SIZE}",
                    )
    except TopologyNotPeerable:
        raise
    except MuninnError as error:
        return Verdict(isIntact=None, note=f"not verified: {error.reason}")
    return Verdict(isIntact=True)


def _tried(device: Device, rooms: _Rooms, way: Way, straight: Way) -> Iterator[tuple[int, Way]]:
    """The ways that copies take, and a number for the bytes of each try: the receiving GPU
    reaches what is sent, or the sending one reaches where it goes.
    """
    yield 1, way
    yield 1 << 40, way
    if not device.givesReachAtOnce and _isLetReach(rooms.far, rooms.near.gpu):
        yield 1 << 41, straight


def _isLetReach(memory: Allocation, gpu: int) -> bool:
    try:
        memory.letReach(gpu)
    except TopologyNotPeerable:
        return False
    return True


def measure(device: Device, source: int, target: int, verdict: Verdict) -> Verdict:
    """`verdict` with the figures of both ways, and the pieces that suit the way by the
    host. A way that can not be measured keeps 0.

    The program may be at work meanwhile, and that makes each figure smaller. So the best
    round counts, and the link is measured by one call a round.
    """
    measured = verdict
    with (
        contextlib.suppress(MuninnError),
        _rooms(device, source, target, _measured(device, source, target)) as rooms,
    ):
        sizeBytes = rooms.near.sizeBytes
        if verdict.isIntact:
            if not _isLetReach(rooms.far, source):
                rooms.near.letReach(target)
            speed = _speed(lambda: Direct(device, source, target), rooms, sizeBytes)
            measured = measured._replace(p2pBytesPerSecond=speed)
        for pieceBytes, count in _CANDIDATES:
            if pieceBytes * 2 > sizeBytes:
                continue
            speed = _speed(_byHost(device, source, target, pieceBytes, count), rooms, sizeBytes)
            if speed > measured.stagedBytesPerSecond:
                measured = measured._replace(
                    stagedBytesPerSecond=speed, pieceBytes=pieceBytes, pieceCount=count
                )
    return measured


def _byHost(
    device: Device, source: int, target: int, pieceBytes: int, count: int
) -> Callable[[], Way]:
    return lambda: Relay.byHost(device, source, target, pieceBytes, count)


def _speed(way: Callable[[], Way], rooms: _Rooms, sizeBytes: int) -> float:
    """Bytes a second, of the best of some rounds. A first one warms up, and tells how
    many bytes a slow way is given.
    """
    near, far = rooms.near.address, rooms.far.address
    with way() as chosen:

        def seconds(roundBytes: int) -> float:
            begun = clock.now()
            chosen.send(near, far, roundBytes, lambda sizeBytes: None)
            return max(clock.now() - begun, 1e-9)

        firstBytes = min(sizeBytes, _FIRST_BYTES)
        fitting = int(firstBytes / seconds(firstBytes) * _ROUND_SECONDS)
        roundBytes = max(firstBytes, min(sizeBytes, fitting))
        return roundBytes / min(seconds(roundBytes) for _ in range(_ROUNDS))


class _Rooms(NamedTuple):
    """Memory of two GPUs."""

    near: Allocation
    far: Allocation


@contextlib.contextmanager
def _rooms(device: Device, source: int, target: int, sizeBytes: int) -> Iterator[_Rooms]:
    with (
        device.allocate(source, sizeBytes, filledBytes=sizeBytes) as near,
        device.allocate(target, sizeBytes, filledBytes=sizeBytes) as far,
    ):
        yield _Rooms(near, far)


def _measured(device: Device, source: int, target: int) -> int:
    free = min(device.memoryInfo(gpu).freeBytes for gpu in (source, target))
    return max(1 << 20, min(_MEASURED_BYTES, free // _PART_OF_FREE))


def _pattern(begin: int) -> Words:
    words = np.arange(begin, begin + _VERIFIED_BYTES // _SIZE, dtype=np.uint64)
    words *= np.uint64(_SPREAD)
    return words


def _put(device: Device, address: int, words: Words, gpu: int) -> None:
    device.copyNow(address, _addressOf(words), words.nbytes, gpu)


def _addressOf(words: Words) -> int:
    return int(words.__array_interface__["data"][0])
