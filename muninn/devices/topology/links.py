"""The verdicts on the links of this process's GPUs: read from what other processes have
kept, or found out at the first use.

A pair is verified before its first use, by the thread that uses it, and measured on a
thread of its own meanwhile. Each is done once in a process, and kept for the others
(`cache`). A process that dies half way has kept nothing, and another one does it again.
"""

from __future__ import annotations

import _thread

from muninn.devices.port import Device
from muninn.devices.topology.cache import Kept
from muninn.devices.topology.probing import measure, verify
from muninn.devices.topology.verdict import Verdict
from muninn.devices.ways import Way
from muninn.errors import ThreadsExhausted
from muninn.system import threads
from muninn.system.logs import Log

_log = Log("muninn.devices")


class Links:
    """What is known of the links of a device.

    Parameters
    ----------
    isProbing
        Whether links are verified and measured; otherwise each is believed.
    """

    def __init__(self, device: Device, kept: Kept, isProbing: bool) -> None:
        self._device, self._kept, self._isProbing = device, kept, isProbing
        self._verdicts: dict[tuple[int, int], Verdict] = {}
        self._verifying = _thread.RLock()

    def known(self, source: int, target: int) -> Verdict | None:
        """The verdict, if there is one already."""
        verdict = self._verdicts.get((source, target))
        if verdict is not None:
            return verdict
        if not self._isProbing:
            return Verdict(isIntact=True, note="believed, as topology.enablePeerProbing is false")
        kept = self._kept.get(*self._uuids(source, target))
        # What could not be verified then may be now.
        if kept is None or kept.isIntact is None:
            return None
        self._verdicts[source, target] = kept
        return kept

    def verified(self, source: int, target: int, way: Way) -> Verdict:
        """The verdict, found out now if it is not known. `way` is by the link."""
        with self._verifying:
            verdict = self.known(source, target)
            if verdict is None:
                verdict = verify(self._device, source, target, way)
                self._put(source, target, verdict)
                if verdict.isIntact is False:
                    _log.warning("the link is not used: %s", verdict.note)
                self._measureBeside(source, target, verdict)
            return verdict

    def measured(self, source: int, target: int) -> Verdict:
        """The verdict with figures, measured now."""
        verdict = self._verdicts.get((source, target), Verdict())
        measured = measure(self._device, source, target, verdict)
        self._put(source, target, measured)
        return measured

    def _measureBeside(self, source: int, target: int, verdict: Verdict) -> None:
        try:
            threads.start(lambda: self.measured(source, target), "muninn-links")
        except ThreadsExhausted as error:
            _log.debug("the link from GPU %d to GPU %d is not measured: %s", source, target, error)

    def _put(self, source: int, target: int, verdict: Verdict) -> None:
        self._verdicts[source, target] = verdict
        self._kept.put(*self._uuids(source, target), verdict)

    def _uuids(self, source: int, target: int) -> tuple[str, str]:
        return self._device.gpuUuid(source), self._device.gpuUuid(target)
