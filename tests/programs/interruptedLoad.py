import os
import signal
import threading
import time

import muninn
from muninn.formats.source import Source

original = Source.readAt
# A shell that starts the tests in the background lets them ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


def readAt(source, offset, target):
    """Interrupt the caller, and again while it waits for the threads."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    original(source, offset, target)


def attempt(path):
    from muninn.formats import openFile

    openFile(path).close()  # its headers are read without an interruption
    Source.readAt = readAt
    try:
        for _ in range(10):
            muninn.load(path, "model").free()
            # The interruption came into a finalizer, where Python drops it.
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        Source.readAt = original


def crew():
    return [each.name for each in threading.enumerate() if "crew" in each.name]
