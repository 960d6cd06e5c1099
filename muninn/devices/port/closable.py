"""The base class of allocations, registrations and streams: `close` gives them back."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from typing import Self


class Closable(ABC):
    """A resource that `close` gives back, also if called twice, or else the garbage
    collector. At exit nothing is given back: the kernel does it then.
    """

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()
