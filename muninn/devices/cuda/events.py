"""Events of the driver, used again and again. Other processes never get an event that
this process has recorded.
"""

from __future__ import annotations

import weakref
from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import DriverError, call, typed
from muninn.devices.cuda.gpu import Entered
from muninn.devices.port import Mark
from muninn.system import clock

_FLAGS = int(cu.CUevent_flags.CU_EVENT_DISABLE_TIMING) | int(
    cu.CUevent_flags.CU_EVENT_BLOCKING_SYNC
)
#: For how long an event that is near is looked for before the wait becomes a sleep.
_NEAR_SECONDS = 0.002


class Events:
    """Events of one context."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self._free: list[Any] = []

    def take(self) -> Any:
        """An event; the caller has entered the context."""
        try:
            return self._free.pop()
        except IndexError:
            return call(cu.cuEventCreate, _FLAGS)

    def record(self, handle: int) -> Any:
        """An event recorded in a stream of this context, which the caller has entered."""
        event = self.take()
        call(cu.cuEventRecord, event, handle)
        return event

    def wait(self, event: Any) -> None:
        """Block until the event is reached. Raises the error of the GPU, if its work
        failed.
        """
        with Entered(self.context):
            try:
                call(cu.cuEventSynchronize, event)
            except DriverError as error:
                raise typed(error, "the GPU's work failed") from error
        self.giveBack(event)

    def giveBack(self, event: Any) -> None:
        """Let the event be recorded anew. A stream that waits for it goes on waiting for
        what it was recorded behind before.
        """
        self._free.append(event)


class EventMark(Mark):
    """A place in a stream, as an event that was recorded there."""

    def __init__(self, events: Events, event: Any) -> None:
        self.event = event
        self._events = events
        self._finalizer = weakref.finalize(self, events.giveBack, event)
        self._finalizer.atexit = False

    def wait(self, isNear: bool = False) -> None:
        with Entered(self._events.context), driver.BeyondCaptures():
            try:
                if not isNear or not self._isReachedSoon():
                    call(cu.cuEventSynchronize, self.event)
            except DriverError as error:
                raise typed(error, "the GPU's work failed") from error

    def _isReachedSoon(self) -> bool:
        deadline = clock.now() + _NEAR_SECONDS
        while clock.now() < deadline:
            try:
                call(cu.cuEventQuery, self.event)
            except DriverError as error:
                if error.code != "NOT_READY":
                    raise
            else:
                return True
        return False

    def close(self) -> None:
        self._finalizer()
