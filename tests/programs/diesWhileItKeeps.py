import os
import signal
import sys

from muninn.devices.topology import Kept, Verdict, cache

write = os.write


def dying(*arguments):
    if PLACE == "write":  # noqa: F821  # the test replaces it
        write(arguments[0], arguments[1][: len(arguments[1]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


setattr(cache.os, PLACE, dying)  # noqa: F821
Kept(sys.argv[1], "driver 1").put("x", "y", Verdict(False))
