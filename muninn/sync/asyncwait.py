"""Waiting for asyncio: on a thread of its own, for which the end of the interpreter
does not wait.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from muninn.system import threads
from muninn.system.threads import refuseImports


async def waited(wait: Callable[[threading.Event], int], wake: Callable[[], object]) -> int:
    """Call `wait` on another thread; returns its result, or raises its exception.

    Parameters
    ----------
    wait
        Called with an event. When the event is set, `wait` must end soon.
    wake
        Wakes `wait`, so that it looks at the event.
    """
    refuseImports("no generation can be awaited")
    import asyncio

    loop, cancelled = asyncio.get_running_loop(), threading.Event()
    future: asyncio.Future[int] = loop.create_future()

    def resolve(value: int, error: BaseException | None) -> None:
        if future.done():
            return  # cancelled meanwhile
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    def run() -> None:
        value, failure = 0, None
        try:
            value = wait(cancelled)
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed, and no task waits
            loop.call_soon_threadsafe(resolve, value, failure)

    # Not a thread of a pool: the interpreter waits for those when it ends, and this
    # thread may wait for ever.
    threads.start(run, "muninn-wait")
    try:
        return await future
    finally:
        # Otherwise the thread has ended, and a wake-up would only wake other waiters.
        if future.cancelled() or not future.done():
            cancelled.set()
            wake()
