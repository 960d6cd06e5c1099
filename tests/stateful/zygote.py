"""A process that has imported muninn and joined no domain, so that a process can be
forked from it in a few milliseconds.

Run by `puppets.Zygote`, with the number of a socket; never imported. Each request is
the environment of a new puppet, with the socket on which the puppet gets its
operations: one packet of JSON in, one out. A puppet leaves politely when its socket
ends, and dies with the zygote.
"""

import ctypes
import json
import os
import signal
import socket
import sys

from stateful.hands import Hands

_PR_SET_PDEATHSIG = 1
_MAX_BYTES = 1 << 20


def serve(connection: socket.socket) -> None:
    hands = Hands()
    while raw := connection.recv(_MAX_BYTES):
        op, arguments = json.loads(raw)
        try:
            answer = {"value": getattr(hands, op)(*arguments)}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        connection.send(json.dumps(answer).encode())
    hands.kept.clear()


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    # No process waits for puppets: their pidfds show their end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        raw, descriptors, _, _ = socket.recv_fds(control, _MAX_BYTES, 1)
        if not raw:
            return
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            os.environ.update(json.loads(raw))
            serve(socket.socket(fileno=descriptors[0]))
            return
        os.close(descriptors[0])
        control.send(str(pid).encode())


if __name__ == "__main__":
    main()
