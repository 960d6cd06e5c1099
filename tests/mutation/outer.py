"""Mutants outside the API: the command line, sizes, and the build of the package."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_OUTPUT = "muninn/cli/output.py"
_LISTING = "muninn/cli/listing.py"
_PURGING = "muninn/broker/purging.py"
_DOMAINS = "muninn/service/domains.py"
_DOCTOR = "muninn/cli/doctor.py"
_SIZES = "muninn/config/sizes.py"
_VERDICTS = "muninn/devices/topology/cache.py"
_TOPOLOGY = "muninn/cli/topology.py"
_BUILD = "hatch_build.py"
_COMPARISON, _GROUND = "muninn/prof/comparison.py", "muninn/prof/ground.py"
_ENDPOINT = "muninn/service/endpoint.py"
_KERNELS = "muninn/kernels/device.py"
_REFERENCES = "muninn/kernels/references.py"
_FUNCTIONS = "muninn/kernels/functions.py"
_SIMULATED = "test_kernels.py::test_theGpuCodeDoesWhatItsReferencesDoUnderTheSimulator"

# fmt: off
MUTANTS = [
    # --- the command line -------------------------------------------------------------
    Mutant(_OUTPUT, "no_wrap=True, ", "", "a row of a list is one line", "test_cli.py::test_aNarrowWindowBreaksNoRow"),
    Mutant(_OUTPUT, '"ellipsis" if isCut else "ignore"', '"ellipsis"', "nothing of a description is cut", "test_cli.py::test_aNarrowWindowBreaksNoRow"),
    Mutant(_LISTING, 'while info["brokerPid"] is None and', "while False and", "a list says the same each time", "test_cli.py::test_aCommandIsTheOnlyMemberOfAnEmptyDomain"),
    Mutant(_DOCTOR, 'if finding.verdict == "fail" else name', 'if False else name', "one reason is said once", "test_cli.py::test_doctorSaysThatTheCPartIsMissing"),
    Mutant("muninn/system/library.py", "        return Missing(error)\n", "        raise\n", "doctor says that the C part is missing", "test_cli.py::test_doctorSaysThatTheCPartIsMissing"),
    Mutant("muninn/cli/commands.py", '    if arguments.gpu is not None and arguments.mode == "bigMode":\n        arguments.fail("--gpu is for --mode fastMode: the others are in host memory")\n    if arguments.reserve', "    if arguments.reserve", "an option that would be ignored is refused", "test_cli.py::test_wrongUsageIsStatusTwo"),
    Mutant("muninn/cli/commands.py", "    if arguments.off and arguments.reason:\n", "    if False:\n", "a reason to end a drain is refused", "test_cli.py::test_wrongUsageIsStatusTwo"),
    Mutant("muninn/cli/commands.py", '    if not arguments.off and told != ', '    if False and told != ', "the command says that the reason was cut", "test_cli.py::test_aDrainOutlivesAllMembersAndTellsWhy"),
    Mutant("muninn/cli/main.py", "            printJson(problem(str(error)))\n", "            pass\n", "wrong usage is an object too", "test_cli.py::test_wrongUsageIsStatusTwo"),
    Mutant("muninn/cli/main.py", '    logging.basicConfig(format="muninn: %(message)s")  #', "    #", "a warning of the environment begins as all do", "test_cli.py::test_warningsOfTheEnvironmentBeginAsAllDoAndCanBeTurnedOff"),
    Mutant("muninn/config/settings.py", '    if found["logLevel"].value != "error":\n', "    if True:\n", "the log level holds for warnings of the environment", "test_cli.py::test_warningsOfTheEnvironmentBeginAsAllDoAndCanBeTurnedOff"),
    # --- the endpoint -----------------------------------------------------------------
    Mutant(_ENDPOINT, "        self._pause(min(self._rank(), _MOST_TURNS) * _TURN_SECONDS)\n", "", "the first member answers, and the others wait", "test_endpoint.py::test_theBrokerAnswersOrElseTheFirstThatHasThePort"),
    Mutant(_ENDPOINT, "        for each in [each for each in self._connections.values() if each.deadline < now]:\n            self._drop(each)\n", "        pass\n", "a client that says nothing is dropped", "test_endpoint.py::test_aClientThatSaysNothingKeepsNobodyWaiting"),
    Mutant(_ENDPOINT, "text != self._saidWhyNot", "True", "a port that is taken is one line", "test_endpoint.py::test_aPortOfAnotherProgramIsOneLineAndTriedAgain"),
    Mutant("muninn/session/member.py", "        self.services.forget()\n", "", "a forked child keeps no port open", "test_endpoint.py::test_aForkedChildKeepsNoPortOpen"),
    Mutant("muninn/service/sockets.py", "        if not self._ask():\n            self._make()\n", "        self._make()\n", "members have the socket in common", "test_endpoint.py::test_anotherMemberAnswersAtOnce"),
    Mutant("muninn/cli/main.py", '        os.environ[variableOf("metricsPort")] = "0"\n', "        pass\n", "a command that is there for a moment serves nothing", "test_endpoint.py::test_aCommandThatIsThereForAMomentServesNothing"),
    Mutant("muninn/api/attachment.py", "            countError(error)\n            raise\n        return openBuffer", "            raise\n        return openBuffer", "an error of a property is counted", "test_counters.py::test_anErrorOfAPropertyAndOfAWithIsCountedToo"),
    # --- domains from outside, and purge ----------------------------------------------
    Mutant(_PURGING, "    holder = inhabitantOf(paths, lockFile)\n", "    holder = 0\n", "a process of another version is not purged", "test_cliPurge.py::test_aDamagedBlockOfALivingProcessIsLeftAlone"),
    Mutant(_PURGING, "        holder = MemberTable(old).inhabitant()\n", "        pass\n", "a free byte alone is no leave to purge", "test_cliPurge.py::test_aPurgeBelievesNoFreeByte"),
    Mutant(_PURGING, "    hidden = hiddenHolder(paths.uid) if old is None else 0\n", "    hidden = 0\n", "a process that hides its files may be in the domain", "test_cliPurge.py::test_rootLeavesADomainAloneWhoseProcessHidesItsFiles"),
    Mutant("muninn/cli/owner.py", "            os.setresgid(gid, gid, gid)\n", "", "root purges with the gid of the owner", "test_cliPurge.py::test_rootLeavesADomainOfAnotherUserAloneWhoseLockFileIsGone"),
    Mutant(_PURGING, "_remains(paths, None, _damage(paths))\n", 'Remains({}, frozenset(), "", _files(paths), [])\n', "a dry run without a lock file says the same", "test_cliPurge.py::test_aDryRunWithoutALockFileSaysWhatAPurgeWouldDo"),
    Mutant("muninn/broker/holders.py", "            if self.isLockNotFree(row)\n", "            if False\n", "the next holder of a lock learns of a death after a purge", "test_cliPurge.py::test_theDeathOfTheHolderOfALockIsKept"),
    Mutant(_PURGING, 'remains.why in ("", told.why)', "(told.why or not remains.why)", "a reason that the user was not told of stays", "test_cliPurge.py::test_aReasonThatTheUserWasNotToldOfStays"),
    Mutant("muninn/storage/paths.py", "|http)\\.sock", ")\\.sock", "a purge knows the sockets of all that serves", "test_cliPurge.py::test_removesTheSocketsOfAllThatServed"),
    Mutant("muninn/control/creation.py", ", *paths.sockets()):", "):", "a new block removes the sockets of older ones", "test_cliPurge.py::test_aNewBlockRemovesTheSocketsOfOlderOnes"),
    Mutant(_PURGING, "remains.known <= told.known and ", "", "what the user was not told of stays", "test_cliPurge.py::test_whatTheUserWasNotToldOfStays"),
    Mutant(_PURGING, "        if not isGone:\n            withdrawal.giveBack()\n", "        pass\n", "a block that is kept gets its version back", "test_cliPurge.py::test_aKeptBlockIsTheSameAfterwards"),
    Mutant(_PURGING, "        known = there\n", "        pass\n", "a damaged block is left to repair", "test_cliPurge.py::test_aDamagedBlockIsLeftToRepair"),
    Mutant(_PURGING, "        return key not in known\n", "        return False\n", "a segment that nothing knows goes", "test_cliPurge.py::test_removesASegmentThatNothingKnows"),
    Mutant("muninn/service/outside.py", "    if not stat.S_ISREG(status.st_mode) or status.st_uid != paths.uid:\n", "    if False:\n", "only files of the user are read", "test_cliDomains.py::test_whatCanNotBeReadIsSaid"),
    Mutant(_DOMAINS, "    with contextlib.suppress(FileNotFoundError):\n        return openedFile(paths, paths.lockPath)\n", "    return openedFile(paths, paths.lockPath)\n", "a domain without its lock file is listed", "test_cliDomains.py::test_aDomainWithoutItsLockFileIsListedWithItsProcesses"),
    Mutant("muninn/control/blockcopy.py", "            if count == 0:\n", "            if False:\n", "a block that shrinks while it is read ends no onlooker", "test_topscreen.py::test_aBlockThatShrinksWhileItIsReadIsSaid"),
    Mutant(_DOMAINS, "        if isNear and processIsGone(identity.pid, identity.startTime):\n", "        if isNear:\n", "a lost byte is no death", "test_cliDomains.py::test_aProcessThatHasLostItsByteStillCounts"),
    Mutant("muninn/cli/systemd.py", "        if not member.isStale() and member.client.awaitAnswer(pause or 0.0):\n", "        if member.client.awaitAnswer(pause or 0.0) or True:\n", "a stuck keeper gives no sign of life", "test_cliSystemd.py::test_aKeeperWhoseBrokerDoesNotAnswerGivesNoSignOfLife"),
    # --- verdicts on links ------------------------------------------------------------
    Mutant(_VERDICTS, "        if not isOwnFile(os.fstat(fd.number), os.geteuid()):\n", "        if False:\n", "a file that others can write is not read", "test_topology.py::test_aFileThatIsNotTheUsersAloneIsNotRead"),
    Mutant(_VERDICTS, "os.O_RDONLY | os.O_NONBLOCK", "os.O_RDONLY", "a FIFO is not waited for", "test_topology.py::test_aFileThatIsNotTheUsersAloneIsNotRead"),
    Mutant(_VERDICTS, '    if content.get("boot") != boot.hex():\n', "    if False:\n", "a verdict holds for its boot", "test_topology.py::test_aVerdictHoldsForItsBootOnly"),
    Mutant(_VERDICTS, "            if pair.driver == self._driver\n", "", "a verdict holds for its driver", "test_topology.py::test_aVerdictHoldsForItsDriverOnly"),
    Mutant(_VERDICTS, '        if not self.path or not any(boot):\n            _log', '        if not self.path:\n            _log', "an unknown boot keeps nothing", "test_topology.py::test_nothingIsKeptWhereTheBootIsUnknown"),
    Mutant(_VERDICTS, "    except RecursionError as error:", "    except KeyError as error:", "a file that is nested too deeply is not read", "test_topology.py::test_contentThatItHasNotWrittenIsAsIfThereWereNone"),
    Mutant(_VERDICTS, "    if not 0 <= value <= _MAX_NUMBER:", "    if value < 0:", "a number that is none is not believed", "test_topology.py::test_contentThatItHasNotWrittenIsAsIfThereWereNone"),
    Mutant(_VERDICTS, "        while not _isTaken(fd):\n", "        while False:\n", "writers wait for each other", "test_topology.py::test_processesThatWriteAtOnceLoseNothing"),
    Mutant(_VERDICTS, "            fcntl.flock(fd, fcntl.LOCK_UN)\n", "            pass\n", "a child does not keep the lock of a writer", "test_topology.py::test_aForkedChildDoesNotKeepTheLock"),
    Mutant(_VERDICTS, "        os.unlink(beside)  # of a writer that was killed\n", "        pass\n", "what a killed writer left is removed", "test_topology.py::test_aWriterThatIsKilledLeavesTheOldFile"),
    Mutant(_VERDICTS, '    beside = f"{path}.new"\n', "    beside = path\n", "a killed writer leaves the old file", "test_topology.py::test_aWriterThatIsKilledLeavesTheOldFile"),
    Mutant(_VERDICTS, "    while first and (room := room - len(lines[first - 1]) - len(\",\\n\")) >= 0:\n        first -= 1\n", "    first = 0\n", "a file that is full loses its oldest", "test_topology.py::test_aFileThatIsFullLosesItsOldest"),
    Mutant("muninn/devices/topology/matrix.py", "self.verdict is None and self.link.canAccess", "self.verdict is None", "a pair without a path is not waited for", "test_topology.py::test_aPairWithoutAPathIsNotWaitedFor"),
    Mutant(_TOPOLOGY, "    if not corrupt:\n", "    if True:\n", "doctor warns of a link that corrupts", "test_topology.py::test_doctorWarnsOfALinkThatCorrupts"),
    # --- prof -------------------------------------------------------------------------
    Mutant(_COMPARISON, '("p50", old.p50, new.p50), ("p95", old.p95, new.p95)', '("p50", old.p50, new.p50),', "a row whose p95 is larger has regressed", "test_prof.py::test_aRowThatIsSlowerThanIsAllowedHasRegressed"),
    Mutant(_COMPARISON, "    if old.device != new.device:\n", "    if False:\n", "only what is alike is compared", "test_prof.py::test_whatIsNotAlikeIsNotCompared"),
    Mutant("muninn/cli/prof.py", "_REPEATS = 2\n", "_REPEATS = 0\n", "noise is no regression", "test_prof.py::test_aRowIsMeasuredAgainBeforeItHasRegressed"),
    Mutant("muninn/cli/prof.py", " or not comparison.changes):\n", "):\n", "a gate that compares nothing fails", "test_prof.py::test_aComparisonOfNothingFails"),
    Mutant(_GROUND, "        fcntl.flock(mark.number, fcntl.LOCK_EX | fcntl.LOCK_NB)\n        _remove", "        _remove", "a run that lives is left alone", "test_prof.py::test_aRunWhosePeerLivesIsLeftAlone"),
    Mutant(_GROUND, "        sweep(self._prefix)\n", "", "a run removes what a dead one has left", "test_prof.py::test_aNewRunRemovesWhatADeadOneHasLeft"),
    Mutant("muninn/session/membership.py", "    if _current is not None:\n        _current.leave()\n", "    current().leave()\n", "a domain that was left is not joined to leave it again", "test_prof.py::test_aDomainThatWasLeftIsNotJoinedAgain"),
    Mutant("muninn/prof/results.py", "0 < value < math.inf", "0 < value", "a time is a number", "test_prof.py::test_aFileOfAnotherKindIsRefusedWithItsLine"),
    Mutant("muninn/cli/profreport.py", "not outcome.row.isMoving or ", "", "bytes that are mapped have no throughput", "test_prof.py::test_throughputIsOfBytesThatMove"),
    # --- kernels ----------------------------------------------------------------------
    Mutant("muninn/kernels/launch.py", "    numbacuda.requireCompiler()\n", "", "a numpy that is too new is named", "test_kernels.py::test_aNumpyThatNumbaCompilesNothingBesideIsNamed"),
    Mutant("muninn/kernels/numbacuda.py", "* (_version(installed) <= _LAST_WITHOUT_NUMPY_2_5)", "", "a later numba-cuda is believed", "test_kernels.py::test_aNumpyThatNumbaCompilesNothingBesideIsNamed"),
    Mutant("muninn/kernels/launch.py", "    except _libraryMissing() as error:\n        raise _typed(error) from error\n    return str(ptx)", "    except KeyError as error:\n        raise _typed(error) from error\n    return str(ptx)", "a library of the toolkit that is missing is named", "test_kernels.py::test_aLibraryOfTheToolkitThatIsMissingIsNamed"),
    Mutant(_REFERENCES, " or array.nbytes < leastBytes:\n", ":\n", "nothing is compared beyond an array", "test_kernels.py::test_slicesOfBytesThatAreNotThereAreNotCompared"),
    Mutant(_REFERENCES, "not array.flags.c_contiguous or ", "", "only contiguous arrays are compared", "test_kernels.py::test_slicesOfBytesThatAreNotThereAreNotCompared"),
    Mutant(_REFERENCES, "    if isWritten and not array.flags.writeable:\n", "    if False:\n", "flags that are read-only are not written", "test_kernels.py::test_slicesOfBytesThatAreNotThereAreNotCompared"),
    Mutant(_REFERENCES, "int(sliceElements) * scratch.itemsize", "int(sliceElements)", "slices are as long as their elements", "test_kernels.py::test_slicesAreComparedBeyondThePartsOfTheReference"),
    Mutant(_REFERENCES, "    if begin < end:\n", "    if True:\n", "an empty range marks nothing", "test_kernels.py::test_markDirtyMarksTheSlicesThatARangeTouches"),
    Mutant(_REFERENCES, "(end - 1) // int(sliceBytes) + 1] = 1", "end // int(sliceBytes) + 1] = 1", "the slice behind a range is not marked", "test_kernels.py::test_markDirtyMarksTheSlicesThatARangeTouches"),
    Mutant(_REFERENCES, "(end - 1) // int(sliceBytes) + 1] = 1", "(end - 1) // int(sliceBytes)] = 1", "each slice that differs is marked", "test_kernels.py::test_trackedSlicesAreThoseThatDifferAndMaybeMore"),
    Mutant(_REFERENCES, "max(int(offset), 0), int(offset)", "int(offset), int(offset)", "a range that begins before the window marks no other slice", "test_kernels.py::test_markDirtyMarksTheSlicesThatARangeTouches"),
    Mutant(_REFERENCES, "min(elements, packedSize - packed, looseSize - loose)", "elements", "the last slice may be shorter", "test_kernels.py::test_slicesAreGatheredAndScatteredByTheirPositions"),
    Mutant(_REFERENCES, "target[loose : loose + count] = source[packed : packed + count]", "target[packed : packed + count] = source[packed : packed + count]", "a slice goes back to its place", "test_kernels.py::test_trackedSlicesAreThoseThatDifferAndMaybeMore"),
    Mutant(_KERNELS, "    size = np.uint64(sliceBytes)\n", "    size = sliceBytes\n", "no integer of a user becomes a float64", "test_kernels.py::test_usersKernelsMarkWhatTheyWriteOnEachKindOfGpu"),
    Mutant(_KERNELS, "number < np.uint64(flags.size) and ", "", "a kernel marks nothing outside the flags", _SIMULATED),
    Mutant(_KERNELS, "number * size < end:", "number * size <= end:", "a kernel does not mark the slice behind a range", _SIMULATED),
    Mutant(_KERNELS, "            end = min((number // parts + 1) * sliceElements, source.size)\n", "            end = source.size\n", "a slice that has no flag is not copied", _SIMULATED),
    Mutant(_KERNELS, "np.uint64(max(np.int64(offset), np.int64(0)))", "np.uint64(np.int64(offset))", "a kernel marks the part of a range that is in the window", _SIMULATED),
    Mutant(_KERNELS, "    if begin < end:\n", "    if True:\n", "an empty range marks nothing in a kernel", _SIMULATED),
    Mutant(_KERNELS, "skipped = number % parts * _COPIED", "skipped = number % parts", "a slice of several parts is copied whole", _SIMULATED),
    Mutant(_KERNELS, "min(packedSize - packed, looseSize - loose))", "packedSize - packed)", "a kernel copies no more than the last slice has", _SIMULATED),
    Mutant(_KERNELS, "min(sliceElements - skipped, _COPIED)", "_COPIED", "a part ends with its slice", _SIMULATED),
    Mutant(_KERNELS, "loose = positions[number // parts] *", "loose = number // parts *", "a kernel copies the slices at the positions", _SIMULATED),
    Mutant(_FUNCTIONS, '"inline": "always"', '"inline": "never"', "the mark is written into the kernel", "test_kernels.py::test_usersKernelsMarkWhatTheyWriteOnEachKindOfGpu"),
    Mutant(_FUNCTIONS, "        return self._reference.__name__\n", "        return repr(self)\n", "a kernel that marks is pickled", "test_kernels.py::test_aKernelThatCallsMarkDirtyIsPickled"),
    # --- sizes ------------------------------------------------------------------------
    Mutant(_SIZES, "if round(value) < 1 << 10:", "if value < 1 << 10:", "a byte less than 1M is 1M", "test_config.py::test_writesSizesAsItReadsThem"),
    Mutant(_SIZES, " or asBytes(text) == sizeBytes else", " or True else", "sizes that are compared are exact", "test_config.py::test_writesSizesAsItReadsThem"),
    # --- building ---------------------------------------------------------------------
    Mutant(_BUILD, "return shlex.split(text) or shlex.split(usual)", "return shlex.split(text)", "an empty CC is the usual compiler", "test_packaging.py::test_anEmptyCompilerIsTheUsualOne"),
    Mutant(_BUILD, "        except OSError as error:\n            if version", "        except KeyError as error:\n            if version", "a checkout that is read-only is built", "test_packaging.py::test_aCheckoutThatCanNotBeWrittenIsBuilt"),
    Mutant(_BUILD, "dir=target.parent, prefix=target.name)", "dir=target.parent, prefix=target.name); fresh = str(target) + '.new'", "builds of one checkout do not disturb each other", "test_packaging.py::test_buildsOfOneCheckoutDoNotDisturbEachOther"),
]
# fmt: on
