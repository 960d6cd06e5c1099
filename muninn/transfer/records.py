"""Records: each transfer is counted, and said in one line and one span."""

from __future__ import annotations

from muninn.observe import events, spans
from muninn.observe.counters import Counter
from muninn.transfer.routes import Choice
from muninn.transfer.tiers import Place

#: Whether anybody may want the line or the span of a transfer.
isTold = events.wish("transfer")


class Record:
    """What is the same for all transfers of some bytes by one way.

    Parameters
    ----------
    bufferId
        The name of the buffer whose bytes they are.
    """

    __slots__ = ("_bufferId", "_choice", "_counter", "_sizeBytes", "_source", "_target")

    def __init__(
        self, source: Place, target: Place, choice: Choice, sizeBytes: int, bufferId: str
    ) -> None:
        self._source, self._target = source, target
        self._choice, self._sizeBytes, self._bufferId = choice, sizeBytes, bufferId
        self._counter = Counter("transfers", f"{choice.route}/{choice.reason}")

    def count(self, seconds: float) -> None:
        """Count a transfer of all bytes, and say nothing."""
        self._counter.add(1, self._sizeBytes, int(seconds * 1e9))

    def keepPast(self, seconds: float) -> None:
        """`keep`, of a transfer of all bytes that had no span while it ran."""
        with spans.past("copy", seconds) as span:
            self.keep(seconds, self._sizeBytes, span)

    def keep(self, seconds: float, doneBytes: int, span: spans.Span | spans.Nothing) -> None:
        """Count a transfer of the first `doneBytes`, and say which way they went, also in
        its span.
        """
        self._counter.add(1, doneBytes, int(seconds * 1e9))
        if not isTold():
            return
        source, target = self._source.gpu, self._target.gpu
        route, reason, note = self._choice
        cut = "" if doneBytes == self._sizeBytes else f", of {self._sizeBytes}: it was stopped"
        fields = {
            "bufferId": self._bufferId,
            "gpu": source if target < 0 else target,
            "route": str(route),
            "reason": str(reason),
            "source": str(self._source),
            "target": str(self._target),
            "bytes": doneBytes,
            "durationMs": seconds * 1e3,
            "bytesPerSecond": doneBytes / max(seconds, 1e-9),
            "note": cut + (f": {note}" if note else ""),
        }
        span.describe(fields)
        events.say("transfer", **fields)
