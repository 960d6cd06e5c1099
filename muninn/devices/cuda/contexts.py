"""The contexts in which this process works: the primary ones of its GPUs, and those of
the program that it has seen.

Here the driver is asked what an address is, too: that takes a context, and any will do.

Only this process reads and writes what is here; the kernel destroys the contexts at its
end.
"""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import DriverError, call, typed
from muninn.devices.cuda.events import Events
from muninn.devices.cuda.gpu import Entered, Gpu

_MEMORY_TYPE = cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
#: What `memoryType` says of a GPU's memory.
ON_DEVICE = int(cu.CUmemorytype.CU_MEMORYTYPE_DEVICE)


class Contexts:
    """The contexts of this process, with the events of each."""

    def __init__(self, gpus: list[Gpu]) -> None:
        self._gpus = gpus
        #: By the context's id: its address may become another's.
        self._events: dict[int, Events] = {}
        self._suspected: set[int] = set()

    def eventsOf(self, context: Any) -> Events:
        """The events of a context, which is known from then on."""
        return self._events.setdefault(int(call(cu.cuCtxGetId, context)), Events(context))

    def notice(self) -> None:
        """Remember this thread's current context: it may be one of the program's own,
        and work on the memory that is asked for.
        """
        current = int(call(cu.cuCtxGetCurrent))
        if current and current not in self._suspected:
            self.eventsOf(cu.CUcontext(current))
            self._suspected.add(current)

    def known(self) -> dict[int, Any]:
        """The contexts in which this process may have given GPUs work, by their ids:
        the primary ones, and those that it was shown.
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
        """The GPU whose context serves for calls that need any: one that has a context
        already, since a context takes memory.
        """
        return next((gpu for gpu in self._gpus if gpu.isActive()), self._gpus[0])

    def memoryType(self, address: int) -> int | None:
        """What the driver calls the memory at an address; None: it does not know it."""
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
