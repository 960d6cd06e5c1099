"""Sessions: one member's connection to the broker, and the member's identity."""

from __future__ import annotations

from muninn.control.members import MemberKey
from muninn.errors import ProtocolViolation
from muninn.system.descriptors import OwnSocket, Socket


class SenderGone(ProtocolViolation):
    """A message that a member sent before its death, and that is read after it. This is
    no fault, and no process waits for the answer.
    """


class Session:
    """One member's connection, and its key once its hello was checked."""

    def __init__(self, connection: Socket | None, key: MemberKey | None = None) -> None:
        self.connection = connection
        self.key = key
        self.bringsMore = False  # another message with the memory that it has open follows
        self._kept = None if connection is None else OwnSocket(connection)

    def isOurs(self) -> bool:
        """Whether the number of the descriptor still belongs to this connection."""
        return self._kept is not None and self._kept.isOurs()

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def member(self) -> MemberKey:
        if self.key is None:
            raise ProtocolViolation("the first request must be hello")
        return self.key
