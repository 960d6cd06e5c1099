"""Mapped allocations: what the allocations of both back-ends have in common, on each
transport.

An allocation has one mapping, an object whose end unmaps the memory. `close` lets the
allocation's reference to it go. Arrays on the memory keep the mapping as their anchor,
so the memory stays mapped until the last of them is gone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from muninn.devices.port import Allocation
from muninn.errors import BufferFreed, MuninnError
from muninn.system.logs import Log

_log = Log("muninn.devices")
#: To let a GPU reach 2 GiB takes 10 ms, and then each copy takes 0.9 ms less (two H200).
_OFTEN = 10


class Addressed(Protocol):
    """What an allocation needs of its mapping."""

    @property
    def address(self) -> int: ...


M = TypeVar("M", bound=Addressed)


class MappedAllocation(Allocation, Generic[M]):
    """An allocation with its mapping, which is None once the allocation is closed."""

    _mapping: M | None
    #: The other GPUs that reach it, and those that could not be let.
    _reached: frozenset[int] = frozenset()
    _refused: frozenset[int] = frozenset()
    #: How many copies to each of them were counted.
    _copies: Mapping[int, int] = MappingProxyType({})

    @property
    def address(self) -> int:
        return self._mapped().address

    @property
    def anchor(self) -> object:
        return self._mapped()

    def _mapped(self) -> M:
        mapping = self._mapping
        if mapping is None:
            raise BufferFreed(
                f"an allocation of {self.sizeBytes} bytes on GPU {self.gpu} was closed"
            )
        return mapping

    def letReach(self, gpu: int) -> None:
        mapping = self._mapped()  # held meanwhile
        if not self.isReachedBy(gpu):
            self._give(gpu)
            self._reached |= {gpu}
        del mapping

    def countCopy(self, gpu: int) -> None:
        count = self._copies.get(gpu, 0) + 1
        self._copies = {**self._copies, gpu: count}
        # Another time after as many copies again: what refuses it may be over.
        if count % _OFTEN == 0 and (count // _OFTEN).bit_count() == 1:
            try:
                self.letReach(gpu)
            except MuninnError as error:
                self._refused |= {gpu}
                _log.debug("copies between GPU %d and GPU %d: %s", self.gpu, gpu, error)

    def refusesReach(self, gpu: int) -> bool:
        return gpu in self._refused

    def isReachedBy(self, gpu: int) -> bool:
        return gpu == self.gpu or gpu in self._reached

    @abstractmethod
    def _give(self, gpu: int) -> None:
        """Let another GPU use the memory. Raises `TopologyNotPeerable`."""

    def close(self) -> None:
        self._mapping = None
