"""The parts of measurements that other processes play: `python -m muninn.prof.parts
FUNCTION '[ARGUMENTS]'`. Each reads and writes lines of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from muninn.system import clock

_WAIT_SECONDS = 30
#: How long a holder keeps a lock, so that its waiter has fallen asleep.
_HELD_SECONDS = 0.001


def say(value: Any) -> None:
    """Tell the process that has started this one."""
    print(json.dumps(value), flush=True)


def endWithParent() -> None:
    """End this process when its stdin does. For parts that wait elsewhere meanwhile."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def broker() -> None:
    """Join before the others, to become the broker, and share a buffer."""
    import numpy as np

    import muninn

    kept = muninn.share(np.zeros(1024), name="kept")
    say(muninn.domainInfo()["brokerPid"])
    for _ in sys.stdin:
        say(bool(kept))


def echo(rounds: int | None = None) -> None:
    """Answer each request of the buffer `request` in `answer`, so often, or until the end
    of stdin.
    """
    import numpy as np

    import muninn

    request, answer = muninn.open("request"), muninn.open("answer", access="readWrite")
    out = np.empty(request.shape, request.dtype)
    known = request.generation
    if rounds is None:
        endWithParent()
    say(True)
    answered = 0
    while rounds is None or answered < rounds:
        try:
            known = request.waitNext(_WAIT_SECONDS, after=known, out=out)
        except TimeoutError:
            if rounds is not None:
                raise
            continue  # nobody asks at present
        with answer.write() as view:
            view[:] = out
        answered += 1


def answerWakes(descriptor: int, payloadBytes: int) -> None:
    """The same by bare futexes."""
    from muninn.prof.wakes import answering

    endWithParent()
    answering(descriptor, payloadBytes, lambda: say(True))


def wakeSleeper(descriptor: int) -> None:
    """When told: wake the other process by a futex, once it sleeps, and say when that was."""
    from muninn.prof.wakes import Wakes

    wakes = Wakes(descriptor, 1, 0)
    say(True)
    for _ in sys.stdin:
        clock.sleep(_HELD_SECONDS)
        woke = clock.now()
        wakes.post()
        say(woke)


def sleep() -> None:
    """Only be there."""
    say(True)
    sys.stdin.read()


def holdLock(name: str) -> None:
    """When told: take the lock, say so, release it, and say when that was, by the clock
    that all processes share.
    """
    import muninn

    lock = muninn.Lock(name)
    with lock:
        pass
    say(True)
    for _ in sys.stdin:
        lock.acquire()
        say(True)
        clock.sleep(_HELD_SECONDS)
        released = clock.now()
        lock.release()
        say(released)


def openInVram(name: str, descriptor: int, handle: str, sizeBytes: int) -> None:
    """When told: the seconds of an open of a buffer in VRAM, up to the pointer that
    kernels take, and those of the driver alone for other memory of the same size.
    """
    import muninn
    from muninn.session import gpus, membership

    muninn.open(name).open()  # makes the context and all else that a process makes once
    device = gpus.deviceOf(membership.current())

    def ours() -> float:
        started = clock.now()
        buffer = muninn.open(name)
        buffer.open()
        took = clock.now() - started
        buffer.close()
        device.memoryInfo(0)  # after this wait the memory is given back
        return took

    def bare() -> float:
        started = clock.now()
        with device.importAllocation(0, descriptor, sizeBytes, False, bytes.fromhex(handle)):
            took = clock.now() - started
        device.memoryInfo(0)
        return took

    say(True)
    for _ in sys.stdin:
        say([ours(), bare()])


#: By the names that `Peer` takes.
PARTS: dict[str, Callable[..., None]] = {
    each.__name__: each
    for each in (broker, echo, answerWakes, wakeSleeper, sleep, holdLock, openInVram)
}


if __name__ == "__main__":
    PARTS[sys.argv[1]](*json.loads(sys.argv[2]))
