"""Mutants of `muninn/control/`: the shared words, and the detection of deaths."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_BLOCK = "muninn/control/block.py"
_CREATION, _READER = "muninn/control/creation.py", "muninn/control/memberreader.py"
_LOCKFILE = "muninn/control/lockfile.py"
_MEMBERS = "muninn/control/members.py"
_ELECTION = "muninn/control/election.py"
_WATCH = "muninn/session/watch.py"
_ROWS = "muninn/control/rows.py"
_INDEX = "muninn/control/index.py"
_LEASES = "muninn/control/leases.py"
_GENERATIONS = "muninn/control/generations.py"
_OWNER_LOCK = "muninn/control/ownerlock.py"
_TICKETS = "muninn/control/tickets.py"
_SEGMENTS = "muninn/storage/segments.py"
_WIRE = "muninn/wire/messages.py"
_GEOMETRY = "muninn/control/geometry.py"
_DESCRIPTOR_SERVER = "muninn/wire/descriptorserver.py"
_CLOCK = "muninn/system/clock.py"
_DESCRIPTORS = "muninn/system/descriptors.py"
_HEADER = "muninn/control/header.py"
_FOLDERS = "muninn/storage/folders.py"
_OWNERSHIP = "muninn/system/ownership.py"
_OS_ERRORS = "muninn/system/oserrors.py"

# fmt: off
MUTANTS = [
    Mutant("muninn/control/members.py", "        except UnicodeError:  # of", "        except KeyError:  # of", "the name of a program may not be encodable", "test_members.py::test_aProgramMayHaveAnythingForItsName"),
    Mutant("muninn/system/processes.py", "isinstance(arguments, list | tuple) and arguments", "arguments is not None", "a program may have no arguments", "test_members.py::test_aProgramMayHaveAnythingForItsName"),
    # --- a limit to files -------------------------------------------------------------
    Mutant("muninn/storage/segments.py", "    requireFileBytes(path, sizeBytes)\n", "", "a segment beyond the limit does not end the process", "test_oserrors.py::test_aLimitOfTheProcessIsNamed"),
    Mutant("muninn/devices/host/memory.py", "    requireFileBytes(f\"{exactly(sizeBytes)} for GPU {gpu}\", pagesUp(sizeBytes))\n", "", "memory of an emulated GPU beyond the limit does not end the process", "test_oserrors.py::test_aLimitOfTheProcessIsNamed"),
    # --- without /proc ----------------------------------------------------------------
    Mutant("muninn/system/processes.py", "        if not hasProc():\n            raise\n", "        if False:\n            raise\n", "a process that can not be looked up is not gone", "test_oserrors.py::test_withoutProcNoProcessIsTakenForGone"),
    Mutant("muninn/system/processes.py", "        if not _seen:\n            raise\n", "        raise\n", "a process knows its own namespace", "test_oserrors.py::test_withoutProcNoProcessIsTakenForGone"),
    # --- a program that closes descriptors of ours ------------------------------------
    Mutant("muninn/system/descriptors.py", "                self._kept.release()  # or", "                pass  # or", "a lost eventfd does not close the next one", "test_descriptors.py::test_anEventThatTakesThePlaceOfALostOneIsNotClosedWithIt"),
    Mutant("muninn/system/descriptors.py", "                    if each is not None and not each.isOurs():\n", "                    if False:\n", "a long wait looks whether it can be ended", "test_descriptors.py::test_aLongWaitLooksWhetherTheProgramHasClosedWhatItWaitsBy"),
    # --- ownership --------------------------------------------------------------------
    Mutant(_OWNERSHIP, "    if isWritableByOthers(status):\n", "    if False:\n", "a file that other users could have written is not believed", "test_ownership.py::test_aFileThatOthersCouldHaveWrittenIsRefusedAtOnce"),
    Mutant(_OWNERSHIP, "        os.chmod(path if fd is None else fd.number, _PRIVATE)\n", "", "a mode is put right", "test_ownership.py::test_aFileThatOthersCouldOnlyReadIsCorrected"),
    Mutant(_OWNERSHIP, "    if status.st_uid != uid:\n", "    if False:\n", "another user's file is named", "test_ownership.py::test_anotherUsersLockFileInTheDirectoryIsNamed"),
    Mutant(_HEADER, "            ownership.requireUnwritten(status, path)\n", "            pass\n", "a block that others could have written is not taken for none", "test_ownership.py::test_aFileThatOthersCouldHaveWrittenIsRefusedAtOnce"),
    Mutant(_HEADER, "            isMeant = path == paths.linkPath or isOurs(status, path, paths)\n", "            isMeant = True\n", "a file that is no block keeps its mode", "test_ownership.py::test_anOwnFileOfThePublicNameKeepsItsMode"),
    Mutant(_HEADER, "        if status.st_uid != paths.uid:  # nobody", "        if False:  # nobody", "another user's block in the directory is replaced", "test_ownership.py::test_anotherUsersBlockInTheDirectoryIsReplaced"),
    Mutant("muninn/broker/journal.py", "            requireUnwritten(os.fstat(file.fileno()), path)\n", "", "a journal that others could have written is not believed", "test_ownership.py::test_aFileThatOthersCouldHaveWrittenIsRefusedAtOnce"),
    Mutant(_OWNERSHIP, "    raise _changed(path, uid, f\"made as uid {status.st_uid}\")\n", "", "a file that was made as another uid is reported", "test_ownership.py::test_aFileThatAnotherUidHasMadeIsRemovedAgain"),
    Mutant(_OWNERSHIP, "        (os.rmdir if stat.S_ISDIR(status.st_mode) else os.unlink)(path)\n", "        pass\n", "a file that was made as another uid is removed again", "test_ownership.py::test_aFileThatAnotherUidHasMadeIsRemovedAgain"),
    Mutant(_OS_ERRORS, "    isRefused = error.errno in (errno.EPERM, errno.EACCES) and not", "    isRefused = False and not", "a refusal by the rights is a typed error", "test_ownership.py::test_aRefusalOfTheSystemIsATypedError"),
    Mutant("muninn/broker/journal.py", "        if isinstance(typed, DomainChanged) or (", "        if (", "a broker of another uid gives its term up", "test_ownership.py::test_aBrokerWhoseUidChangesInTheMiddleOfARequestGivesItsTermUp"),
    # --- folders ----------------------------------------------------------------------
    Mutant(_FOLDERS, "        for name in own:\n            if _isEstablished(name, uid):\n                return name\n", "", "a domain stays where it is", "test_folders.py::test_aNameThatAnotherUserTookIsAvoided"),
    Mutant(_FOLDERS, "    if status.st_mode & 0o022:\n", "    if False:\n", "where others could write nothing is believed", "test_folders.py::test_aDirectoryInWhichOthersCouldWriteIsNotBelieved"),
    Mutant(_FOLDERS, "    if stat.S_IMODE(status.st_mode) & 0o777 != 0o700:\n", "    if False:\n", "a mode is set right", "test_folders.py::test_aDirectoryInWhichNoOtherCouldWriteIsSetRight"),
    Mutant(_FOLDERS, "        if _own(stem, uid) != own or any(_isEstablished(name, uid) for name in own):\n            return False\n", "", "two processes that start at once agree on one directory", "test_folders.py::test_aProcessLooksAgainOnceItHasTheDirectorysLock"),
    Mutant(_DESCRIPTORS, "    if flags & os.O_CREAT:\n", "    if False:\n", "no umask counts", "test_block.py::test_aFirstProcessWithAHardUmaskLeavesADomainForAll"),
    Mutant(_HEADER, "        if isOurs(os.lstat(paths.blockPath), paths.blockPath, paths):\n            posix_ipc.unlink", "        if True:\n            posix_ipc.unlink", "a file of another user is left alone, by root too", "test_folders.py::test_theBlocksNameIsAvoidedWhateverAnotherUserPutThere"),
    Mutant(_GENERATIONS, "                if canTakeAccess:\n                    raise Starved\n                raise TimeoutError", "                raise TimeoutError", "a reader without a timeout is told that a writer is inside", "test_owners.py::test_aReadThatDoesNotWaitNamesTheWriter"),
    Mutant("muninn/devices/host/memory.py", ", alignment=alignment, owner=self._range))", ", alignment=alignment))", "a mapping has an owner in the step that makes it", "test_hostDevice.py::test_anAllocationThatIsInterruptedBehindItsMappingMapsNothing"),
    # --- finalizers on own threads ----------------------------------------------------
    Mutant("muninn/sync/contention.py", "    if owner is not None:\n        aside.refuseOwn()\n", "", "a finalizer on an own thread does not wait for an owner lock", "test_aside.py::test_aFinalizerOnAnOwnThreadWaitsForNothing"),
    Mutant(_GENERATIONS, "            aside.refuseOwn()\n            sleepOn(self._word, value & 0xFFFFFFFF, remainingNs)", "            sleepOn(self._word, value & 0xFFFFFFFF, remainingNs)", "a finalizer on an own thread does not wait for a generation", "test_aside.py::test_aFinalizerOnAnOwnThreadWaitsForNothing"),
    Mutant(_TICKETS, "                return False\n            aside.refuseOwn()\n", "                return False\n", "a finalizer on an own thread does not wait for room", "test_aside.py::test_aFinalizerOnAnOwnThreadWaitsForNothing"),
    Mutant(_TICKETS, "                return state\n            aside.refuseOwn()\n", "                return state\n", "a finalizer on an own thread does not wait for a ticket", "test_aside.py::test_aFinalizerOnAnOwnThreadWaitsForNothing"),
    # --- forks ------------------------------------------------------------------------
    Mutant("muninn/system/forks.py", "        if isWhole:\n", "        if False:\n", "a fork waits for steps that must be whole", "test_forks.py::test_aForkWaitsForStepsThatMustBeWhole"),
    Mutant("muninn/system/forks.py", "        os.register_at_fork(after_in_child=partial(next, renewals))\n", "", "a child has the locks that its other threads held", "test_forks.py"),
    Mutant("muninn/system/forks.py", '{True: operator.methodcaller("release"),', "{True: bool,", "a fork gives back the locks that it took", "test_forks.py"),
    Mutant("muninn/session/client.py", "        self._connector.isForked = True\n", "", "a child does not ask in its parent's name", "test_forks.py::test_aHandlerThatForksLeavesTheAnswerToTheParent"),
    # --- block ------------------------------------------------------------------------
    Mutant(_HEADER, "    if header is None or header.version == 0:\n        return None\n", "    if header is None:\n        return None\n", "a block without a version is not joined", "test_block.py::test_aBlockThatNeverHadAnIdentityIsReplaced"),
    Mutant(_HEADER, "    if header.magic != layout.MAGIC:\n        raise", "    if False:\n        raise", "a block begins with the magic", "test_block.py::test_aDamagedHeaderIsATypedError"),
    Mutant(_HEADER, "    if not isOfThisBoot(header.boot):\n", "    if False:\n", "a block of another boot is discarded", "test_block.py::test_aBlockOfAnotherBootGoesWithAllThatItNamed"),
    Mutant(_HEADER, "    if version != layout.VERSION:\n", "    if False:\n", "versions refuse each other", "test_block.py::test_aDamagedHeaderIsATypedError"),
    Mutant(_HEADER, "    if geometry.totalBytes != header.totalBytes or size", "    if size", "the sizes of a block agree", "test_block.py::test_aDamagedHeaderIsATypedError"),
    Mutant(_HEADER, " or sizeBytes < header.totalBytes:", ":", "a truncated block is not mapped", "test_block.py::test_aTruncatedBlockIsNotMapped"),
    Mutant(_CREATION, "            if not inhabitant:\n", "            if True:\n", "nothing is adopted while a member lives in a lost block", "test_repair.py::test_nothingIsAdoptedWhileAMemberLivesInTheLostBlock"),
    Mutant("muninn/control/withdrawal.py", "amongAll=bool(paths.segmentKeys()))", "amongAll=True) if paths.segmentKeys() else 0", "a lock in a lost block is held, without a segment too", "test_repair.py::test_aLockInALostBlockIsReleasedBeforeAnotherHasIt"),
    Mutant(_LOCKFILE, "            others.add(file)\n", "            pass\n", "one process is asked for each lock file", "test_repair.py::test_oneProcessIsAskedForEachLockFile"),
    Mutant(_LOCKFILE, "[(int(each[4]), each[5]) for each in fields if each[1] == \"POSIX\"]", "[]", "a process that has a byte of a lost lock file is seen", "test_repair.py::test_aLockInALostBlockIsReleasedBeforeAnotherHasIt"),
    Mutant("muninn/control/withdrawal.py", " or removedFileHolder(paths.lockPath, _SCAN_SECONDS, amongAll=bool(paths.segmentKeys()))", "", "a member of a block without a lock file is seen", "test_repair.py::test_anAccessInALostBlockIsOverBeforeAnotherBegins"),
    Mutant(_HEADER, "        header = Header.of(fd) if _mayBeOurs(status, path, paths) else None\n", "        header = Header.of(fd)\n", "another user's block is not joined", "test_block.py::test_aBlockNameThatAnotherUserTakesWhileItIsOpenedIsAvoided"),
    Mutant(_HEADER, "header.lockInode == lockFile.inode\n", "True\n", "a block of another lock file is not joined", "test_block.py::test_aBlockOfAnotherLockFileIsNotJoined"),
    Mutant(_CREATION, "        with lockFile.creating():\n            reinstate", "        if True:\n            reinstate", "one process at a time makes the block", "test_block.py::test_theBlockIsMadeUnderItsLockAndTheWaitForItIsBounded"),
    Mutant(_CREATION, "            block = openExisting(paths, lockFile)\n            if block is not None:\n                return block\n            #", "            block = None\n            #", "the second creator looks again under the lock", "test_block.py::test_aCreatorLooksAgainOnceItHasTheLock test_block.py::test_aBlockThatAMemberStillUsesIsNotReplaced"),
    Mutant(_CREATION, "(paths.temporaryPath, *paths.copies())", "(paths.temporaryPath,)", "a new block does not want for the room of dead copies", "test_block.py::test_aNewBlockRemovesTheCopiesOfTheDead"),
    Mutant(_BLOCK, "        self.lockFile.requireCreating()\n", "", "a creator that has lost CREATE publishes nothing", "test_block.py::test_aCreatorThatLostCreateGivesNothingTheDomainsName"),
    Mutant(_BLOCK, "        if not self._isAt(self.paths.temporaryPath):\n            raise", "        if False:\n            raise", "another creator's unpublished block is not published", "test_block.py::test_aCreatorThatLostCreateGivesNothingTheDomainsName"),
    Mutant(_CREATION, "        block.dropTemporary()\n", "", "a creation that fails leaves nothing", "test_block.py::test_aFailedCreationTakesWithItWhatItMade"),
    Mutant(_BLOCK, "        if not self._isAt(paths.temporaryPath) or self._isAt(paths.linkPath) or self._isAt(paths.blockPath):\n            return\n", "", "a block that has a name keeps its journal", "test_block.py::test_aFailedCreationTakesWithItWhatItMade"),
    Mutant("muninn/control/withdrawal.py", "            checkVersion(header.layoutVersion, path)\n", "", "a withdrawn block of another version is left alone", "test_block.py::test_aWithdrawnBlockOfAnotherVersionIsRefused"),
    Mutant("muninn/control/withdrawal.py", "                os.pwrite(self._fd.number, self._before, layout.LAYOUT_VERSION_OFFSET)\n", "                pass\n", "a process that withdraws a block leaves its version in it", "test_block.py::test_aWithdrawnBlockOfAnotherVersionIsRefused"),
    Mutant(_HEADER, " or self.layoutVersion not in (0, layout.VERSION))", ")", "a block that another version withdrew is not replaced", "test_block.py::test_aWithdrawnBlockOfAnotherVersionIsRefused"),
    Mutant(_CREATION, "            reinstate(paths, lockFile)\n", "", "a block in use, half withdrawn, is given its version back", "test_block.py::test_aBlockThatAMemberStillUsesIsNotReplaced"),
    Mutant(_HEADER, " and (self.identity != 0 or", " and (True or", "only a block that was whole is given its version back", "test_block.py::test_aBlockThatNeverHadAnIdentityIsReplaced"),
    Mutant(_CREATION, "    if header is not None and header.magic == layout.MAGIC and not isOfThisBoot(header.boot):\n", "    if False:\n", "the files that another boot's block named go with it", "test_block.py::test_aBlockOfAnotherBootGoesWithAllThatItNamed"),
    Mutant(_BLOCK, "layout.VERSION_OFFSET)) != layout.VERSION\n", "layout.VERSION_OFFSET)) == 77\n", "a process that joins sees that the block was withdrawn", "test_membership.py::test_noProcessJoinsABlockThatIsBeingWithdrawn"),
    Mutant(_GEOMETRY, "        if not sane:\n", "        if False:\n", "impossible sizes are refused", "test_layout.py"),
    # --- logs -------------------------------------------------------------------------
    Mutant("muninn/system/logs.py", "with contextlib.suppress(Exception):  # and", "with contextlib.nullcontext():  # and", "an exception of the program's logging ends no thread of Muninn's", "test_clock.py::test_aThreadOutlivesALogThatRaises"),
    # --- lockfile ---------------------------------------------------------------------
    Mutant(_LOCKFILE, "while (failure := int(atomics.byteLock(self._fd(), _CREATE_BYTE))) != 0:", "while (failure := int(atomics.byteLock(self._fd(), _CREATE_BYTE))) == 99:", "CREATE excludes", "test_block.py::test_theBlockIsMadeUnderItsLockAndTheWaitForItIsBounded"),
    Mutant("muninn/system/threads.py", "        _begin(thread)\n", "        thread.start()\n", "an interrupted start leaves no thread that waits for ever", "test_threads.py::test_anInterruptedStartLeavesNoThreadThatWaitsForEver"),
    Mutant("muninn/system/threads.py", "        if (ends := green.identity()) != began:", "        if (ends := began) != began:", "a thread that was begun before threads were green ends well", "test_green.py::test_greenThreadsAreKnownWheneverTheLibraryMakesThem"),
    Mutant("muninn/system/green.py", "            saved.extend(releasing)\n", "            saved.append(lock._release_save())\n", "one call releases the lock and keeps how often it was taken", "test_green.py::test_aWaiterThatIsInterruptedAnywhereHasTheLock"),
    Mutant("muninn/system/green.py", "            next(restoring, None)\n", "            if not lock._is_owned():\n                lock._acquire_restore(saved[0])\n", "a waiter that is interrupted as it wakes has the lock", "test_green.py::test_aWaiterThatIsInterruptedAnywhereHasTheLock"),
    Mutant("muninn/system/threads.py", "    if green.areGreen():\n        return _started(call)\n", "", "a thread is a real one", "test_green.py::test_aThreadIsARealOneWhateverIsMadeOfThreads"),
    Mutant(_OS_ERRORS, "    if not hasInodes():\n", "    if False:\n", "too many files are told from too many bytes", "test_oserrors.py::test_aFullDirectoryIsToldFromFullMemory"),
    Mutant(_OS_ERRORS, "    return bool(_seen) and _identity(SHM_ROOT) != _seen[SHM_ROOT]", "    return False", "a change of /dev/shm is seen", "test_oserrors.py::test_anotherMemoryThanAtTheBeginningIsNoticed"),
    Mutant("muninn/arguments.py", " and not isTruth(timeout) else None", " else None", "True is no time", "test_arguments.py::test_aLockIsNotWaitedForASecondBecauseItIsTrue"),
    Mutant("muninn/config/variables.py", "        if variable not in _warned:\n", "        if True:\n", "a variable is warned of once", "test_config.py::test_warnsOnceOfAVariableThatMeansNothing"),
    Mutant("muninn/config/variables.py", "    (r\"PORT(?:_\\d+_(?:TCP|UDP|SCTP))?\", _ADDRESS),\n", "    (r\"PORT(?:_\\d+_(?:TCP|UDP|SCTP))?\", r\".*\"),\n", "a port that is no address is a setting", "test_config.py::test_variablesOfKubernetesAndDockerAreIgnored"),
    Mutant(_LOCKFILE, "return int(atomics.byteHolder(self._fd(), _FIRST_SLOT_BYTE + slot)) != 0", "return False", "a locked byte says that its member lives", "test_invariants.py::test_i5ALockThatIsHeldIsNoDeath"),
    Mutant(_LOCKFILE, "        if failure:\n            return False\n", "", "a claimer that lives keeps its slot", "test_members.py::test_theByteOfASlotIsItsMembersOnly"),
    Mutant(_LOCKFILE, "            if clock.now() >= deadline:\n                holder", "            if False:\n                holder", "the wait for CREATE is bounded", "test_block.py::test_theBlockIsMadeUnderItsLockAndTheWaitForItIsBounded"),
    # --- descriptors ------------------------------------------------------------------
    Mutant("cshim/primitives.c", "\tif (isThat(fd, descriptor))\n\t\tclose(fd);", "\tif (fd >= 0)\n\t\tclose(fd);", "a descriptor of the program is not closed", "test_descriptors.py::test_aDescriptorOfAnotherOwnerIsForgottenAndNotClosed"),
    Mutant(_DESCRIPTORS, "            self.socket.detach()  #", "            self.socket.close()  #", "a descriptor of the program is not closed as a socket", "test_descriptors.py::test_aSocketOfAnotherOwnerIsForgottenAndNotClosed"),
    Mutant(_LOCKFILE, "        self._slots.add(slot)\n", "", "a slot's byte is locked again with the file", "test_descriptors.py::test_aProgramThatClosesItsDescriptorsKeepsItsFilesAndItsSlot"),
    Mutant(_LOCKFILE, "            self._retakeAt = clock.now() + _RETAKE_SECONDS\n            self._retake()\n", "            pass\n", "a byte that was lost by a read is taken again", "test_members.py::test_aByteThatIsLostByAReadIsTakenAgain test_members.py::test_aMemberWhoseByteAnotherProcessHasHasLeftItsSlot"),
    Mutant(_MEMBERS, "claiming, live) != claiming:", "claiming, live) == -1:", "a claimed slot that was taken back is not entered", "test_members.py::test_aClaimThatWasTakenBackIsNotEntered"),
    # --- clock ------------------------------------------------------------------------
    Mutant(_CLOCK, "atomics.monotonicNs() - _own.monotonicNs\n", "atomics.monotonicNs()\n", "words of time are the host's", "test_clock.py::test_aBrokerOfAnotherTimeNamespaceEndsLifetimesWhenTheyAreOver"),
    Mutant(_CLOCK, "    if own == _HOST_NAMESPACE:\n        return _HOST\n", "", "a process that unshared in the host's namespace is not moved itself", "test_clock.py::test_theOffsetIsReadAsTheKernelWritesIt"),
    Mutant(_CLOCK, " if own == ofChildren else _UNKNOWN", "", "the offsets of the children are not one's own", "test_clock.py::test_aProcessThatCanNotKnowItsClockBelievesNoDeadline"),
    Mutant(_CLOCK, "        while atomics.sleepUntil(deadlineNs) == -errno.EINTR:\n            pass\n", "        atomics.sleepUntil(deadlineNs)\n", "a signal ends no sleep", "test_clock.py::test_sleepsToItsEndThroughSignals"),
    # --- members ----------------------------------------------------------------------
    Mutant(_READER, "return not self.isCurrent(key) or word == 0", "return word == 0", "a slot of another member is recognized", "test_members.py::test_aSlotThatIsAnothersByNowIsSuspectedDead"),
    Mutant(_READER, "or word == 0 or bool(word & _FUTEX_OWNER_DIED)", "or bool(word & _FUTEX_OWNER_DIED)", "a member without a robust word is suspected", "test_members.py::test_aSlotWithoutARobustWordIsSuspectedDead"),
    Mutant(_READER, "or word == 0 or bool(word & _FUTEX_OWNER_DIED)", "or word == 0", "the kernel's mark makes a member suspected", "test_takeover.py::test_survivesTheDeathOfTheBroker test_invariants.py::test_i5AnExecIsSuspectedAndConfirmed"),
    Mutant(_READER, "        if generation != key.generation or state == layout.MEMBER_FREE:\n            return True\n", "", "the earlier claim of the slot is dead", "test_members.py"),
    Mutant(_READER, "if identity.nonce == self._nonce or self._block", "if self._block", "no member confirms its own death", "test_members.py"),
    Mutant(_READER, " or self._block.lockFile.slotIsLocked(key.slot):", ":", "a confirmation needs the byte lock", "test_invariants.py::test_i5ALockThatIsHeldIsNoDeath"),
    Mutant(_READER, "if pidfd is None else atomics.pidfdDead(pidfd) == 1:", "if pidfd is None else True:", "a confirmation needs the pidfd", "test_image.py::test_aByteThatWasLostIsNoProofOfAnythingElse"),
    Mutant(_READER, "return self.isMarked(key.slot) and (not pid", "return (not pid", "only an exec ends all threads but one", "test_image.py::test_aByteThatWasLostIsNoProofOfAnythingElse"),
    Mutant(_READER, "or pid < 0 or image.isReplaced(pid, identity.nonce))", "or True)", "a program that runs is not dead, although it closed its descriptors", "test_image.py::test_aByteThatWasLostIsNoProofWhileTheProgramRuns"),
    Mutant(_READER, "or pid < 0 or image.isReplaced(pid, identity.nonce))", "or False)", "an exec is a death", "test_image.py::test_anExecGivesBackLeasesAndLocks"),
    Mutant(_READER, "        if pidfd is None and not isNear:\n            # Its pid", "        if False:\n            # Its pid", "a pid of another namespace means nothing", "test_members.py"),
    Mutant(_READER, " or pid == identity.pid", " or True", "a hello's pidfd is of the member itself", "test_members.py::test_knowsItsOwnPidfdFromOtherDescriptors"),
    Mutant(_MEMBERS, "not in (layout.MEMBER_FREE, layout.MEMBER_CLAIMING) or not lock", "!= layout.MEMBER_FREE or not lock", "the slot of a member that died while claiming is used again", "test_invariants.py::test_i10AMemberKilledWhileItClaimsLeavesItsSlot"),
    Mutant(_MEMBERS, "layout.MEMBER_CLAIMING) != word:", "layout.MEMBER_CLAIMING) == -1:", "a slot is claimed by CAS", "test_members.py"),
    Mutant(_MEMBERS, "generation = ((word >> _GENERATION_SHIFT) + 1) & _GENERATION_MASK or 1", "generation = (word >> _GENERATION_SHIFT) & _GENERATION_MASK or 1", "each claim of a slot has a generation of its own", "test_members.py"),
    Mutant(_MEMBERS, "                self.release(key, layout.MEMBER_CLAIMING)\n", "", "a claim that fails leaves the slot free", "test_members.py::test_aClaimThatFailsLeavesTheSlotFree"),
    Mutant(_MEMBERS, "in (live, dead)\n", "in (live,)\n", "a successor goes on with a marked dead member", "test_members.py"),
    Mutant(_MEMBERS, "        atomics.casSeqCst64(self._block.memberAddress(key.slot), _wordOf(key, state), ", "        atomics.exchangeSeqCst64(self._block.memberAddress(key.slot), ", "a late clean-up leaves the next member its slot", "test_invariants.py::test_i3ALateSlotCleanupLeavesTheNextMemberItsLeases"),
    Mutant("muninn/system/processes.py", "sameProcess = startTimeOf(pid) == startTime", "sameProcess = True", "a stranger with the same pid is not the member", "test_invariants.py::test_i5AStrangerWithTheSamePidIsNotTheMember"),
    Mutant("muninn/system/processes.py", "return Descriptor(-errno.ESRCH) if -pidfd.number in _NO_SUCH_PROCESS else pidfd", "return Descriptor(-errno.ESRCH)", "without a descriptor no death is confirmed", "test_invariants.py::test_i5WithoutADescriptorNoMemberIsDead"),
    Mutant("muninn/system/processes.py", "return bool(atomics.pidfdDead(pidfd) == 1)", "return False", "a process that has ended is confirmed dead without its hello", "test_invariants.py::test_i5AZombieIsConfirmedDead"),
    # --- election and watch -----------------------------------------------------------
    Mutant(_ELECTION, "        if atomics.casSeqCst64(self._election, old.word(), new.word()) != old.word():", "        if atomics.exchangeSeqCst64(self._election, new.word()) == -1:", "of several members that suspect the same death one wins", "test_election.py"),
    Mutant(_ELECTION, "        atomics.futexWake32(self._ready, atomics.FUTEX_ALL)\n        if old.slot", "        if old.slot", "an election wakes the members that wait for the old socket", "test_election.py"),
    Mutant(_ELECTION, "            atomics.futexWake32(self._block.memberAddress(old.slot) + layout.MEMBER_ROBUST_OFFSET, atomics.FUTEX_ALL)\n", "            pass\n", "an election wakes the members that watch the old broker", "test_watch.py"),
    Mutant(_ELECTION, "            if atomics.casSeqCst64(self._ready, seen, epoch) == seen:\n                break\n        atomics.futexWake32(self._ready, atomics.FUTEX_ALL)\n", "            if atomics.casSeqCst64(self._ready, seen, epoch) == seen:\n                break\n", "a new socket wakes the members that wait for it", "test_election.py"),
    Mutant(_ELECTION, "while (seen := int(atomics.loadAcquire64(self._ready))) < epoch:", "while (seen := int(atomics.loadAcquire64(self._ready))) != epoch:", "ready is never lowered", "test_election.py::test_readyIsNeverLowered"),
    Mutant(_ELECTION, "slot if 0 <= slot < self._slots else None", "slot if 0 <= slot else None", "a slot out of range is no member", "test_election.py::test_aSlotOutOfRangeIsNoMember"),
    Mutant(_ELECTION, "Term(epoch, None).word())", "Term(0, None).word())", "a rebuilt block begins after all that was", "test_repair.py::test_theNextTermComesAfterAllThatTheJournalsRemember"),
    Mutant(_ELECTION, "atomics.fetchAddAcqRel64(self._heartbeat, 1)", "atomics.fetchAddAcqRel64(self._heartbeat, 0)", "a broker that moves is seen to move", "test_election.py::test_beatsAreCounted"),
    Mutant(_WATCH, "        atomics.wakeWatcher(self._wakeOwner, self._robust, self._slot)\n", "        pass\n", "a wake-up wakes the thread", "test_watch.py"),
    Mutant(_WATCH, "electionWord & 0xFFFFFFFF", "int(atomics.loadAcquire32(self._block.electionAddress))", "a term that ended before the sleep is seen", "test_watch.py"),
    # --- rows -------------------------------------------------------------------------
    Mutant(_ROWS, "            (self._block.replacementAddress, 1),\n", "", "a successor stamps the replacement's word", "test_succession.py::test_theWordIsFenced"),
    Mutant("muninn/control/replacement.py", "_EPOCH.of(word) > epoch or atomics", "atomics", "a deposed broker begins no exchange", "test_succession.py::test_theWordIsFenced"),
    Mutant("muninn/control/rowreader.py", "(layout.ROW_LIVE, layout.ROW_PROBING, layout.ROW_REPLACED)", "(layout.ROW_LIVE, layout.ROW_PROBING)", "a replaced row belongs to the owner of its memory", "test_succession.py::test_theOwnerOfLentMemoryTakesItBackFromAReplacedVersion"),
    Mutant("muninn/control/rowreader.py", "layout.ROW_DYING, layout.ROW_REPLACED, layout.ROW_DEAD):", "layout.ROW_DYING, layout.ROW_DEAD):", "maintenance knows replaced rows", "test_succession.py::test_replacedRowsAreReclaimedByASuccessor"),
    Mutant("muninn/control/rowreader.py", "_USABLE = (layout.ROW_LIVE, layout.ROW_REPLACED)\n", "_USABLE = (layout.ROW_LIVE,)\n", "holders go on with a replaced version", "test_publishing.py::test_everyOperationOnAnOlderVersionGoesOn"),
    Mutant(_ROWS, "        if old.epoch > epoch:\n            raise Deposed\n        requireRow", "        requireRow", "a deposed broker changes no row that it reads anew", "test_invariants.py::test_i3WhatADeposedBrokerStillDoesFails"),
    Mutant(_ROWS, "old.word(), new.word()) != old.word():\n            raise Deposed", "self.word(row), new.word()) == -1:\n            raise Deposed", "a row is changed from exactly the word that was read", "test_rows.py test_invariants.py::test_i3AWordRememberedFromBeforeTheFenceIsStale"),
    Mutant(_ROWS, "        atomics.raiseField64(self._first, layout.ROW_BYTES, self.count(), _EPOCH_MASK << _EPOCH_SHIFT, field)\n\n", "\n", "a successor stamps all rows", "test_invariants.py::test_i3AWordRememberedFromBeforeTheFenceIsStale"),
    Mutant(_ROWS, "            (self._block.rowsReadyAddress, 1),\n", "", "a successor stamps the row count", "test_invariants.py::test_i3WhatADeposedBrokerStillDoesFails"),
    Mutant(_ROWS, "            (self._block.drainAddress, 1 + layout.DRAIN_REASON_WORDS),\n", "", "a successor stamps the drain word", "test_invariants.py::test_i3ADeposedBrokerDoesNotDrain"),
    Mutant(_ROWS, "        if word >> _COUNT_EPOCH_SHIFT > epoch:\n            raise Deposed\n", "", "a deposed broker adds no rows", "test_invariants.py::test_i3WhatADeposedBrokerStillDoesFails"),
    Mutant(_ROWS, "        atomics.raiseField64(self._first + count * layout.ROW_BYTES", "        0 and atomics.raiseField64(self._first + count * layout.ROW_BYTES", "new rows are stamped", "test_invariants.py::test_i3RowsThatASuccessorAddsAreNotTheOldBrokers"),
    Mutant(_ROWS, "word + layout.ROW_CHUNK) != word:", "word + layout.ROW_CHUNK) == -1:", "a broker that is deposed while the table grows is told", "test_rows.py"),
    Mutant(_ROWS, "        block.allocate(block.geometry.rowsOffset", "        0 and block.allocate(block.geometry.rowsOffset", "rows have their pages before any process touches them", "test_rows.py"),
    Mutant(_ROWS, "        if count >= block.geometry.maxBuffers:", "        if False:", "the table has an end", "test_rows.py::test_theTableGrowsAChunkAtATimeUpToItsEnd"),
    Mutant("muninn/control/rowreader.py", "return min(int(atomics.loadAcquire64(self._block.rowsReadyAddress)) & _COUNT_MASK, self._block.geometry.maxBuffers)", "return int(atomics.loadAcquire64(self._block.rowsReadyAddress)) & _COUNT_MASK", "a row count above the table is not believed", "test_rows.py::test_aRowCountAboveTheTableIsNotBelieved"),
    Mutant("muninn/control/rowreader.py", "return (word & _STATE_MASK) == layout.ROW_LIVE and word >> _INCARNATION_SHIFT == incarnation", "return (word & _STATE_MASK) == layout.ROW_LIVE", "live means this incarnation", "test_rows.py"),
    Mutant("muninn/control/rowreader.py", "return (word & _STATE_MASK) == layout.ROW_LIVE and word", "return word", "live means LIVE", "test_rows.py"),
    Mutant("muninn/control/rowreader.py", " and content[nameStart : nameStart + len(name)] == name", "", "a hint is believed only after the name was read", "test_rows.py"),
    Mutant("muninn/control/descriptions.py", "0 <= sizeBytes <= segmentBytes <= 1 << 62", "True", "sizes fit their segment", "test_rows.py::test_sizesThatDoNotFitTheSegmentAreRefused"),
    Mutant("muninn/control/descriptions.py", " and metaOffset + metaBytes <= segmentBytes\n", "\n", "the manifest is inside the segment", "test_rows.py::test_sizesThatDoNotFitTheSegmentAreRefused"),
    Mutant("muninn/control/descriptions.py", "if ndim > layout.MAX_NDIM or not inRange:", "if not inRange:", "dimensions are in range", "test_invariants.py::test_i8ADamagedRowIsATypedError"),
    Mutant("muninn/control/descriptions.py", "(IndexError, UnicodeDecodeError) as error:", "(KeyError, UnicodeDecodeError) as error:", "a word out of range is a typed error", "test_invariants.py::test_i8ADamagedRowIsATypedError"),
    Mutant(_ROWS, "        self._block.put(offset + layout.ROW_GENERATION_OFFSET, bytes(layout.ROW_HANDLE_OFFSET - layout.ROW_GENERATION_OFFSET))\n", "", "a new buffer has nothing of the row's last one", "test_rows.py::test_describingClearsWhatTheLastBufferLeft"),
    Mutant("muninn/control/rowreader.py", "return bytes(self._block.bytes[start : start + DESCRIPTION_BYTES])", "return self._block.bytes[start : start + _DESCRIPTION.size]", "bytes are copied before they are checked", "test_invariants.py::test_i8BytesAreCopiedBeforeTheyAreChecked"),
    Mutant(_ROWS, "                if state.state == layout.ROW_FREE and state.incarnation < MAX_INCARNATION:\n", "                if state.state == layout.ROW_FREE:\n", "a row whose incarnations are used up is not granted", "test_rows.py::test_aRowWhoseIncarnationsAreUsedUpIsNotGranted"),
    Mutant(_ROWS, "                if state.state == layout.ROW_FREE and state.incarnation < MAX_INCARNATION:\n", "                if state.incarnation < MAX_INCARNATION:\n", "a row that is damaged after the scan is not granted", "test_rows.py::test_aFreeRowThatIsDamagedAfterTheScanIsNotGranted"),
    Mutant(_ROWS, "        if found is None or found[0] != added:", "        if found is None:", "a new row that is not free is damage", "test_rows.py::test_aRowCountThatIsTooSmallIsDamage"),
    Mutant(_ELECTION, "        if old.epoch >= MAX_EPOCH:\n", "        if False:\n", "an epoch does not run over", "test_election.py::test_noTermComesAfterTheLastEpoch"),
    # --- index ------------------------------------------------------------------------
    Mutant(_INDEX, "_HASH_SHIFT | incarnation << _INCARNATION_SHIFT | (row + 1)\n", "_HASH_SHIFT | (row + 1)\n", "an entry is of one incarnation", "test_invariants.py::test_i3ALateIndexRemovalLeavesTheNextBuffersEntry"),
    Mutant(_INDEX, "entry, self._tombstone))\n", "entry, 0))\n", "a removal does not end other names' probes", "test_index.py"),
    Mutant(_INDEX, "                if seen == entry:\n", "                if False:\n", "inserting twice leaves one entry", "test_index.py::test_insertingTwiceLeavesOneEntry"),
    Mutant(_INDEX, "== wanted and 0 <= row < self._maxRow:", "== wanted:", "a hint out of range is no hint", "test_index.py"),
    Mutant(_INDEX, "if atomics.casSeqCst64(free[0], free[1], entry) == free[1]:", "if atomics.storeRelease64(free[0], entry) is None:", "an entry is put by CAS", "test_index.py"),
    Mutant(_INDEX, "                self._tidy(digest + step)\n", "                return\n", "tombstones do not pile up", "test_index.py"),
    Mutant(_INDEX, " or atomics.loadAcquire64(self._at(position + 1)) != 0:", ":", "a tombstone that a probe needs stays", "test_index.py", "the look behind one's own tombstone is another"),
    Mutant(_INDEX, "if atomics.loadSeqCst64(self._at(position + 1)) != 0 or atomics", "if atomics", "an entry behind a tombstone is not cut off", "test_index.py"),
    Mutant(_INDEX, "layout.INDEX_TOMBSTONE_EPOCH.put(epoch) | ", "", "only one's own tombstone is emptied", "test_index.py"),
    Mutant(_INDEX, "_INDEXED if isIndexed else _NOT_INDEXED", "_INDEXED", "a waiter is told that the index does not know", "test_names.py"),
    Mutant(_INDEX, "        atomics.futexWake32(address, atomics.FUTEX_ALL)\n", "", "a process that waits for a name is woken", "test_names.py test_directory.py"),
    # --- leases -----------------------------------------------------------------------
    Mutant("muninn/session/leases.py", "            atomics.casSeqCst32(self._highAddress, high, index + 1)\n", "            break\n", "a scan looks as far as leases are", "test_leases.py test_invariants.py::test_i1TheRefcountIsTheNumberOfTheLeasesThatThereAre"),
    Mutant("muninn/session/leases.py", "                if self._owners.setdefault(index, tenure) is tenure:\n", "                if self._owners.update({index: tenure}) is None:\n", "a slot has one owner", "test_leases.py::test_aSlotHasOneOwnerWhateverTheHintsSay"),
    Mutant("muninn/session/leases.py", "                self._free += [index for index in range(self._max) if index not in self._owners]\n", "                pass\n", "a number that was lost is found again", "test_leases.py::test_aNumberThatWasLostIsFoundAgain"),
    Mutant("muninn/session/leases.py", "incarnation << _INCARNATION_SHIFT | self._generationField | (row + 1)", "incarnation << _INCARNATION_SHIFT | (row + 1)", "a lease says to which claim of the slot it belongs", "test_leases.py"),
    Mutant(_LEASES, "    if not same or word >>", "    if word >>", "a revocation hits the lease that was seen", "test_leases.py::test_aRevocationHitsTheLeaseThatWasSeenAndNoLaterOne"),
    Mutant(_LEASES, "    if not same or word >> _REASON_SHIFT & _REASON_MASK:", "    if not same:", "the first reason stands", "test_leases.py::test_theFirstReasonStands"),
    Mutant(_LEASES, "    return bool(atomics.casSeqCst64(address, word, word | REVOCATION_REASONS.index(reason) << _REASON_SHIFT) == word)", "    return bool(atomics.exchangeSeqCst64(address, word | REVOCATION_REASONS.index(reason) << _REASON_SHIFT) == word)", "a revocation revives no lease that was given back meanwhile", "test_leases.py"),
    Mutant(_LEASES, "(_ROW_MASK, row + 1) if incarnation is None else _holdsOn(row, incarnation)", "(_ROW_MASK, row + 1)", "holds are counted by incarnation", "test_creation.py::test_aCreatorThatGaveUpHoldsNothingOfTheRowsNextBuffer"),
    Mutant(_LEASES, "            and word >> _GENERATION_SHIFT & _GENERATION_MASK == key.generation & _GENERATION_MASK\n", "", "a late clean-up leaves the next member its leases", "test_invariants.py::test_i3ALateSlotCleanupLeavesTheNextMemberItsLeases"),
    Mutant("muninn/session/leases.py", "        self._free.append(int(index))\n", "", "a lease slot that was given back is used again", "test_leases.py::test_aReleasedSlotIsUsedAgain"),
    Mutant("muninn/session/leases.py", "        while word & _GENERATION_MASK << _GENERATION_SHIFT == self._generationField:", "        while word:", "a lease that is given back late is not the next member's", "test_membership.py::test_aLeaseThatIsGivenBackLateIsNotTheNextMembers"),
    Mutant("muninn/session/leases.py", "            found = atomics.casSeqCst64(address, word, 0)\n", "            found = word\n", "a release ends the hold", "test_leases.py"),
    Mutant("muninn/session/leases.py", "        self._changeExpiry(index, _READING, expiryMs)\n", "", "renewing moves the expiry", "test_leases.py::test_renewingMovesTheExpiryOnly"),
    Mutant("muninn/session/leases.py", "        self._changeExpiry(index, _READING, expiryMs)\n", "        self._changeExpiry(index, 0, expiryMs)\n", "renewing keeps a reader inside", "test_leases.py"),
    Mutant(_LEASES, "            return [*_LEASE.iter_unpack(leases[: _LEASE.size * found])]\n        room = 2 * found", "            return [*_LEASE.iter_unpack(leases[: _LEASE.size * min(8, found)])]\n        room = 2 * found", "a reader is found among many leases", "test_leases.py::test_aReaderIsFoundAmongManyLeases"),
    Mutant(_LEASES, "    held = _leases(block, *_holdsOn(row, incarnation))\n", "    held = _leases(block, _ROW_MASK, row + 1)\n", "readers of an earlier buffer of the row do not count", "test_leases.py"),
    # --- generations ------------------------------------------------------------------
    Mutant(_GENERATIONS, "            atomics.exchangeSeqCst64(self._word, value + 1)\n", "", "the word is odd while a process writes", "test_generations.py::test_isOddWhileAProcessWrites"),
    Mutant(_GENERATIONS, "        if not value & 1:\n            # SYNC write", "        if True:\n            # SYNC write", "a repair keeps the word odd until it is whole", "test_generations.py test_buffer.py::test_aDeadWriterIsSeenAndRepaired"),
    Mutant(_GENERATIONS, "        atomics.storeRelease64(self._word, value)\n        atomics.futexWake32(self._word, atomics.FUTEX_ALL)\n", "        atomics.storeRelease64(self._word, value)\n", "a publication wakes the processes that wait for it", "test_generations.py"),
    Mutant(_GENERATIONS, "        \"\"\"Let the waiters look again: the writer has died, or a waiter is to stop.\"\"\"\n        atomics.futexWake32(self._word, atomics.FUTEX_ALL)\n", "        \"\"\"Make waiters look again.\"\"\"\n", "a dead writer's waiters are woken", "test_generations.py"),
    Mutant(_GENERATIONS, "bool(value & 1) and isUnclaimed() and self", "bool(value & 1) and self", "a slow writer is not called dead", "test_generations.py::test_aDeadWriterIsToldAndASlowOneIsATimeout"),
    Mutant(_GENERATIONS, "isUnclaimed() and self.value() == value", "isUnclaimed()", "a writer that ended just now has not died", "test_generations.py"),
    Mutant(_GENERATIONS, "isUnclaimed() and self.value() == value", "isUnclaimed() and bool(self.value() & 1)", "an access that ended is not taken for the next one", "test_generations.py::test_anAccessThatEndedIsNotTakenForTheNextOne test_buffer.py::test_aWriterThatPublishesWithoutAPauseIsNotCalledDead"),
    Mutant(_GENERATIONS, "            if value & ~1 > after:", "            if value > after:", "a wait ends with a publication", "test_generations.py"),
    Mutant(_GENERATIONS, "            if value & ~1 > after:", "            if value > after and not value & 1:", "an odd word says that the one before was published", "test_generations.py::test_aPublicationIsSeenAlthoughAWriterIsAtWorkAgain"),
    Mutant(_GENERATIONS, "value >= givesUpFrom or givesUpAt", "givesUpAt", "a reader that starves takes an access", "test_generations.py::test_aReaderThatCanTakeAnAccessIsPatientForAWhileOnly"),
    Mutant(_GENERATIONS, "value >= givesUpFrom or givesUpAt <= clock.now()", "value >= givesUpFrom", "a reader does not wait for long accesses", "test_generations.py::test_aReaderThatCanTakeAnAccessIsPatientForAWhileOnly"),
    Mutant(_GENERATIONS, "            check()\n", "", "a wait ends when its writer dies", "test_generations.py::test_anErrorOfTheCheckEndsAWait"),
    Mutant(_GENERATIONS, "                if last:\n                    streams.awaitWriters(max(0.0, deadline - clock.now()))\n", "", "a copy waits for kernels that still write", "test_generations.py test_access.py"),
    Mutant(_GENERATIONS, "if result == value or (result >= 0 and streams.last() == last):", "if result >= 0:", "a newer generation's kernels are waited for too", "test_generations.py"),
    # --- owner locks ------------------------------------------------------------------
    Mutant(_OWNER_LOCK, "            break\n    atomics.futexWake32(address, atomics.FUTEX_ALL)\n", "            break\n", "a waiter for a dead owner is woken", "test_ownerlock.py"),
    # --- tickets ----------------------------------------------------------------------
    Mutant(_TICKETS, "            elif word & layout.TICKET_OPEN_BIT:\n                return None\n", "", "a pending ticket keeps its place", "test_tickets.py::test_aFullRingMakesTheNextOneWait"),
    Mutant(_TICKETS, "                atomics.casSeqCst64(self._next, ticket - 1, ticket)\n            elif", "                pass\n            elif", "a ticket whose member died between two steps blocks no process", "test_tickets.py"),
    Mutant(_TICKETS, " and word & _OPEN_MASK == _ofMember(key):\n            ends", ":\n            ends", "only its member completes a ticket", "test_tickets.py::test_onlyItsMemberCompletesATicket"),
    Mutant(_TICKETS, "            if word & _OPEN_MASK != _ofMember(key):\n                continue\n", "            if not word & layout.TICKET_OPEN_BIT:\n                continue\n", "only the tickets of the dead are poisoned", "test_tickets.py::test_aSlotThatIsAnothersByNowIsNotPoisoned"),
    Mutant(_TICKETS, "if _isIn(word, ticket) else layout.TICKET_DONE", "if True else layout.TICKET_DONE", "a ticket that was overtaken is done", "test_tickets.py"),
    Mutant(_TICKETS, "            self.raiseFence(self._whole(word))\n            self._wakeAll()", "            self._wakeAll()", "a GPU that waits for the dead goes on", "test_tickets.py::test_theDeathOfASignallerRaisesItsFenceWord"),
    Mutant(_TICKETS, "            word = self._seen(address)\n            if word & _OPEN_MASK", "            word = int(atomics.loadAcquire64(address))\n            if word & _OPEN_MASK", "a fence that the GPU had reached counts", "test_tickets.py::test_aFenceThatTheGpuHadReachedIsDone"),
    Mutant(_TICKETS, "        atomics.fetchAddAcqRel32(self._wake, 1)\n", "", "a completion between the look and the sleep is seen", "test_tickets.py"),
    Mutant(_TICKETS, "        atomics.futexWake32(self._wake, atomics.FUTEX_ALL)\n", "", "a completion wakes the waiters", "test_tickets.py"),
    Mutant(_TICKETS, "            self._sayTorn(ticket, after)\n", "", "a buffer that a failed stream tore is marked before the ticket is over", "test_tickets.py"),
    Mutant(_TICKETS, "            self._sayTorn(self._whole(word), ends.poisoned)\n", "", "a buffer that a dead writer tore is marked before the ticket is over", "test_tickets.py"),
    Mutant(_TICKETS, "        return torn if torn and torn >= last else None", "        return torn or None", "the next writer repairs it", "test_tickets.py::test_aTornBufferStaysTornUntilTheNextWriter"),
    Mutant(_TICKETS, "                if status in (layout.TICKET_WRITING, layout.TICKET_WRITTEN):\n                    _raise(self._lastWriter, ticket)\n", "", "the last writer is known", "test_tickets.py::test_aTornBufferStaysTornUntilTheNextWriter"),
    Mutant(_TICKETS, "if ends is None or not word & layout.TICKET_BY_DEVICE_BIT:", "if ends is None:", "the GPU's word is not enough where the host could still fail", "test_tickets.py::test_ofAWorkThatCouldStillFailTheGpusWordIsNotEnough"),
    Mutant(_TICKETS, "        if int(atomics.loadAcquire64(self.fenceAddress(ticket))) < ticket:\n            return word\n", "", "a ticket completed by the device is over when the GPU says so", "test_tickets.py"),
    Mutant(_TICKETS, "if _isIn(word, ticket) or _isBehind(ticket, word):\n                # Somebody", "if _isIn(word, ticket):\n                # Somebody", "an old ticket does not take a later one's slot", "test_tickets.py::test_aSignallerThatReadLastLongAgoTakesNoOthersSlot"),
    Mutant(_TICKETS, "return last + (ahead if ahead < _HALF else ahead - _TICKET_MASK - 1)", "return word >> _TICKET_SHIFT", "tickets go on beyond the half that a slot keeps", "test_tickets.py"),
    Mutant(_TICKETS, "        if _isIn(word, ticket) and word & _OPEN_MASK == _ofMember(key):\n", "        if True:\n", "only its member makes a ticket sure", "test_tickets.py::test_onlyItsMemberMakesATicketCompletedByTheDevice"),
    # --- segments ---------------------------------------------------------------------
    Mutant(_SEGMENTS, " or status.st_size < sizeBytes:", ":", "a truncated segment is not mapped", "test_segments.py::test_aTruncatedSegmentIsNotMapped"),
    Mutant(_DESCRIPTORS, "flags | os.O_NOFOLLOW", "flags", "a link in place of a segment is not followed", "test_segments.py::test_aLinkInPlaceOfASegmentIsNotFollowed"),
    Mutant(_SEGMENTS, "        with contextlib.suppress(FileNotFoundError):\n            os.unlink(path)\n        fd = descriptors", "        fd = descriptors", "the memory that a dead creator left is freed first", "test_segments.py::test_aLeftoverOfADeadCreatorIsReplaced"),
    Mutant(_SEGMENTS, "    _requireAvailable(mapping.sizeBytes)\n    workers", "    workers", "a size that can not fit is refused before a page is taken", "test_segments.py::test_aSizeThatCanNotFitIsRefusedBeforeAPageIsTaken"),
    Mutant("muninn/system/hostmemory.py", "_kept = until, available - sizeBytes", "_kept = until, available", "memory that was taken is not available any more", "test_hostDevice.py::test_theAvailableMemoryOfAMomentAgoIsForWhatIsSmallAndStillThere"),
    Mutant("muninn/system/hostmemory.py", "min(available, _SMALL_BYTES)", "available", "a large size reads the available memory anew", "test_hostDevice.py::test_theAvailableMemoryOfAMomentAgoIsForWhatIsSmallAndStillThere"),
    Mutant("muninn/system/hostmemory.py", "    if group is not None and group.leftBytes <= available:\n", "    if group is not None:\n", "a group that has room is not blamed", "test_hostDevice.py::test_theControlGroupThatIsFullIsNamed"),
    Mutant("muninn/system/cgroups.py", "    return min((limit for limit in limits if limit is not None), default=None)", "    return next((limit for limit in limits if limit is not None), None)", "the least limit counts", "test_cgroups.py"),
    Mutant(_OS_ERRORS, "os.access(SHM_ROOT, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):", "os.access(SHM_ROOT, os.W_OK | os.X_OK, effective_ids=True):", "a directory that can not be listed is named", "test_oserrors.py::test_saysWhatIsWrongWithTheMachineOrWorks"),
    Mutant(_SEGMENTS, "    os.posix_fallocate(fd, offset, length)\n", "    pass\n", "a page that can not be had is an error and no SIGBUS", "test_segments.py::test_aFullShmIsAnErrorBeforeAnyTouch"),
    # --- wire -------------------------------------------------------------------------
    Mutant(_WIRE, "    if received.flags & _CUT:", "    if False:", "a packet that is too long is refused", "test_messages.py::test_refusesAPacketThatIsTooLong"),
    Mutant(_WIRE, "    if received.flags & _DESCRIPTOR_LOST:", "    if False:", "lost descriptors are an error", "test_messages.py"),
    Mutant("cshim/primitives.c", "\t\tint fd = mnnTakeReceived(received, i);\n", "\t\tint fd = -1;\n", "descriptors that came with garbage are closed", "test_messages.py::test_closesDescriptorsThatCameWithGarbage"),
    Mutant("cshim/primitives.c", "\tif (found != NULL)\n\t\tmemcpy(&readClock, &found, sizeof found);\n", "\t(void)found;\n", "a clock that is put before the C library's is not asked", "test_clock.py::test_aClockBeforeTheCLibrarysIsNotAsked"),
    Mutant("muninn/sync/contention.py", "sleepNs(deadline, _CHECK_NS) if owner is not None else layout.SUCCESSOR_NS", "sleepNs(deadline, _CHECK_NS if owner is not None else layout.SUCCESSOR_NS)", "a free owner lock is not refused", "test_lock.py::test_aTryIsNotRefusedForAWaiterThatDied"),
    Mutant(_WIRE, "    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):", "    if False:", "a message is a map with text keys", "test_messages.py::test_refusesWhatIsNoMapWithTextKeys"),
    Mutant(_WIRE, "    if len(raw) > MAX_MESSAGE_BYTES:", "    if False:", "no packet is sent that the peer would refuse", "test_messages.py::test_refusesToSendMoreThanAMessageMayHave"),
    # --- descriptor server ------------------------------------------------------------
    Mutant(_DESCRIPTOR_SERVER, "            if self._epoch != epoch:\n", "            if self._epoch < 0:\n", "each epoch has its descriptor server", "test_descriptorserver.py::test_eachEpochHasItsDescriptorServer"),
    Mutant(_DESCRIPTOR_SERVER, "                if isSound and self._connection is None:\n", "                if self._connection is None:\n", "a late answer is dropped", "test_descriptorserver.py::test_aLateAnswerIsDropped"),
    Mutant(_DESCRIPTOR_SERVER, "                self._shunnedUntil = clock.now() + _SHUNNED_SECONDS\n", "", "a descriptor server that does not answer is left alone", "test_descriptorserver.py::test_aClosedDescriptorServerIsAskedNoMore"),
    Mutant(_DESCRIPTOR_SERVER, "            if got.number == -errno.EMFILE:\n", "            if False:\n", "a process that may open no more descriptors is told so", "test_descriptorserver.py::test_aMemberWithoutDescriptorsIsTold"),
]
# fmt: on
