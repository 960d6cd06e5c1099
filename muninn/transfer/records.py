"""Records: each transfer is counted, and logged once."""

from __future__ import annotations

from muninn.observe.counters import Counter
from muninn.system.logs import Log
from muninn.transfer.routes import Choice
from muninn.transfer.tiers import Place

_log = Log("muninn.transfer")


class Record:
    """What is the same for all transfers of some bytes by one way."""

    __slots__ = ("_choice", "_counter", "_sizeBytes", "_source", "_target")

    def __init__(self, source: Place, target: Place, choice: Choice, sizeBytes: int) -> None:
        self._source, self._target = source, target
        self._choice, self._sizeBytes = choice, sizeBytes
        self._counter = Counter("transfers", f"{choice.route}/{choice.reason}")

    def isLogged(self) -> bool:
        """Whether the line goes anywhere."""
        return _log.isInfo()

    def count(self, seconds: float) -> None:
        """Count a transfer of all bytes, and log nothing."""
        self._counter.add(1, self._sizeBytes, int(seconds * 1e9))

    def keep(self, seconds: float, doneBytes: int | None = None) -> None:
        """Count and log a transfer, of all bytes or of the first `doneBytes`."""
        if doneBytes is None:
            doneBytes = self._sizeBytes
        self._counter.add(1, doneBytes, int(seconds * 1e9))
        route, reason, note = self._choice
        _log.info(
            "transfer from %s to %s: route=%s reason=%s bytes=%d of %d durationMs=%.3f "
            "(%.1f GB/s)%s",
            self._source,
            self._target,
            route,
            reason,
            doneBytes,
            self._sizeBytes,
            seconds * 1e3,
            doneBytes / max(seconds, 1e-9) / 1e9,
            f": {note}" if note else "",
        )
