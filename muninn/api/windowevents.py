"""Window events: what is counted and said about promoted windows."""

from __future__ import annotations

from typing import Any

from muninn.api.attachment import Attachment
from muninn.errors import InvalidArgument, MuninnError
from muninn.observe import events, spans
from muninn.observe.counters import count
from muninn.transfer import dirty


def fieldsOf(base: Attachment, window: dirty.Range, gpu: int) -> dict[str, Any]:
    """The fields of every line and span about a window."""
    offset, sizeBytes = window.offset, window.sizeBytes
    return {"bufferId": base.name, "gpu": gpu, "offset": offset, "bytes": sizeBytes}


def promoted(
    base: Attachment, window: dirty.Range, gpu: int, movedBytes: int, seconds: float
) -> None:
    """A window is on a GPU; so many bytes were copied for it."""
    count("promotions", str(gpu), 1, movedBytes, int(seconds * 1e9))
    events.say("promotion", durationMs=seconds * 1e3, **fieldsOf(base, window, gpu))


def notPromoted(
    base: Attachment, window: dirty.Range, gpu: int, error: MuninnError | TimeoutError
) -> None:
    """A promotion has failed. A wrong argument says nothing about the GPU."""
    if isinstance(error, InvalidArgument):
        return
    count("promotionFailures", str(gpu))
    code, reason = None, str(error)
    if isinstance(error, MuninnError):
        code, reason = error.code, error.reason
    fields = fieldsOf(base, window, gpu)
    events.say("promotionFailure", errorCode=code, error=reason, **fields)


def writtenBack(
    base: Attachment, window: dirty.Range, gpu: int, sizeBytes: int, seconds: float, generation: int
) -> None:
    """Bytes of a window were published as a generation of the buffer."""
    count("writebacks", str(gpu), 1, sizeBytes)
    fields = {**fieldsOf(base, window, gpu), "bytes": sizeBytes, "generation": generation}
    spans.describe(fields)
    events.say("writeback", durationMs=seconds * 1e3, **fields)
