"""The base class of what `close` gives back: ``with`` closes it."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from typing import Self


class Closable(ABC):
    """A resource that `close` gives back, also if called twice, or else the garbage
    collector. What is still open at exit is the kernel's to give back, or the
    membership's that ends then.
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
