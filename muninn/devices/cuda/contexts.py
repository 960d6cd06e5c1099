"""The contexts in which this process works: the primary ones of its GPUs, and those of
the program that Muninn has seen.

This module also asks the driver about addresses, which takes a context; any will do.
Only this process reads and writes its state. The kernel destroys the contexts at the
end of the process.
"""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import DriverError, call, typed
from muninn.devices.cuda.events import Events
from muninn.devices.cuda.gpu import Entered, Gpu

_MEMORY_TYPE = cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
#: The value of `memoryType` for a GPU's memory.
ON_DEVICE = int(cu.CUmemorytype.CU_MEMORYTYPE_DEVICE)


class Contexts:
    """The contexts of this process, with the events of each."""

    def __init__(self, gpus: list[Gpu]) -> None:
        self._gpus = gpus
        #: By the context's id, because a later context may get its address.
        self._events: dict[int, Events] = {}
        #: The addresses of contexts that were current in a call.
        self._seen: set[int] = set()

    def eventsOf(self, context: Any) -> Events:
        """The events of a context. From then on the context is known."""
        return self._events.setdefault(int(call(cu.cuCtxGetId, context)), Events(context))

    def notice(self) -> None:
        """Remember this thread's current context. It may be one of the program's own,
        whose kernels work on the memory of this call.
        """
        current = int(call(cu.cuCtxGetCurrent))
        if current and current not in self._seen:
            self.eventsOf(cu.CUcontext(current))
            self._seen.add(current)

    def known(self) -> dict[int, Any]:
        """The contexts in which this process may have given GPUs work, by their ids:
        the active primary ones, and those that `notice` has seen.
        """
        for gpu in self._gpus:
            if gpu.isActive():
                self.eventsOf(gpu.context)
        return {contextId: events.context for contextId, events in list(self._events.items())}

    def enteredSome(self) -> Entered:
        """``with contexts.enteredSome():`` makes the primary context of `someGpu` this
        thread's.
        """
        return self.someGpu().entered()

    def someGpu(self) -> Gpu:
        """The GPU whose context serves for calls that need any context: a GPU that has
        a context already, since a context takes memory.
        """
        return next((gpu for gpu in self._gpus if gpu.isActive()), self._gpus[0])

    def memoryType(self, address: int) -> int | None:
        """The driver's type of the memory at an address; None where it knows none."""
        driver.guard()
        try:
            with self.someGpu().entered():
                return int(call(cu.cuPointerGetAttribute, _MEMORY_TYPE, address))
        except DriverError as error:
            if error.code != "INVALID_VALUE":
                raise typed(error, f"{address:#x} can not be asked for") from error
            return None

    def gpuOf(self, address: int) -> int | None:
        """The index of the GPU whose memory the address lies in; None: it lies in no
        GPU's.
        """
        if self.memoryType(address) != ON_DEVICE:
            return None
        with self.someGpu().entered():
            return driver.ordinalOf(address)
