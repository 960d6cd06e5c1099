"""A process that has imported Muninn and joined no domain. Other processes are forked
from it in a few milliseconds, where starting Python and importing numpy takes a third
of a second.

`spawning.Zygote` starts it, with the number of a socket; no module imports it. Each
request is one packet of JSON:

- A role for a new process, its environment, its working directory and the role's own
  arguments, with the descriptors of its standard streams. The answer is the process ID.
- The ID of such a process. The answer is its exit status, or null while it runs.

The new process plays its role at the top level of this module, so it ends as any
program does. It dies with the zygote.
"""

import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import sys
from typing import Any

import lockorder

if lockorder.VARIABLE in os.environ:
    lockorder.install(os.environ[lockorder.VARIABLE])  # before `muninn` is imported

import actor
from stateful import hands

_PR_SET_PDEATHSIG = 1
_MAX_BYTES = 1 << 20


def command(*arguments: str) -> None:
    """`python -m muninn`."""
    sys.argv[1:] = arguments
    runpy.run_module("muninn", run_name="__main__", alter_sys=True)


ROLES = {"actor": actor.main, "command": command, "puppet": hands.serve}


def begin(request: dict[str, Any], descriptors: list[int]) -> None:
    """Become a process of its own, in the child of a fork."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])


def main() -> None:
    control = socket.socket(fileno=int(sys.argv.pop()))
    gc.freeze()
    while True:
        raw, descriptors, _, _ = socket.recv_fds(control, _MAX_BYTES, 3)
        if not raw:
            return
        request = json.loads(raw)
        if "status" in request:
            pid, status = os.waitpid(request["status"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif not (answer := os.fork()):
            break
        control.send(json.dumps(answer).encode())
        for each in descriptors:
            os.close(each)
    control.close()
    begin(request, descriptors)
    ROLES[request["role"]](*request["arguments"])


if __name__ == "__main__":
    main()
