"""The identity of a member, as its slot states it.

The member writes it while its slot is CLAIMING, and no process changes it until the
slot is claimed anew: the CAS to LIVE publishes it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from muninn.control import layout

_IDENTITY = struct.Struct("<IIIQQQQ")
IDENTITY_OFFSET, IDENTITY_BYTES = layout.MEMBER_FLAGS_OFFSET, _IDENTITY.size
assert IDENTITY_OFFSET + IDENTITY_BYTES == layout.MEMBER_JOINED_MS_OFFSET + 8


class MemberIdentity(NamedTuple):
    """The process that claimed a slot, with enough data to tell it from any other
    process that ever had its pid.
    """

    flags: int
    pid: int
    uid: int
    startTime: int
    pidNamespace: int
    nonce: int
    joinedMs: int

    @property
    def process(self) -> tuple[int, int, int]:
        """Identifies the process, independent of the programs that it runs and of the
        slots that it has.
        """
        return self.pid, self.startTime, self.pidNamespace

    def packed(self) -> bytes:
        return _IDENTITY.pack(*self)

    @staticmethod
    def unpacked(raw: bytes | memoryview) -> MemberIdentity:
        return MemberIdentity(*_IDENTITY.unpack(raw))
