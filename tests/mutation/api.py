"""Mutants of `muninn/api/`: what users call."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_HOLDINGS, _MEMBERSHIP, _BUFFER, _CREATION, _LOCK, _SHARING, _FENCES, _TURNS, _MEMORY, _SNAPSHOTS, _READERS = (
    f"muninn/api/{name}.py"
    for name in ("holdings", "membership", "buffer", "creation", "lock", "sharing", "fences", "turns", "memory", "snapshots", "readers")
)

_NAMES, _ENTRY = "muninn/api/names.py", "muninn/api/entry.py"

# fmt: off
MUTANTS = [
    # --- holdings ---
    Mutant(_HOLDINGS, "            if not membership.rows.isLive(row, incarnation):\n                self._giveUp(index, row, incarnation)\n                return None\n", "", "the row is read again after the lease", "test_holdings.py::test_theRowIsReadAgainAfterTheLease"),
    Mutant(_HOLDINGS, "        self._released.append((row, incarnation))\n        self.membership.kick()\n", "", "a lease that came to nothing is told to the broker", "test_holdings.py::test_aLeaseThatCameTooLateDoesNotKeepTheRow"),
    Mutant(_HOLDINGS, "        except BaseException:\n            self._giveUp(index, row, incarnation)\n            raise\n        return self.memory", "        except KeyError:\n            raise\n        return self.memory", "an open that fails gives its lease back", "test_holdings.py::test_anOpenThatFailsGivesItsLeaseBack"),
    Mutant(_HOLDINGS, "            if mapped is None or not membership.rows.isLive(row, incarnation):", "            if mapped is None:", "memory that arrays keep is no buffer when it was freed", "test_holdings.py::test_whatOnlyArraysHoldAndWasFreedIsNoBuffer"),
    Mutant(_HOLDINGS, "        if atomics.loadAcquire64(self._leaseAddress) != self._leaseWord:", "        if False:", "a revoked lease refuses", "test_buffer.py::test_aRevokedLeaseForbidsAndFreesNothing"),
    Mutant(_HOLDINGS, "        if not self.membership.rows.isLive(self.row, self.incarnation):\n            raise", "        if False:\n            raise", "a freed buffer refuses", "test_buffer.py::test_freeingKeepsWhatIsMapped"),
    Mutant(_HOLDINGS, "        if self.description.access is Access.READ_ONLY:", "        if False:", "what was shared readOnly stays so", "test_sharing.py::test_readOnlyStaysReadOnly"),
    Mutant(_HOLDINGS, "        if holding is not None and holding.isLive():\n            return holding\n        membership, encoded", "        if holding is not None:\n            return holding\n        membership, encoded", "a name is what is called so now", "test_holdings.py::test_aNameIsWhatIsCalledSoNow"),
    Mutant(_HOLDINGS, "if membership.rows.isLive(row, incarnation) and membership.rows.nameIs(row, encoded):", "if membership.rows.isLive(row, incarnation):", "a hint is believed only after the name was read", "test_holdings.py::test_aHintThatIsAnotherNamesIsNotBelieved"),
    Mutant(_MEMORY, "        source.closeThen(onGone)\n", "        onGone()\n        source.closeThen(lambda: None)\n", "memory is unmapped before its lease is given back", "test_holdings.py::test_memoryIsUnmappedBeforeItsLeaseIsGivenBack"),
    Mutant(_HOLDINGS, "                membership.leaseTable.release(leaseIndex)\n                if", "                if", "memory that is unmapped has no lease", "test_sharing.py::test_unnamedBuffersGoWithTheirLastUser"),
    Mutant(_HOLDINGS, "                    self._released.append((row, incarnation))\n                    membership.kick()\n", "                    pass\n", "a last close is told to the broker", "test_sharing.py::test_unnamedBuffersGoWithTheirLastUser"),
    Mutant(_HOLDINGS, "description.lifetime is Lifetime.LAST_CLOSE or not membership.rows.isLive(row, incarnation):", "description.lifetime is Lifetime.LAST_CLOSE:", "the last holder of what was freed tells the broker", "test_buffer.py::test_freeingKeepsWhatIsMapped"),
    Mutant(_HOLDINGS, "                if not answered:\n                    self._released.append(released)\n", "                pass\n", "what the broker did not hear is told again", "test_holdings.py::test_whatTheBrokerDidNotHearIsToldAgain"),
    Mutant(_HOLDINGS, "            if holding is not None and holding.isRenewed():\n                holding.renew()\n", "            pass\n", "a lease is renewed while its buffer is open", "test_holdings.py::test_anIdleHoldersLeaseIsRenewed"),
    Mutant(_HOLDINGS, "    if monotonicMs() >= expiresMs:", "    if False:", "a strict lease that ran out refuses", "test_buffer.py::test_aStrictLeaseExpiresAndAnAutomaticOneDoesNot"),
    Mutant(_HOLDINGS, "        for _ in range(_FETCH_ATTEMPTS):", "        for _ in range(1):", "memory that a holder is to bring is waited for", "test_holdings.py::test_memoryThatAHolderIsYetToBringIsWaitedFor"),
    # --- membership ---
    Mutant(_MEMBERSHIP, "        return self.identity.isWiped() or self._hasLeft", "        return self._hasLeft", "a forked child is another process", "test_invariants.py::test_i9AForkedChildJoinsAnew"),
    # --- entry ---
    Mutant(_ENTRY, "            if not block.isRetired() and block.hasName():\n", "            if True:\n", "nobody joins a block that was withdrawn", "test_membership.py::test_nobodyStaysInABlockThatWasWithdrawnMeanwhile"),
    Mutant(_ENTRY, "        atomics.exchangeSeqCst32(version, 0)\n", "", "who withdraws a block says so before it looks", "test_membership.py::test_whoWithdrawsTheBlockSaysSoBeforeItLooks"),
    Mutant(_ENTRY, "    return others or bool(rows.notFree()", "    return bool(rows.notFree()", "a block that others are in is not withdrawn", "test_membership.py::test_aBlockThatOthersAreInStays"),
    Mutant(_ENTRY, "bool(rows.notFree() or entry.block.places.segmentKeys())", "bool(entry.block.places.segmentKeys())", "a block with buffers is not withdrawn", "test_membership.py::test_aBlockWithBuffersStaysAndIsValid"),
    Mutant(_ENTRY, "        if _isWanted(entry, rows):\n            return\n", "", "a block that is wanted keeps its version", "test_membership.py::test_aBlockThatIsWantedKeepsItsVersionWhileTheLastLeaves"),
    Mutant(_ENTRY, "        if not block.hasName():\n            return", "        if False:\n            return", "a block without a name is not made valid again", "test_membership.py::test_whoLeavesABlockThatWasWithdrawnDoesNotMakeItValidAgain"),
    Mutant(_ENTRY, "            if not members.anyEnded() or clock.now() > deadline:\n", "            if True:\n", "a table full of the dead is waited for", "test_membership.py::test_aTableThatIsFullOfTheDeadIsWaitedFor"),
    Mutant(_ENTRY, "            if mayRenew and Election(block).epoch() >= RENEWAL_EPOCH:\n", "            if False:\n", "epochs begin anew before they run over", "test_repair.py::test_aDomainWhoseEpochsAreHalfUsedUpBeginsAnew"),
    Mutant(_BUFFER, "current().requireSame(old.membership, old.description.name).holdings", "current().holdings", "an object of another block is refused", "test_buffer.py::test_anObjectOfAnotherDomainIsRefused"),
    Mutant(_LOCK, "                current().requireSameDomain(self._holding.membership, self.name)\n", "", "a lock of another domain is refused", "test_buffer.py::test_anObjectOfAnotherDomainIsRefused"),
    Mutant(_MEMBERSHIP, "            atomics.exchangeSeqCst32(robustWord, 0)  # what", "            pass  # what", "a slot's next member has its robust word", "test_membership.py::test_whateverTheSlotsLastMemberLeftInTheRobustWordIsForgotten"),
    Mutant(_MEMBERSHIP, "        self.client.forsake(term.epoch)\n", "", "who asks an earlier broker is called away", "test_membership.py::test_aNewTermCallsAwayWhoAsksAnEarlierBroker"),
    Mutant(_MEMBERSHIP, "        self.holdings.closeAll()\n        self._preferred", "        self._preferred", "who leaves gives its leases back", "test_invariants.py::test_i10EveryEndIsTheSame", "the good-bye takes back what is left, as a death does"),
    Mutant(_MEMBERSHIP, "            if broker is not None:\n                self._bequest += broker.bequeath()\n            self.election.replace(term, None)\n", "            self.election.replace(term, None)\n", "a broker that resigns takes the descriptors along before it goes", "test_membership.py", "the `finally` takes them too; what is here closes the time between"),
    Mutant(_MEMBERSHIP, "            self.election.replace(term, None)\n            clock", "            clock", "a broker that can not serve does not sit in office", "test_watchdog.py::test_aBrokerWithoutDescriptorsGivesWay"),
    Mutant(_MEMBERSHIP, "            broker.inherit([*inherited, *self.holdings.allocations()])  # the others bring theirs with their hello\n", "            pass\n", "a successor keeps what it holds itself", "test_takeover.py::test_fastModeMemoryGoesOnWithItsHoldersAndEndsWithTheLast test_sharing.py::test_fastModeMemoryOutlivesItsOwnerAndTheBroker"),
    Mutant(_MEMBERSHIP, "            held.append((pair, descriptors.duplicate(descriptor)))\n", "            pass\n", "a broker that left office brings the vault to its successor", "test_takeover.py::test_aNamedFastModeBufferSurvivesAPoliteTakeover"),
    Mutant(_MEMBERSHIP, "            self.election.replace(term, self._heir())\n            self.kick()\n        if not isAtRest", "            pass\n        if not isAtRest", "who leaves hands the office on", "test_takeover.py::test_leavingHandsOverAtOnce test_takeover.py::test_aNamedFastModeBufferSurvivesAPoliteTakeover"),
    Mutant(_MEMBERSHIP, "        return generation & 0x7FFFF != generationBits or state", "        return state", "a claim of the slot's last member is a dead one's", "test_membership.py::test_aClaimOfTheSlotsLastMemberIsADeadOnes"),
    Mutant(_MEMBERSHIP, "                if not self._leaving:  # what", "                if True:  # what", "who leaves leaves quietly", "test_membership.py::test_whatWasUnderWayAtTheGoodByeIsNoError"),
    Mutant(_MEMBERSHIP, "        if not self._leaving and (settled", "        if (settled", "who has said good-bye asks nothing more", "test_membership.py::test_goesQuietlyAlthoughItsThreadStillAsksAfterTheGoodBye", "it is refused, and that is not logged; only the broker's log says that it was asked"),
    Mutant(_MEMBERSHIP, "self.departure.awaitOutside(self.holdings.isInside, self._thread) and self", "self", "who is inside keeps the slot", "test_membership.py::test_aThreadThatIsInsideKeepsTheSlot"),
    Mutant(_LOCK, "                try:\n                    holding.membership.departure.check()\n                except Departing:\n                    holding.membership.holdings.locked.discard(holding)\n                    claims.release(holding.claimAddress)\n                    raise\n", "", "a lock is not taken in a slot that is given back", "test_membership.py::test_whatBeginsWhileTheProcessLeavesBeginsInASlotOfItsOwn"),
    Mutant(_TURNS, "                membership.departure.check()\n", "", "a turn does not begin in a slot that is given back", "test_membership.py::test_whatBeginsWhileTheProcessLeavesBeginsInASlotOfItsOwn"),
    Mutant(_CREATION, "                membership.departure.check()\n", "", "nothing is created from a slot that is given back", "test_membership.py::test_whatBeginsWhileTheProcessLeavesBeginsInASlotOfItsOwn"),
    # --- buffer ---
    Mutant(_BUFFER, "        if not self._writable:\n            raise", "        if False:\n            raise", "a buffer open for reading is not written", "test_sharing.py::test_readOnlyStaysReadOnly test_buffer.py::test_publishesGenerationsToWaitingReaders"),
    Mutant(_TURNS, "        if kind is None:\n            self._publish()\n", "        if True:\n            self._publish()\n", "what was not written to its end is not published", "test_buffer.py::test_aWriterThatRaisesLeavesATornBuffer"),
    Mutant(_TURNS, "            if claims.acquire(holding.claimAddress, membership.key, membership.isDead, remaining(self._deadline)) is None:", "            if False:", "one writer at a time", "test_buffer.py::test_aWriterKeepsTheOthersOut"),
    Mutant(_TURNS, "        holding.generation.publish(self._begun)\n        claims.release(holding.claimAddress)\n", "        holding.generation.publish(self._begun)\n", "a writer gives its turn back", "test_buffer.py::test_writersTakeTurns"),
    Mutant(_TURNS, "        if holding.writer == thread or holding.readers.isOne():\n", "        if holding.readers.isOne():\n", "a thread that writes does not write again", "test_buffer.py::test_nestedWritingIsAnErrorAndNoHang"),
    Mutant(_TURNS, "        if holding.membership.isStale():\n            return False  # a child", "        if False:\n            return False  # a child", "a forked child does not end its parent's turn", "test_buffer.py::test_aForkedChildDoesNotEndItsParentsTurn"),
    Mutant(_TURNS, "        holding.generation.wake()\n", "", "who waits for a writer that gave up is woken", "test_buffer.py::test_whoWaitsForAWriterThatGivesUpIsToldAtOnce"),
    Mutant(_BUFFER, "            checkExpiry(holding.description.name, self._expiresMs)\n", "", "a strict lease that ran out refuses", "test_buffer.py::test_aStrictLeaseExpiresAndAnAutomaticOneDoesNot"),
    Mutant(_BUFFER, "            if generation.value() & 1 and writerIsDead(holding) and generation.value() & 1:", "            if False:", "a wait ends when its writer dies", "test_buffer.py::test_aDeadWriterIsSeenAndRepaired"),
    Mutant(_BUFFER, "        if holding.membership.isStale():\n            holding = self._reopen(holding)\n", "", "a forked child takes a lease of its own", "test_sharing.py::test_aForkedChildTakesALeaseOfItsOwn"),
    Mutant(_SNAPSHOTS, "return owner is None or holding.membership.isDead(*owner)", "return owner is not None and holding.membership.isDead(*owner)", "a writer that gave up is said", "test_buffer.py::test_aWriterThatRaisesLeavesATornBuffer"),
    Mutant(_TURNS, "                if not holding.readers.awaitNone(remaining(self._deadline)):", "                if False:", "a writer waits until nobody is inside a reader's turn", "test_turns.py"),
    Mutant(_TURNS, "            if holding.generation.value() & 1:  # and", "            if False:  # and", "a reader is told of a writer that gave up", "test_turns.py"),
    Mutant(_TURNS, "            if self._stream is not WITHOUT_STREAM:\n                # Behind", "            if kind is None and self._stream is not WITHOUT_STREAM:\n                # Behind", "what a failed turn gave its stream is waited for", "test_turns.py::test_whatAFailedTurnGaveItsStreamIsWaitedFor"),
    Mutant(_TURNS, "        if holding.writer == self._thread:\n", "        if False:\n", "a thread that writes does not begin a reader's turn", "test_turns.py::test_oneThreadIsInsideOneKindOfTurn"),
    Mutant(_TURNS, "        threading.Thread(target=fences.behindWork, args=(holding, end), name=\"muninn-turn\", daemon=True).start()\n", "        end()\n", "a turn that can promise nothing lasts until its work is over", "test_turns.py::test_aTurnThatCanPromiseNothingLastsUntilItsWorkIsOver"),
    Mutant(_TURNS, "            elif kind is None:\n                fences.mend(holding)\n", "", "a CPU's turn repairs what a dead writer tore", "test_turns.py::test_whatADeadWriterToreIsMendedByTheNextOne"),
    Mutant(_TURNS, "holdBack(holding, self._stream, writing=True, timeout=remaining(self._deadline))", "holdBack(holding, self._stream, writing=True, timeout=self._timeout)", "a writer's limit is for all that it waits for", "test_turns.py::test_aTurnsLimitIsForAllThatItWaitsFor"),
    Mutant(_TURNS, "holdBack(holding, self._stream, writing=False, timeout=remaining(deadline))", "holdBack(holding, self._stream, writing=False, timeout=self._timeout)", "a reader's limit is for all that it waits for", "test_turns.py::test_aTurnsLimitIsForAllThatItWaitsFor"),
    Mutant(_FENCES, "    if holding.tickets.torn() is not None:\n", "    if False:\n", "what was torn is mended by a CPU's turn", "test_turns.py::test_whatADeadWriterToreIsMendedByTheNextOne"),
    Mutant(_FENCES, "mindsDeath=not writing and ticket >= lastWriter)", "mindsDeath=not writing)", "a reader minds the last writer's death only", "test_turns.py::test_aReaderIsNotToldOfADeathThatALaterWriterMends"),
    Mutant(_TURNS, "                readers.handOn(self._thread, _NO_THREAD)\n                _endBehindWork(self._holding, lambda: readers.leave(_NO_THREAD))\n", "                _endBehindWork(self._holding, lambda: readers.leave(self._thread))\n", "a turn that lasts is no turn of its thread any more", "test_turns.py::test_aTurnThatCanPromiseNothingLastsUntilItsWorkIsOver"),
    Mutant(_TURNS, "        fences.behindWork(holding, end, holding.membership.settings.devices.ipcGraceMs / 1000)\n", "        pass\n", "a turn ends also where no thread can be had", "test_turns.py::test_aTurnEndsAlsoWhereNoThreadCanBeHad"),
    Mutant(_FENCES, "mindsDeath=not writing and ticket >= lastWriter)", "mindsDeath=ticket >= lastWriter)", "who writes next does not mind a dead writer", "test_turns.py::test_aWriterThatCameBehindTheDeadOneMendsItAll"),
    Mutant(_MEMBERSHIP, "        if self.promised:\n            return False\n        return self.device is None or not self.holdings.isAtWork() or self.device.awaitWork(seconds)", "        return True", "who is inside a turn does not say good-bye", "test_turns.py::test_whoIsInsideATurnDoesNotLeaveTheDomain"),
    Mutant(_READERS, "if isNested or owner is None or membership.isDead(*owner):", "if True:", "a reader looks for a writer", "test_turns.py"),
    Mutant(_READERS, "if isNested or owner is None or membership.isDead(*owner):", "if owner is None or membership.isDead(*owner):", "who is inside does not wait for the writer that waits for it", "test_turns.py::test_aReaderInsideDoesNotWaitForTheWriterThatWaitsForIt"),
    Mutant(_READERS, "if isNested or owner is None or membership.isDead(*owner):", "if isNested or owner is None:", "a dead writer keeps no reader out", "test_turns.py::test_aWriterThatDiedInsideIsToldToReaders"),
    Mutant(_READERS, "            if not self._turns:\n                self._membership.leaseTable.setReading(self._leaseIndex, False)\n", "            self._membership.leaseTable.setReading(self._leaseIndex, False)\n", "one reader's end is not the end of all", "test_turns.py::test_readersAreInsideTogether"),
    Mutant(_READERS, "                if not atomics.loadAcquire32(self._word):\n                    self._change()\n", "", "a writer knows that somebody reads", "test_turns.py"),
    Mutant(_READERS, "        self._change()\n        if atomics.loadSeqCst32(self._claimAddress):\n            atomics.futexWake32(self._word, atomics.FUTEX_ALL)\n", "", "a reader that leaves wakes the writer", "test_turns.py"),
    Mutant(_HOLDINGS, "            return self._all.get((row, incarnation)) or self._add(", "            return self._add(", "the maker shares the holding of who opened meanwhile", "test_holdings.py::test_whoOpensWhatAnotherThreadHasJustMadeSharesItsHolding"),
    # --- creation ---
    Mutant(_CREATION, "    except BaseException:\n        _abandon(membership, row, incarnation)\n        raise\n", "    except KeyError:\n        raise\n", "a creation that fails leaves nothing", "test_creation.py::test_aFillThatRaisesLeavesNothing"),
    Mutant(_CREATION, "        except BaseException:\n            membership.leaseTable.release(index)\n            raise\n        memory", "        except KeyError:\n            raise\n        memory", "a creation that fails gives its lease back", "test_holdings.py::test_aCreationThatFailsGivesItsLeaseBack"),
    Mutant(_CREATION, "        _fill(memory, wanted, fill)\n        if put is not None:\n            put(made.address)\n        _commit(membership, made, row, incarnation)\n", "        _commit(membership, made, row, incarnation)\n        _fill(memory, wanted, fill)\n", "nobody sees a buffer that is not filled", "test_creation.py::test_nobodySeesABufferThatIsNotFilled"),
    Mutant(_CREATION, "    if membership.holdings.creating.setdefault(wanted.name, token) is not token:", "    if False:", "the threads of a process are told apart", "test_takeover.py::test_aNameIsCreatedByOneOfManyThreads"),
    # --- lock, sharing, fences ---
    Mutant(_LOCK, "                self.recovered = not clean\n", "", "who takes a lock over from the dead is told", "test_lock.py::test_aKilledHolderIsSucceeded"),
    Mutant(_LOCK, "                claims.release(holding.claimAddress)\n", "                pass\n", "a lock is given back", "test_lock.py::test_processesTakeTurns"),
    Mutant(_LOCK, "            if holding.claimDepth == 0:\n                raise RuntimeError", "            if False:\n                raise RuntimeError", "only its holder releases a lock", "test_lock.py::test_aReleaseTooManyLeavesTheLockWhole"),
    Mutant(_LOCK, "        if holding.membership.isStale():\n            raise", "        if False:\n            raise", "a forked child does not release its parent's lock", "test_lock.py::test_aForkedChildDoesNotReleaseItsParentsLock"),
    Mutant(_LOCK, "                holding.membership.holdings.locked.add(holding)\n", "", "a lock is held although nobody kept the object", "test_lock.py::test_isHeldAlthoughNobodyKeptTheObject"),
    Mutant(_LOCK, "        if not holding.claimLock.acquire(timeout=-1 if timeout is None else timeout):", "        if False:", "the threads of a process take turns", "test_lock.py::test_threadsTakeTurns"),
    Mutant(_SHARING, "            holding = membership.holdings.find(name)\n            if holding is None:\n                loaded", "            holding = None\n            if holding is None:\n                loaded", "who waited for a loader looks again", "test_sharing.py::test_loadsOnce test_creation.py::test_oneOfManyLoadsForAll"),
    Mutant(_SHARING, "    if capability.tenantDigest != capabilities.tenantDigest(description.tenant) or capability.sizeBytes != description.sizeBytes:", "    if False:", "a handle matches its buffer", "test_holdings.py::test_aHandleThatDoesNotMatchItsBufferIsRefused"),
    Mutant(_SHARING, "access is not Access.READ_ONLY and granted is Access.READ_ONLY:", "False:", "a handle gives no more than the rights in it", "test_sharing.py::test_handlesCarryTheRightsOfTheirObject"),
    Mutant(_SHARING, "    inRange = capability.row < membership.rows.count()\n", "    inRange = True\n", "a handle's row is one that is there", "test_holdings.py::test_aHandleThatDoesNotMatchItsBufferIsRefused"),
    Mutant(_FENCES, "    if not 0 <= wanted <= tickets.last():", "    if False:", "a ticket that was never issued is not waited for", "test_buffer.py::test_aFenceThatCanNotBeRecordedIsPoisoned"),
    Mutant(_FENCES, "        onReached(error)  # nobody else would complete the ticket, and its waiters must not hang\n", "", "a fence that can not be recorded is poisoned", "test_buffer.py::test_aFenceThatCanNotBeRecordedIsPoisoned"),
    Mutant(_FENCES, "    if state == layout.TICKET_POISONED and mindsDeath:\n", "    if False:\n", "a dead promise is said", "test_buffer.py::test_aDeadPromiseIsPoisoned"),
    Mutant(_NAMES, "if state == self._asked and now < self._askAgainMs:", "if False:", "the broker is asked when it may know more", "test_names.py"),
    Mutant(_NAMES, "told = self._seen if self.isComing else self._seen >> 16", "told = self._seen >> 16", "a name that was given up is told", "test_names.py"),
    Mutant(_NAMES, "state, now = (self._membership.election.epoch(), told)", "state, now = (0, told)", "a new broker is asked once", "test_names.py"),
]
# fmt: on
