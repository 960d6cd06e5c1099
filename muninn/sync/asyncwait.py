"""Waiting for asyncio: in a thread of its own, which the end of the interpreter does
not wait for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from muninn.system import threads
from muninn.system.threads import refuseImports


async def waited(wait: Callable[[threading.Event], int], wake: Callable[[], object]) -> int:
    """What `wait` returns or raises, on another thread.

    Parameters
    ----------
    wait
        Called with an event: when that is set, it is to end soon.
    wake
        Makes it look at the event.
    """
    refuseImports("nobody can be awaited")
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
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(resolve, value, failure)

    # Not of a pool, which the interpreter waits for when it ends: what this waits for
    # may never come.
    threads.start(run, "muninn-wait")
    try:
        return await future
    finally:
        # else its thread has ended, and the others would be woken for nothing
        if future.cancelled() or not future.done():
            cancelled.set()
            wake()
