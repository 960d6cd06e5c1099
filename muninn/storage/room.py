"""Room: how many bytes new segments could take."""

from __future__ import annotations

import os

from muninn.storage.paths import SHM_ROOT
from muninn.system.hostmemory import availableBytes


def hostRoomBytes() -> int:
    """What both `/dev/shm` and the machine have left."""
    status = os.statvfs(SHM_ROOT)
    shm = status.f_bavail * status.f_frsize
    # A file system without a limit says 0 of 0.
    return min(shm, availableBytes()) if status.f_blocks else availableBytes()
