"""Waiting for asyncio: on a thread of its own, for which the end of the interpreter
does not wait.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from muninn.system import threads
from muninn.system.threads import refuseImports

Value = TypeVar("Value")


async def waited(wait: Callable[[threading.Event], Value], wake: Callable[[], object]) -> Value:
    """Call `wait` on another thread; returns its result, or raises its exception.

    Parameters
    ----------
    wait
        Called with an event. When the event is set, `wait` must end soon.
    wake
        Wakes `wait`, so that it looks at the event.
    """
    refuseImports("nothing can be awaited")
    import asyncio

    loop, cancelled = asyncio.get_running_loop(), threading.Event()
    future: asyncio.Future[Value] = loop.create_future()

    def resolve(end: Callable[[], object]) -> None:
        if not future.done():  # otherwise it was cancelled meanwhile
            end()

    def run() -> None:
        try:
            end = partial(future.set_result, wait(cancelled))
        except BaseException as error:
            end = partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and no task waits
            loop.call_soon_threadsafe(resolve, end)

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
