"""The deeds of a worker of the soak on command: it is interrupted, forks, replaces
itself, or ends while one of its threads is at work.

None of these is a kill, and each leaves some operation half done: a step that an
exception interrupts, a child that must not take itself for its parent, an access whose
process runs another program, an access that goes on while its process ends.
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
from tests.soak.role import Violation
from tests.soak.roles import ROLES

#: By SIGINT, and by a line on standard input.
DEEDS = ("interrupt", "fork", "exec", "endBusy")
_SLOW_SECONDS = 0.05


class Interrupts:
    """SIGINT, which raises only while a role performs a step, because the soak does not
    test the worker's own code.
    """

    def __init__(self) -> None:
        self._isInside = False
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_: object) -> None:
        if self._isInside:
            self._isInside = False  # at most once a step
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        self._isInside = True

    def __exit__(self, *_: object) -> None:
        self._isInside = False


def countSwallowed(count: Callable[[BaseException], None]) -> None:
    """Python prints an interrupt that comes in a finalizer, because no caller could
    handle it. Count these interrupts; other errors are printed.
    """
    printed = sys.unraisablehook

    def swallowed(what: sys.UnraisableHookArgs) -> None:
        if isinstance(what.exc_value, KeyboardInterrupt):
            count(what.exc_value)
        else:
            printed(what)

    sys.unraisablehook = swallowed


def fork(chance: random.Random) -> None:
    """Fork a child that uses the buffers of the soak, and ends by `os._exit` or by
    `sys.exit`. No process waits for it.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork():
        return
    signal.alarm(60)  # a child that hangs ends too
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
    """Run another program in this process, half of the times inside an access and with
    a lock held.
    """
    if chance.random() < 0.5:
        scope = _halfWritten(chance)  # kept, because the end of the object would end the access
        scope.__enter__()[:1] = 1
        # The lock is taken last, because a process that goes on after an error must not
        # hold it.
        muninn.Lock(f"lock-{chance.randrange(3)}").acquire(timeout=30)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ignored until the next program has its handler
    os.execv(
        sys.executable,
        [sys.executable, "-m", "tests.soak.worker", role, str(chance.randrange(1 << 32))],
    )


def endBusy(chance: random.Random) -> None:
    """End while a daemon thread is inside an access, which no other process may enter
    before it is really over.
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
    from tests.soak.role import CHANNEL_WORDS

    index = chance.randrange(len(CHANNEL_WORDS))
    return muninn.array(f"channel-{index}", CHANNEL_WORDS[index], "i8")


def _halfWritten(chance: random.Random) -> muninn.sync.access.Writing:
    return _channel(chance).write(timeout=30)
