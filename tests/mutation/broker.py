"""Mutants of `muninn/broker/`: the decisions of the broker, and the requests to it."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_HANDLES = "muninn/wire/handles.py"
_JOURNAL = "muninn/broker/journal.py"
_DIRECTORY = "muninn/broker/directory.py"
_HALFMADE = "muninn/broker/halfmade.py"
_HOLDERS = "muninn/broker/holders.py"
_CATALOG = "muninn/broker/catalog.py"
_STORE = "muninn/broker/descriptorstore.py"
_DEATHWATCH = "muninn/broker/deathwatch.py"
_RECLAIMING = "muninn/broker/reclaiming.py"
_MAINTENANCE = "muninn/broker/maintenance.py"
_BROKER = "muninn/broker/broker.py"
_SERVER = "muninn/broker/server.py"
_MEMBER_REQUESTS = "muninn/broker/handlers/members.py"
_BUFFER_REQUESTS = "muninn/broker/handlers/buffers.py"
_REQUESTS = "muninn/wire/requests.py"
_CLIENT = "muninn/session/client.py"
_CONNECTOR = "muninn/session/connector.py"
_STALLS = "muninn/session/stalldetector.py"
_REPAIR = "muninn/broker/repair.py"
_SNAPSHOT = "muninn/broker/snapshot.py"
_LINES = "muninn/session/connections.py"
_INBOX = "muninn/broker/inbox.py"
_CANDIDACY = "muninn/broker/candidacy.py"
_ADMISSION = "muninn/broker/policy/admission.py"
_DRAIN = "muninn/control/drain.py"

# fmt: off
MUTANTS = [
    Mutant("muninn/broker/candidacy.py", "not (wasPausing or self._isPausing())", "not wasPausing", "a pause that begins in between is no reason", "test_candidacy.py::test_aPauseThatBeginsOrEndsInBetweenIsNoReason"),
    Mutant("muninn/broker/candidacy.py", "not (wasPausing or self._isPausing())", "not self._isPausing()", "a pause that ends in between is no reason", "test_candidacy.py::test_aPauseThatBeginsOrEndsInBetweenIsNoReason"),
    Mutant("muninn/broker/candidacy.py", "self._isOwnUid() and self._isHere() and", "self._isOwnUid() and", "a member with another /dev/shm does not stand for election", "test_candidacy.py::test_aMemberThatSeesAnotherMemoryIsNoSuccessor"),
    # --- a broker that has changed its root -------------------------------------------
    Mutant("muninn/broker/journal.py", "        if self.hindrance is None and isMoved():\n", "        if False:\n", "a broker with another /dev/shm hands over", "test_oserrors.py::test_aBrokerThatHasChangedItsRootServesNothingMore"),
    Mutant("muninn/broker/journal.py", "(isinstance(typed, PlatformUnsupported) and not hasProc())", "False", "a broker without /proc hands over", "test_oserrors.py::test_aBrokerThatHasChangedItsRootKeepsNoProcessOut"),
    # --- a program that closes descriptors of ours ------------------------------------
    Mutant(_SERVER, "self._epoll.wait(seconds, self._wake, self._listener)", "self._epoll.wait(seconds)", "a broker without its eventfd or listener begins another term", "test_descriptors.py::test_aProgramAloneInItsDomainThatClosesItsDescriptorsGoesOn"),
    Mutant(_CLIENT, "                self._context.campaign(term)  # which tells", "                pass  # which tells", "a waiter is told why no member serves", "test_client.py::test_aWaitForALaterRequestIsToldWhyNoBrokerServes"),
    Mutant("muninn/broker/candidacy.py", "    if _isLoss(error):\n", "    if False:\n", "the error says that the program has closed descriptors of Muninn's", "test_candidacy.py::test_aBrokerThatResignsSaysWhyInOneLine"),
    Mutant(_REPAIR, "            Drain(block).set(epoch, True, why)\n", "            pass\n", "the next block takes a drain over", "test_repair.py::test_aDrainIsTakenOverByTheNextBlock"),
    # --- handles ----------------------------------------------------------------------
    Mutant(_HANDLES, "if not isSameMac(mac, _mac(secret, body), secret) or access", "if access", "a handle has the domain's MAC", "test_handles.py"),
    Mutant(_HANDLES, "    if magic != _MAGIC or version != _VERSION:", "    if False:", "a handle is of this version", "test_handles.py"),
    Mutant(_HANDLES, "    if len(handle) != HANDLE_BYTES:", "    if False:", "a handle has its length", "test_handles.py"),
    Mutant(_HANDLES, "digestOf(body, _MAC_BYTES, secret)", "digestOf(body, _MAC_BYTES)", "another domain's handle is none", "test_handles.py::test_refusesTheHandleOfAnotherDomain"),
    Mutant(_HANDLES, " or access >= len(ACCESSES):", ":", "rights in a handle are rights that there are", "test_handles.py"),
    # --- journal ----------------------------------------------------------------------
    Mutant(_JOURNAL, " or zlib.crc32(body) != checksum:", ":", "a damaged record ends the replay", "test_journal.py"),
    Mutant(_JOURNAL, "len(body) < length or zlib", "zlib", "a torn record ends the replay", "test_journal.py", "a body that is shorter than its length has another checksum; the comparison says so in words"),
    Mutant(_JOURNAL, "            os.ftruncate(fd, length)\n", "", "a record stands whole or not at all", "test_journal.py::test_nothingOfARecordThatDidNotFitStays"),
    Mutant(_JOURNAL, "        if not isinstance(record, dict) or not isinstance(record.get(\"op\"), str):", "        if False:", "a record names its operation", "test_journal.py"),
    Mutant(_JOURNAL, "    if len(body) > MAX_RECORD_BYTES:\n        raise", "    if False:\n        raise", "nothing is written that replay would not read", "test_journal.py::test_aRecordTooLongToReplayIsNotWritten"),
    Mutant(_JOURNAL, "        except HostMemoryFull as error:\n            _log.warning", "        except KeyError as error:\n            _log.warning", "an ending goes on when the journal can not grow", "test_takeover.py::test_aFullShmStopsNeitherTakeoverNorFrees"),
    # --- directory --------------------------------------------------------------------
    Mutant(_DIRECTORY, "        self._journal.append(\"create\", **granted)\n", "", "a grant is in the journal first", "test_directory.py::test_aSuccessorKnowsTheNamesThatWereGranted"),
    Mutant(_DIRECTORY, "            self._journal.append(\"live\", row=row, incarnation=incarnation, description=description.packed())\n", "", "a live row is in the journal", "test_directory.py::test_theJournalTellsEachStep"),
    Mutant(_DIRECTORY, "            self._journal.note(\"free\", row=row, incarnation=state.incarnation)\n", "", "a free is in the journal", "test_directory.py::test_theJournalTellsEachStep"),
    Mutant(_DIRECTORY, "        self._journal.note(\"gone\", row=row, incarnation=state.incarnation)\n", "", "the end of a row is in the journal", "test_directory.py::test_theJournalTellsEachStep"),
    Mutant(_HALFMADE, "            self._journal.note(\"create\", **self._records[row])\n", "", "a name that was granted survives two brokers", "test_directory.py::test_aSuccessorKnowsTheNamesThatWereGranted"),
    Mutant(_DIRECTORY, "        if other is not None and self.holders.isGivenUp(other):", "        if False:", "the name of a dead creator is granted at once", "test_directory.py::test_theNameOfADeadCreatorIsGrantedAtOnce"),
    Mutant(_HOLDERS, "        return state.state == layout.ROW_CREATING and creator is not None", "        return creator is not None", "a dead creator's finished buffer keeps its name", "test_directory.py"),
    Mutant(_DIRECTORY, "        self.catalog.quotas.admit(usage.tenant, usage.mode, usage.gpu, usage.sizeBytes, gpuCapacityBytes)\n", "", "quotas hold", "test_directory.py::test_aSizeThatNoQuotaAllowsIsNotGranted"),
    Mutant(_DIRECTORY, "self.catalog.find(name) if row is not None and self.endLifetime(row) else row", "row", "the name of a buffer whose lifetime is over is free", "test_directory.py::test_theNameOfAnEndedLifetimeIsFree"),
    Mutant(_DIRECTORY, "        if state.state in _HELD_BY_NAME and clock.isOver(", "        if False and clock.isOver(", "tryReclaim ends a lifetime that is over", "test_directory.py::test_theNameOfAnEndedLifetimeIsFree"),
    Mutant(_DIRECTORY, "        usage = usage._replace(deadlineMs=0)\n", "", "a lifetime that ends before the commit ends nothing", "test_lifetimes.py::test_aLifetimeThatEndsBeforeTheCommitEndsNothingElse", "`endLifetime` frees nothing that is CREATING, and the commit counts the deadline anew"),
    Mutant(_DIRECTORY, "        incarnation = old.incarnation + 1  #", "        incarnation = old.incarnation or 1  #", "each buffer has an incarnation of its own", "test_directory.py test_invariants.py::test_i3ALateIndexRemovalLeavesTheNextBuffersEntry"),
    Mutant(_DIRECTORY, "!= (layout.ROW_CREATING, member.slot, incarnation):\n            if descriptor", "!= (layout.ROW_CREATING, state.creator, incarnation):\n            if descriptor", "only its creator commits a row", "test_directory.py::test_onlyItsCreatorCommitsARow"),
    Mutant(_DIRECTORY, "            if descriptor is not None:\n                own(descriptor).close()\n            raise Prot", "            raise Prot", "a refused commit leaves no descriptor", "test_directory.py"),
    Mutant(_DIRECTORY, "        if isRepeated:\n            return\n", "", "a commit may be repeated", "test_directory.py::test_aCommitThatIsRepeatedChangesNothing"),
    Mutant(_DIRECTORY, "            if self._journal.hindrance is None:  # otherwise it is asked of the successor\n                self._reclaim(row, state)\n            raise\n", "            raise\n", "a commit that is refused leaves nothing", "test_directory.py::test_aCommitThatSaysNonsenseIsRefusedAndItsRowCollected"),
    Mutant(_DIRECTORY, "            self.catalog.forgetName(row)\n            self.catalog.add", "            self.catalog.add", "a commit under another name frees the granted one", "test_directory.py::test_aCommitUnderAnotherNameFreesTheGrantedOne"),
    Mutant(_DIRECTORY, "        self._index.tell(description.name.encode(), isIndexed)\n", "", "a process that waits for a name is woken", "test_directory.py"),
    Mutant(_DIRECTORY, "isIndexed = self._index.insert(description.name.encode(), row, incarnation)\n", "isIndexed = True\n", "a name is found without the broker", "test_directory.py::test_aCommittedRowIsFoundByItsNameWithoutTheBroker"),
    Mutant(_DIRECTORY, "and self.descriptorStore.get(row, incarnation) is None:\n            raise Prot", "and False:\n            raise Prot", "fastMode needs its descriptor", "test_directory.py::test_fastModeNeedsItsDescriptor"),
    Mutant(_DIRECTORY, "        if (state.state, state.creator, state.incarnation) == (layout.ROW_CREATING, member.slot, incarnation):\n            self._reclaim", "        if state.state == layout.ROW_CREATING:\n            self._reclaim", "only its creator gives a row up", "test_directory.py"),
    Mutant(_DIRECTORY, "        if state.incarnation != incarnation or state.state not in (*_HELD", "        if state.state not in (*_HELD", "a free is of one incarnation", "test_directory.py test_invariants.py"),
    Mutant(_DIRECTORY, "            self._unname(row, state)\n        self.tryReclaim(row)\n", "        self.tryReclaim(row)\n", "a freed name is free at once", "test_directory.py::test_aFreedNameIsFreeAtOnceAndItsMemoryWithTheLastHolder"),
    Mutant(_DIRECTORY, "if state.state == layout.ROW_PROBING and self.holders.isHeld(row):", "if False:", "a lease that came in between keeps the buffer", "test_invariants.py::test_i2AnyBrokerMayFinishOrAbortAHalfDoneFree"),
    Mutant(_DIRECTORY, "in (layout.ROW_PROBING, layout.ROW_DYING) and not self.holders.isHeld(row)\n", "in (layout.ROW_PROBING, layout.ROW_DYING)\n", "memory waits for its holders", "test_directory.py test_invariants.py::test_i2AFreeNeverReclaimsWhatAnOpenerHolds test_invariants.py::test_i2AnyBrokerMayFinishOrAbortAHalfDoneFree"),
    Mutant(_DIRECTORY, "self.holders.endsWithLastClose(row) and not self.holders.isHeld(row) and", "self.holders.endsWithLastClose(row) and", "a held buffer is not probed", "test_directory.py", "PROBING is followed by the second count, which aborts it: an opener that comes in between is sent to the broker, and finds it"),
    Mutant(_DIRECTORY, " if isOver or state.state == layout.ROW_DEAD else state", " if isOver else state", "a reclaiming that was begun is finished", "test_invariants.py::test_i2AnyBrokerMayFinishOrAbortAHalfDoneFree"),
    Mutant(_DIRECTORY, "        self._unname(row, state)\n        segments.unlink", "        segments.unlink", "a half-made row leaves no name", "test_directory.py::test_aHalfMadeRowGoesWithItsMemoryAndItsIndexEntry"),
    Mutant(_DIRECTORY, "        if state.state != layout.ROW_DEAD:\n            state = self.rows", "        self._unname(row, state)\n        if state.state != layout.ROW_DEAD:\n            state = self.rows", "a deposed broker removes no name of a live row", "test_invariants.py::test_i3ADeposedBrokerTakesNoNameOfWhatLives"),
    Mutant(_DIRECTORY, "        if state.state != layout.ROW_DEAD:\n            state = self.rows.change(row, state, self._epoch, layout.ROW_DEAD)\n        # After", "        segments.unlink(self._block.paths, row, state.incarnation)\n        if state.state != layout.ROW_DEAD:\n            state = self.rows.change(row, state, self._epoch, layout.ROW_DEAD)\n        # After", "nothing is unlinked before the row is DEAD", "test_invariants.py::test_i3WhatADeposedBrokerStillDoesFails"),
    Mutant(_DIRECTORY, "        segments.unlink(self._block.paths, row, state.incarnation)\n", "", "memory goes with its row", "test_directory.py"),
    Mutant(_DIRECTORY, "        self.descriptorStore.drop(row, state.incarnation)\n", "", "memory without a name goes with its row", "test_directory.py"),
    Mutant(_DIRECTORY, "        self.catalog.remove(row)\n", "", "a row that is gone counts no more", "test_directory.py"),
    Mutant(_HOLDERS, "row, self._rows.state(row).incarnation) > 0", "row) > 0", "holds are of the row's buffer", "test_creation.py::test_aCreatorThatGaveUpHoldsNothingOfTheRowsNextBuffer"),
    Mutant(_DIRECTORY, "            self._index.remove(described.encode(), row, state.incarnation)\n", "", "a name that is gone leaves no entry", "test_directory.py"),
    # --- catalog and descriptor store -------------------------------------------------
    Mutant(_CATALOG, "        if self.find(usage.name) not in (None, row):", "        if False:", "a name is taken once", "test_catalog.py::test_aNameIsTakenOnce"),
    Mutant(_CATALOG, "        self._uncount(row)\n        self._usages[row] = usage\n", "        self._usages[row] = usage\n", "a row counts once", "test_catalog.py::test_countingARowTwiceCountsItOnce"),
    Mutant(_CATALOG, "name is not None and self._rowOfName.get(name) == row:", "name in self._rowOfName:", "a row forgets no other's name", "test_catalog.py"),
    Mutant(_CATALOG, "        return self._rows.findNamed(raw, self._indexNext) if self._indexNext < self._indexEnd else None", "        return None", "a name that the index lacks is found", "test_catalog.py::test_aNameThatIsNotInTheIndexIsFoundInTheRows"),
    Mutant(_CATALOG, "        return isWhole and self.find(name) is None", "        return self.find(name) is None and self._indexNext >= self._indexEnd", "a name that the index may lack is not said to be unknown", "test_catalog.py::test_aNameIsFreeOnceAllOthersAreInTheIndex"),
    Mutant(_CATALOG, "                self._rowOfName.setdefault(text, row)\n", "                pass\n", "a name that the index has no room for is found", "test_catalog.py::test_aNameThatTheIndexHasNoRoomForIsKept"),
    Mutant(_CATALOG, "            if self._rows.isNamed(row, incarnation, raw):\n", "            if True:\n", "an entry of the index is believed after a look at the row", "test_catalog.py test_directory.py"),
    Mutant(_CATALOG, "            self._marks[row] = 0\n            taken", "            taken", "a row of before is discounted once", "test_catalog.py", "a row's memory goes once in its life; this keeps a second removal harmless"),
    Mutant(_CATALOG, "        if taken is None and row < len(self._marks) and self._marks[row]:", "        if taken is None and row < len(self._marks):", "a row that was never counted is not subtracted", "test_catalog.py::test_rowsOfAnEarlierTermCountUntilTheyAreGone"),
    Mutant(_STORE, "return kept.number if kept is not None and kept.isOurs() else None", "return kept.number if kept is not None else None", "a descriptor that the program closed is not handed out", "test_descriptorstore.py::test_aDescriptorThatTheProgramClosedIsNotHandedOut"),
    Mutant(_STORE, "            if kept.number != brought.number:\n                brought.close()\n", "            if kept.number != brought.number:\n                brought.release()\n", "memory that is brought twice is kept once", "test_descriptorstore.py"),
    Mutant(_STORE, "            self._withdraw((row, incarnation))\n", "", "a descriptor that was dropped is not handed out any more", "test_descriptorserver.py::test_handsOutWhatTheDescriptorStoreHas"),
    Mutant(_STORE, "            self._withdraw(pair)\n", "            pass\n", "a descriptor that was taken is not handed out any more", "test_descriptorserver.py::test_handsOutWhatTheDescriptorStoreHas"),
    Mutant(_STORE, "        if self._descriptorServer is not None:\n            self._descriptorServer.put(row, incarnation, brought)\n", "", "a descriptor that comes later is handed out too", "test_descriptorserver.py::test_handsOutWhatTheDescriptorStoreHas"),
    # --- death watch and reclaiming ---------------------------------------------------
    Mutant(_DEATHWATCH, "        if self._members.isConfirmedDead(key, pidfd):\n", "        if True:\n", "no member is reclaimed before its death is confirmed", "test_invariants.py::test_i5NothingIsReclaimedBeforeTheConfirmation"),
    Mutant(_RECLAIMING, "        if generation != key.generation or state == layout.MEMBER_FREE:\n            return\n", "", "a late reclaiming does no harm", "test_reclaiming.py test_invariants.py", "`markDead` and `release` compare the whole word again; this only saves them the trouble"),
    Mutant(_RECLAIMING, "        if not self._members.markDead(key):\n            return\n", "", "the dead are marked dead first", "test_reclaiming.py::test_everythingOfADeadMemberIsTakenBack"),
    Mutant(_RECLAIMING, "        held = leases.clearDead(self._block, self._members, key)\n", "        held: list[int] = []\n", "the leases of the dead are cleared", "test_invariants.py::test_i1TheNextMemberOfASlotInheritsNoReference"),
    Mutant(_RECLAIMING, "            self._directory.orphaned(row)\n", "            pass\n", "the half-made rows of the dead are reclaimed", "test_reclaiming.py::test_everythingOfADeadMemberIsTakenBack"),
    Mutant(_RECLAIMING, "        self._poison(key)\n", "", "the promises of the dead are poisoned", "test_reclaiming.py::test_everythingOfADeadMemberIsTakenBack"),
    Mutant(_RECLAIMING, "                self._directory.tryReclaim(row)\n            if done", "                pass\n            if done", "a row whose last holder is dead goes", "test_reclaiming.py::test_rowsWhoseLastHolderDiesGo"),
    Mutant(_RECLAIMING, "            if row < self._directory.rows.count():  # what", "            if True:  # what", "a lease of a row that is not there is ignored", "test_reclaiming.py::test_aLeaseOnARowThatTheTableDoesNotHaveIsClearedAndNoMore"),
    Mutant(_RECLAIMING, "        self._members.release(key, layout.MEMBER_DEAD)\n        _log", "        _log", "the slots of the dead are given back", "test_reclaiming.py::test_everythingOfADeadMemberIsTakenBack"),
    Mutant(_RECLAIMING, "            self._members.release(key, layout.MEMBER_CLAIMING)\n            return\n", "            return\n", "the slot of a dead claimer is given back", "test_reclaiming.py::test_theSlotsOfDeadClaimersAndOfTheMarkedDeadAreGivenBack"),
    Mutant(_DEATHWATCH, "            if state == layout.MEMBER_DEAD or self._members", "            if self._members", "a successor finds the members that were marked dead", "test_reclaiming.py::test_theSlotsOfDeadClaimersAndOfTheMarkedDeadAreGivenBack"),
    Mutant(_DEATHWATCH, "return self._members.identity(key.slot).pidNamespace == ownPidNamespace()", "return True", "a pid of another namespace is not followed", "test_deathwatch.py::test_aPidOfAnotherNamespaceIsNotFollowed"),
    Mutant(_RECLAIMING, "            ownerlock.markDead(self._block.rowAddress(row) + layout.ROW_OWNER_LOCK_OFFSET, key)\n", "", "a process that waits for a dead holder is woken", "test_reclaiming.py::test_theWaitersForADeadMemberAreWoken"),
    Mutant(_RECLAIMING, "            Generation(self._block.rowAddress(row)).wake()\n", "", "a process that waits for a dead writer is woken", "test_reclaiming.py::test_theWaitersForADeadMemberAreWoken"),
    Mutant(_RECLAIMING, "        self._forget(key)\n        if key not in self._underWay:\n", "        if key not in self._underWay:\n", "the pidfd of the dead is closed", "test_deathwatch.py::test_aDeathThatIsNotYetConfirmedIsLookedAtAgain"),
    # --- maintenance ------------------------------------------------------------------
    Mutant(_MAINTENANCE, "self.tryReclaimUnheld, self._sweepMembers,", "self._sweepMembers,", "a successor finishes rows between two states", "test_maintenance.py::test_aSuccessorFinishesHalfDoneSteps", "it does the same again after the orphans; this one only does it first"),
    Mutant(_MAINTENANCE, "elif clock.now() >= self._sweepAt:", "elif clock.now() >= self._sweepAt and not self.snapshot.isDue():", "a snapshot that can not be made leaves the sweeps their turn", "test_maintenance.py::test_aSnapshotThatCanNotBeMadeDoesNotKeepTheBrokerFromItsSweeps"),
    Mutant(_MAINTENANCE, "list(islice(left, _SLICE_RECLAIMED))", "list(left)", "orphans are collected a slice at a time", "test_maintenance.py::test_theRemainsOfPredecessorsAreReclaimedInSlices"),
    Mutant(_MAINTENANCE, "for row in unheld[:_SLICE_RECLAIMED]:", "for row in unheld:", "rows are tried a slice at a time", "test_maintenance.py::test_theRemainsOfPredecessorsAreReclaimedInSlices"),
    Mutant(_MAINTENANCE, "self._collectOrphans, self._dropLeftovers", "self._dropLeftovers", "segments that no row vouches for are collected", "test_maintenance.py::test_segmentsThatNoRowVouchesForAreCollected"),
    Mutant(_MAINTENANCE, "if state is None or state.incarnation != key.incarnation or state.state == layout.ROW_FREE:", "if state is None or state.state == layout.ROW_FREE:", "a segment of an earlier incarnation is collected", "test_maintenance.py::test_segmentsThatNoRowVouchesForAreCollected"),
    Mutant(_MAINTENANCE, "        self.snapshot.want()\n", "", "live rows are copied into each new journal", "test_maintenance.py::test_aNewTermHasAJournalOfItsOwnAndDropsTheOldOnes"),
    Mutant(_SNAPSHOT, "        except (HostMemoryFull, DescriptorsExhausted) as error:\n            self._giveUp(error.reason)", "        except (HostMemoryFull, DescriptorsExhausted):\n            self._block.dropJournals(self._epoch)", "the older journals stay when there is no room", "test_maintenance.py::test_theOldJournalsStayWhenThereIsNoRoomForANewOne"),
    Mutant(_DIRECTORY, "        _ = self.catalog  # it takes them from the older journals\n", "", "names that were granted are known before the older journals go", "test_directory.py::test_aSuccessorCopiesTheGrantsOfTheOlderJournals"),
    Mutant(_BROKER, "        dropCopies(block.paths)  # first of all", "        # first of all", "copies of the dead go", "test_maintenance.py::test_aSuccessorRemovesTheCopyThatItsPredecessorDidNotFinish"),
    Mutant(_MAINTENANCE, '("descriptorServer", self', '("other", self', "a predecessor's sockets are removed", "test_maintenance.py::test_theSocketsOfPredecessorsAreRemoved"),
    Mutant(_MAINTENANCE, "        dropEmpty(self._paths, self._epoch)\n", "", "journals that tell of nothing go", "test_maintenance.py::test_brokersThatDieBeforeTheirCopyIsWholeLeaveNothing"),
    Mutant(_JOURNAL, "            isShort = epoch < before and", "            isShort =", "the own journal stays", "test_maintenance.py::test_brokersThatDieBeforeTheirCopyIsWholeLeaveNothing"),
    Mutant(_JOURNAL, "all(record[\"op\"] == \"begin\" for", "all(True for", "a journal that tells of something stays", "test_journal.py::test_aJournalThatTellsOfNothingGoes"),
    # --- candidacy and admission ------------------------------------------------------
    Mutant(_CANDIDACY, "        if own < self._wanted() and spare > own and spare > OWN_DESCRIPTORS:\n            return slot\n", "", "a member that can not serve all lets another serve", "test_candidacy.py::test_theAblestIsChosen"),
    Mutant(_CANDIDACY, "if key.slot != exceptSlot]", "]", "a member whose term has ended is not elected again", "test_candidacy.py::test_theAblestIsChosen"),
    Mutant(_CANDIDACY, "return slot if spare > own and spare >= self._wanted() else None", "return None", "a broker at its limits lets another serve", "test_candidacy.py::test_aBrokerThatComesToItsLimitsLetsAnotherServe test_candidacy.py::test_theAblestIsChosen"),
    Mutant(_BROKER, "            if self._journal.hindrance is not None:\n                raise Deposed", "            if False:\n                raise Deposed", "a broker's own limit is no answer", "test_candidacy.py::test_aBrokerThatMayWriteNoLongerJournalLetsAnotherServe"),
    Mutant(_DIRECTORY, "            if self._journal.hindrance is None:  # otherwise it is asked of the successor\n                self._reclaim(row, state)\n", "            self._reclaim(row, state)\n", "a row that a successor is asked to commit is not reclaimed", "test_candidacy.py::test_aBrokerThatMayWriteNoLongerJournalLetsAnotherServe"),
    Mutant(_CANDIDACY, " and self._mayWrite()\n", "\n", "a member that may write no journal does not stand for election", "test_candidacy.py::test_aMemberThatCanNotServeDoesNotStand"),
    Mutant(_CANDIDACY, "mayServe = not self._isPausing() and", "mayServe =", "a member that has failed does not stand for election at once", "test_candidacy.py::test_aMemberThatHasFailedStandsAgainLaterEachTime"),
    Mutant(_CANDIDACY, "_FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1)", "_FIRST_PAUSE_SECONDS", "it stands again later each time", "test_candidacy.py::test_aMemberThatHasFailedStandsAgainLaterEachTime"),
    Mutant(_ADMISSION, "        self.close()\n        return descriptors", "        raise OSError(errno.EMFILE, \"none\")\n        return descriptors", "a newcomer is told also when nothing is left", "test_candidacy.py::test_aNewcomerThatNoBrokerCanTakeIsToldWhy"),
    Mutant(_ADMISSION, "                connection.recv(messages.MAX_MESSAGE_BYTES)", "                pass", "the newcomer reads the answer", "test_candidacy.py::test_aNewcomersMessageDoesNotHideTheRefusal"),
    Mutant(_ADMISSION, "(self._economize() and self._hasDescriptors())", "False", "the known are watched by their connections", "test_deathwatch.py::test_withoutDescriptorsTheKnownAreWatchedByTheirConnections"),
    Mutant(_DEATHWATCH, "if len(self._pidfds) >= MAX_PIDFDS and self", "if False and self", "many members cost a descriptor each", "test_deathwatch.py::test_manyMembersCostADescriptorEach"),
    # --- snapshot ---------------------------------------------------------------------
    Mutant(_SNAPSHOT, "self._journal.isTooLong() or self._isMemoryShort()", "self._journal.isTooLong()", "a journal does not take the room for its copy", "test_maintenance.py::test_aJournalIsCopiedWhileThereIsStillRoomForACopy"),
    Mutant(_SNAPSHOT, "self._isWanted or self._journal.isTooLong()", "self._isWanted", "a journal that is too long is copied", "test_maintenance.py::test_theJournalOfATermDoesNotGrowWithRowsThatAreGone"),
    Mutant(_SNAPSHOT, ", *((\"create\", record) for record in halfMade)]", "]", "names that were granted outlive a copy", "test_maintenance.py::test_theJournalOfATermDoesNotGrowWithRowsThatAreGone"),
    Mutant(_SNAPSHOT, "        if end < rows.count():\n            return end\n", "", "a copy has all rows", "test_maintenance.py::test_aChangeWhileTheJournalIsCopiedIsInTheCopy"),
    Mutant(_JOURNAL, "                self._copyLength = self._written(self._copy, frame, self._copyLength)\n            except", "                pass\n            except", "a record that is appended meanwhile is in the copy", "test_journal.py::test_theCopyTakesTheJournalsPlaceWithAllThatCameMeanwhile test_maintenance.py"),
    Mutant(_JOURNAL, "                _log.info(\"the journal is not shortened now: %s\", error.reason)\n                self.dropCopy()", "                pass", "a copy that lacks a record does not take the journal's place", "test_journal.py::test_aCopyThatDoesNotFitLeavesTheJournalAsItIs"),
    Mutant(_JOURNAL, "        result = atomics.exchangeNames(new.encode(), self._path.encode())\n", "        result = -errno.ENOSYS\n", "a deposed broker's journal stays away", "test_maintenance.py::test_aDeposedBrokersCopyDoesNotBringItsJournalBack"),
    Mutant(_JOURNAL, "        self.vouchedBytes += weight - weights[row]\n", "", "records that vouch for live rows do not make a journal too long", "test_journal.py::test_isTooLongWhenMostOfItIsOver"),
    Mutant(_MAINTENANCE, "        self._mayBeLost = False\n        for row", "        for row", "after a takeover it is looked once whether all has come", "test_maintenance.py::test_nothingIsTakenForLostBeforeAllWasBrought"),
    Mutant(_MEMBER_REQUESTS, "    session.bringsMore = len(pairs) >= requests.FULL_BATCH\n", "    session.bringsMore = False\n", "a full message is followed by another", "test_maintenance.py::test_nothingIsTakenForLostBeforeAllWasBrought"),
    Mutant(_BUFFER_REQUESTS, "        return {\"row\": requests.LATER, \"incarnation\": 0}, ()\n", "        pass\n", "a name is free or not once that is known", "test_broker.py::test_aGrantWaitsForMembersThatMayHaveTheMemoryOfTheName"),
    Mutant(_MAINTENANCE, "        if rows and self._mayStillCome():", "        if False:", "memory that may still be brought is waited for", "test_maintenance.py"),
    Mutant(_MAINTENANCE, "        if self._chores or not clock.knowsHostTime():\n", "        if self._chores:\n", "a broker that can not compare clocks ends no lifetime", "test_lifetimes.py::test_aBrokerThatCanNotCompareClocksEndsNoLifetime"),
    Mutant(_DIRECTORY, "        self.holders.revoke(row, \"lifetimeEnded\")\n", "", "a lifetime that ends refuses new operations", "test_lifetimes.py::test_aLifetimeThatEndsWhileItsBufferIsHeldIsEndedOnce"),
    Mutant(_MAINTENANCE, "            self.tryReclaimUnheld()\n        self.collectLost()\n", "        self.collectLost()\n", "a row that a dead member had released is collected", "test_maintenance.py::test_aSweepThatFindsTheDeadLooksAtRowsThatTheyHadReleased"),
    Mutant(_MAINTENANCE, "            self._chores.append(lambda: self.tryReclaimUnheld(following))\n", "            pass\n", "all rows are looked at, a slice at a time", "test_maintenance.py"),
    # --- broker -----------------------------------------------------------------------
    Mutant(_BROKER, "        if self.isDeposed() or self._journal.isHindered():\n            raise Deposed\n        self._election.beat()", "        self._election.beat()", "a deposed broker serves no member", "test_broker.py::test_aDeposedBrokerServesNoMember"),
    Mutant(_BROKER, "        return self._directory.lacks(name) and not self.isDeposed()", "        return self._directory.lacks(name)", "a deposed broker does not answer for names", "test_broker.py::test_aDeposedBrokerServesNoMember"),
    Mutant(_BROKER, "                self._server.wake()\n                raise Deposed\n            knownEnd", "                self._server.wake()\n            knownEnd", "a deposed broker does not serve its own process", "test_broker.py::test_aDeposedBrokerServesNoMember"),
    Mutant("muninn/broker/policy/admission.py", "            if uid != os.geteuid():", "            if False:", "another user is refused", "test_broker.py::test_anotherUserIsRefused"),
    Mutant(_BROKER, " and not self._members.isCurrent(session.key):", " and False:", "a request of the dead grants nothing", "test_broker.py::test_aRequestOfTheDeadThatIsReadLateGrantsNothing"),
    Mutant(_MEMBER_REQUESTS, "    isKnown = members.identity(key.slot).nonce == message[\"nonce\"]\n", "    isKnown = True\n", "a hello has the member's nonce", "test_deathwatch.py::test_aHelloNeedsAPidfdOfTheMemberItself"),
    Mutant(_MEMBER_REQUESTS, " or not members.isPidOf(pid, key):", ":", "a hello has the member's pidfd", "test_deathwatch.py::test_aHelloNeedsAPidfdOfTheMemberItself"),
    Mutant(_MEMBER_REQUESTS, "isKnown and pid == -1:", "False:", "a death before the hello is read is no error", "test_deathwatch.py::test_aMemberThatDiesBeforeItsHelloIsReadIsNoFault"),
    Mutant(_MEMBER_REQUESTS, "    if not members.isCurrent(key):\n        raise SenderGone", "    if False:\n        raise SenderGone", "a hello is of a member of now", "test_deathwatch.py::test_aHelloOfTheDeadIsRefused"),
    Mutant(_BROKER, "            messages.closeAll(descriptors)  # a handler empties the list of those that it keeps\n", "            pass\n", "unexpected descriptors are closed", "test_requests.py::test_unexpectedDescriptorsAreClosed"),
    Mutant(_BUFFER_REQUESTS, "    if (why := context.drain.reason()) is not None:\n", "    if (why := None) is not None:\n", "a draining domain creates nothing", "test_cli.py::test_drainStopsCreation"),
    Mutant(_BUFFER_REQUESTS, "    if context.directory.rows.state(row).incarnation == incarnation:\n        context.directory.tryReclaim(row)\n", "    context.directory.tryReclaim(row)\n", "a request to reclaim is for one incarnation", "test_requests.py test_lifetimes.py", "`_named` has compared the incarnation, and a try to reclaim is safe for any row"),
    Mutant(_BUFFER_REQUESTS, "    if not context.directory.exists(row, incarnation):\n", "    if False:\n", "a request names a row that is there", "test_requests.py::test_rowsBeyondTheTableAreNotTouched"),
    Mutant(_DIRECTORY, "return 0 <= row < self.rows.count() and", "return", "a row that no creator filled is not read", "test_requests.py::test_rowsBeyondTheTableAreNotTouched"),
    Mutant(_DEATHWATCH, "        if self._suspects.setdefault(pidfd, RETRIES) > 0:\n", "        if False:\n", "a death that is not confirmed yet is looked at again", "test_deathwatch.py::test_aDeathThatIsNotYetConfirmedIsLookedAtAgain"),
    Mutant(_DEATHWATCH, "if key == own or (isWatched and not self._members.isMarked(slot)):", "if key == own or isWatched:", "an exec that no connection tells of is found", "test_image.py::test_anExecIsFoundThoughNoMemberWaits"),
    Mutant(_DIRECTORY, " and not self.holders.isLockNotFree(row):", ":", "a lock whose only user died has a dead owner", "test_image.py::test_aProgramThatReplacesItselfFindsNothingOfItsPast test_lock.py::test_aLockWhoseOnlyUserDiedIsRecovered"),
    Mutant(_BROKER, "        if session.key is None:\n            self._maintenance.sweepSoon()", "        if False:\n            self._maintenance.sweepSoon()", "the broker looks for a member that dies before its hello", "test_deathwatch.py::test_aMemberThatEndsBeforeItsHelloIsLookedForAtOnce"),
    Mutant(_DRAIN, "word >> _EPOCH_SHIFT > epoch or atomics", "atomics", "a deposed broker does not drain", "test_invariants.py::test_i3ADeposedBrokerDoesNotDrain"),
    Mutant(_BROKER, "        if not descriptors or self._served > _SERVED_FIRST:", "        if not descriptors:", "maintenance is done although there is always something to serve", "test_maintenance.py"),
    Mutant(_BUFFER_REQUESTS, "    context.maintenance.collectLost()  # whoever is told that it is gone may make it anew at once\n", "", "a buffer that was reported as lost can be made anew", "test_maintenance.py"),
    Mutant(_BROKER, "        self._directory.fence()\n        self._server", "        self._server", "a successor fences first", "test_broker.py::test_aDeposedBrokerServesNoMember"),
    Mutant(_DIRECTORY, "            if self.exists(row, incarnation) and self.rows.state(row).state != layout.ROW_FREE:", "            if True:", "memory that no row vouches for is not kept", "test_requests.py::test_unexpectedDescriptorsAreClosed"),
    Mutant(_BUFFER_REQUESTS, "    if context.directory.rows.isLive(row, incarnation) and context.mayStillBring():", "    if context.mayStillBring():", "no process waits for the memory of a buffer that is gone", "test_broker.py::test_theMemoryOfAFreedRowIsNotWaitedFor"),
    # --- requests, client, repair -----------------------------------------------------
    Mutant(_REQUESTS, "    if message.keys() - {\"op\"} != fields.keys():", "    if False:", "a request has its fields", "test_requests.py::test_aRequestHasItsFieldsAndNoOthers"),
    Mutant(_REQUESTS, "not -1 <= value < 1 << 64)", "False)", "numbers of a request are in range", "test_requests.py::test_numbersOfARequestAreNumbersInRange"),
    Mutant(_REQUESTS, "isinstance(value, bool) or not isinstance(value, int)", "not isinstance(value, int)", "a number is no truth value", "test_requests.py::test_numbersOfARequestAreNumbersInRange"),
    Mutant(_REQUESTS, "    if len(pairs) != len(allocations) or len(pairs) != len(descriptors):", "    if len(pairs) != len(allocations):", "each allocation comes with its descriptor", "test_requests.py::test_eachAllocationComesWithItsDescriptor"),
    Mutant(_STALLS, "return now - self._since >= self._context.takeoverMs / 1000", "return False", "a broker that stands still is deposed", "test_invariants.py::test_i6AStandingHeartbeatIsTimedByTheObserver"),
    Mutant(_STALLS, "        if seen != self._seen:", "        if self._seen is None:", "a broker that moves is not deposed", "test_invariants.py::test_i6AStandingHeartbeatIsTimedByTheObserver"),
    Mutant(_CONNECTOR, "                self._deposeIfStalled(term, stall)\n                spin", "                spin", "a broker stuck in a request is deposed", "test_takeover.py::test_aBrokerStoppedDuringARequestIsDeposed"),
    Mutant("muninn/session/connections.py", "            if line.hasRested:\n", "            if False:\n", "an unused connection is closed", "test_client.py::test_aQuestionInTheMiddleOfAnotherIsAnsweredToo"),
    Mutant("muninn/session/connections.py", "for line in self._idle[:-1]:", "for line in self._idle[:]:", "one line stays", "test_client.py::test_aQuestionInTheMiddleOfAnotherIsAnsweredToo"),
    Mutant(_CONNECTOR, " or self._context.election.epoch() != line.epoch or clock", " or clock", "a client that waits for a deposed broker asks its successor", "test_client.py"),
    Mutant(_LINES, "            if line.epoch == epoch and line.isOurs():\n                return line", "            if True:\n                return line", "a new broker is asked on a new connection", "test_client.py::test_aNewBrokerIsAskedOnANewConnection"),
    Mutant(_CLIENT, "            line.close()\n            raise\n        self._lines.giveBack", "            self._lines.giveBack(line)\n            raise\n        self._lines.giveBack", "an answer that came too late is dropped", "test_client.py"),
    Mutant(_CONNECTOR, "            line.close()\n            raise\n        return line", "            self._lines.giveBack(line)\n            raise\n        return line", "no request goes before the hello", "test_client.py"),
    Mutant(_CONNECTOR, "            held = context.allocations() if self.connected != line.epoch else []\n", "", "a holder brings its memory to the successor", "test_client.py::test_aHelloBringsTheMemoryThatHasNoName"),
    Mutant(_INBOX, "                self._taken = asked\n                return asked\n", "                continue\n", "a request of the broker's own process is answered", "test_reservation.py"),
    Mutant(_INBOX, "            if not asked.isAbandoned():\n", "            if True:\n", "a request without a waiter is not served", "test_inbox.py"),
    Mutant(_LINES, "                line.callAway()\n", "                pass\n", "a wait for an earlier broker is called off", "test_client.py"),
    Mutant(_LINES, "            if line.epoch < epoch:\n                line.close()\n", "            if False:\n                line.close()\n", "nothing stays connected to an earlier broker", "test_client.py::test_nothingStaysConnectedToAnEarlierBroker"),
    Mutant(_CLIENT, "        self._descriptorServer.disconnect(epoch)\n", "", "nothing stays connected to an earlier descriptor server", "test_client.py::test_nothingStaysConnectedToAnEarlierBroker"),
    Mutant(_REPAIR, "            if holder := withdrawal.holder() or (", "            if holder := (", "no block is repaired under a member", "test_repair.py::test_isRefusedWhileAMemberIsInTheDomain"),
    Mutant(_REPAIR, "MemberTable(old).inhabitant() if old", "0 if old", "a free byte alone is no leave to repair", "test_repair.py::test_isRefusedWhileAMemberLivesThatHasLostItsByte"),
    Mutant(_REPAIR, "            reinstate(paths, lockFile)  # or", "            pass  # or", "a withdrawn block says which member is in it", "test_repair.py::test_aWithdrawnBlockNamesItsMembersToo"),
    Mutant(_REPAIR, "                journal.append(\"live\", row=key.row", "                journal.note(\"gone\", row=key.row", "adopted rows are in a journal of the new block", "test_repair.py::test_anAdoptedBufferIsAdoptedAgain"),
    Mutant(_REPAIR, "        self.kept = sorted((there & (unread | intact)) - adopted)\n", "        self.kept = []\n", "a buffer in a journal that this version does not understand is kept", "test_repair.py::test_aJournalOfAnotherVersionIsKeptWithItsSegments"),
    Mutant(_REPAIR, "                description = description._replace(origin=key.origin)\n", "", "an adopted segment is found by the name that it has", "test_repair.py::test_aProcessThatJoinsAfterTheLossOfTheBlockAdoptsFirst"),
    Mutant(_REPAIR, "        withdrawal = Withdrawal(paths, lockFile)\n", "        withdrawal = Withdrawal(paths._replace(domain=\"none\", folder=\"none\"), lockFile)\n", "a process that joins during a repair waits for it", "test_repair.py::test_repairKeepsAProcessThatJoinsMeanwhileOut"),
    Mutant(_REPAIR, "                self._carryGeneration(block, key)\n", "", "a half-written buffer is still known as such", "test_repair.py::test_aWriterThatDiedIsRememberedWhenADomainBeginsAnew"),
    Mutant(_MAINTENANCE, "orphans if self._block.hasName() else ():", "orphans:", "a broker of a lost block collects nothing", "test_repair.py::test_aBrokerWhoseBlockWasLostEndsNothingOfTheNextOnes"),
    Mutant(_SNAPSHOT, "            if self._block.hasName():\n", "            if True:\n", "a broker of a lost block drops no journal", "test_repair.py::test_aBrokerWhoseBlockWasLostEndsNothingOfTheNextOnes"),
    Mutant(_MAINTENANCE, "        if not isOwn and not self._block.hasAdopted():\n            return False\n", "", "another block's segments are left until they were adopted", "test_repair.py::test_aJournalOfAnotherVersionIsKeptWithItsSegments"),
    Mutant(_MAINTENANCE, "        if not self._block.restoreNames():\n            raise BlockLost\n", "", "the broker restores the block's names", "test_repair.py::test_theBlocksPublicNameAloneIsNotNeeded"),
    Mutant(_REPAIR, "        self._addRows(living, unread, ended)\n", "", "repair keeps the rows that a sound block calls live", "test_repair.py::test_aBufferThatASoundBlockCallsLiveIsKept"),
    Mutant(_REPAIR, "            except ControlBlockInvalid:\n                unread.add(key)\n", "            except ControlBlockInvalid:\n                pass\n", "repair keeps the live rows of a sound block that this version does not understand", "test_repair.py::test_aRowThatASoundBlockCallsLiveAndNoVersionReadsIsKept"),
    Mutant(_REPAIR, "key in living or key in ended:", "key in living:", "a row that a journal ended does not live by the old block", "test_repair.py::test_aBufferThatAJournalEndedDoesNotLiveByTheOldBlock"),
    Mutant(_MAINTENANCE, "        self._journal.look()\n", "", "a sweep sees that the journal was removed", "test_maintenance.py::test_aJournalThatWasRemovedIsWrittenAnew"),
    Mutant(_JOURNAL, "            self.isNameless |= os.fstat(self._file.number).st_nlink == 0\n", "            pass\n", "a record sees that the journal was removed", "test_maintenance.py::test_aJournalThatWasRemovedIsWrittenAnew"),
    Mutant(_SNAPSHOT, "self._block.hasName() and Election(self._block).epoch() == self._epoch:", "self._block.hasName():", "a deposed broker's journal is not written anew", "test_maintenance.py::test_aDeposedBrokersJournalIsNotWrittenAnew"),
    Mutant(_REPAIR, "    return sizeBytes >= description.segmentBytes\n", "    return True\n", "a truncated segment is not recovered", "test_repair.py::test_aTruncatedSegmentIsNotBroughtBack"),
    Mutant(_REPAIR, "        Election(block).startAt(epoch)\n", "", "the next broker's epoch is above all journals'", "test_repair.py::test_theNextTermComesAfterAllThatTheJournalsRemember"),
    Mutant(_REPAIR, "            elif record[\"op\"] in (\"free\", \"gone\"):", "            elif record[\"op\"] == \"gone\":", "a freed buffer is not recovered", "test_repair.py::test_aFreedBufferThatWasStillHeldIsNotBroughtBack"),
    Mutant("muninn/broker/lifetimes.py", "self._deadlineOf.get(self._heap[0][1]) != self._heap[0][0]", "self._heap[0][1] not in self._deadlineOf", "a deadline that was changed does not count", "test_lifetimes.py"),
    Mutant("muninn/broker/lifetimes.py", "if len(self._heap) > 2 * len(self._deadlineOf) + _MOST_STALE:", "if False:", "entries of forgotten rows do not pile up", "test_lifetimes.py"),
    Mutant("muninn/broker/maintenance.py", "        for _ in range(_SLICE_ENDS):\n", "        while True:\n", "lifetimes that end together end in slices", "test_maintenance.py"),
    Mutant(_RECLAIMING, "            if done % _SLICE_ROWS == 0:\n                yield len(rows) - done\n", "", "a death with many leases is reclaimed in slices", "test_reclaiming.py"),
    Mutant(_RECLAIMING, "        if key not in self._underWay:\n", "        if True:\n", "a death is reclaimed once", "test_reclaiming.py::test_aDeathWithManyLeasesIsReclaimedInSlices"),
    Mutant(_RECLAIMING, "            self.finish()  # perhaps nobody is left who would\n", "            pass\n", "a broker that leaves finishes the reclaiming that it has begun", "test_reclaiming.py"),
]
# fmt: on
