"""The verdicts on the links of this process's GPUs: read from what other processes have
kept, or found out at the first use.

A pair is verified before its first use, while the thread that uses it waits, and
measured after that. Both are done on threads of their own: no signal handler comes
between a copy and the end of the memory that it uses. Each is done once in a process,
and kept for the others (`cache`), unless `refreshed` does it anew. A process that dies
half way has kept nothing, and another one does it again.

What another process finds out later counts here too, from the next look at a verdict on.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable

from muninn.devices.port import Device
from muninn.devices.topology.cache import Kept
from muninn.devices.topology.probing import USUAL_PIECES, measure, verify
from muninn.devices.topology.verdict import Verdict
from muninn.devices.ways import Way, byLink
from muninn.errors import MuninnError, ThreadsExhausted
from muninn.system import threads
from muninn.system.latch import Latch
from muninn.system.logs import Log

_log = Log("muninn.devices")
#: It takes some milliseconds, and a tenth of a second with figures.
_FINDING_SECONDS = 60.0


class Links:
    """What is known of the links of a device.

    Parameters
    ----------
    isProbing
        Whether links are verified and measured; otherwise only those are used that
        another process has verified.
    """

    def __init__(self, device: Device, kept: Kept, isProbing: bool) -> None:
        self._device, self._kept, self._isProbing = device, kept, isProbing
        self._verdicts: dict[tuple[int, int], Verdict] = {}
        #: Of what was kept when this process last read it.
        self._stamp: tuple[int, int] | None = None
        self._verifying = _thread.RLock()
        #: The pairs that are measured, or were.
        self._measured: set[tuple[int, int]] = set()

    def known(self, source: int, target: int) -> Verdict | None:
        """The verdict, if there is one already. What could not be verified stays so in
        this process.
        """
        verdict = self._found(source, target)
        if verdict is not None and (verdict.isIntact is not None or verdict.note):
            return verdict
        if not self._isProbing:
            return Verdict(note="not verified, as topology.enablePeerProbing is false")
        return None

    def verified(self, source: int, target: int, way: Way) -> Verdict:
        """The verdict, found out now if it is not known. `way` is by the link.

        Raises
        ------
        TopologyNotPeerable
            One can not be given access to the other.
        """
        with self._verifying:
            verdict = self.known(source, target)
            if verdict is None:
                seen = _aside(lambda: verify(self._device, source, target, way))
                before = self._found(source, target) or Verdict()
                verdict = before._replace(isIntact=seen.isIntact, note=seen.note)
                self._put(source, target, verdict)
                if verdict.isIntact is False:
                    _log.warning("the link is not used: %s", verdict.note)
                if not verdict.p2pBytesPerSecond:
                    self._measureBeside(source, target)
            return verdict

    def pieces(self, source: int, target: int) -> tuple[int, int]:
        """The bytes and the number of the pieces for the way by the host. They are tuned
        beside the first copy.
        """
        verdict = self._found(source, target)
        if verdict is not None and verdict.pieceBytes:
            return verdict.pieceBytes, verdict.pieceCount
        if self._isProbing and (source, target) not in self._measured:
            self._measureBeside(source, target)
        return USUAL_PIECES

    def measured(self, source: int, target: int) -> Verdict:
        """The verdict with figures, measured now."""
        self._measured.add((source, target))
        found = measure(self._device, source, target, self._found(source, target) or Verdict())
        with self._verifying:
            # The link may have been verified meanwhile, also by another process.
            before = self._found(source, target) or Verdict()
            verdict = found._replace(isIntact=before.isIntact, note=before.note)
            self._verdicts[source, target] = verdict
            self._kept.putFigures(*self._uuids(source, target), verdict)
        return self._found(source, target) or verdict

    def refreshed(self, source: int, target: int) -> Verdict:
        """The verdict with figures, all found out now, in place of what is known and
        kept. A link that can not be tried is no error: the verdict says why, and has the
        figures of the way by the host.
        """
        with self._verifying:
            self._put(source, target, self._tried(source, target))
        return _aside(lambda: self.measured(source, target))

    def _tried(self, source: int, target: int) -> Verdict:
        if not self._device.canAccessPeer(target, source):
            return Verdict()
        try:
            return _aside(lambda: self._verifiedAlone(source, target))
        except MuninnError as error:
            return Verdict(note=f"not verified: {error.reason}")

    def _verifiedAlone(self, source: int, target: int) -> Verdict:
        with byLink(self._device, source, target) as way:
            return verify(self._device, source, target, way)

    def _measureBeside(self, source: int, target: int) -> None:
        self._measured.add((source, target))
        try:
            threads.start(lambda: self.measured(source, target), "muninn-links")
        except ThreadsExhausted as error:
            _log.debug("the link from GPU %d to GPU %d is not measured: %s", source, target, error)

    def _found(self, source: int, target: int) -> Verdict | None:
        """What is known of a pair: of this process, or of another one, which may not have
        been able to verify what can be verified now.
        """
        if (stamp := self._kept.stamp()) != self._stamp and self._hasTakenOver():
            self._stamp = stamp
        verdict = self._verdicts.get((source, target))
        if verdict is None:
            verdict = self._kept.get(*self._uuids(source, target))
            if verdict is not None:
                verdict = verdict._replace(note=verdict.note if verdict.isIntact is False else "")
                self._verdicts[source, target] = verdict
        return verdict

    def _hasTakenOver(self) -> bool:
        """Take over what is kept of the pairs that this process knows. Where the other
        process could not verify, what was known stays. False if nothing could be read.
        """
        kept = self._kept.pairs()
        for pair in list(self._verdicts):
            verdict = kept.get(self._uuids(*pair))
            if verdict is not None and verdict.isIntact is not None:
                self._verdicts[pair] = verdict
        return bool(kept)

    def _put(self, source: int, target: int, verdict: Verdict) -> None:
        self._verdicts[source, target] = verdict
        self._kept.put(*self._uuids(source, target), verdict)

    def _uuids(self, source: int, target: int) -> tuple[str, str]:
        return self._device.gpuUuid(source), self._device.gpuUuid(target)


def _aside(find: Callable[[], Verdict]) -> Verdict:
    """What `find` returns or raises, on another thread if there is one. An interruption
    ends the wait for it only.
    """
    found, errors, done = list[Verdict](), list[BaseException](), Latch()

    def run() -> None:
        try:
            found.append(find())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    try:
        threads.start(run, "muninn-links")
    except (ThreadsExhausted, RuntimeError):
        return find()
    if not done.wait(_FINDING_SECONDS):
        return Verdict(note=f"not verified: it is not over after {_FINDING_SECONDS:.0f} s")
    if errors:
        raise errors.pop()
    return found[0]
