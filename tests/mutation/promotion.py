"""Mutants of promotion: scratch memory, dirty slices, and the way back."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_PROMOTION = "muninn/api/promotion.py"
_SCRATCH = "muninn/api/scratch.py"
_MEMORY = "muninn/api/scratchmemory.py"
_ARENA = "muninn/transfer/arena.py"
_QUEUE = "muninn/broker/policy/promotionqueue.py"
_HINTS = "muninn/control/hints.py"
_USED = "muninn/api/usedslices.py"
_MOVES = "muninn/sync/moves.py"
_STEPS = "muninn/transfer/steps.py"
_DIRTY = "muninn/transfer/dirty.py"

# fmt: off
MUTANTS = [
    Mutant(_MOVES, "        if found != promoted and not (self._isRepair and found == promoted + 1):\n", "        if False:\n", "a writeback does not overwrite what others wrote", "test_promotion.py::test_aBufferThatWasWrittenMeanwhileIsNotOverwritten"),
    Mutant(_MOVES, " and not (self._isRepair and found == promoted + 1)", "", "a writeback of all of the buffer is mended by the next one", "test_promotion.py::test_aCopyThatFailsInAWritebackIsToldAndMendedByTheNextOne"),
    Mutant(_MOVES, "self._isRepair and found == promoted + 1", "self._isRepair", "a failed writeback overwrites nothing that was published since", "test_promotion.py::test_aFailedWritebackMendsNothingThatOthersHaveMended"),
    Mutant("muninn/api/scratch.py", "self._isTorn = isWhole", "self._isTorn = True", "a writeback of a part mends nothing", "test_promotion.py::test_aPartThatFailedInAWritebackIsAConflictUntilAllIsWritten"),
    Mutant("muninn/api/scratch.py", "np.ones_like(marked) if isTorn else marked", "marked", "a writeback that mends copies all", "test_promotion.py::test_aCopyThatFailsInAWritebackIsToldAndMendedByTheNextOne"),
    Mutant("muninn/api/scratchmemory.py", " and self._isIn(opened, at)", "", "a window lies in the memory that it is given", "test_hints.py::test_aDamagedRowOfAWindowGivesNoOtherBytes"),
    Mutant("muninn/api/scratchmemory.py", "                if self._isIn(found, 0):", "                if True:", "memory of the right name is large enough", "test_hints.py::test_aDamagedRowOfAWindowGivesNoOtherBytes"),
    Mutant(_MOVES, "        self._kind = owners.KIND_STREAM\n        self._promoted", "        self._promoted", "a writeback looks before it begins", "test_promotion.py::test_aBufferThatWasWrittenMeanwhileIsNotOverwritten"),
    Mutant(_MOVES, "        if not self._inSlices(until, self._areFollowed):\n", "        if False:\n", "a writeback waits until the other windows have followed", "test_hints.py::test_aThreadWaitsUntilTheOtherWindowsHaveFollowed"),
    Mutant(_STEPS, "                step.lead(followed)\n", "                pass\n", "a window that is promoted meanwhile follows", "test_hints.py::test_aWindowThatIsPromotedMeanwhileFollows"),
    Mutant(_STEPS, " or last.thread == green.identity()", "", "a handler does not wait for the thread that it interrupts", "test_hints.py::test_aHandlerDoesNotWaitForTheThreadThatItInterrupts"),
    Mutant(_STEPS, "last is None or last.isOver or", "last is None or", "a writeback that was cut short is not waited for", "test_hints.py::test_aWritebackWaitsForNoOtherOneThatWasCutShort"),
    Mutant(_MOVES, "        super()._awaitOthers(until)\n        if not self._inSlices", "        if not self._inSlices", "a writeback waits for readers", "test_promotion.py::test_whatWasNotWrittenBackStaysDirty"),
    Mutant(_SCRATCH, "            dirty.add(self._flags, marked)\n", "", "what was not written back stays dirty", "test_promotion.py::test_whatWasNotWrittenBackStaysDirty"),
    Mutant(_SCRATCH, "            dirty.clear(self._flags, marked)\n", "", "what was written back is clean", "test_promotion.py::test_whatWasNotWrittenBackStaysDirty"),
    Mutant(_STEPS, "            own.generation += 2\n", "", "a window is written back twice", "test_promotion.py"),
    Mutant(_SCRATCH, "        if not self._isWritten:\n", "        if False:\n", "a window of a reader is not written", "test_promotion.py::test_policiesDecideWhatComesBack"),
    Mutant(_SCRATCH, "            if kind is None and isEager", "            if isEager", "after an exception nothing is written back", "test_promotion.py"),
    Mutant(_SCRATCH, "self._policy is Access.READ_WRITE and self._isWritten", "self._isWritten", "readMostly comes back on request", "test_promotion.py::test_policiesDecideWhatComesBack"),
    Mutant("muninn/api/windowtable.py", "found._base._held() is not base._checked()", "False", "a window is written back to its own buffer", "test_promotion.py::test_aWindowIsWrittenBackByItsAddress"),
    Mutant(_PROMOTION, "        if room.flagsAt is not None and memory is not None:\n", "        if False:\n", "the flags of a window begin at 0", "test_promotion.py::test_flagsThatAnEarlierWindowHasLeftMarkNothing"),
    Mutant("muninn/api/windowwork.py", "        if stream is None:\n", "        if True:\n", "a wrong stream is refused at once", "test_windowwork.py"),
    Mutant("muninn/api/windowwork.py", "        if found.gpu != gpu:\n", "        if False:\n", "the stream is of the window's GPU", "test_windowwork.py"),
    Mutant("muninn/api/windowwork.py", "                failure = error\n", "                raise\n", "a window whose stream has failed ends", "test_windowwork.py"),
    Mutant(_PROMOTION, "            length = -(-self._window.sizeBytes // WORD_BYTES) * WORD_BYTES\n", "            length = self._window.sizeBytes\n", "a window of an odd size begins clean", "test_promotion.py::test_aWindowOfAnySizeBeginsClean"),
    Mutant(_PROMOTION, "        if room.sizeBytes > most:\n", "        if False:\n", "a window above the budget is refused at once", "test_promotion.py"),
    Mutant(_MEMORY, "                if self._hasMadeRoom(arena, error):\n                    continue\n", "", "idle scratch memory gives way", "test_promotion.py"),
    Mutant(_MEMORY, "return whose is not None and arena.makeRoom(rank, *whose)", "return whose is not None and arena.makeRoom(rank)", "idle scratch memory elsewhere is kept", "test_promotion.py::test_idleMemoryElsewhereIsKept"),
    Mutant(_MEMORY, "{\"gpu\": (gpu, None),", "{\"gpu\": (gpu, tenant),", "idle memory of another tenant makes room on the GPU", "test_promotion.py::test_idleMemoryOfAnotherTenantMakesRoomOnTheGpu"),
    Mutant(_ARENA, "            and each.isNamedAs(place)\n", "", "memory is used again by windows of its buffer only", "test_promotion.py::test_idleMemoryIsUsedAgainForTheSameBufferOnly"),
    Mutant("muninn/session/windownames.py", " and not place.isFlags and", " and", "flags are not evicted as a window", "test_hints.py::test_theFlagsOfAWindowAreNoSecondWindow"),
    Mutant("muninn/api/listing.py", " or _isFlags(description):", ":", "flags are not listed as a window", "test_hints.py::test_theFlagsOfAWindowAreNoSecondWindow"),
    Mutant("muninn/broker/policy/quotas.py", "            if sizeBytes > each.limit:\n", "            if False:\n", "what never fits does not wait", "test_promotion.py::test_aWindowAboveTheBrokersBudgetIsRefusedAtOnce"),
    Mutant(_QUEUE, "(first is not None and first.isHolding())", "(first is not None)", "what has no room does not hold back what has", "test_hints.py::test_aWindowWithoutRoomHoldsOthersBackByTurns"),
    Mutant(_DIRTY, "np.minimum(edges[1::2] * sliceBytes, windowBytes)", "edges[1::2] * sliceBytes", "no byte behind the window is written back", "test_promotion.py::test_rangesCoverWhatWasMarkedAndNoMoreThanItsSlices"),
    Mutant(_DIRTY, "-(-(offset + sizeBytes) // sliceBytes)", "(offset + sizeBytes) // sliceBytes", "the last slice that is touched is dirty", "test_promotion.py::test_rangesCoverWhatWasMarkedAndNoMoreThanItsSlices"),
    Mutant(_MEMORY, "wordOf(deviceOf(self.base.context).gpuUuid(self.gpu))", "\"\"", "each GPU has its own copy of a shared window", "test_promotion.py::test_processesShareTheWindowOfAReadOnlyBuffer"),
    Mutant(_PROMOTION, ").takeCovering(wanted)", ").covering(wanted)", "a prefetched window is nobody else's while a part of it is copied", "test_hints.py::test_aPrefetchedWindowIsNobodyElsesWhileAPartOfItIsCopied"),
    Mutant(_PROMOTION, "                arenaOf(openBuffer.context).keep(near)\n", "", "a prefetched window is kept again", "test_hints.py::test_aPrefetchedWindowIsNobodyElsesWhileAPartOfItIsCopied"),
    Mutant(_HINTS, "pagesUp(length + offset % PAGE_BYTES)", "pagesUp(length)", "a hot range that cuts a page has it whole", "test_hints.py::test_aRangeOfTheLargestBufferHasRoomInItsWord"),
    Mutant(_HINTS, "PRIORITIES[number] if number < len(PRIORITIES) else Priority.NORMAL", "PRIORITIES[number]", "a damaged word is advice too", "test_hints.py::test_damagedWordsAreAdviceToo"),
    Mutant("muninn/control/rows.py", "        self._block.put(offset + layout.ROW_HINTS_OFFSET, hints.packed())\n", "", "the next buffer of a row has its own hints", "test_hints.py::test_theNextBufferOfARowHasNoHintsOfTheLast"),
    Mutant("muninn/api/hints.py", "    return [(at, length) for at, length in cut if length > 0]", "    return [(at, length) for at, length in hints.hotRanges if length > 0]", "a range ends with its buffer", "test_hints.py::test_aRangeIsCutAtTheEndOfTheBuffer"),
    Mutant(_ARENA, "            and generation == self.content.generation\n", "", "prefetched memory of an older generation is not kept", "test_hints.py::test_prefetchedMemoryIsGivenBackAtItsEnd"),
    Mutant(_ARENA, "            clock.now() < self.untilSeconds\n", "            True\n", "prefetched memory has an end", "test_hints.py::test_prefetchedMemoryIsGivenBackAtItsEnd"),
    Mutant(_ARENA, "least is not None and least.priority.rank < belowRank", "least is not None", "what is urgent does not give way", "test_hints.py::test_memoryForSomethingUrgentDoesNotGiveWay"),
    Mutant(_ARENA, "isOfIt and not content.window.overlaps(written)", "isOfIt", "a prefetched window that was written is not used", "test_hints.py::test_aPrefetchedWindowThatIsWrittenBackIsCopied"),
    Mutant(_ARENA, "            and sum(theirs) <= sum(mine)\n", "", "a window has all its bytes", "test_hints.py"),
    Mutant(_STEPS, "        if isOfIt and not followed.window.overlaps(self.written):\n", "        if isOfIt:\n", "windows that overlap are in each other's way", "test_hints.py::test_windowsOfOneProcessAreWrittenBackSideBySide"),
    Mutant(_SCRATCH, "            self._memory.check()\n", "            pass\n", "an evicted window is refused", "test_hints.py::test_evictedWindowsAreRefusedAndGivenBack"),
    Mutant(_MEMORY, "            isWithin = at >= 0 and at + mine.sizeBytes <= place.sizeBytes\n", "            isWithin = True\n", "a shared window has all its bytes", "test_hints.py::test_onlyAWindowWithAllBytesIsShared"),
    Mutant(_PROMOTION, "self.hints.priority.rank + (not self.asked.isPrefetch)", "self.hints.priority.rank + 1", "a prefetch does not displace a hotter range", "test_hints.py::test_aPrefetchGivesWayToAPromotionAndTheHottestIsThere"),
    Mutant(_QUEUE, "            each.place < place\n", "            True\n", "who came first goes first", "test_hints.py::test_theHigherPriorityGoesFirstAndThenTheEarlier"),
    Mutant(_QUEUE, "        return -self.rank, self.arrival\n", "        return 0, self.arrival\n", "what is urgent goes first", "test_hints.py::test_theHigherPriorityGoesFirstAndThenTheEarlier"),
    Mutant(_QUEUE, "if each.seenSeconds > oldest", "if True", "who asks no more is forgotten", "test_hints.py::test_theHigherPriorityGoesFirstAndThenTheEarlier"),
    Mutant(_QUEUE, " and (not self.isOfTenant or mine.tenant == wanted.tenant)", "", "a tenant's budget is its own matter", "test_hints.py::test_whoWaitsForItsTenantHoldsNoOtherTenantBack"),
    Mutant(_QUEUE, "        if not asking.isWaiting:\n            return\n", "", "who asks once holds nobody back", "test_hints.py::test_whoAsksOnceHoldsNobodyBack"),
    Mutant("muninn/broker/policy/quotas.py", "        elif ahead := self._queue.ahead(wanted, asking, self._hasRoom):\n", "        elif ahead := 0:\n", "a large window is not overtaken", "test_hints.py::test_aLargeWindowIsNotOvertakenForEver"),
    Mutant(_USED, "            dirty.add(self._flags, seen)\n", "", "what kernels mark is used", "test_hints.py::test_theUsefulPartOfAWindowIsMeasured"),
    Mutant(_USED, "        dirty.add(self._flags, flags)\n", "        pass\n", "what is written is used", "test_hints.py::test_whatIsWrittenIsUsed"),
    Mutant("muninn/session/worker.py", " or openBuffers.gpus.hasIdle()", "", "idle scratch memory is looked after", "test_promotion.py::test_theBackgroundThreadLooksAfterIdleMemory"),
    Mutant("muninn/transfer/kept.py", "        if isAny():\n            self.isOn = True\n", "", "what is kept during the look is looked after", "test_promotion.py::test_whatIsKeptDuringTheLookIsLookedAfter"),
    Mutant("muninn/transfer/kept.py", "        wasOn, self.isOn = self.isOn, True\n", "        wasOn = True\n", "the background thread learns of idle memory", "test_promotion.py::test_theBackgroundThreadLearnsOfTheFirstIdleMemory"),
    Mutant(_SCRATCH, "                self._isClean = self._room.shadowAt is not None\n", "                self._isClean = True\n", "what a kernel did not mark is not taken for the buffer's", "test_promotion.py::test_aWindowWhoseBytesMayBeOthersIsCopiedAgain"),
    Mutant(_SCRATCH, "self._isClean = room.flagsAt is None", "self._isClean = True", "what was not written back is not the buffer's", "test_promotion.py::test_aWindowWhoseBytesMayBeOthersIsCopiedAgain"),
    Mutant(_ARENA, "idle.content == wanted and idle.room == room and", "idle.content == wanted and", "memory that is laid out otherwise is not taken", "test_promotion.py::test_aWindowWhoseBytesMayBeOthersIsCopiedAgain"),
    Mutant("muninn/session/creation.py", "            if _hasGivenWay(membership):\n", "            if False:\n", "idle scratch memory makes room for buffers", "test_promotion.py::test_idleScratchMemoryGivesWayToBuffers"),
    Mutant("muninn/session/openbuffers.py", "            self.gpus.giveWay().clear()", "            pass", "idle scratch memory gives its lease to what is opened", "test_promotion.py::test_idleScratchMemoryGivesItsLeaseAway"),
    Mutant(_PROMOTION, "isLent or (not self.isConstant and self.openBuffer.isWrittenInPlace())", "isLent", "what is written in place is in the next window", "test_promotion.py::test_whatIsWrittenInPlaceIsInTheNextWindow"),
    Mutant("muninn/api/protocols.py", "        if isLent:\n            exposed.lend()\n", "", "kernels write in place", "test_promotion.py::test_whatIsWrittenInPlaceIsInTheNextWindow"),
    Mutant("muninn/api/protocols.py", "self.isWritable and isinstance(self.memory, Memory)", "True", "an array of a reader lets windows be kept", "test_promotion.py::test_accessesLetWindowsBeKept"),
    Mutant("muninn/sync/access.py", "buffer._deviceView(", "buffer.deviceArray(", "an access of kernels lets windows be kept", "test_promotion.py::test_accessesLetWindowsBeKept"),
    Mutant("muninn/session/gpus.py", "                self.giveWay(belowRank, gpu).clear()\n", "                pass\n", "what others have no room for gets that of idle memory", "test_shortages.py"),
    Mutant("muninn/session/othersroom.py", "    Shortages(context.tables.block).tell(wordOf(deviceOf(context).gpuUuid(gpu)), belowRank)\n", "", "who has no room says so", "test_shortages.py"),
    Mutant("muninn/control/shortages.py", "SHORTAGE_RANKS + rank", "SHORTAGE_RANKS", "each rank is counted by itself", "test_shortages.py::test_eachRankAndGpuIsCountedByItself"),
    Mutant(_ARENA, "gpu in (None, each.gpu) and each.priority.rank < belowRank", "gpu in (None, each.gpu)", "what is of a higher priority stays", "test_shortages.py::test_whatIsOfAHigherPriorityStays"),
    Mutant("muninn/session/othersroom.py", "0 < missing <= _bytesOf(membership, gpu, None) and _tell", "_tell", "nobody gives up what does not help", "test_shortages.py::test_whatNobodyCanGiveUpIsRefusedAtOnce"),
    Mutant("muninn/session/othersroom.py", "tables.key.slot not in holders and tenant", "tenant", "a window of its own is nothing to wait for", "test_shortages.py::test_ownWindowsAreNothingToWaitFor"),
    Mutant("muninn/session/gpus.py", "        self._known = self._counts()\n        self._wake()", "        self._wake()", "an old shortage takes nothing", "test_shortages.py::test_anOldShortageTakesNothingThatIsKeptLater"),
    Mutant("muninn/broker/repair.py", "        atomics.storeRelease32(inPlace, 1)\n", "", "what may be written in place is so in a new control block", "test_repair.py::test_whatMayBeWrittenInPlaceStaysSo"),
]
# fmt: on
