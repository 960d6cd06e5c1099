"""Threads: Muninn starts its threads here, also at a time when Python starts none any
more.

Until the interpreter is finalised, exit handlers run, and may use Muninn for the first
time, or again after it has left. Python 3.12 refuses to start a thread there, although
running threads go on (3.11 and 3.13 start them). In that case the C library starts the
thread. Once `sys.is_finalizing()`, no thread gets the interpreter any more, and a
Python that is asked for a thread waits for it for ever: so Muninn asks for none. If a
library makes green threads of threads, Muninn's are real ones (`green.py`).

A thread is started by one call of C, and `threading` learns of it on the thread itself,
which no signal reaches. `Thread.start` would wait for the thread. A signal handler that
raises meanwhile may leave a lock taken, for which the thread then waits for ever, or let
`threading` forget a thread that runs.
"""

from __future__ import annotations

import _thread
import contextlib
import resource
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from muninn.errors import BrokerUnavailable, ThreadsExhausted
from muninn.system import atomics, cgroups, green
from muninn.system.latch import Latch

#: Any of these limits may be the reason that no thread can be started.
_LIMITS = (
    ("threads", resource.RLIMIT_NPROC, "`ulimit -u`"),
    ("addresses", resource.RLIMIT_AS, "`ulimit -v`"),
    ("data", resource.RLIMIT_DATA, "`ulimit -d`"),
    ("locked memory", resource.RLIMIT_MEMLOCK, "`ulimit -l`, for mlockall"),
)
#: How long a starter waits until its thread is there; the thread comes in any case.
_BEGIN_SECONDS = 5.0


def exhausted() -> ThreadsExhausted:
    """The error for a thread that could not be started, because a limit of the process,
    of its user or of its container is reached.
    """
    shown = [f"{what} {_shown(limit)} ({option})" for what, limit, option in _LIMITS]
    if (most := cgroups.mostTasks()) is not None:
        shown.append(f"tasks of the control group {most} (`pids.max`)")
    return ThreadsExhausted(f"no thread can be started; the limits: {', '.join(shown)}")


def _shown(limit: int) -> str:
    soft = resource.getrlimit(limit)[0]
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)


class Once:
    """A call that is made at most once, by the first thread that comes to it.

    An interruption of a start leaves its caller without knowing whether the thread runs. So
    the caller starts another one, and the second of the two ends at once.

    Attributes
    ----------
    ended
        Set when the call is over.
    """

    __slots__ = ("_chance", "_target", "ended")

    def __init__(self, target: Callable[[], object]) -> None:
        self._target: Callable[[], object] | None = target
        self._chance, self.ended = [None], Latch()

    def __call__(self) -> None:
        if not self.take():
            return
        try:
            if self._target is not None:
                self._target()
        finally:
            self._target = None  # an error of it keeps this frame
            self.ended.set()

    def isTaken(self) -> bool:
        """Whether a thread makes the call, or has made it."""
        return not self._chance

    def take(self) -> bool:
        """Take the call away. False if a thread makes it, or has made it."""
        try:
            self._chance.pop()
        except IndexError:
            return False
        return True


class LateThread:
    """A daemon thread that `threading` does not know. By default the C library starts
    it.

    Python knows it while it runs Python code, as it knows any thread of a C library.
    """

    def __init__(self, call: Once, begin: Callable[[Once], object] = atomics.startThread) -> None:
        self._ended = call.ended
        begin(call)

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)


class NoThread:
    """Stands for the background thread of a process that can start none any more."""

    def join(self, timeout: float | None = None) -> None:
        """It has ended."""


AnyThread: TypeAlias = "threading.Thread | LateThread | NoThread"


def start(target: Callable[[], object], name: str) -> AnyThread:
    """Start a daemon thread that calls `target`. Raises `ThreadsExhausted` if the
    system gives none, and `RuntimeError` while the interpreter is finalised. If an
    interruption is raised, the thread may run or not.
    """
    refuseAtEnd()
    call = Once(target)
    if green.areGreen():
        return _started(call)
    begun = Latch()
    thread = threading.Thread(target=_known, args=(call, begun), name=name, daemon=True)

    def join(timeout: float | None = None) -> None:
        call.ended.wait(timeout)

    # `threading` does not know that the thread was started before it runs.
    thread.join = join  # type: ignore[method-assign]
    try:
        _begin(thread)
    except RuntimeError:
        return _last(call)
    begun.wait(_BEGIN_SECONDS)
    return thread


def _begin(thread: Any) -> None:
    """Start a thread of `threading` by one call of C."""
    if (handle := getattr(thread, "_handle", None)) is None:
        _thread.start_new_thread(_enter, (thread,))
    else:  # from Python 3.13 on, by which others can join it
        joinable: Any = vars(_thread)["start_joinable_thread"]
        joinable(partial(_enter, thread), handle=handle, daemon=True)


def _enter(thread: Any) -> None:
    """What `Thread.start` does before it starts a thread, and then the thread's part."""
    library: Any = threading
    with library._active_limbo_lock:
        library._limbo[thread] = thread
    thread._bootstrap()


def _known(target: Callable[[], object], begun: Latch) -> None:
    """Call `target` on a thread that `threading` knows by now. `threading` looks for the
    thread by its identity when it ends.
    """
    begun.set()
    began = green.identity()
    try:
        target()
    finally:
        # A library has made green threads of threads meanwhile.
        if (ends := green.identity()) != began:
            running: dict[int, Any] = threading._active  # type: ignore[attr-defined]
            running[ends] = running.pop(began, None)  # or its end is a KeyError


def startBare(target: Callable[[], object]) -> None:
    """The same, in one step, for a thread that `threading` does not know."""
    refuseAtEnd()
    call = Once(target)
    if green.areGreen():
        _started(call)
        return
    try:
        _thread.start_new_thread(call, ())
    except RuntimeError:
        _last(call)


def _started(call: Once) -> LateThread:
    with contextlib.suppress(RuntimeError):
        return LateThread(call, lambda run: green.startThread(run, ()))
    return _last(call)


def _last(call: Once) -> LateThread:
    """Let the C library start a thread, because Python has refused."""
    try:
        return LateThread(call)
    except RuntimeError:
        raise exhausted() from None


def endingError(reason: str) -> BrokerUnavailable:
    """The error for a call that can not be made any more because the interpreter is
    finalised.
    """
    return BrokerUnavailable(
        f"the interpreter is ending, and {reason}",
        "Do it before, in an exit handler (atexit) at the latest",
    )


def refuseImports(reason: str) -> None:
    """Raise `endingError` if the interpreter is being finalised: nothing can be
    imported any more.
    """
    if sys.is_finalizing():
        raise endingError(reason)


def refuseAtEnd() -> None:
    """Raise `RuntimeError` if the interpreter is being finalised."""
    if sys.is_finalizing():
        raise RuntimeError("no thread can be started while the interpreter is finalised")
