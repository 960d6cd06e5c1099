"""Messages between a member and its broker: one msgpack map of at most 64 KiB per
`SOCK_SEQPACKET` packet, with descriptors beside it.

The kernel keeps packets whole, says who sent them (`SO_PEERCRED`) and when the other
end has died. Bytes from a peer are not trusted until they are checked: a packet that is
too long, is not a map with text keys, or lost its descriptors (`MSG_CTRUNC`: the
receiver has none left) is refused, and the descriptors that came with it are closed.
"""

from __future__ import annotations

import _socket
import array
import errno
import select
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import msgpack

from muninn.errors import DescriptorsExhausted, ProtocolViolation
from muninn.system import atomics, green
from muninn.system.descriptors import Descriptor, own

MAX_MESSAGE_BYTES = 64 << 10
#: The most descriptors that the kernel allows in one packet (SCM_MAX_FD).
MAX_DESCRIPTORS = 253

Message = dict[str, Any]
#: As plain numbers: those of `socket` are enumerations, whose operators cost a
#: microsecond.
_DESCRIPTOR_LOST, _CUT = int(socket.MSG_CTRUNC), int(socket.MSG_TRUNC)
_CREDENTIALS = struct.Struct("iII")


def packed(message: Message) -> bytes:
    """The bytes of a message, or `ProtocolViolation` when it is too long to be one."""
    raw: bytes = msgpack.packb(message)
    if len(raw) > MAX_MESSAGE_BYTES:
        raise ProtocolViolation(
            f"a message of {len(raw)} bytes is above {MAX_MESSAGE_BYTES}",
            "Use shorter names, or fewer of them at a time",
        )
    return raw


def unpacked(raw: bytes | memoryview) -> Message:
    """The message in `raw`, or `ProtocolViolation`."""
    try:
        message = msgpack.unpackb(raw, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolViolation(
            f"{len(raw)} bytes are no message: {error or type(error).__name__}"
        ) from None
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise ProtocolViolation("a message is no map with text keys")
    return message


def send(
    connection: _socket.socket, message: Message, descriptors: Sequence[int | Descriptor] = ()
) -> None:
    """Send one message. The caller still owns the descriptors."""
    ancillary = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", map(int, descriptors)))]
        if descriptors
        else []
    )
    connection.sendmsg([packed(message)], ancillary, socket.MSG_NOSIGNAL)


class _Tray:
    """The memory into which a message is received. One call uses it at a time, and it
    is kept for the next call, since new pages cost more than the message.
    """

    __slots__ = ("address", "received", "room")

    def __init__(self) -> None:
        self.room = bytearray(MAX_MESSAGE_BYTES)
        self.address = atomics.addressOfBytes(self.room)
        self.received = atomics.Received()


_trays: list[_Tray] = []


def receive(
    connection: _socket.socket, maxDescriptors: int = 1
) -> tuple[Message, list[Descriptor]] | None:
    """Receive one message and its descriptors, which the caller owns then; None when
    the other end is gone.
    """
    _awaitMessage(connection)
    try:
        tray = _trays.pop()
    except IndexError:
        tray = _Tray()
    received, length = tray.received, -errno.EINTR
    while length == -errno.EINTR:  # again: a signal handler has run, and raised nothing
        length = atomics.receive(
            connection.fileno(), tray.address, MAX_MESSAGE_BYTES, maxDescriptors, received
        )
    atomics.checked(length, "a message")
    if received.flags & _DESCRIPTOR_LOST:
        raise DescriptorsExhausted(
            "a descriptor sent to this process was lost, because it may open no more"
        )
    if received.flags & _CUT:
        raise ProtocolViolation(f"a message is longer than {MAX_MESSAGE_BYTES} bytes")
    if not length and not received.count:
        return None
    message = unpacked(memoryview(tray.room)[:length])
    try:
        taken = [atomics.opened(received.take(index)) for index in range(received.count)]
    except OSError as error:
        raise DescriptorsExhausted(
            f"a descriptor sent to this process can not be kept: {error.strerror}"
        ) from error
    _trays.append(tray)  # after an error or an interruption it is dropped with its descriptors
    return message, taken


def _awaitMessage(connection: _socket.socket) -> None:
    """Wait as long as the timeout of a socket allows. Our own sockets have no timeout,
    since they do not block.
    """
    seconds = connection.gettimeout()
    if seconds:
        poll = green.poll()
        poll.register(connection.fileno(), select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise TimeoutError("no message came in time")


def peerOf(connection: _socket.socket) -> tuple[int, int]:
    """(pid, uid) of the other end, as the kernel says."""
    pid, uid, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return pid, uid


def closeAll(descriptors: Iterable[int | Descriptor]) -> None:
    for descriptor in descriptors:
        own(descriptor).close()
