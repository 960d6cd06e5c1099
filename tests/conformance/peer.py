"""The other process of the suite. It makes its own device and executes requests from a
socket that also carries descriptors.

Run as `python peer.py <platform> <socket>`. A request is JSON `{"do": name, ...}`; the
answer is JSON, with `{"error": name of the class}` when the request failed. Every wait
is bounded by an alarm, which ends the process.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any, Self

from muninn.system.descriptors import Descriptor

WATCHDOG_SECONDS = 60
_MAX_PACKET = 1 << 20


class Peer:
    """A peer process, seen from the test."""

    def __init__(self, platformName: str, environment: dict[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(WATCHDOG_SECONDS)
        variables = {
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [sys.executable, "-m", __name__, platformName, str(theirs.fileno())]
        self.process = subprocess.Popen(command, env=variables, pass_fds=[theirs.fileno()])
        theirs.close()

    def ask(self, do: str, descriptor: int = -1, **arguments: object) -> dict[str, Any]:
        """Send a request and return its answer. The answer has a `descriptor` when one
        came with it, and the caller closes it.
        """
        self.tell(do, descriptor, **arguments)
        return self.hear()

    def tell(self, do: str, descriptor: int = -1, **arguments: object) -> None:
        send(self._socket, {"do": do, **arguments}, descriptor)

    def hear(self, seconds: float = WATCHDOG_SECONDS) -> dict[str, Any]:
        """The next answer; `TimeoutError` when none comes in time, and `EOFError` when
        the peer has ended.
        """
        self._socket.settimeout(seconds)
        return receive(self._socket)

    def kill(self) -> int:
        """Send SIGKILL; returns the exit status."""
        self.process.kill()
        return self.process.wait(WATCHDOG_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self.kill()


def send(connection: socket.socket, message: dict[str, Any], descriptor: int = -1) -> None:
    socket.send_fds(
        connection, [json.dumps(message).encode()], [descriptor] if int(descriptor) >= 0 else []
    )


def receive(connection: socket.socket) -> dict[str, Any]:
    data, descriptors, _, _ = socket.recv_fds(connection, _MAX_PACKET, 1)
    if not data:
        raise EOFError
    message: dict[str, Any] = json.loads(data)
    message["descriptor"] = descriptors[0] if descriptors else -1
    return message


def readBytes(device: Any, address: int, sizeBytes: int) -> bytes:
    """Copy to the host, on the default stream of the GPU that has the memory."""
    buffer = ctypes.create_string_buffer(sizeBytes)
    stream = device.asStream(None, device.gpuOf(address) or 0)
    device.copy(ctypes.addressof(buffer), address, sizeBytes, stream)
    stream.synchronize()
    return buffer.raw


def writeBytes(device: Any, address: int, data: bytes) -> None:
    """Copy from the host, on the default stream of the GPU that has the memory."""
    buffer = ctypes.create_string_buffer(data, len(data))
    stream = device.asStream(None, device.gpuOf(address) or 0)
    device.copy(address, ctypes.addressof(buffer), len(data), stream)
    stream.synchronize()


class _Server:
    """The requests of the peer, one method for each."""

    def __init__(self, platformName: str, connection: socket.socket) -> None:
        platforms = (
            importlib.import_module(f"{__package__}.platforms")
            if __package__
            else importlib.import_module("platforms")
        )
        self._device = platforms.PLATFORMS[platformName].makeDevice()
        self._connection = connection
        self._allocation: Any = None
        self._semaphore = threading.Event()
        self._stream: Any = None

    def serve(self) -> None:
        while True:
            try:
                request = receive(self._connection)
            except EOFError:
                return
            try:
                answer, descriptor = getattr(self, request.pop("do"))(**request), -1
                if isinstance(answer, tuple):
                    answer, descriptor = answer
                send(self._connection, answer or {}, descriptor)
                if not isinstance(descriptor, int):
                    descriptor.close()
            except Exception as error:
                send(self._connection, {"error": type(error).__name__, "text": str(error)})

    def uuids(self, descriptor: int) -> dict[str, Any]:
        return {"uuids": [self._device.gpuUuid(gpu) for gpu in range(self._device.gpuCount)]}

    def allocate(
        self, descriptor: int, gpu: int, sizeBytes: int
    ) -> tuple[dict[str, Any], Descriptor]:
        self._allocation = self._device.allocate(gpu, sizeBytes)
        handle = base64.b64encode(self._allocation.handle).decode()
        return {"handle": handle}, self._allocation.exportDescriptor()

    def adopt(
        self, descriptor: int, gpu: int, sizeBytes: int, writable: bool, handle: str
    ) -> dict[str, Any]:
        try:
            self._allocation = self._device.importAllocation(
                gpu, descriptor, sizeBytes, writable, base64.b64decode(handle)
            )
        finally:
            os.close(descriptor)
        return {}

    def read(self, descriptor: int, offset: int, sizeBytes: int) -> dict[str, Any]:
        return {"data": readBytes(self._device, self._allocation.address + offset, sizeBytes).hex()}

    def write(self, descriptor: int, offset: int, data: str) -> None:
        writeBytes(self._device, self._allocation.address + offset, bytes.fromhex(data))

    def signal(self, descriptor: int, gpu: int) -> None:
        """Record a fence behind work that waits for `release`; a packet of its own
        tells that the stream has reached the fence.
        """
        self._stream = self._device.createStream(gpu)
        self._stream.submit(lambda: self._semaphore.wait(WATCHDOG_SECONDS))
        self._device.recordFence(
            self._stream, lambda error: send(self._connection, {"reached": error is None})
        )

    def release(self, descriptor: int) -> None:
        self._semaphore.set()


if __name__ == "__main__":
    signal.alarm(WATCHDOG_SECONDS)
    _Server(sys.argv[1], socket.socket(fileno=int(sys.argv[2]))).serve()
