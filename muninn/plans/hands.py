"""Hands: what an application of a plan can do, and nothing else.

`Hands` is the contract, which the tests keep with lists instead of buffers; `OwnHands`
does it with this process's own calls.
"""

from __future__ import annotations

from typing import Any, Protocol

from muninn.api.buffer import MuninnBuffer
from muninn.api.opening import openAny
from muninn.errors import InvalidArgument, MuninnError
from muninn.system.closable import Closable
from muninn.terms import Access


class Hands(Protocol):
    """What is done to a domain. A buffer or a window is whatever `create`, `open` and
    `promote` return; all have `close`.
    """

    def create(self, name: str, values: dict[str, Any]) -> tuple[Any, str]:
        """A new buffer, and a note."""

    def open(self, name: str, access: str) -> Any:
        """A buffer that is there."""

    def free(self, buffer: Any) -> None:
        """End a buffer that `create` has made."""

    def hint(self, buffer: Any, hints: dict[str, Any]) -> dict[str, Any]:
        """Set hints; returns those of before, for `hint`."""

    def promote(self, buffer: Any, values: dict[str, Any], timeout: float | None) -> Any:
        """A window."""

    def prefetch(self, buffer: Any, values: dict[str, Any], timeout: float | None) -> str:
        """Bring hot ranges to a GPU, and wait for it; returns a note."""


class OwnHands:
    """See `Hands`."""

    def create(self, name: str, values: dict[str, Any]) -> tuple[MuninnBuffer, str]:
        given = {key: value for key, value in values.items() if key not in ("size", "gpu")}
        given |= {"name": name, "preferredGpu": values["gpu"]}
        try:
            return MuninnBuffer(values["size"], **given), ""
        except InvalidArgument as error:
            # Containers forbid it: the pages are where the kernel puts them.
            if given.pop("numaNode") is None or "NUMA" not in error.reason:
                raise
            return MuninnBuffer(values["size"], **given), f"on any NUMA node: {error.reason}"

    def open(self, name: str, access: str) -> MuninnBuffer:
        isConstant = access == Access.READ_ONLY
        return openAny(name, "readOnly" if isConstant else "readWrite", caller="applyPlan")

    def free(self, buffer: MuninnBuffer) -> None:
        buffer.free()

    def hint(self, buffer: MuninnBuffer, hints: dict[str, Any]) -> dict[str, Any]:
        before = buffer.hints
        buffer.setHints(**hints)
        before["lifetimeMs"] = before.pop("endsInMs")
        return {**before, "lifetimeMs": before["lifetimeMs"] or None}

    def promote(self, buffer: MuninnBuffer, values: dict[str, Any], timeout: float | None) -> Any:
        return buffer.promote(timeout=timeout, **values)

    def prefetch(self, buffer: MuninnBuffer, values: dict[str, Any], timeout: float | None) -> str:
        transfer = buffer.prefetch(timeout=timeout, **values)
        try:
            ready = transfer.result()
        except (MuninnError, TimeoutError) as error:  # which changes no result
            return f"none is there: {getattr(error, 'reason', error)}"
        finally:
            transfer.cancel()  # an interruption came
        if ready < transfer.sizeBytes:
            return f"{ready} of {transfer.sizeBytes} bytes are there: there was no room for more"
        return f"{ready} bytes are there" if ready else "its bytes are written in place"


def closed(each: Closable | Any) -> str:
    """Close a window or a buffer; returns why that failed, or ""."""
    try:
        each.close()
    except (MuninnError, OSError) as error:
        return str(error)
    return ""
