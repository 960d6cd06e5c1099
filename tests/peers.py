"""A member's end of the broker's socket, which a test uses by hand."""

from __future__ import annotations

import socket
from typing import Any

import msgpack
from lab import Lab, Member

from muninn.broker.broker import Broker
from muninn.wire import messages


class Peer:
    """A member's end of the socket, by hand."""

    def __init__(self, lab: Lab, broker: Broker) -> None:
        self._broker = broker
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(lab.paths.socketPath(lab.election.epoch()))
        self.socket.settimeout(30)

    def ask(self, raw: bytes, descriptors: list[int] | None = None) -> dict[str, object] | None:
        """Send, let the broker work, and return the answer; None when it has closed the
        connection without one.
        """
        socket.send_fds(self.socket, [raw], descriptors or [])
        for _ in range(6):
            self._broker.step(0)
        answer = messages.receive(self.socket)
        return answer[0] if answer else None


def helloOf(member: Member, **changes: object) -> bytes:
    nonce = member.table.identity(member.key.slot).nonce
    plain = {
        "op": "hello",
        "slot": member.key.slot,
        "generation": member.key.generation,
        "nonce": nonce,
        "allocations": [],
    }
    return bytes(msgpack.packb({**plain, **changes}))


def createOf(**fields: Any) -> dict[str, Any]:
    """The fields of a request for a page of host memory, but for its name."""
    return {
        "tenant": "default",
        "mode": "bigMode",
        "gpu": -1,
        "sizeBytes": 4096,
        "gpuCapacityBytes": 0,
        "rank": 0,
        "isWaiting": False,
        "deadlineMs": 0,
        **fields,
    }
