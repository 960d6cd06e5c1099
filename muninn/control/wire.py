"""Messages between a member and its broker: one msgpack map of at most 64 KiB per `SOCK_SEQPACKET` packet, with descriptors beside it.

The kernel keeps packets whole, says who sent them (`SO_PEERCRED`) and when the other end has died. Bytes from a peer are hostile
until they are checked: a packet that is too long, is not a map with text keys, or lost its descriptors (`MSG_CTRUNC`: the receiver
has none left) is refused, and what came with it closed.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import Any

import msgpack

from muninn.control.descriptors import own
from muninn.errors import DescriptorsExhausted, ProtocolViolation

MAX_MESSAGE_BYTES = 64 << 10
#: What the kernel allows in one packet (SCM_MAX_FD).
MAX_DESCRIPTORS = 253

Message = dict[str, Any]
#: As plain numbers: those of `socket` are enumerations, whose operators cost a microsecond.
_DESCRIPTOR_LOST, _CUT = int(socket.MSG_CTRUNC), int(socket.MSG_TRUNC)
_CREDENTIALS = struct.Struct("iII")


def packed(message: Message) -> bytes:
    """The bytes of a message, or `ProtocolViolation` when it is too long to be one."""
    raw: bytes = msgpack.packb(message)
    if len(raw) > MAX_MESSAGE_BYTES:
        raise ProtocolViolation(
            f"a message of {len(raw)} bytes is above {MAX_MESSAGE_BYTES}", "Use shorter names, or fewer of them at a time"
        )
    return raw


def unpacked(raw: bytes) -> Message:
    """The message in `raw`, or `ProtocolViolation`."""
    try:
        message = msgpack.unpackb(raw, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolViolation(f"{len(raw)} bytes are no message: {error or type(error).__name__}") from None
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise ProtocolViolation("a message is no map with text keys")
    return message


def send(connection: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message; the descriptors stay the caller's."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    connection.sendmsg([packed(message)], ancillary, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket, maxDescriptors: int = 1) -> tuple[Message, list[int]] | None:
    """Receive one message and its descriptors, which are the caller's then; None when the other end is gone."""
    raw, ancillary, flags, _ = connection.recvmsg(MAX_MESSAGE_BYTES, socket.CMSG_SPACE(maxDescriptors * 4), socket.MSG_CMSG_CLOEXEC)
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    received = numbers.tolist()
    try:
        if flags & _DESCRIPTOR_LOST:
            raise DescriptorsExhausted("a descriptor sent to this process was lost, because it may open no more")
        if flags & _CUT:
            raise ProtocolViolation(f"a message is longer than {MAX_MESSAGE_BYTES} bytes")
        if not raw and not received:
            return None
        message = unpacked(raw)
        for position in reversed(range(len(received))):
            received.insert(position, own(received.pop(position)))  # one that can not be kept is closed, and not in the list
        return message, received
    except OSError as error:
        closeAll(received)
        raise DescriptorsExhausted(f"a descriptor sent to this process can not be kept: {error.strerror}") from error
    except Exception:
        closeAll(received)
        raise


def peerOf(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the other end, as the kernel says."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def closeAll(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
