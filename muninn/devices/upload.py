"""Uploads: the way of one thread's bytes into the memory of a GPU, through pinned pieces
of host memory.

The thread fills a piece while the GPU copies the one before it. Each piece has a stream
of its own, in which there is only the copy from it, so to wait for the stream is to
wait for the piece. The pieces are pinned for the time of the upload, by the port's
registration of host memory, and count as that. They are given back after the copies,
and when no GPU uses them any more.

It is made of the port alone, so each back-end uploads by the same steps. Only one
thread uses an upload. Nothing of it survives the process.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np

from muninn.devices.port import Device, Stream
from muninn.system.closable import Closable

_PIECES = 2

Flat = np.ndarray[Any, np.dtype[np.uint8]]


class Upload(Closable):
    """Pinned pieces, and the streams that copy them to one GPU.

    Parameters
    ----------
    target
        The address of memory of the GPU. The caller keeps the memory until the upload
        is closed.
    pieceBytes
        The bytes of a piece, in whole pages.

    Raises
    ------
    BarPressureHigh
        So much host memory may not be pinned.
    """

    isInPlace = False

    def __init__(self, device: Device, gpu: int, target: int, pieceBytes: int) -> None:
        self._device, self._target, self._pieceBytes = device, target, pieceBytes
        self._streams: list[Stream] = []
        self._sent = 0
        self._room = (0, 0)  # (offset, bytes) of the room that was given last
        self._end = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            # Shared, because a fork must not make the GPU and this process use
            # different pages.
            pieces: Flat = np.frombuffer(mmap.mmap(-1, _PIECES * pieceBytes), np.uint8)
            self._pieces = pieces
            address = int(pieces.__array_interface__["data"][0])
            registered = device.registerHost(address, len(pieces), writable=True)
            undo.callback(registered.closeThen, lambda: pieces)
            for _ in range(_PIECES):
                self._streams.append(stream := device.createStream(gpu))
                undo.callback(stream.close)
            self._end = undo.pop_all()

    def begin(self, offset: int, sizeBytes: int) -> Flat:
        """Room for bytes that go to `offset` of the target; at most a piece. Waits for
        the copy of what was in it. Raises the error of that copy.
        """
        number = self._sent % _PIECES
        self._streams[number].synchronize()
        self._room = offset, sizeBytes
        start = number * self._pieceBytes
        room: Flat = self._pieces[start : start + self._pieceBytes][:sizeBytes]
        return room

    def send(self) -> None:
        """Let the GPU copy the room that was given last."""
        (offset, sizeBytes), number = self._room, self._sent % _PIECES
        source = int(self._pieces.__array_interface__["data"][0]) + number * self._pieceBytes
        self._device.copy(self._target + offset, source, sizeBytes, self._streams[number])
        self._sent += 1

    def finish(self) -> None:
        """Wait for all copies. Raises the error of one that failed."""
        for stream in self._streams:
            stream.synchronize()

    def close(self) -> None:
        """Wait for the copies, also for those that failed, and give the pieces back."""
        with self._end:
            for stream in self._streams:
                with contextlib.suppress(Exception):  # `finish` and `begin` raise it
                    stream.synchronize()
            self._streams = []
