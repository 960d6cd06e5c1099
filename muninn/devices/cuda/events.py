"""Events of the driver, used again and again. Other processes never get an event that
this process has recorded.
"""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda.driver import DriverError, call, typed
from muninn.devices.cuda.gpu import Entered

_FLAGS = int(cu.CUevent_flags.CU_EVENT_DISABLE_TIMING) | int(
    cu.CUevent_flags.CU_EVENT_BLOCKING_SYNC
)


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
        self._free.append(event)
