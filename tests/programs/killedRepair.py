import signal
from muninn.api import admin
from muninn.system import atomics

calls = 0
owner = atomics if hasattr(atomics, "STEP") else os
real = getattr(owner, "STEP")


def dying(*arguments, **keywords):
    global calls
    calls += 1
    if calls == NUMBER:
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*arguments, **keywords)
    return result


setattr(owner, "STEP", dying)
