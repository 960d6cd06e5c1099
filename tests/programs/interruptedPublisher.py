"""A publisher of VRAM is interrupted just after the commit of its second version."""

import gc
import time

import numpy as np

import muninn
from muninn.session.reservation import Reservation

commit = Reservation.commit


def interrupted(self, descriptors):
    commit(self, descriptors)
    if self._replaces:
        raise KeyboardInterrupt


older = muninn.publish("a", np.zeros(1000), mode="fastMode")
Reservation.commit = interrupted
try:
    muninn.publish("a", np.full(1000, 7), mode="fastMode")
except KeyboardInterrupt:
    Reservation.commit = commit
assert not older.isCurrent and gc and time
