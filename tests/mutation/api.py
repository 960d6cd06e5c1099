"""Mutants of `muninn/api/`: the calls of users."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_OPEN_BUFFERS = "muninn/session/openbuffers.py"
_OPEN_BUFFER = "muninn/session/openbuffer.py"
_RELEASES = "muninn/session/releases.py"
_MEMBERSHIP = "muninn/session/membership.py"
_MEMBER = "muninn/session/member.py"
_STANDING = "muninn/session/standing.py"
_WORKER = "muninn/session/worker.py"
_ROLE = "muninn/session/role.py"
_LEAVING = "muninn/session/leaving.py"
_BUFFER = "muninn/api/buffer.py"
_CREATION = "muninn/session/creation.py"
_LOCK = "muninn/sync/lock.py"
_ONCE = "muninn/api/once.py"
_FENCES = "muninn/sync/fences.py"
_ACCESS = "muninn/sync/access.py"
_MAPPINGS = "muninn/session/mappings.py"
_PRIVATE = "muninn/session/privatememory.py"
_SNAPSHOTS = "muninn/sync/snapshots.py"
_CONTENTION = "muninn/sync/contention.py"
_READONLY = "muninn/interop/readonly.py"
_NAMES = "muninn/session/names.py"
_ENTRY = "muninn/session/entry.py"
_RESERVATION = "muninn/session/reservation.py"
_LISTING = "muninn/api/listing.py"
_ATTACHMENT = "muninn/api/attachment.py"
_SHARING = "muninn/api/sharing.py"
_OPENING = "muninn/api/opening.py"
_PUBLICATIONS = "muninn/sync/publications.py"

# fmt: off
MUTANTS = [
    # --- versions ---------------------------------------------------------------------
    Mutant("muninn/session/openbuffers.py", "        for _ in range(_ASK_ATTEMPTS):\n", "        for _ in range(1):\n", "an opener asks again when the version was replaced meanwhile", "test_publishing.py::test_aVersionThatIsReplacedWhileItIsOpenedIsLookedForAgain"),
    Mutant("muninn/session/reservation.py", "        self._mayBeLive = not self._replaces and not self._isPart\n", "        self._mayBeLive = not self._isPart\n", "a version that may have the name is not taken back", "test_publishing.py::test_anInterruptedCommitLeavesOneOfTheTwoVersions"),
    Mutant("muninn/api/publishing.py", "            if deadline is None or not watch.sleep(deadline, _LOOK_NS):", "            if True:", "a timeout waits for room", "test_publishing.py::test_aTimeoutWaitsForRoom"),
    Mutant("muninn/api/publishing.py", "            if not watch.sleep(deadline, _LOOK_NS):\n                raise\n", "            raise\n", "a publisher waits for a process that creates the name", "test_publishing.py::test_aPublisherWaitsForAProcessThatIsCreatingTheName"),
    Mutant("muninn/api/publishing.py", "    with OwnLock(\"publish\", asName(name)).held(remaining(deadline)):", "    asName(name)\n    if True:", "publishers of one name take turns", "test_publishing.py::test_aDeadPublisherLeavesNoLockBehind"),
    Mutant("muninn/sync/versions.py", "        if cancelled is not None and cancelled.is_set():\n", "        if False:\n", "a wait that is cancelled ends", "test_publishing.py::test_waitNewerIsAwaitedAndCancelled"),
    Mutant("muninn/broker/policy/heirs.py", "    if kind != old.kind:\n", "    if False:\n", "a name keeps its kind", "test_publishing.py::test_aNameKeepsItsKind"),
    Mutant("muninn/broker/policy/heirs.py", "    if tenant != old.tenant:\n", "    if False:\n", "a name keeps its tenant", "test_publishing.py::test_aNameKeepsItsTenant"),
    Mutant(_ROLE, "            if not isDisplaced(tables.paths.uid) and tables.election.term() == term:", "            if not isDisplaced(tables.paths.uid):", "a broker that is deposed has not failed in its term", "test_membership.py::test_aBrokerThatIsDeposedWhileItsTermBeginsHasNotFailed"),
    Mutant("muninn/storage/paths.py", "            raise fileError(error, self.directory) from error\n", "            raise\n", "a directory that can not be listed is a typed error", "test_membership.py::test_leavesQuietlyWhereItMayOpenNothingMore"),
    # --- objects of another block -----------------------------------------------------
    Mutant(_BUFFER, "membership = current().requireSame(tables, openBuffer.description.name)", "membership = current()", "a buffer is freed in the block in which it was opened", "test_buffer.py::test_freeingWhatWasOfALostBlockFreesNothingOfTheNext test_buffer.py::test_freeingWhatIsOfAnotherDomainFreesNothingInThisOne"),
    Mutant(_BUFFER, "        if tables.rows.mayBeFreed(row, incarnation):  # said", "        if True:  # said", "freeing a free buffer is no error in any domain", "test_buffer.py::test_freeingWhatIsFreeAlreadyIsFineWhereverTheProcessIs"),
    # --- credentials ------------------------------------------------------------------
    Mutant("muninn/session/leaving.py", "            tables.members.disown()\n", "", "a slot of another uid is taken back", "test_credentials.py::test_aProcessThatChangesItsUidJoinsTheNewUsersDomain"),
    Mutant("muninn/session/credentials.py", "        election.replace(term, successor)\n", "        pass\n", "a broker of another uid hands over", "test_credentials.py::test_aBrokerOfAnotherUidHandsOverBeforeItIsAsked", equivalent="a term of its own that it begins again fails at the first look at the names, and is handed over there"),
    Mutant("muninn/session/credentials.py", "    if isDisplaced(tables.paths.uid) and _uidOf", "    if False and _uidOf", "a thread is not taken for the process", "test_credentials.py::test_aThreadThatChangesItsUidAloneIsToldSo"),
    Mutant(_SNAPSHOTS, "        return _awaitCopy(openBuffer, memory, target, offset, out.nbytes, timeout)\n    return copied", "        _awaitCopy(openBuffer, memory, target, offset, out.nbytes, timeout)\n    return openBuffer.generation.value() - 2", "the returned generation is the copied one", "test_buffer.py::test_aConsumerTakesNoPublicationTwice"),
    Mutant(_PUBLICATIONS, "    if after is not None and asInteger(after) is None:\n", "    if False:\n", "True is no generation", "test_arguments.py::test_aGenerationIsAnInteger"),
    # --- readonly ---------------------------------------------------------------------
    Mutant(_READONLY, "    if asked.get(\"copy\"):\n        return\n", "", "a copy is not warned of", "test_readonly.py::test_copiesAreNotWarnedOf"),
    Mutant(_READONLY, "    if borrower.f_locals.get(\"device\") is not None and \"dl_device\" not in asked:\n        return True\n", "", "an array for another device is a copy", "test_readonly.py::test_copiesAreNotWarnedOf"),
    Mutant(_READONLY, "    return bool(names & _COPYING) and not names & _SHARING\n", "    return False\n", "torch.tensor makes a copy", "test_readonly.py::test_copiesAreNotWarnedOf"),
    Mutant(_READONLY, "not capsules.wantsVersioned(asked.get(\"max_version\"))", "False", "a program that can not be warned is refused", "test_readonly.py::test_aCapsuleThatCanNotSayItIsRefusedWithWhatHelps"),
    Mutant("muninn/api/protocols.py", "mayBeWritten = description.access is not Access.READ_ONLY", "mayBeWritten = True", "read-only memory is not opened for writing", "test_readonly.py::test_theFixOfWhatWasSharedForReadingIsACopy"),
    Mutant(_READONLY, "stacklevel=3 + _depth(borrower)", "stacklevel=3", "the warning is of the program's line", "test_readonly.py::test_pyTorchIsWarnedOfMemoryThatItMayNotWrite"),
    Mutant(_READONLY, "            \"PyTorch has no read-only tensors, and", "            f\"{name!r}: PyTorch has no read-only tensors, and", "a line warns once for all buffers", "test_readonly.py::test_aLineWarnsOnceForAllBuffers"),
    # --- private memory ---------------------------------------------------------------
    Mutant(_PRIVATE, "            kept.mapping.close()\n", "", "private memory is unmapped before the lease is given back", "test_privatememory.py::test_itIsUnmappedBeforeTheLeaseIsGivenBack"),
    Mutant(_PRIVATE, "            with contextlib.suppress(ValueError):  # another call has removed it\n                self.gone.remove(reference)\n", "            self.gone.popleft()\n", "the end of private memory may end the same again", "test_privatememory.py::test_anEndThatIsInterruptedOrComesAgainIsWhole"),
    Mutant(_PRIVATE, "        self._kept[id(reference)] = _Kept(private.mapping, memory, reference, waker)\n", "        self._kept[id(reference)] = _Kept(private.mapping, None, reference, waker)\n", "arrays of private memory keep the lease", "test_privatememory.py::test_arraysOutliveTheObjectAndTheBuffer"),
    Mutant(_RELEASES, "        self.private.endGone()\n        while gone:\n            # It is", "        while gone:\n            # It is", "private memory is unmapped once no array uses it", "test_privatememory.py::test_objectsOfAProcessHaveOneLease"),
    Mutant(_RELEASES, "        self.private.endGone()\n        gone = self._tables.leases.gone\n", "        gone = self._tables.leases.gone\n", "a child unmaps private memory that it inherited", "test_privatememory.py::test_aChildThatUsesNothingHarmsNothing"),
    Mutant(_RELEASES, "while (gone or private or self._ofDevices)", "while (gone or self._ofDevices)", "private memory is ended while the shared memory goes on", "test_privatememory.py::test_anObjectsMappingGoesWithIt"),
    Mutant(_ATTACHMENT, "            private = private or openBuffer.openPrivate()\n", "            private = openBuffer.openPrivate()\n", "an object keeps its changes across a fork", "test_privatememory.py::test_aForkedChildHasWhatItsParentWroteAndWritesForItself"),
    Mutant(_ATTACHMENT, "            openBuffer.keepFor(private)\n", "", "private memory keeps its lease", "test_privatememory.py::test_arraysOutliveTheObjectAndTheBuffer"),
    Mutant(_ATTACHMENT, "        access = Access.READ_ONLY if self._isPrivate else self._rights\n", "        access = Access.READ_WRITE if self._isPrivate else self._rights\n", "a handle gives no rights that its object has not", "test_privatememory.py::test_handlesOfItAllowReadingOnly"),
    Mutant("muninn/api/protocols.py", "        if isinstance(memory, PrivateMemory):\n            raise privateForKernels(", "        if False:\n            raise privateForKernels(", "kernels do not get the shared bytes for private ones", "test_privatememory.py::test_kernelsDoNotReachIt"),
    Mutant(_BUFFER, "        access = Access.COPY_ON_WRITE if self._isPrivate else None\n", "        access = None\n", "a pickle is opened as its object was", "test_privatememory.py::test_aPickleIsOpenedSoWithoutTheChanges"),
    Mutant(_BUFFER, "        if self._isPrivate:\n            raise PermissionDenied(", "        if False:\n            raise PermissionDenied(", "private changes are not published", "test_privatememory.py::test_nothingOfItIsPublished"),
    Mutant(_ATTACHMENT, "        if private is None:\n            raise _closed()\n", "        if private is None:\n            return openBuffer.memory\n", "shared memory is not given for private memory", "test_privatememory.py::test_anObjectThatIsClosedMeanwhileGivesNoSharedMemory"),
    Mutant(_OPEN_BUFFER, "    if mode is Mode.FAST:\n", "    if False:\n", "VRAM is not opened copyOnWrite", "test_privatememory.py::test_vramIsNotOpenedSo"),
    Mutant(_SHARING, "    if own is Access.COPY_ON_WRITE:\n", "    if False:\n", "a name is not made for an open that is refused", "test_privatememory.py::test_vramIsNotOpenedSo"),
    Mutant("muninn/terms.py", "    if value == Access.COPY_ON_WRITE:\n", "    if False:\n", "an error says that a word is for opening", "test_privatememory.py::test_noBufferIsSharedSo"),
    Mutant(_BUFFER, "views.hostArray(self._bytes(openBuffer), region, self._writable)", "views.hostArray(openBuffer.memory, region, self._writable)", "an array is of the object's own memory", "test_privatememory.py::test_anObjectsWritesAreItsOwn"),
    Mutant("muninn/api/bundle.py", "self.buffer._bytes(openBuffer)", "openBuffer.memory", "an array of a bundle is of the object's own memory", "test_privatememory.py::test_aBundlesArraysArePrivate"),
    Mutant("muninn/api/freedmemory.py", "sizes[key] = max(sizes.get(key, 0), end)", "sizes[key] = sizes.get(key, 0) + end", "a segment that is mapped twice is counted once", "test_privatememory.py::test_freedMemoryIsListedWithItsSizeOnce"),
    # --- files ------------------------------------------------------------------------
    Mutant("muninn/formats/shards.py", "                if key not in shard.entries:\n", "                if False:\n", "a key is in the shard into which the index puts it", "test_loading.py::test_refusesBadFilesBeforeAnythingIsMade"),
    Mutant("muninn/formats/shards.py", "                if key in self.entries:\n", "                if False:\n", "no key is in two shards", "test_loading.py::test_refusesBadFilesBeforeAnythingIsMade"),
    Mutant("muninn/formats/shards.py", "not path.is_absolute() and \"..\" not in path.parts", "True", "no shard is out of its folder", "test_loading.py::test_refusesBadFilesBeforeAnythingIsMade"),
    Mutant("muninn/formats/shards.py", "            for key, entry in shard.entries.items():\n", "            for key, entry in ((key, shard.entries[key]) for key in keys):\n", "every tensor of a shard is taken", "test_loading.py::test_everyTensorOfAShardIsTaken"),
    Mutant("muninn/formats/shards.py", "self._fileBytes > _MAX_INDEX_BYTES", "False", "an index that is too long is not parsed", "test_loading.py::test_anIndexThatIsTooLongIsNotParsed"),
    Mutant("muninn/formats/jsontext.py", "    if len(found) < len(pairs):\n", "    if False:\n", "a key stands once", "test_formats.py test_loading.py::test_refusesBadFilesBeforeAnythingIsMade"),
    Mutant("muninn/formats/source.py", "if self.checksum is not None and found != self.checksum.whole:", "if False:", "a stored member's checksum is compared", "test_loading.py::test_aDamagedMemberLeavesNothing"),
    Mutant("muninn/formats/members.py", "not self._left and self._checksum != self._member.CRC", "False", "a deflated member's checksum is compared", "test_formats.py::test_comparesTheChecksumsOfAnArchive"),
    Mutant("muninn/formats/reading.py", "            pieces += _flushed(gathered)\n            alone", "            alone", "a piece covers no entry that another job reads", "test_loading.py::test_loadsEveryKindOfFile"),
    Mutant("muninn/formats/reading.py", "        room[end - begin : part.start - begin] = 0\n", "", "padding reads zero", "test_loading.py::test_paddingReadsZero"),
    Mutant("muninn/formats/torchfile.py", "            if (\n                plain.is_contiguous()\n                and ", "            if (\n                True and ", "only an array in C order is read from its place", "test_loading.py::test_loadsEveryKindOfFile"),
    Mutant("muninn/formats/torchfile.py", "[] if isTurned else ", "", "a file of the other byte order is taken as PyTorch turned it round", "test_loading.py::test_aFileFromAMachineOfTheOtherByteOrderIsTurnedRound"),
    Mutant("muninn/formats/source.py", "        if not self._fileBytes:\n", "        if False:\n", "an empty file is called so", "test_loading.py::test_refusesBadFilesBeforeAnythingIsMade"),
    Mutant("muninn/session/crew.py", "        if self._isOver or self._errors or not self._jobs:\n", "        if not self._jobs:\n", "no job begins after an error", "test_crew.py"),
    Mutant("muninn/session/crew.py", "        self._isOver = True\n", "", "no job begins after an interruption", "test_crew.py"),
    Mutant("muninn/session/crew.py", "            except BaseException as error:\n                interruption = error\n", "            except ZeroDivisionError as error:\n                interruption = error\n", "threads end before an interruption leaves", "test_crew.py"),
    Mutant("muninn/devices/upload.py", "        self._streams[number].synchronize()\n        self._room", "        self._room", "a piece is filled after its copy", "test_loading.py::test_aPieceIsFilledAfterItsCopy"),
    # --- arguments --------------------------------------------------------------------
    Mutant("muninn/terms.py", "    meant = {each.lower(): each for each in known}\n", "    meant = {each: each for each in known}\n", "the nearest word is found with any capitals", "test_options.py::test_theNearestWordIsFoundWithAnyCapitals"),
    Mutant(_ONCE, "shared(\"shareOnce\", loaded, copy, options)", "shared(\"share\", loaded, copy, options)", "an error names the function that was called", "test_options.py::test_aWrongWordIsAnsweredWithTheFunctionAndTheNearestWord"),
    Mutant("muninn/api/options.py", "if name not in own for line", "for line", "a function's own description of an option stands", "test_options.py::test_docstringsDescribeEveryOption"),
    Mutant("muninn/api/options.py", "signature.replace(parameters=[*listed, *taken])", "signature.replace(parameters=listed)", "an argument that is passed on is a keyword", "test_arguments.py::test_aKeywordThatIsRightIsNotBlamedForAnotherArgument"),
    # --- silence ----------------------------------------------------------------------
    Mutant(_OPEN_BUFFERS, "        raise holderSilent(self.tables, description.name, row)", "        raise OwnerDied(description.name)", "a holder that stands still is not called dead", "test_openbuffers.py::test_aHolderThatStandsStillIsNotCalledDead"),
    Mutant("muninn/session/silence.py", "row)} - without\n", "row)}\n", "the process that asks, and the broker, are not blamed", "test_gpus.py::test_memoryThatAStoppedProcessHasIsNotLost"),
    Mutant(_OPENING, "            if deadline is not None and clock.now() >= deadline:\n                raise\n", "            raise\n", "memory that is to come is waited for", "test_gpus.py::test_memoryThatAStoppedProcessHasIsNotLost"),
    Mutant("muninn/cli/commands.py", "    if len({each.process for each in held}) > 1:\n", "    if False:\n", "two processes of one pid are not closed at once", "test_cli.py::test_oneOfTwoProcessesOfOnePidIsToBeChosen"),
    Mutant("muninn/cli/main.py", "        return os.fsencode(argument).decode()\n", "        return argument\n", "names are UTF-8 in every locale", "test_cli.py::test_aNameMayBeTypedInALocaleThatCanNotSpellIt"),
    Mutant("muninn/system/logs.py", ").level == logging.NOTSET:", ").level == logging.NOTSET or True:", "a level of the program's own stays", "test_logs.py"),
    # --- doctor -----------------------------------------------------------------------
    Mutant("muninn/cli/limits.py", "    if soft < fewestDescriptors():\n", "    if False:\n", "too few descriptors fail", "test_limits.py::test_tooFewDescriptorsFailWhereMuninnDoes"),
    Mutant("muninn/cli/limits.py", "        if group.leftBytes < _LEAST_GROUP_BYTES:\n", "        if False:\n", "a small control group is warned of", "test_limits.py::test_theControlGroupsLimitsAreFound"),
    # --- dtypes -----------------------------------------------------------------------
    Mutant("muninn/interop/elements.py", "        if words is None or _libraryDtype(words.text) != dtype:\n", "        if words is None:\n", "a dtype that only has the name of one of the table is refused", "test_elements.py::test_aTypeThatOnlyHasTheNameIsRefused"),
    Mutant("muninn/interop/elements.py", "return dtype.isbuiltin == _OF_A_LIBRARY and dtype.name == self.text", "return dtype.itemsize == self.itemBytes", "a copy goes only into an array of its type", "test_elements.py::test_aCopyGoesIntoItsOwnTypeOrItsBits"),
    Mutant("muninn/interop/tensors.py", "    torchElement(str(value.dtype).removeprefix(\"torch.\"))  # refuses a type that others lack\n", "", "a type that only PyTorch has is refused", "test_tensors.py::test_aTypeThatOnlyTorchHasIsRefused"),
    Mutant("muninn/api/bundle.py", "first.setdefault(source.place, key)", "first.setdefault(key, key)", "arrays on the same bytes are there once", "test_torch.py::test_tiedWeightsAreThereOnce"),
    Mutant("muninn/torch.py", "                    if self._inside:\n", "                    if False:\n", "a call sees one version", "test_torch.py::test_callsOfSeveralThreadsSeeOneVersionEach"),
    Mutant("muninn/torch.py", "while not (self.bundle.isCurrent or thread in self._inside.values()):", "while not self.bundle.isCurrent:", "a call within a call does not wait for itself", "test_torch.py::test_aCallWithinACallGoesOnWithItsVersion"),
    Mutant("muninn/torch.py", "for place in places if id(place.tensor) in found]", "for place in places if id(place.tensor) in found and place.key != \"head.weight\"]", "a tensor of several names takes that of any of them", "test_torch.py::test_aCheckpointThatHasOneNameOfATieIsWhole"),
    Mutant("muninn/torch.py", "self._refused.version.isCurrent", "False", "a version that does not fit is attached once", "test_torch.py::test_aVersionThatDoesNotFitIsAttachedOnce"),
    Mutant("muninn/torch.py", "            if isgenerator(result) or isasyncgen(result) or isawaitable(result):\n", "            if False:\n", "work that comes after the call is refused", "test_torch.py::test_aForwardWhoseWorkComesLaterIsRefused"),
    Mutant("muninn/torch.py", "        for place, old in before:\n            place.parts[place.name] = old\n        raise\n", "        raise\n", "an interrupted attach leaves the module as it was", "test_torch.py::test_anInterruptedAttachLeavesTheModuleWhole"),
    Mutant("muninn/torch.py", "        found = {}  # whoever keeps the error keeps this frame, and not the memory\n        bundle.close()\n", "", "a bundle that does not fit is closed", "test_torch.py::test_aVersionThatDoesNotFitIsAttachedOnce"),
    Mutant("muninn/api/modules.py", "    if options.access is None:\n", "    if False:\n", "a module is shared for reading unless said otherwise", "test_torch.py::test_eachFunctionThatTakesAModuleSharesItForReading"),
    Mutant(_ONCE, "    if isModule(loader):\n", "    if False:\n", "a module is no loader", "test_torch.py::test_aModuleThatAFunctionDoesNotTakeIsSentToTheOneThatDoes"),
    Mutant("muninn/torch.py", "(place.isNeeded or place.tensor.is_meta)", "place.isNeeded", "a buffer that nobody filled is missing", "test_torch.py::test_aCheckpointThatHasOneNameOfATieIsWhole"),
    Mutant("muninn/torch.py", ".data_ptr() != new.data_ptr()", " is None", "weights that are tied on one side only are refused", "test_torch.py::test_tiesOfOneSideOnlyAreRefused"),
    Mutant("muninn/torch.py", "Access.READ_ONLY if isVram else Access.COPY_ON_WRITE", "Access.READ_ONLY", "a module's writes stay in its process", "test_torch.py::test_aForgottenEvalCostsAPageAndNotTheProcess"),
    Mutant("muninn/torch.py", "        elif new.shape != old.shape:\n", "        elif False:\n", "tensors of another shape are refused", "test_torch.py::test_otherShapesAreRefusedAndChangeNothing"),
    Mutant("muninn/session/mappings.py", "source.exportDescriptor(source.writable)", "source.exportDescriptor()", "a reader of VRAM can pass on what it may read", "test_sharing.py::test_fastModeMemoryThatNobodyMayWriteOutlivesItsOwnerToo"),
    Mutant("muninn/interop/tensors.py", "value.detach().resolve_conj().resolve_neg()", "value.detach().resolve_conj()", "a sign that was put off is put in", "test_tensors.py::test_theValuesOfATensorAreShared"),
    Mutant("muninn/api/manifests.py", " and (takenBytes > 0 or region.isPossible)", "", "an empty array has lengths that can be", "test_bundle.py::test_aManifestOfWhatNoBundleHoldsIsRefused"),
    Mutant("muninn/interop/dlpack.py", "bits < BYTE_BITS and bool(flags & FLAG_PADDED)", "False", "padded values are not taken for packed ones", "test_elements.py::test_dlpackCarriesEachTypeBothWays"),
    Mutant("muninn/interop/loans.py", "        if word.isPadded and self._name == LEGACY:\n", "        if False:\n", "padded values are not lent as packed ones", "test_elements.py::test_aLegacyCapsuleCanNotSayThatValuesArePadded"),
    Mutant("muninn/formats/safetensors.py", "entry.shape[-1] % 2", "False", "packed values fill whole elements", "test_formats.py::test_refusesPackedValuesThatDoNotFillElements"),
    Mutant("muninn/interop/dtypes.py", "        return _described(manifest).dtype == dtype\n", "        return True\n", "fields that would not read back are not made", "test_dtypes.py::test_aFieldOfATypeThatALibraryAddedIsRefused"),
    Mutant("muninn/api/specs.py", "(*asShape(shape), *structure.shape)", "asShape(shape)", "an element may be an array", "test_dtypes.py::test_anElementMayBeAnArray"),
    # --- kinds of arguments -----------------------------------------------------------
    Mutant("muninn/arguments.py", "    if not callable(value):\n", "    if False:\n", "an argument that is to be called is checked before anything is made", "test_arguments.py::test_anArgumentOfAnotherKindIsNamed"),
    Mutant("muninn/api/placement.py", "    if not callable(getattr(given, \"items\", None)):\n", "    if False:\n", "a bundle is made of a mapping", "test_arguments.py::test_anArgumentOfAnotherKindIsNamed"),
    Mutant("muninn/api/specs.py", "    if isinstance(value, _NO_SHAPES):\n", "    if False:\n", "an argument without an order is no shape", "test_creation.py::test_shapesThatCanNotBeAreRefused"),
    Mutant("muninn/session/newmemory.py", "    if progress is None:\n        if copies:\n            device.copyAllNow(copies, wanted.gpu)\n        return\n", "    if copies:\n        device.copyAllNow(copies, wanted.gpu)\n    if copies or progress is None:\n        return\n", "a copy to a GPU is told of on the way", "test_creation.py::test_aCopyToAGpuIsToldOfInPiecesAndMayBeEndedThere"),
    Mutant("muninn/arguments.py", "in (\"bool\", \"bool_\")", "in (\"bool_\",)", "True is no timeout", "test_arguments.py::test_aLockIsNotWaitedForASecondBecauseItIsTrue"),
    Mutant("muninn/sync/lock.py", "        if unknown or blocking is not None:", "        if unknown:", "arguments of Python's own locks are refused", "test_arguments.py::test_aLockIsNotWaitedForASecondBecauseItIsTrue"),
    Mutant("muninn/arguments.py", " if \"RecursionError\" in str(error) else error", " if False else error", "a call at the limit of recursion says so", "test_arguments.py::test_aCallAtTheLimitOfRecursionSaysSo"),
    # --- listing ----------------------------------------------------------------------
    Mutant(_LISTING, "            found[process] = described\n", "            found[hold.slot, 0, 0] = described\n", "a process is one importer", "test_listing.py::test_aProcessThatIsTwoMembersIsOneImporter"),
    Mutant(_ENTRY, "others or Drain(entry.block).isOn() or bool", "others or bool", "a domain that drains is not forgotten", "test_cli.py::test_aDrainOutlivesAllMembersAndTellsWhy"),
    Mutant(_LISTING, "            if hold.slot not in dead:", "            if True:", "the dead hold nothing", "test_listing.py::test_theDeadHoldNothing"),
    Mutant(_LISTING, "for key in membership.members.there()]", "for key in membership.members.live()]", "the dead are no members", "test_listing.py::test_aBrokerThatWasKilledIsNone"),
    # --- open buffers -----------------------------------------------------------------
    Mutant(_OPEN_BUFFERS, "            description = tables.rows.description(row) if tables.rows.isLive(row, incarnation) else None\n", "            description = tables.rows.description(row)\n", "the row is read again after the lease", "test_openbuffers.py::test_theRowIsReadAgainAfterTheLease"),
    Mutant(_RELEASES, "        self._released.append((row, incarnation))\n        self._tables.leases.forget(index)\n", "        self._tables.leases.forget(index)\n", "a lease that came to nothing is told to the broker", "test_openbuffers.py::test_aLeaseThatCameTooLateDoesNotKeepTheRow"),
    Mutant(_OPEN_BUFFERS, "        except BaseException as error:\n            self.context.releases.giveUp(index, row, incarnation)\n", "        except BaseException as error:\n", "an open that fails gives its lease back", "test_openbuffers.py::test_anOpenThatFailsGivesItsLeaseBack"),
    Mutant(_OPEN_BUFFER, " and not (deadlineMs and clock.isOver(deadlineMs))", "", "the lifetime of an open buffer ends too", "test_openbuffers.py::test_anEndedLifetimeIsNotOpenedWhetherOrNotABrokerHasSeenIt"),
    Mutant(_OPEN_BUFFERS, "            if description is None or clock.isOver(description.deadlineMs):", "            if description is None:", "a lifetime that is over has ended", "test_openbuffers.py::test_anEndedLifetimeIsNotOpenedWhetherOrNotABrokerHasSeenIt"),
    Mutant(_OPEN_BUFFERS, " or clock.isOver(mapped[1].deadlineMs):", ":", "the lifetime of memory that arrays keep ends too", "test_openbuffers.py::test_anEndedLifetimeIsNotOpenedWhetherOrNotABrokerHasSeenIt"),
    Mutant(_OPEN_BUFFER, "        if 0 < self.description.deadlineMs <= now and clock.knowsHostTime():", "        if False:", "a lifetime that is over allows nothing", "test_openbuffers.py::test_anEndedLifetimeIsNotOpenedWhetherOrNotABrokerHasSeenIt"),
    Mutant(_LISTING, "return \"dying\" if said == \"live\" and clock.isOver(description.deadlineMs) else said", "return said", "a buffer whose lifetime is over is not listed as live", "test_listing.py::test_anEndedLifetimeIsNotListedAsLive"),
    Mutant(_LISTING, "    while (over := [each for each in described if _isOver(each)]) and", "    while (over := []) and", "memory that no process holds is waited for", "test_listing.py::test_aFreedBufferThatOnlyTheDeadHeldIsNotListed"),
    Mutant(_LISTING, "                membership.client.once(\"tryReclaim\", row=row, incarnation=incarnation)\n", "                pass\n", "a broker is asked to end a lifetime that is over", "test_listing.py::test_anEndedLifetimeIsNotListedAsLive"),
    Mutant(_OPEN_BUFFERS, "            if mapped is None or not tables.rows.isLive(row, incarnation) or", "            if mapped is None or", "memory that arrays keep is no buffer when it was freed", "test_openbuffers.py::test_freedMemoryThatOnlyArraysHoldIsNoBuffer"),
    Mutant(_OPEN_BUFFER, "        if atomics.loadAcquire64(self._leaseAddress) != self._leaseWord:", "        if False:", "a revoked lease refuses", "test_buffer.py::test_aRevokedLeaseForbidsAndFreesNothing"),
    Mutant(_OPEN_BUFFER, "        if not self.tables.rows.mayBeUsed(self.row, self.incarnation):\n            raise", "        if False:\n            raise", "a freed buffer refuses", "test_buffer.py::test_freeingKeepsWhatIsMapped"),
    Mutant(_OPEN_BUFFER, "        if self.description.access is Access.READ_ONLY:", "        if False:", "a buffer that was shared readOnly stays so", "test_sharing.py::test_readOnlyStaysReadOnly"),
    Mutant(_OPEN_BUFFERS, "        if openBuffer is not None and openBuffer.isLive():\n            return openBuffer\n        tables, encoded", "        if openBuffer is not None:\n            return openBuffer\n        tables, encoded", "a name opens the buffer that has it now", "test_openbuffers.py::test_aNameOpensTheBufferThatHasItNow"),
    Mutant(_OPEN_BUFFERS, "if tables.rows.isLive(row, incarnation) and tables.rows.nameIs(row, encoded):", "if tables.rows.isLive(row, incarnation):", "a hint is believed only after the name was read", "test_openbuffers.py::test_aHintThatIsAnotherNamesIsNotBelieved"),
    Mutant(_MAPPINGS, "        source.closeThen(closed)\n", "        closed()\n        source.closeThen(lambda: None)\n", "memory is unmapped before its lease is given back", "test_openbuffers.py::test_memoryIsUnmappedBeforeItsLeaseIsGivenBack"),
    Mutant(_RELEASES, "        table.release(tenure.index)\n", "", "memory that is unmapped has no lease", "test_sharing.py::test_unnamedBuffersGoWithTheirLastUser"),
    Mutant(_RELEASES, "            self._released.append((tenure.row, tenure.incarnation))\n", "            pass\n", "a last close is told to the broker", "test_sharing.py::test_unnamedBuffersGoWithTheirLastUser"),
    Mutant(_RELEASES, "        if tenure.isTold or not self._tables.rows.isLive(tenure.row, tenure.incarnation):", "        if tenure.isTold:", "the last holder of a freed buffer tells the broker", "test_buffer.py::test_freeingKeepsWhatIsMapped"),
    Mutant(_RELEASES, "                if not answered and released is not None:\n                    self._released.append(released)\n", "                pass\n", "a message that did not reach the broker is sent again", "test_openbuffers.py::test_aMessageThatDidNotReachTheBrokerIsSentAgain"),
    Mutant(_OPEN_BUFFERS, "            if openBuffer is not None and openBuffer.isRenewed():\n                openBuffer.renew()\n", "            pass\n", "a lease is renewed while its buffer is open", "test_openbuffers.py::test_anIdleHoldersLeaseIsRenewed"),
    Mutant(_OPEN_BUFFER, "    if monotonicMs() >= expiresMs:", "    if False:", "a strict lease that ran out refuses", "test_buffer.py::test_aStrictLeaseExpiresAndAnAutomaticOneDoesNot"),
    Mutant(_OPEN_BUFFERS, "        for _ in range(_FETCH_ATTEMPTS):", "        for _ in range(1):", "memory that a holder is to bring is waited for", "test_openbuffers.py::test_memoryThatAHolderIsYetToBringIsWaitedFor"),
    Mutant(_OPEN_BUFFERS, "        tenure.source = source\n", "", "a lease knows the mapping that goes with it", "test_openbuffers.py::test_anOpenThatIsInterruptedHalfWayHoldsNothing"),
    Mutant(_RELEASES, "            self._end(gone[0])\n            gone.popleft()\n", "            self._end(gone.popleft())\n", "an end that was interrupted is done again", "test_openbuffers.py::test_anEndThatWasInterruptedIsDoneAgain"),
    # --- membership -------------------------------------------------------------------
    Mutant(_STANDING, "        return self._identity.isWiped() or self.hasLeft", "        return self.hasLeft", "a forked child is another process", "test_invariants.py::test_i9AForkedChildJoinsAnew"),
    Mutant("muninn/session/departure.py", "    while isInside():\n        clock.sleep(_STAY", "    while False:\n        clock.sleep(_STAY", "a lost block is left when its accesses are over", "test_repair.py::test_anAccessInALostBlockIsOverBeforeAnotherBegins"),
    Mutant(_WORKER, "        if self._standing.isLost:\n            stay", "        if False:\n            stay", "a member with nothing to do in a lost block leaves it", "test_repair.py::test_anIdleMemberLeavesALostBlockByItself"),
    # --- entry ------------------------------------------------------------------------
    Mutant(_ENTRY, "            if not block.isRetired() and block.hasName():\n", "            if True:\n", "no process joins a block that was withdrawn", "test_membership.py::test_noProcessStaysInABlockThatWasWithdrawnMeanwhile"),
    Mutant(_ENTRY, "        atomics.exchangeSeqCst32(version, 0)\n", "", "a process that withdraws a block says so before it looks", "test_membership.py::test_aLeaverWithdrawsTheBlockBeforeItLooksForMembers"),
    Mutant(_ENTRY, "    return others or Drain(entry.block).isOn() or bool(rows.notFree()", "    return Drain(entry.block).isOn() or bool(rows.notFree()", "a block that others are in is not withdrawn", "test_membership.py::test_aBlockThatOthersAreInStays"),
    Mutant(_ENTRY, "bool(rows.notFree() or entry.block.paths.segmentKeys())", "bool(entry.block.paths.segmentKeys())", "a block with buffers is not withdrawn", "test_membership.py::test_aBlockWithBuffersStaysAndIsValid"),
    Mutant(_ENTRY, "        if _isWanted(entry, rows):\n            return\n", "", "a block that is wanted keeps its version", "test_membership.py::test_aBlockThatIsWantedKeepsItsVersionWhileTheLastLeaves"),
    Mutant(_ENTRY, "        if not block.hasName():\n            return", "        if False:\n            return", "a block without a name is not made valid again", "test_membership.py::test_aLeaverDoesNotMakeAWithdrawnBlockValidAgain"),
    Mutant(_ENTRY, "            if not members.anyEnded() or clock.now() > deadline:\n", "            if True:\n", "a table full of the dead is waited for", "test_membership.py::test_aTableThatIsFullOfTheDeadIsWaitedFor"),
    Mutant(_ENTRY, "            if mayRenew and Election(block).epoch() >= RENEWAL_EPOCH:\n", "            if False:\n", "epochs begin anew before they run over", "test_repair.py::test_aDomainWhoseEpochsAreHalfUsedUpBeginsAnew"),
    Mutant(_ATTACHMENT, "current().requireSame(old.tables, old.description.name).openBuffers", "current().openBuffers", "an object of another block is refused", "test_buffer.py::test_anObjectOfAnotherDomainIsRefused"),
    Mutant(_LOCK, "            current().tables.requireSameDomain(openBuffer.tables, self.name)\n", "", "a lock of another domain is refused", "test_buffer.py::test_anObjectOfAnotherDomainIsRefused"),
    Mutant(_WORKER, "            atomics.exchangeSeqCst32(robustWord, 0)  # what", "            pass  # what", "a slot's next member has its robust word", "test_membership.py::test_theRobustWordOfTheSlotsLastMemberIsForgotten"),
    Mutant(_WORKER, "            and self._undo()\n            and self._client.isConnected(term.epoch)\n", "            and self._undo()\n", "a member that is not connected looks again soon", "test_worker.py::test_aMemberThatWasNotConnectedLooksAgainSoon"),
    Mutant(_WORKER, "self._unansweredSeconds = min(", "_ = min(", "attempts to connect that fail at once have pauses", "test_worker.py::test_theThreadPausesLongerEachTimeThatNoBrokerAnswers"),
    Mutant(_WORKER, "            self._unansweredSeconds = 0.0\n        self", "        self", "the pauses begin anew after an answer", "test_worker.py::test_theThreadPausesLongerEachTimeThatNoBrokerAnswers"),
    Mutant(_WORKER, "        self._client.disconnect(term.epoch)\n", "", "a request to an earlier broker is called off", "test_membership.py::test_aNewTermCallsThreadsAwayFromAnEarlierBroker"),
    Mutant(_LEAVING, "        if isAtRest:\n            openBuffers.closeAll()\n", "", "a member that leaves gives its leases back", "test_invariants.py::test_i10EveryEndIsTheSame", "the good-bye takes back the leases that are left, as a death does"),
    Mutant(_ROLE, "            if broker is not None:\n                self.handover.keep(broker.handOver())\n            tables.election.replace(term, self.candidacy.successor())\n", "            tables.election.replace(term, self.candidacy.successor())\n", "a broker that resigns takes the descriptors along before it goes", "test_membership.py", "the `finally` takes them too; this line only closes the time between"),
    Mutant(_ROLE, "            tables.election.replace(term, self.candidacy.successor())\n        finally", "        finally", "a broker that can not serve gives its term up", "test_candidacy.py::test_aBrokerThatMayWriteNoLongerJournalLetsAnotherServe"),
    Mutant(_ROLE, "            broker.inherit([*self.handover.taken(), *held()])  # the others bring theirs with their hello\n", "            pass\n", "a successor keeps the memory that it holds itself", "test_takeover.py::test_fastModeMemoryGoesOnWithItsHoldersAndEndsWithTheLast test_sharing.py::test_fastModeMemoryOutlivesItsOwnerAndTheBroker"),
    Mutant(_MEMBER, "return [*self.openBuffers.allocations(), *self.role.handover.duplicates()]", "return self.openBuffers.allocations()", "a broker that handed over brings the descriptor store to its successor", "test_takeover.py::test_aNamedFastModeBufferSurvivesAPoliteTakeover"),
    Mutant(_LEAVING, "            tables.election.replace(term, tables.members.preferredOther(tables.key))\n            self._worker.wake()\n        if not isAtRest", "            pass\n        if not isAtRest", "a broker that leaves hands over", "test_takeover.py::test_leavingHandsOverAtOnce test_takeover.py::test_aNamedFastModeBufferSurvivesAPoliteTakeover"),
    Mutant("muninn/control/memberreader.py", "        if generation & OWNER_LOCK_GENERATION_MASK != generationBits:\n            return True\n", "", "an owner lock of the slot's earlier member has a dead owner", "test_membership.py::test_anOwnerLockOfTheSlotsLastMemberIsADeadOnes"),
    Mutant(_WORKER, "                if not self._standing.isLeaving:  # what", "                if True:  # what", "a member that leaves logs no error", "test_membership.py::test_aRequestUnderWayAtTheGoodByeIsNoError"),
    Mutant(_WORKER, "Told.ALL if self._standing.isLeaving else self", "self", "a member that has said good-bye asks nothing more", "test_membership.py::test_goesQuietlyAlthoughItsThreadStillAsksAfterTheGoodBye", "it is refused, and that is not logged; only the broker's log says that it was asked"),
    Mutant(_LEAVING, "self._departure.awaitOutside(openBuffers.isInside, self._worker.thread) and self._keep", "self._keep", "a member inside an access keeps its slot", "test_membership.py::test_aThreadThatIsInsideKeepsTheSlot"),
    Mutant(_CREATION, "            membership.departure.check()\n", "", "nothing is created from a slot that is given back", "test_membership.py::test_anAccessThatBeginsWhileTheProcessLeavesHasASlotOfItsOwn"),
    Mutant("muninn/session/departure.py", "        self._owners.depart(True)\n\n    def isOwn", "\n    def isOwn", "nothing is locked from a slot that is given back", "test_membership.py::test_anAccessThatBeginsWhileTheProcessLeavesHasASlotOfItsOwn"),
    Mutant(_MEMBERSHIP, "    if sys.is_finalizing():\n", "    if False:\n", "a call while the interpreter is finalised asks no other thread", "test_finalization.py::test_anObjectThatLivesToTheEndMayFree"),
    Mutant(_STANDING, " or (self.isExiting and not self._isAlone and sys.is_finalizing())", "", "a thread that stopped anywhere is not asked", "test_finalization.py::test_anObjectThatLivesToTheEndMayFree"),
    Mutant("muninn/system/threads.py", "    except RuntimeError:\n        return _last(target)\n", "    except KeyError:\n        return _last(target)\n", "a thread is started where Python starts none", "test_finalization.py::test_aThreadIsStartedWherePythonStartsNone"),
    Mutant("muninn/session/lateimports.py", "        refuseImports(\"this process has never joined a domain\")\n", "", "a process that never joined is refused when the interpreter is finalised", "test_finalization.py::test_aProcessThatHasNeverJoinedIsRefusedAtTheVeryEnd"),
    Mutant("muninn/interop/hostarrays.py", "np.asarray(array).reshape(-1).view(np.uint8).__array_interface__[\"data\"][0]", "array.ctypes.data", "an address is had without an import", "test_finalization.py::test_aCallAtTheVeryEndWorksOrIsRefused"),
    Mutant("muninn/api/listing.py", "nameOf(plain(text))", "plain(text).name", "a dtype is named without an import", "test_finalization.py::test_aCallAtTheVeryEndWorksOrIsRefused"),
    Mutant("muninn/session/gpus.py", "                refuseImports(\"this process has not used a GPU yet\")\n", "", "no back-end is imported when the interpreter is finalised", "test_finalization.py::test_aCallAtTheVeryEndWorksOrIsRefused"),
    Mutant("muninn/api/listing.py", "    described += lingering(membership.tables, {buffer[\"bufferId\"] for buffer in described})\n", "", "freed memory that a process maps is listed", "test_freedmemory.py::test_freedMemoryThatAForkedChildMapsIsListedAsTheirs"),
    Mutant("muninn/api/freedmemory.py", "        if key.origin != identity or f", "        if True or f", "a dying buffer is listed once", "test_freedmemory.py"),
    # --- buffer -----------------------------------------------------------------------
    Mutant(_BUFFER, "        if not self._writable:\n            raise", "        if False:\n            raise", "a buffer open for reading is not written", "test_sharing.py::test_readOnlyStaysReadOnly test_buffer.py::test_publishesGenerationsToWaitingReaders"),
    Mutant(_ATTACHMENT, "            checkExpiry(openBuffer.description.name, self._expiresMs)\n", "", "a strict lease that ran out refuses", "test_buffer.py::test_aStrictLeaseExpiresAndAnAutomaticOneDoesNot"),
    Mutant(_PUBLICATIONS, "        if value & ~1 <= known and generation.isLeft(value, lambda: writerIsDead(openBuffer)):", "        if generation.isLeft(value, lambda: writerIsDead(openBuffer)):", "a publication before a writer's death is reported", "test_buffer.py::test_aPublicationBeforeAWritersDeathIsTold"),
    Mutant(_PUBLICATIONS, "        if value & ~1 <= known and generation.isLeft(value, lambda: writerIsDead(openBuffer)):", "        if False:", "a wait ends when its writer dies", "test_buffer.py::test_aDeadWriterIsSeenAndRepaired"),
    Mutant(_ATTACHMENT, "        if openBuffer.context.isStale():\n            openBuffer = self._reopen(openBuffer)\n", "", "a forked child takes a lease of its own", "test_sharing.py::test_aForkedChildTakesALeaseOfItsOwn"),
    Mutant(_CONTENTION, "return owner is None or openBuffer.tables.isDead(*owner)", "return owner is not None and openBuffer.tables.isDead(*owner)", "a writer that gave up is said", "test_buffer.py::test_aWriterThatRaisesLeavesATornBuffer"),
    Mutant(_ACCESS, "buffer.deviceArray(None if stream is None or self._openBuffer.memory.gpu is None else stream.gpu)", "buffer.deviceArray()", "an access of a GPU that does not reach the memory is refused", "test_gpus.py::test_anAccessOfAStreamWhoseGpuDoesNotReachTheMemoryIsRefused"),
    Mutant("muninn/kernels/launch.py", "    queue = workerOf(handle)\n", "    return None\n", "a CPU reference keeps the order of a stream that is named by its handle", "test_kernels.py::test_aCpuReferenceKeepsTheOrderOfAStreamHoweverThatIsNamed"),
    Mutant(_SNAPSHOTS, "    if not isinstance(out, np.ndarray):\n", "    if False:\n", "an object that is no array takes no copy", "test_buffer.py::test_readsIntoWhatItIsGiven"),
    Mutant(_ACCESS, "        if not awaitReaders(openBuffer, left):", "        if False:", "a writer waits until no reader is inside", "test_access.py"),
    Mutant(_ACCESS, "        else:\n            fences.mend(self._openBuffer)\n", "", "a write access of the host repairs the buffer that a dead writer tore", "test_access.py::test_aBufferThatADeadWriterToreIsMendedByTheNextOne"),
    Mutant(_ACCESS, "        fences.holdBack(openBuffer, self._stream, writing=True, timeout=left)", "        fences.holdBack(openBuffer, self._stream, writing=True, timeout=self._timeout)", "a writer's limit is for all that it waits for", "test_access.py::test_theLimitOfAnAccessIsForAllThatItWaitsFor"),
    Mutant(_ACCESS, "writing=False, timeout=None if until is None else remaining(until[0]))", "writing=False, timeout=self._timeout)", "a reader's limit is for all that it waits for", "test_access.py::test_theLimitOfAnAccessIsForAllThatItWaitsFor"),
    Mutant(_ACCESS, "        __del__ = atomics.scopeDrop\n", "        pass\n", "an access whose object is gone is ended", "test_owners.py::test_anAccessWhoseObjectIsGoneIsEnded"),
    Mutant(_ACCESS, "        self._owner = openBuffer.owner\n        refuseOwnWriter(openBuffer)\n", "        self._owner = openBuffer.owner\n", "a thread that writes does not begin a read access", "test_access.py::test_oneThreadIsInsideOneKindOfAccess", "the C part looks too"),
    Mutant(_PUBLICATIONS, "        refuseOwnWriter(buffer._checked())  # it", "        buffer._checked()  # it", "a wait inside one's own write is refused at once", "test_owners.py::test_aWriterDoesNotWaitForItself"),
    Mutant(_CONTENTION, "            if seen:\n                atomics.casSeqCst32(word, seen, 0)\n", "", "readers cost later writers nothing", "test_owners.py::test_readersThatDoNotStarveCostWritersNothing"),
    Mutant(_SNAPSHOTS, "        refuseOwnWriter(openBuffer)  # somebody", "        pass  # somebody", "a read inside one's own write is refused at once", "test_owners.py::test_aHandlerMayDoTheSameAsItsThread", "a copy that has waited 10 ms for a writer asks for the access itself, which refuses this thread in the same words"),
    Mutant(_FENCES, "            gpus.promised.discard((openBuffer.row, self.promising))\n", "", "a ticket that no stream has is poisoned", "test_fences.py::test_aSignalThatIsCutShortIsPoisoned"),
    Mutant(_FENCES, "        return tickets.issue(key, DONE_AT_ONCE[kind])\n", "        ticket = tickets.issue(key, kind)\n        tickets.complete(ticket, key)\n        return ticket\n", "a ticket that waits for nothing is never open", "test_fences.py::test_aSignalWithoutAStreamIsNeverOpen"),
    Mutant(_OPEN_BUFFER, "            self._owner = self.context.owners.bind(", "            self._owner = 0\n            return self.context.owners.bind(", "the threads inside an access are known", "test_membership.py::test_aThreadThatIsInsideKeepsTheSlot"),
    Mutant(_ACCESS, "        if self._openBuffer.generation.value() & 1:", "        if False:", "a reader is told of a writer that gave up", "test_access.py"),
    Mutant(_ACCESS, "    def _awaitOthers(self, _: _Until) -> None:\n        self._refuseLeft()\n", "    def _awaitOthers(self, _: _Until) -> None:\n        pass\n", "a copy inside an access does not wait for a writer that waits for it", "test_buffer.py::test_aCopyInsideAnAccessDoesNotWaitForAWriterThatWaitsForIt"),
    Mutant(_ACCESS, "        threads.start(lambda: fences.behindWork(openBuffer, end), \"muninn-access\")\n", "        end()\n", "an access that can promise nothing lasts until its work is over", "test_access.py::test_anAccessThatCanPromiseNothingLastsUntilItsWorkIsOver"),
    Mutant(_FENCES, "    if openBuffer.tickets.torn() is not None:\n", "    if False:\n", "a write access of the host repairs a torn buffer", "test_access.py::test_aBufferThatADeadWriterToreIsMendedByTheNextOne"),
    Mutant(_FENCES, "mindsDeath=not writing and stream is not None and ticket >= lastWriter)", "mindsDeath=not writing)", "a reader minds the last writer's death only", "test_access.py::test_aReaderIsNotToldOfADeathThatALaterWriterMends"),
    Mutant(_ACCESS, "        fences.behindWork(openBuffer, end, openBuffer.tables.settings.devices.ipcGraceMs / 1000)\n", "        pass\n", "an access ends also where no thread can be had", "test_access.py::test_anAccessEndsAlsoWhereNoThreadCanBeHad"),
    Mutant(_FENCES, "mindsDeath=not writing and stream is not None and ticket >= lastWriter)", "mindsDeath=not writing and ticket >= lastWriter)", "a death that was mended meanwhile is none", "test_access.py::test_aCopyIsNotToldOfADeathThatWasMendedWhileItWaited"),
    Mutant(_FENCES, "mindsDeath=not writing and stream is not None and ticket >= lastWriter)", "mindsDeath=ticket >= lastWriter)", "the next writer does not mind a dead writer", "test_access.py::test_aWriterThatCameBehindTheDeadOneMendsItAll"),
    Mutant("muninn/session/departure.py", "    if gpus.promised:\n        return False\n    return gpus.device is None or not isAtWork() or gpus.device.awaitWork(seconds)", "    return True", "a member inside an access does not say good-bye", "test_access.py::test_aProcessInsideAnAccessDoesNotLeaveTheDomain"),
    Mutant("muninn/session/registry.py", "        while (found := self.data.setdefault(pair, wanted)()) is None:  # type: ignore[attr-defined]\n            _remove_dead_weakref(self.data, pair)  # type: ignore[attr-defined]\n", "        self.data[pair] = wanted\n        found = value\n", "the creator shares the open buffer of a thread that opened meanwhile", "test_openbuffers.py::test_anOpenSharesTheOpenBufferThatAnotherThreadHasJustMade"),
    # --- creation ---------------------------------------------------------------------
    Mutant(_CREATION, "            reservation.giveUp()\n", "", "a creation that fails leaves nothing", "test_creation.py::test_aFillThatRaisesLeavesNothing"),
    Mutant(_CREATION, "    except BaseException:\n        tables.leases.giveBack(index)\n        raise\n    memory", "    except KeyError:\n        raise\n    memory", "a creation that fails gives its lease back", "test_openbuffers.py::test_aCreationThatFailsGivesItsLeaseBack"),
    Mutant(_CREATION, "    if contents.fill is not None:\n        contents.fill(*(half.memory for half in halves))\n", "    _commit(head)\n    if contents.fill is not None:\n        contents.fill(head.memory)\n", "no process sees a buffer that is not filled", "test_creation.py::test_noProcessSeesABufferThatIsNotFilled"),
    Mutant(_RESERVATION, "            if self._granted is None:\n                again", "            if False:\n                again", "a request without an answer is taken back", "test_reservation.py::test_anInterruptedCreationIsTakenBack"),
    Mutant(_RESERVATION, "            if self._mayBeLive:\n                self._client", "            if False:\n                self._client", "a live row without a creator is freed", "test_reservation.py::test_anInterruptedCreationIsTakenBack"),
    Mutant(_RESERVATION, "for op in (\"abandon\", \"free\") if self._mayBeLive else (\"abandon\",):", "for op in (\"abandon\",):", "a creation that is interrupted after its commit is freed", "test_reservation.py::test_aCreationInterruptedAfterItsCommitIsTakenBack"),
    Mutant(_RESERVATION, "            if not self.has(name):\n                self._byName.pop(name, None)\n", "", "a maker that was cut short has no name any more", "test_reservation.py::test_aNameIsOneThreadsUntilItsCreationEnds"),
    Mutant(_RESERVATION, "            if self._granted is None:\n                self._client.later", "            if False:\n                self._client.later", "a creation that is interrupted twice is taken back", "test_reservation.py::test_aCreationInterruptedTwiceIsTakenBackByTheBackgroundThread"),
    Mutant(_RESERVATION, "        if not self._creating.take(self._name, self):\n", "        if False:\n", "the threads of a process are told apart", "test_takeover.py::test_aNameIsCreatedByOneOfManyThreads"),
    # --- finalizers on own threads ----------------------------------------------------
    Mutant(_CONTENTION, "            return False\n        aside.refuseOwn()\n", "            return False\n", "a finalizer on an own thread does not wait for readers", "test_aside.py::test_aFinalizerOnAnOwnThreadWaitsForNothing"),
    Mutant(_NAMES, "        aside.refuseOwn()\n", "", "a finalizer on an own thread does not wait for a name", "test_aside.py::test_aFinalizerOnAnOwnThreadWaitsForNothing", "a thread that would wait has asked the broker just before, which refuses an own thread"),
    Mutant("muninn/session/departure.py", "            aside.refuseOwn()  # a departure", "            pass  # a departure", "a finalizer on an own thread does not wait for a departure", "test_aside.py::test_aFinalizerOnAnOwnThreadWaitsForNothing"),
    Mutant(_MEMBERSHIP, "    refuseOwn()  # the join", "    pass  # the join", "a finalizer on an own thread does not wait for a join", "test_aside.py::test_aFinalizerOnAnOwnThreadWaitsForNothing"),
    Mutant(_OPEN_BUFFERS, "aside.unlessTaken(tables.leaseLock)", "tables.leaseLock", "a finalizer on an own thread does not wait for a thread that opens", "test_aside.py::test_aFinalizerOnAnOwnThreadWaitsForNothing"),
    Mutant(_FENCES, "aside.unlessTaken(openBuffer.fencing), gpus", "openBuffer.fencing, gpus", "a finalizer on an own thread does not wait for a thread that signals", "test_aside.py::test_aFinalizerOnAnOwnThreadWaitsForNothing"),
    Mutant(_NAMES, "        self._openBuffers.creating.refuseOwn(self._name)\n", "", "a call that interrupts a creation does not wait for it", "test_reservation.py::test_aCallThatInterruptsACreationDoesNotWaitForIt"),
    Mutant(_RESERVATION, "reservation is not None and reservation.thread == green.identity()", "reservation is not None", "another thread's creation is waited for", "test_reservation.py::test_aNameThatAnotherThreadCreatesIsWaitedFor"),
    Mutant(_RESERVATION, "        if self._isUnanswered:\n", "        if False:\n", "a broker that does not answer is not waited for twice", "test_reservation.py::test_aBrokerThatDoesNotAnswerIsNotWaitedForTwice"),
    # --- lock, sharing, fences --------------------------------------------------------
    Mutant(_ONCE, "        openBuffer = waiting.look()\n        if openBuffer is not None:\n            return openBuffer\n        if not waiting", "        if not waiting", "a thread that waited for a loader looks again", "test_sharing.py::test_loadsOnce test_creation.py::test_oneOfManyLoadsForAll"),
    Mutant("muninn/api/handles.py", "    if capability.tenantDigest != capabilities.tenantDigest(description.tenant) or capability.sizeBytes != description.sizeBytes:", "    if False:", "a handle matches its buffer", "test_openbuffers.py::test_aHandleThatDoesNotMatchItsBufferIsRefused"),
    Mutant("muninn/api/handles.py", "access not in (None, *_READING) and granted is Access.READ_ONLY:", "False:", "a handle gives no more than the rights in it", "test_sharing.py::test_handlesCarryTheRightsOfTheirObject"),
    Mutant("muninn/api/handles.py", "    inRange = capability.row < membership.rows.count()\n", "    inRange = True\n", "a handle's row is in the table", "test_openbuffers.py::test_aHandleThatDoesNotMatchItsBufferIsRefused"),
    Mutant(_FENCES, "    if ticket is not None and not 0 <= ticket <= last:", "    if False:", "a ticket that was never issued is not waited for", "test_buffer.py::test_aFenceThatCanNotBeRecordedIsPoisoned"),
    Mutant(_FENCES, "        onReached(error)  # nobody else would complete the ticket, and its waiters must not hang\n", "", "a fence that can not be recorded is poisoned", "test_buffer.py::test_aFenceThatCanNotBeRecordedIsPoisoned", "the background thread poisons the ticket of a signal that was cut off, some time later"),
    Mutant(_FENCES, "    if state == layout.TICKET_POISONED and mindsDeath:\n", "    if False:\n", "a dead promise is said", "test_buffer.py::test_aDeadPromiseIsPoisoned"),
    Mutant(_ONCE, "            with contextlib.suppress(BufferExists):  # somebody has", "            with contextlib.suppress(KeyError):  # somebody has", "shareOnce opens a buffer that another process shared meanwhile", "test_sharing.py"),
    Mutant(_ONCE, "        if not waiting.isComing:\n            if not", "        if True:\n            if not", "no name is loaded that another process is sharing", "test_sharing.py"),
    Mutant(_NAMES, "if state == self._asked and now < self._askAgainMs:", "if False:", "the broker is asked when it may know more", "test_names.py"),
    Mutant(_NAMES, "told = seen if self.isComing else layout.NAME_WAKE_NOT_INDEXED.of(seen)", "told = layout.NAME_WAKE_NOT_INDEXED.of(seen)", "a name that was given up is told", "test_names.py"),
    Mutant(_NAMES, "state, now = (self._openBuffers.tables.election.epoch(), told)", "state, now = (0, told)", "a new broker is asked once", "test_names.py"),
]
# fmt: on
