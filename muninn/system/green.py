"""Green threads: what gevent and eventlet make of Python's threads, and how Muninn
lives with it.

They put functions of their own in the place of those in `_thread`, `threading`,
`select` and `socket`, so that whatever would wait lets the other green threads of its
thread run. The thread that serves must be a real one all the same, or it would stand
still with the program; and a lock that is met by both must be a real one. So what
Muninn needs of these modules it takes from copies that nobody has changed, and
`tests/test_green.py` holds that it takes it from nowhere else.

Who waits for another process, or for that thread, lets the others run: `pause` for as
long as it likes, and `sleepOn` in short steps, because no futex wakes a green thread.
Whoever is inside a lock of this process may be met there by another green thread of the
same thread, just as by a handler of a signal (`aside.py`).
"""

from __future__ import annotations

import _thread
import errno
import importlib.util
import sys
import threading
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from muninn.system import atomics

if TYPE_CHECKING:
    import select
    from queue import SimpleQueue as SimpleQueue
else:
    from _queue import SimpleQueue as SimpleQueue  # which nobody replaces

#: How long a green thread leaves the thread to the others between two looks.
_LOOK_NS = 1_000_000
#: The longest single sleep of a condition; the waiter looks again.
_LONGEST_SECONDS = 3600.0


def _original(name: str) -> Any:
    """A copy of a module that is written in C, as it was before anybody changed it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_select, _threads = _original("select"), _original("_thread")
epoll: Callable[[], select.epoll] = _select.epoll
poll: Callable[[], select.poll] = _select.poll
#: A thread whatever else was made of threads. Raises `RuntimeError` when none can be
#: had.
startThread: Callable[[Callable[..., object], tuple[Any, ...]], int] = _threads.start_new_thread
#: Each thread's own, whichever of its green threads asks.
Local: type[threading.local] = _threads._local


def areGreen() -> bool:
    """Whether a library has made green threads of threads: then it says who is running."""
    return not isinstance(threading.get_ident, types.BuiltinFunctionType)


def identity() -> int:
    """Who is running: the thread, or the green thread. What the owners in C compare."""
    return threading.get_ident()


def _sleeper() -> Callable[[float], object] | None:
    """What lets the others of the calling thread run; None when nobody could: it has no
    green threads, or is the loop that runs them.
    """
    if not areGreen():
        return None
    modules = sys.modules
    if (hubs := modules.get("gevent._hub_local")) is not None and (
        hub := hubs.get_hub_if_exists()
    ) is not None:
        gevent = modules["gevent"]
        return None if gevent.getcurrent() is hub else gevent.sleep
    if (hubs := modules.get("eventlet.hubs")) is not None and (
        hub := getattr(hubs._threadlocal, "hub", None)
    ) is not None:
        eventlet = modules["eventlet"]
        return None if eventlet.getcurrent() is hub.greenlet else eventlet.sleep
    return None


def pause(seconds: float) -> bool:
    """Let the other green threads run for so long; False, at once, when there are none.
    What ends the calling one is raised.
    """
    sleep = _sleeper()
    if sleep is None:
        return False
    sleep(seconds)
    return True


def sleepOn(address: int, expected: int, timeoutNs: int) -> int:
    """As `atomics.futexWait32`: sleep while the word says `expected`, at most so long,
    or until woken; the caller looks again.

    Where there are green threads it ends after a moment.
    """
    sleep = _sleeper()
    if sleep is None:
        result: int = atomics.futexWait32(address, expected, timeoutNs)
        return result
    if atomics.loadAcquire32(address) == expected and timeoutNs > 0:
        sleep(min(timeoutNs, _LOOK_NS) / 1e9)
    return -errno.EAGAIN


def awaitReadable(descriptor: int, spinNs: int, timeoutNs: int) -> int:
    """As `atomics.awaitReadable`, which ends after a moment where there are green
    threads.
    """
    sleep = _sleeper()
    if sleep is None:
        return int(atomics.awaitReadable(descriptor, spinNs, timeoutNs))
    if (
        result := int(atomics.awaitReadable(descriptor, spinNs, 0))
    ) == -errno.ETIMEDOUT and timeoutNs > 0:
        sleep(min(timeoutNs, _LOOK_NS) / 1e9)
        result = int(atomics.awaitReadable(descriptor, 0, 0))
    return result


class Condition:
    """As `threading.Condition` with a lock that may be taken again, between threads and
    green threads alike.

    What waits may wake up for nothing.
    """

    def __init__(self) -> None:
        self._lock = _thread.RLock()
        self._word, self._address = atomics.privateWord()

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._lock.__exit__(*raised)

    def wait(self, seconds: float | None = None) -> None:
        """Leave the lock until another thread notifies or the time is over, and take it
        again.
        """
        # SYNC changed: pairs with Condition.notifyAll. The word is read inside the
        # lock, and compared as the thread falls asleep.
        seen = atomics.loadAcquire32(self._address)
        saved = self._lock._release_save()  # type: ignore[attr-defined]
        try:
            sleepOn(
                self._address,
                seen,
                int(min(_LONGEST_SECONDS, _LONGEST_SECONDS if seconds is None else seconds) * 1e9),
            )
        finally:
            self._lock._acquire_restore(saved)  # type: ignore[attr-defined]

    def notifyAll(self) -> None:
        # SYNC changed: pairs with Condition.wait, which has read the word inside the
        # lock.
        atomics.fetchAddAcqRel32(self._address, 1)
        atomics.futexWake32(self._address, atomics.FUTEX_ALL)
