"""The engine: it runs transfers, each by the way that its route names.

A way has streams, and perhaps pinned pieces or pieces of VRAM, and serves one transfer
at a time. The engine keeps a way that is idle for the next transfer between the same
places, so a copy allocates nothing. The background thread gives it back when it was idle
for some seconds. One process has one engine for its device; nothing of it is shared.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from muninn.devices.port import Allocation, Device, Lane
from muninn.devices.topology.links import Links
from muninn.devices.topology.verdict import Verdict
from muninn.devices.ways import (
    HOST_WINDOW_BYTES,
    Anchor,
    ByProcessor,
    Direct,
    Meanwhile,
    Relay,
    Way,
    byLink,
)
from muninn.errors import MuninnError, QuotaExceeded, ThreadsExhausted, TopologyNotPeerable
from muninn.observe import spans
from muninn.system import aside, clock, threads
from muninn.system.logs import Log
from muninn.transfer.handle import Stop, Transfer
from muninn.transfer.kept import Kept, Watch
from muninn.transfer.routes import Choice, PeerFacts, Reason, Route, between, refusal, within
from muninn.transfer.tiers import Place, Tier, Window

Result = TypeVar("Result")
_log = Log("muninn.transfer")
#: For how long an idle way is kept, at least.
IDLE_SECONDS = 10.0
#: How much slower a link must have been than the way by the host to be left alone.
_SLOWER = 0.9


class _Key(NamedTuple):
    """Which transfers a way serves."""

    route: Route
    source: int
    target: int
    #: Whether the bytes go through pieces.
    isRelayed: bool


class _Idle(NamedTuple):
    key: _Key
    way: Way
    sinceSeconds: float


class Engine:
    """The transfers of this process.

    Parameters
    ----------
    preferP2p
        Whether a link is used where there is one.
    trimSoon
        Called when there is a first way that is idle: from then on `trim` is to be called
        now and then, as long as `hasIdle`.
    """

    def __init__(
        self,
        device: Device,
        links: Links,
        preferP2p: bool,
        trimSoon: Callable[[], object] = lambda: None,
    ) -> None:
        self.device, self.links = device, links
        self._preferP2p = preferP2p
        self._watch = Watch(trimSoon)
        self._idle = Kept[_Idle](self._watch)
        #: While any copy may be repeated by them.
        self._lanes = weakref.WeakValueDictionary[tuple[int, int], Lane]()

    @contextlib.contextmanager
    def way(
        self,
        transfer: Transfer[Any],
        source: Window,
        target: Place,
        asked: Route | None,
        received: Window | None = None,
    ) -> Iterator[Way]:
        """A way for a transfer, whose route is chosen by this. After the block another
        transfer may use it; one that was left by an error is closed.

        `received` is the memory at the target, if there may be more copies to it.

        Raises
        ------
        TopologyNotPeerable
            p2p is demanded, and can not be.
        BarPressureHigh
            The pieces of host memory may not be pinned.
        """
        choice, key, way = self._chosen(source, target, asked, received)
        transfer.choose(choice)
        isWhole = False
        try:
            yield way
            isWhole = True
        finally:
            if isWhole:
                self._giveBack(key, way)
            elif not way.isBusy:
                way.close()

    def run(self, transfer: Transfer[Result], work: Callable[[], Result]) -> Result:
        """Run a transfer to its end on this thread: `work` copies, and returns what the
        transfer makes. Raises what ends it.
        """
        aside.refuseOwn()
        if not transfer.begin():
            return transfer.result(0)
        with spans.span("copy") as transfer.span:
            try:
                made = work()
            except Stop as stop:
                transfer.fail(stop)
                return transfer.result(0)
            transfer.end(made)
            return made

    def runAside(self, transfer: Transfer[Result], work: Callable[[], Result]) -> None:
        """Run a transfer to its end on a thread of its own, which keeps its result or its
        error.
        """
        if not transfer.begin():
            return
        try:
            with spans.span("copy") as transfer.span:
                transfer.end(work())
        except BaseException as error:
            transfer.fail(error)

    def send(
        self,
        transfer: Transfer[Any],
        way: Way,
        source: Window,
        target: int,
        anchor: Anchor = lambda: None,
        meanwhile: Meanwhile = lambda: None,
    ) -> None:
        """Send the bytes of a transfer on their way, and wait for them; what `anchor`
        returns is held as long. `meanwhile` is called before the wait. Raises what stops
        it.
        """
        transfer.send()
        try:
            way.send(source.address, target, source.sizeBytes, transfer.told, anchor, meanwhile)
        finally:
            transfer.arrive()
            transfer.record().keep(transfer.seconds, transfer.doneBytes, transfer.span)

    def laneFor(self, way: Way, source: Window, received: Window) -> Lane | None:
        """A lane for copies like one that went by `way`; None if there is none, or not yet."""
        pair, into = (source.place.gpu, received.place.gpu), received.allocation
        if (
            source.allocation is None
            or into is None
            or not source.sizeBytes
            or not isinstance(way, Direct)
            or not (into.isReachedBy(pair[0]) or into.refusesReach(pair[0]))
        ):
            return None
        lane = self._lanes.get(pair)
        if lane is None:
            try:
                lane = self.device.lane(*pair)
            except MuninnError as error:  # the copy went well, and this is for the next one
                _log.debug("copies between GPU %d and GPU %d take the long way: %s", *pair, error)
                return None
            if lane is not None:
                self._lanes[pair] = lane
        return lane

    def requireLink(self, source: int, target: int) -> None:
        """Raise `TopologyNotPeerable`, with the reason, if no byte may go straight from one
        GPU to the other. A link that is not known yet is verified by this.
        """
        self._between(source, target, Route.P2P)

    def trim(self, olderThanSeconds: float = IDLE_SECONDS) -> None:
        """Give back the ways that were idle for so long. The calls of the driver that this
        takes are made on a thread of their own: it may make them wait for a kernel.
        """
        if not self._idle:
            self._watch.end(lambda: bool(self._idle))
            return
        oldest = clock.now() - olderThanSeconds
        dropped = [
            each.way
            for each in self._idle
            if each.sinceSeconds <= oldest and self._idle.hasTaken(each)
        ]
        if dropped:
            try:
                threads.start(lambda: _closeAll(dropped), "muninn-ways")
            except ThreadsExhausted as error:
                _log.debug("%d ways are closed when they are collected: %s", len(dropped), error)

    def hasIdle(self) -> bool:
        return self._watch.isOn

    def giveWay(self, belowRank: int, gpu: int | None) -> list[object]:
        """Nothing: no budget counts the pieces of a way."""
        return []

    def close(self) -> None:
        """The membership ends."""
        self.trim(0.0)

    # --- choosing ----------------------------------------------------------------------

    def _chosen(
        self, source: Window, target: Place, asked: Route | None, received: Window | None
    ) -> tuple[Choice, _Key, Way]:
        choice = within(source.place, target)
        if choice is not None:
            if asked is Route.P2P and choice.reason is Reason.HOST_MEMORY:
                raise refusal(choice.reason, "no two GPUs take part")
            if source.place == target and target.tier is Tier.HOST:
                key = _Key(choice.route, target.gpu, target.gpu, isRelayed=False)
                return choice, key, self._take(key, lambda: ByProcessor(self.device))
            gpu = target.gpu if source.place.tier is Tier.HOST else source.place.gpu
            key = _Key(choice.route, gpu, gpu, isRelayed=False)
            # The CPU copies 256 MiB by a better loop than 64 (glibc, AMD EPYC: a tenth).
            isWide = choice.route is Route.LOCAL or self.device.runsKernelsOnHost
            sizes = {} if isWide else {"windowBytes": HOST_WINDOW_BYTES}
            return choice, key, self._take(key, lambda: Direct(self.device, gpu, **sizes))
        near, far = source.place.gpu, target.gpu
        choice = self._between(near, far, asked)
        if choice.route is Route.P2P:
            try:
                return choice, *self._byLink(source, far, received)
            except (TopologyNotPeerable, QuotaExceeded) as error:
                choice = _enableFailed(error, asked)
        return choice, *self._byHost(near, far)

    def _between(self, source: int, target: int, asked: Route | None) -> Choice:
        hasPath = self.device.canAccessPeer(target, source)
        # Where no byte will go straight, nothing is found out about the link.
        note = "" if hasPath else "the driver has no path between them"
        facts = PeerFacts(hasPath, isIntact=True, note=note)
        if hasPath and asked is not Route.STAGED and (self._preferP2p or asked is Route.P2P):
            verdict = self.links.known(source, target)
            if verdict is None:
                try:
                    key, way = self._relayed(source, target)
                    verdict = self.links.verified(source, target, way)
                except (TopologyNotPeerable, QuotaExceeded) as error:
                    return _enableFailed(error, asked)
                self._giveBack(key, way)
            facts = _factsOf(verdict)
        return between(facts, self._preferP2p, asked)

    # --- ways --------------------------------------------------------------------------

    def _byLink(self, source: Window, target: int, received: Window | None) -> tuple[_Key, Way]:
        """Straight if one of the two GPUs reaches the memory of the other one, else by
        pieces. Memory that is copied often is given reach.

        It is the GPU that sends which is to reach the other's memory: a copy of 64 KiB
        takes 8 µs then, and 10.5 if only the one that receives reaches what is sent (two
        H200).
        """
        near, sent = source.place.gpu, source.allocation
        into = None if received is None else received.allocation
        if sent is not None and self.device.givesReachAtOnce:
            sent.letReach(target)
        if not _isReached(into, near) and not _isReached(sent, target):
            return self._relayed(near, target)
        key = _Key(Route.P2P, near, target, isRelayed=False)
        return key, self._take(key, lambda: Direct(self.device, near, target))

    def _relayed(self, source: int, target: int) -> tuple[_Key, Way]:
        key = _Key(Route.P2P, source, target, isRelayed=True)
        return key, self._take(key, lambda: byLink(self.device, source, target))

    def _byHost(self, source: int, target: int) -> tuple[_Key, Way]:
        key = _Key(Route.STAGED, source, target, isRelayed=True)
        pieces = self.links.pieces(source, target)
        return key, self._take(key, lambda: Relay.byHost(self.device, source, target, *pieces))

    def _take(self, key: _Key, make: Callable[[], Way]) -> Way:
        for each in self._idle:
            if each.key == key and self._idle.hasTaken(each):
                return each.way
        return make()

    def _giveBack(self, key: _Key, way: Way) -> None:
        self._idle.add(_Idle(key, way, clock.now()))


def _isReached(memory: Allocation | None, gpu: int) -> bool:
    """Whether a GPU reaches memory, once this copy was counted."""
    if memory is None:
        return False
    if not memory.isReachedBy(gpu):
        memory.countCopy(gpu)
    return memory.isReachedBy(gpu)


def _closeAll(ways: list[Way]) -> None:
    for way in ways:
        try:
            way.close()
        except MuninnError as error:
            _log.warning("a way between GPUs is not closed: %s", error)


def _factsOf(verdict: Verdict) -> PeerFacts:
    p2p, staged = verdict.p2pBytesPerSecond, verdict.stagedBytesPerSecond
    isSlower = bool(p2p and staged) and p2p < _SLOWER * staged
    note = (
        f"{p2p / 1e9:.1f} GB/s by the link, {staged / 1e9:.1f} by the host"
        if isSlower
        else verdict.note
    )
    return PeerFacts(True, verdict.isIntact, isSlower, note)


def _enableFailed(error: TopologyNotPeerable | QuotaExceeded, asked: Route | None) -> Choice:
    if asked is Route.P2P:
        raise refusal(Reason.PEER_ENABLE_FAILED, error.reason) from error
    return Choice(Route.STAGED, Reason.PEER_ENABLE_FAILED, error.reason)
