"""Sessions: one member's connection to the broker, and who it said it is."""

from __future__ import annotations

from muninn.control.members import MemberKey
from muninn.errors import ProtocolViolation
from muninn.system.descriptors import OwnSocket, Socket


class SenderGone(ProtocolViolation):
    """What a member sent before its death and is read after it: nobody's fault, and
    nobody waits for the answer.
    """


class Session:
    """One member's connection, and who it said it is (checked)."""

    def __init__(self, connection: Socket | None, key: MemberKey | None = None) -> None:
        self.connection = connection
        self.key = key
        self.bringsMore = False  # the memory that it holds came in part
        self._kept = None if connection is None else OwnSocket(connection)

    def isOurs(self) -> bool:
        """Whether the connection's number is nobody else's by now."""
        return self._kept is not None and self._kept.isOurs()

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def member(self) -> MemberKey:
        if self.key is None:
            raise ProtocolViolation("the first request must be hello")
        return self.key
