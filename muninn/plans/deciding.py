"""Deciding: from a plan and the facts to what would be done, as data.

A pure function: it asks nobody, and the same plan and facts give the same decisions. The
quotas are added up by the class with which the broker adds them up, so what is refused
here would be refused there, with the same text.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Never

from muninn import errors
from muninn.api.scratchroom import Room
from muninn.broker.policy.promotionqueue import Asking, Queued
from muninn.broker.policy.quotas import Quotas
from muninn.broker.policy.usage import Usage
from muninn.config.sizes import asText, exactly
from muninn.control.descriptions import Taken
from muninn.errors import InvalidArgument, MuninnError, PromotionDenied, QuotaExceeded
from muninn.plans.decisions import Action, Decisions, Refusal, Step
from muninn.plans.facts import Existing, Facts
from muninn.plans.schemas import (
    Plan,
    PlannedBuffer,
    PlannedPrefetch,
    PlannedPromotion,
    requireWindow,
)
from muninn.system.pages import PAGE_BYTES, pagesUp
from muninn.terms import Access, Mode, Priority, Reserve


class _Target(NamedTuple):
    """A buffer as it will be once the plan is applied."""

    sizeBytes: int
    mode: str
    gpu: int
    access: str
    tenant: str
    isNew: bool
    hotRanges: tuple[tuple[int, int], ...]
    priority: str


def decide(plan: Plan, facts: Facts) -> Decisions:
    """What a plan would do where these are the facts."""
    return _Deciding(facts).all(plan)


def differences(planned: PlannedBuffer, there: Existing, facts: Facts) -> list[str]:
    """In what a buffer that is there is another one than the plan wants."""
    if not there.isArray:
        return ["it is a bundle of arrays"]
    wantedGpu = (planned.preferredGpu or 0) if planned.mode == Mode.FAST else -1
    pairs = [
        ("mode", there.mode, planned.mode),
        ("size", exactly(there.sizeBytes), exactly(planned.size)),
        ("access", there.access, planned.access or facts.defaultAccess),
        ("tenant", there.tenant, planned.tenant or facts.defaultTenant),
        ("lifetime", there.lifetime, planned.lifetime),
    ]
    if there.mode == planned.mode == Mode.FAST:
        pairs.append(("preferredGpu", str(there.gpu), str(wantedGpu)))
    return [f"{what} is {there}, not {wanted}" for what, there, wanted in pairs if there != wanted]


class _Deciding:
    """One run. Its sums grow with each step that takes something."""

    def __init__(self, facts: Facts) -> None:
        self._facts, self._quotas = facts, Quotas(facts.limits)
        for used in facts.used:
            mode = Mode(used.mode)
            taken = Taken(mode, used.tenant, used.gpu, used.sizeBytes, 0, used.isWindow)
            self._quotas.add(taken, used.sizeBytes)
        self._freeRows, self._hostRoom = facts.freeRows, facts.hostRoomBytes
        self._steps, self._refusals = list[Step](), list[Refusal]()
        self._targets = {
            name: _Target(
                there.sizeBytes,
                there.mode,
                there.gpu,
                there.access,
                there.tenant,
                False,
                there.hotRanges,
                there.priority,
            )
            for name, there in facts.existing.items()
            if there.isArray
        }
        #: Names of buffers whose entries are refused.
        self._lost = set[str]()

    def all(self, plan: Plan) -> Decisions:
        for buffer in plan.buffers:
            try:
                self._buffer(buffer)
            except MuninnError as error:
                self._refusals.append(Refusal.of(buffer.path, buffer.name, error))
                self._lost.add(buffer.name)
        windows: list[PlannedPromotion | PlannedPrefetch]
        windows = [*plan.promotions, *plan.prefetches]
        for window in windows:
            try:
                if isinstance(window, PlannedPromotion):
                    self._promotion(window)
                else:
                    self._prefetch(window)
            except MuninnError as error:
                self._refusals.append(Refusal.of(window.path, window.buffer, error))
        return Decisions(tuple(self._steps), tuple(self._refusals))

    def _add(self, path: str, action: Action, name: str, why: str, **values: Any) -> None:
        self._steps.append(Step(path, action, name, why, values))

    # --- buffers ---------------------------------------------------------------------------

    def _buffer(self, planned: PlannedBuffer) -> None:
        there = self._facts.existing.get(planned.name)
        if there is not None:
            self._keep(planned, there)
            return
        facts = self._facts
        if facts.drainReason is not None:
            raise errors.DomainDraining(
                f"the domain creates nothing new: {facts.drainReason or 'no reason was given'}"
            )
        if self._freeRows <= 0:
            raise errors.TableFull("no row is free: the domain has as many buffers as it can have")
        isFast = planned.mode == Mode.FAST
        if planned.preferredGpu is not None or isFast:
            self._requireGpu(planned.preferredGpu or 0, f"{planned.path}.preferredGpu")
        gpu = (planned.preferredGpu or 0) if isFast else -1
        tenant = planned.tenant or facts.defaultTenant
        access = planned.access or facts.defaultAccess
        usage = Usage(planned.name, tenant, Mode(planned.mode), gpu, pagesUp(planned.size), 0)
        capacity = facts.gpus[gpu].capacityBytes if isFast else 0
        self._quotas.admit(tenant, usage.mode, gpu, usage.sizeBytes, capacity)
        self._quotas.add(usage, usage.sizeBytes)
        if not isFast and planned.reserve == Reserve.FULL:
            self._takeHostRoom(usage.sizeBytes)
        self._freeRows -= 1
        near = planned.preferredGpu
        node = None if isFast or near is None else facts.gpus[near].numaNode
        hints = planned.hints
        self._targets[planned.name] = _Target(
            planned.size,
            planned.mode,
            gpu,
            access,
            tenant,
            True,
            hints.hotRanges or (),
            hints.priority or Priority.NORMAL,
        )
        where = f"VRAM of GPU {gpu}" if isFast else "host memory"
        if node is not None:
            where += f" of NUMA node {node}, which is nearest to GPU {near}"
        self._add(
            planned.path,
            Action.CREATE,
            planned.name,
            f"no buffer has this name; {exactly(planned.size)} of {where}",
            size=planned.size,
            mode=planned.mode,
            gpu=gpu if isFast else None,
            access=access,
            tenant=tenant,
            lifetime=planned.lifetime,
            lifetimeMs=planned.lifetimeMs,
            reserve=planned.reserve,
            numaNode=node,
            hints=_hintValues(planned),
        )

    def _keep(self, planned: PlannedBuffer, there: Existing) -> None:
        if found := differences(planned, there, self._facts):
            raise errors.BufferMismatch(
                f"{planned.name!r} is there, and {'; '.join(found)}",
                "Change the plan, use another name, or free the buffer",
            )
        self._add(
            planned.path,
            Action.KEEP,
            planned.name,
            "it is there as the plan wants it",
            access=there.access,
        )
        wanted = _hintValues(planned)
        ranges = planned.hints.hotRanges
        changed = [
            what
            for what, isOther in (
                ("hotRanges", ranges is not None and inPages(ranges, there) != there.hotRanges),
                ("priority", planned.hints.priority not in (None, there.priority)),
                ("lifetimeMs", planned.hints.lifetimeMs is not None),
            )
            if isOther
        ]
        if changed:
            why = f"hints that differ or begin anew: {', '.join(changed)}"
            self._add(f"{planned.path}.hints", Action.HINT, planned.name, why, hints=wanted)
            before = self._targets[planned.name]
            self._targets[planned.name] = before._replace(
                hotRanges=before.hotRanges if ranges is None else ranges,
                priority=planned.hints.priority or before.priority,
            )

    # --- windows ---------------------------------------------------------------------------

    def _promotion(self, planned: PlannedPromotion) -> None:
        target = self._targetOf(planned)
        if target is None:
            return
        requireWindow(planned, target.sizeBytes)
        length = target.sizeBytes - planned.offset if planned.length is None else planned.length
        room, wait = self._room(planned, target, length, planned.track)
        what = f"{exactly(length)} from {exactly(planned.offset)} on, in {exactly(room)} of scratch"
        self._add(
            planned.path,
            Action.PROMOTE,
            planned.buffer,
            f"{what}{f'; it may have to wait: {wait}' if wait else ''}",
            offset=planned.offset,
            length=length,
            targetGpu=planned.targetGpu,
            track=planned.track,
        )

    def _prefetch(self, planned: PlannedPrefetch) -> None:
        target = self._targetOf(planned)
        if target is None:
            return
        why = ""
        if target.isNew:
            why = "the plan creates it, and nothing is in it yet: apply the plan again then"
        elif not target.hotRanges:
            why = "nobody has said which of its ranges are hot"
        if why:
            self._add(planned.path, Action.SKIP, planned.buffer, why)
            return
        total = sum(length for _, length in target.hotRanges)
        waits = [
            wait
            for _, length in target.hotRanges
            if (wait := self._room(planned, target, length, isTracked=False)[1])
        ]
        note = f"; not all may find room: {waits[0]}" if waits else ""
        count = len(target.hotRanges)
        self._add(
            planned.path,
            Action.PREFETCH,
            planned.buffer,
            f"{count} hot range{'s' * (count != 1)}, {exactly(total)}{note}",
            targetGpu=planned.targetGpu,
        )

    def _targetOf(self, planned: PlannedPromotion | PlannedPrefetch) -> _Target | None:
        """The buffer of a window; None if it was refused, which is said already."""
        if planned.buffer in self._lost:
            self._add(planned.path, Action.SKIP, planned.buffer, "its buffer is refused")
            return None
        if not self._facts.enablePromotion:
            raise PromotionDenied(
                "promotion is turned off (promotion.enablePromotion)",
                "Turn it on, or use the buffer",
            )
        target = self._targets.get(planned.buffer)
        if target is None:
            self._absent(planned.buffer)
        self._requireGpu(planned.targetGpu, f"{planned.path}.targetGpu")
        return target

    def _absent(self, name: str) -> Never:
        if name in self._facts.existing:
            raise InvalidArgument(
                f"{name!r} is a bundle, and only buffers of one array are promoted",
                "Share the arrays that kernels promote under names of their own",
            )
        raise errors.BufferNotFound(
            f"no buffer {name!r} is there, and the plan creates none",
            "Add it to `buffers`, or create it first",
        )

    def _room(
        self,
        planned: PlannedPromotion | PlannedPrefetch,
        target: _Target,
        length: int,
        isTracked: bool,
    ) -> tuple[int, str]:
        """(bytes of scratch memory, why it may have to wait for them)."""
        isWritten = target.access != Access.READ_ONLY
        room = Room.of(length, self._facts.sliceBytes, isWritten, isTracked).sizeBytes
        gpu = planned.targetGpu
        usage = Usage("", target.tenant, Mode.FAST, gpu, pagesUp(room), 0)
        rank = Priority(target.priority).rank
        asked = target.tenant, Mode.FAST, gpu, usage.sizeBytes, self._facts.gpus[gpu].capacityBytes
        try:
            self._quotas.admitWindow(usage, 0, Asking(rank, isWaiting=False))
            self._quotas.admit(*asked)
        except Queued as queued:
            return room, str(queued)
        except QuotaExceeded as error:
            Quotas(self._facts.limits).admit(*asked)  # refused alone, it waits for nothing
            return room, error.reason
        window = Taken(Mode.FAST, target.tenant, gpu, usage.sizeBytes, 0, True)
        self._quotas.add(window, usage.sizeBytes)
        return room, ""

    def _takeHostRoom(self, sizeBytes: int) -> None:
        if sizeBytes > self._hostRoom:
            raise errors.HostMemoryFull(
                f"{asText(sizeBytes)} wanted, and {asText(self._hostRoom)} of host memory "
                "would be left"
            )
        self._hostRoom -= sizeBytes

    def _requireGpu(self, gpu: int, path: str) -> None:
        count = len(self._facts.gpus)
        if gpu >= count:
            raise errors.DeviceUnavailable(
                f"{path}: there is no GPU {gpu}: this process sees {count}",
                "Name one that `python -m muninn topology` lists",
            )


def inPages(ranges: tuple[tuple[int, int], ...], there: Existing) -> tuple[tuple[int, int], ...]:
    """Hot ranges as a row gives them back: rounded out to pages, and cut at the end."""
    found = []
    for offset, length in ranges:
        begin = offset // PAGE_BYTES * PAGE_BYTES
        end = pagesUp(offset + length)
        found.append((begin, min(end, there.sizeBytes) - begin))
    return tuple(found)


def _hintValues(planned: PlannedBuffer) -> dict[str, Any]:
    """The hints of a plan that are said, as `setHints` takes them."""
    said = planned.hints._asdict()
    ranges = said["hotRanges"]
    said["hotRanges"] = None if ranges is None else [list(each) for each in ranges]
    return {key: value for key, value in said.items() if value is not None}
