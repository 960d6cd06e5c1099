"""A process that dies by SIGKILL at a commit of its own. Run in an actor, which then
calls `dieAt`.
"""

import os
import signal
from typing import Any

from muninn.session.reservation import Reservation

commit, commits = Reservation.commit, 0


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dieAt(number: int) -> None:
    """Die instead of the commit of this number, from 1 on."""

    def dying(self: Reservation, descriptors: Any) -> None:
        global commits
        commits += 1
        if commits == number:
            die()
        commit(self, descriptors)

    Reservation.commit = dying  # type: ignore[method-assign]
