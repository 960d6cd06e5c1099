"""Workshop: the threads on which handlers work.

Most handlers answer within the bounds of the session. A promotion waits for as long as
its client says. So promotions have a number of places of their own, and one that finds
none is refused at once: no other request ever waits behind them.

A handler works for the membership that serves. If that was lost, the process joins
again before the handler begins, and not later: one that is still at work when the
serving process has left the domain can not bring it back in.

The places and the handlers at work are in a deque and a set, of which single steps of C
take and give; several event loops and many threads share them without a lock.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from anyio import CapacityLimiter, to_thread

from muninn.errors import BrokerUnavailable, PromotionDenied
from muninn.session.membership import current
from muninn.system.beside import besideTheProgram
from muninn.system.deadlines import deadlineOf, remaining
from muninn.system.latch import Latch
from muninn.system.logs import Log

_Arguments = tuple[object, ...]

_log = Log("muninn.http")
#: How many handlers may wait as long as their clients say, at once.
MOST_WAITING = 16


class Workshop:
    """The handlers at work for one block of `served`, on all its sockets."""

    def __init__(self) -> None:
        self._places = deque([None] * MOST_WAITING)
        self._atWork: set[Latch] = set()
        self._isOver = False

    async def do(self, work: Callable[..., Any], *arguments: object, waits: bool = False) -> Any:
        """What `work` returns, on a thread. If it `waits` as long as its client says, it
        takes a place.

        Raises
        ------
        PromotionDenied
            There is no place.
        BrokerUnavailable
            It is served no more.
        """
        try:
            return await self._worked(work, arguments, waits)
        except asyncio.CancelledError:
            if not self._isOver:
                raise
            raise _noMore() from None  # the server ends, and its clients are told

    async def _worked(self, work: Callable[..., Any], arguments: _Arguments, waits: bool) -> Any:
        if not waits:
            return await to_thread.run_sync(self._done, work, arguments, abandon_on_cancel=True)
        try:
            self._places.pop()
        except IndexError:
            raise PromotionDenied(
                f"{MOST_WAITING} promotions of this interface wait already", "Ask again later"
            ) from None
        begun = list[bool]()

        def workThere() -> Any:
            begun.append(True)
            try:
                return self._done(work, arguments)
            finally:
                self._places.append(None)

        try:
            # The places are the limit, so it waits for no thread.
            return await to_thread.run_sync(
                workThere, limiter=CapacityLimiter(1), abandon_on_cancel=True
            )
        finally:
            if not begun:
                self._places.append(None)

    def _done(self, work: Callable[..., Any], arguments: _Arguments) -> Any:
        ended = Latch()
        self._atWork.add(ended)  # before the look at `_isOver`, which `close` sets before its own
        try:
            if self._isOver:
                raise _noMore()
            current()
            with besideTheProgram():
                return work(*arguments)
        except BaseException as error:
            _clear(error)
            raise
        finally:
            self._atWork.discard(ended)
            ended.set()

    def refuse(self) -> None:
        """Begin no more work."""
        self._isOver = True

    def close(self, seconds: float) -> None:
        """Begin no more work, and wait for so long until that which has begun is done."""
        self.refuse()
        deadline = deadlineOf(seconds)
        late = [each for each in list(self._atWork) if not each.wait(remaining(deadline))]
        if late:
            _log.warning("%d requests are at work when it is served no more", len(late))


def _clear(error: BaseException) -> None:
    """Let the variables of the functions go in which an error was raised. The error and the
    future that brings it refer to each other until the collector runs, and a buffer that
    such a variable names would stay in use so long.
    """
    each: BaseException | None = error
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__context__


def _noMore() -> BrokerUnavailable:
    return BrokerUnavailable("this interface is served no more", "Ask the next one")
