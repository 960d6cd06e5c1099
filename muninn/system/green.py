"""Green threads: gevent and eventlet replace Python's threads, and Muninn lives with
it.

These libraries put their own functions in the place of those in `_thread`, `threading`,
`select` and `socket`. A function that would wait then lets the other green threads of
its thread run. Muninn's background thread must be a real thread all the same, or it
would stand still with the program. A lock that both kinds of thread take must be a real
lock. So Muninn takes what it needs of these modules from copies that no library has
changed, and `tests/test_green.py` holds that it takes it from nowhere else.

A green thread that waits for another process, or for the background thread, lets the
others run. `pause` does so for as long as it is asked to. `sleepOn` does so in short
steps, because no futex wakes a green thread. While a green thread is inside a lock of
this process, another green thread of the same thread may come to that lock, as a signal
handler may (`aside.py`).
"""

from __future__ import annotations

import _thread
import errno
import importlib.util
import sys
import threading
import types
from collections.abc import Callable
from itertools import filterfalse
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from muninn.system import atomics

if TYPE_CHECKING:
    import select
    from queue import SimpleQueue as SimpleQueue
else:
    from _queue import SimpleQueue as SimpleQueue  # no library replaces this one

#: How long a green thread leaves the thread to the others between two looks.
_LOOK_NS = 1_000_000
#: The longest single sleep of a condition; the waiter looks again.
_LONGEST_SECONDS = 3600.0
_isOwned = methodcaller("_is_owned")


def _original(name: str) -> Any:
    """A new copy of a module that is written in C, as it was before any library changed
    it.
    """
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_select, _threads = _original("select"), _original("_thread")
epoll: Callable[[], select.epoll] = _select.epoll
poll: Callable[[], select.poll] = _select.poll
#: Start a real thread, whether or not threads are green. Raises `RuntimeError` if the
#: system gives none.
startThread: Callable[[Callable[..., object], tuple[Any, ...]], int] = _threads.start_new_thread
#: Values of each real thread, shared by its green threads.
Local: type[threading.local] = _threads._local


def areGreen() -> bool:
    """Whether a library has replaced threads by green threads: then `get_ident` is its
    own.
    """
    return not isinstance(threading.get_ident, types.BuiltinFunctionType)


def identity() -> int:
    """The identity of the running thread or green thread, which the owner records in C
    compare.
    """
    return threading.get_ident()


def _sleeper() -> Callable[[float], object] | None:
    """The function that lets the other green threads of the calling thread run. None if
    none could run: the thread has no green threads, or the caller is the loop that runs
    them.
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
    """Let the other green threads run for so long. Returns False, at once, if there are
    none. An exception that ends the calling green thread is raised here.
    """
    sleep = _sleeper()
    if sleep is None:
        return False
    sleep(seconds)
    return True


def sleepOn(address: int, expected: int, timeoutNs: int) -> int:
    """As `atomics.futexWait32`: sleep while the word is `expected`, at most so long, or
    until woken. The caller looks again.

    With green threads, the sleep ends after a moment.
    """
    sleep = _sleeper()
    if sleep is None:
        result: int = atomics.futexWait32(address, expected, timeoutNs)
        return result
    if atomics.loadAcquire32(address) == expected and timeoutNs > 0:
        sleep(min(timeoutNs, _LOOK_NS) / 1e9)
    return -errno.EAGAIN


def awaitReadable(descriptor: int, spinNs: int, timeoutNs: int) -> int:
    """As `atomics.awaitReadable`; with green threads, the wait ends after a moment."""
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
    """As `threading.Condition` with a re-entrant lock, for threads and green threads
    alike.

    A waiter may wake up for no reason. A signal handler may raise at any step of
    `wait`; the lock is then the caller's, as before.

    Attributes
    ----------
    lock
        The lock. ``with condition.lock:`` takes and releases it in one step each; a
        method of this class, in Python, could be interrupted in between, and the lock
        would stay taken.
    """

    def __init__(self) -> None:
        self.lock = _thread.RLock()
        self._word, self._address = atomics.privateWord()

    def wait(self, seconds: float | None = None) -> None:
        """Release the lock, sleep until another thread notifies or the time is over,
        and take the lock again.
        """
        # SYNC changed: pairs with Condition.notifyAll. The word is read inside the
        # lock, and compared as the thread falls asleep.
        seen = atomics.loadAcquire32(self._address)
        lock: Any = self.lock
        # Made ahead: the interpreter looks for signals after each call. So one call both
        # releases the lock and keeps how often it was taken, and there is only one call
        # from the end of the sleep until the lock is taken.
        saved: list[Any] = []
        releasing = map(type(lock)._release_save, (lock,))
        restoring = map(type(lock)._acquire_restore, filterfalse(_isOwned, (lock,)), saved)
        try:
            saved.extend(releasing)
            sleepOn(
                self._address,
                seen,
                int(min(_LONGEST_SECONDS, _LONGEST_SECONDS if seconds is None else seconds) * 1e9),
            )
        finally:
            next(restoring, None)

    def notifyAll(self) -> None:
        # SYNC changed: pairs with Condition.wait, which has read the word inside the
        # lock.
        atomics.fetchAddAcqRel32(self._address, 1)
        atomics.futexWake32(self._address, atomics.FUTEX_ALL)
