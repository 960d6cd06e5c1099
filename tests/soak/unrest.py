"""What a worker of the soak does to itself when it is told: be interrupted, fork,
replace itself, end while a thread of it is at work.

None of it is a death that others are told of by a signal, and each leaves something
half done: a step that an exception cuts off, a child that must not take itself for its
parent, an access whose process runs another program, an access that goes on while its
process ends.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

import muninn
from tests.soak.roles import ROLES, Violation

#: By SIGINT, and by a line on standard input.
DEEDS = ("interrupt", "fork", "exec", "endBusy")
_SLOW_SECONDS = 0.05


class Interrupts:
    """SIGINT, which raises only while a role is at its step: the rehearsal of a worker
    is not what is tried.
    """

    def __init__(self) -> None:
        self._isInside = False
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_: object) -> None:
        if self._isInside:
            self._isInside = False  # once a step
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        self._isInside = True

    def __exit__(self, *_: object) -> None:
        self._isInside = False


def countSwallowed(count: Callable[[BaseException], None]) -> None:
    """Python has nobody to give an interrupt to that comes in a finalizer: it prints
    it. That is counted; anything else is printed.
    """
    printed = sys.unraisablehook

    def swallowed(what: sys.UnraisableHookArgs) -> None:
        if isinstance(what.exc_value, KeyboardInterrupt):
            count(what.exc_value)
        else:
            printed(what)

    sys.unraisablehook = swallowed


def fork(chance: random.Random) -> None:
    """A child that uses what there is, and ends in one of the two ways. Nobody waits
    for it.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork():
        return
    signal.alarm(60)  # whatever hangs in it does not stay
    status = 0
    try:
        role = ROLES[chance.choice(("reader", "writer", "churner"))](chance)
        for _ in range(5):
            try:
                role.step()
            except Violation:
                raise
            except (*role.expected, muninn.MuninnError):
                continue
        role.close()
    except Violation as error:
        os.write(1, f'{{"violation": "in a forked child: {error}"}}\n'.encode())
        status = 1
    if chance.random() < 0.5:
        os._exit(status)
    sys.exit(status)


def replace(role: str, chance: random.Random) -> None:
    """Run another program in this process, half way in an access and with a lock held,
    now and then.
    """
    if chance.random() < 0.5:
        scope = _halfWritten(chance)  # kept: its end would be the access's
        scope.__enter__()[:1] = 1
        # last: who goes on, after an error, must not hold it
        muninn.Lock(f"lock-{chance.randrange(3)}").acquire(timeout=30)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the next program has its handler
    os.execv(
        sys.executable,
        [sys.executable, "-m", "tests.soak.worker", role, str(chance.randrange(1 << 32))],
    )


def endBusy(chance: random.Random) -> None:
    """End while a daemon thread is inside an access, which nobody else may enter before
    it is really over.
    """
    inside = threading.Event()

    def work() -> None:
        buffer = _channel(chance)
        with buffer.write(timeout=30) as view:
            inside.set()
            stamp = buffer.generation + 1
            view[: view.size // 2] = stamp
            time.sleep(_SLOW_SECONDS * chance.uniform(0, 2))
            view[view.size // 2 :] = stamp

    threading.Thread(target=work, daemon=True).start()
    inside.wait(30)
    sys.exit()


def _channel(chance: random.Random) -> muninn.MuninnBuffer:
    from tests.soak.roles import CHANNEL_WORDS

    index = chance.randrange(len(CHANNEL_WORDS))
    return muninn.array(f"channel-{index}", CHANNEL_WORDS[index], "i8")


def _halfWritten(chance: random.Random) -> muninn.sync.access.Writing:
    return _channel(chance).write(timeout=30)
