import signal
from muninn.session import membership
from muninn.system import atomics

muninn.domainInfo()
current = membership.current()
owner = atomics if "CALL" in dir(atomics) else os
real = getattr(owner, "CALL")
calls = []


def dying(*arguments, **keywords):
    calls.append(1)
    if len(calls) == NUMBER:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **keywords)
