"""Mutants of copies between GPUs: routes, verdicts on links, and the handles of transfers."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_ROUTES = "muninn/transfer/routes.py"
_HANDLE = "muninn/transfer/handle.py"
_ENGINE = "muninn/transfer/engine.py"
_WORK = "muninn/api/transfers.py"
_COPYING = "muninn/api/copying.py"
_LINKS = "muninn/devices/topology/links.py"
_PROBING = "muninn/devices/topology/probing.py"
_EMULATED = "muninn/devices/host/links.py"
_COPIES = "muninn/devices/cuda/copies.py"
_MAPPED = "muninn/devices/mapped.py"
_MATRICES = "test_matrices.py::test_everyLinkOfTwoGpusGetsItsRoute"

# fmt: off
MUTANTS = [
    # --- routes -----------------------------------------------------------------------
    Mutant(_ROUTES, "    if not facts.hasPath:\n", "    if False:\n", "no byte goes straight without a path", "test_routes.py"),
    Mutant(_ROUTES, "    if facts.isIntact is None:\n", "    if False:\n", "a link that could not be tried is not called corrupt", "test_routes.py"),
    Mutant(_ROUTES, "return None if facts.isIntact else Reason.PEER_CORRUPT", "return None", "no byte goes over a link that corrupts", "test_routes.py"),
    Mutant(_ROUTES, "        if obstacle is not None:\n            raise refusal(obstacle, facts.note)\n", "", "p2p that can not be is refused to a caller who demands it", "test_routes.py"),
    Mutant(_ROUTES, "    if asked is Route.STAGED:\n", "    if False:\n", "a caller may demand the host", "test_routes.py"),
    Mutant(_ROUTES, "    if not preferP2p:\n", "    if False:\n", "a policy may prefer the host", "test_routes.py"),
    Mutant(_ROUTES, "    if facts.isSlower:\n", "    if False:\n", "a link that is slower than the host is left alone", "test_routes.py"),
    # --- the engine -------------------------------------------------------------------
    Mutant(_ENGINE, "self.links.verified(source, target, way)", "Verdict(isIntact=True)", "a link is verified before the first byte", "test_transfers.py::test_aLinkThatChangesBytesIsFoundBeforeAnyOfTheUsersGoOverIt"),
    Mutant(_ENGINE, "_SLOWER = 0.9", "_SLOWER = 1.1", "a link that is a little slower is used", "test_transfers.py::test_aLinkIsSlowerByATenth"),
    Mutant(_ENGINE, " and p2p < _SLOWER * staged", " and p2p < staged / 100", "a link that is slower is found so", "test_transfers.py::test_aLinkIsSlowerByATenth"),
    Mutant(_ENGINE, "bool(p2p and staged)", "True", "a way that was not measured is not slower", "test_transfers.py::test_aLinkIsSlowerByATenth"),
    Mutant(_ENGINE, "            if asked is Route.P2P and choice.reason is Reason.HOST_MEMORY:\n", "            if False:\n", "p2p is no way to host memory", "test_transfers.py::test_hostMemoryIsCopiedToAGpu"),
    Mutant(_ENGINE, "            if source.place == target and target.tier is Tier.HOST:\n", "            if False:\n", "host memory is copied without a GPU", "test_transfers.py::test_copyFromPublishesWithinHostMemory"),
    Mutant(_ENGINE, "            except (TopologyNotPeerable, QuotaExceeded) as error:\n                choice = _enableFailed(error, asked)\n", "            except KeyError as error:\n                choice = _enableFailed(error, asked)\n", "access that can not be set is no error of the copy", "test_transfers.py::test_accessThatIsRefusedLaterStagesTheCopy"),
    Mutant(_ENGINE, "                except (TopologyNotPeerable, QuotaExceeded) as error:\n                    return _enableFailed(error, asked)\n", "                except KeyError as error:\n                    return _enableFailed(error, asked)\n", "a link that refuses is no error of the copy", "test_transfers.py::test_eachLinkGetsItsRouteAndEachCopyIsWhole"),
    Mutant(_LINKS, "        if verdict is not None and verdict.pieceBytes:\n", "        if False:\n", "the pieces that were tuned are used", "test_transfers.py::test_theWayByTheHostIsTunedBesideItsFirstCopy"),
    # --- copyTo, copyFrom, open -------------------------------------------------------
    Mutant(_WORK, "accesses if out.row < into.row else accesses[::-1]", "accesses", "two that copy from each other take the accesses in one order", "test_transfers.py::test_theAccessesAreEnteredInTheOrderOfTheRows"),
    Mutant("muninn/sync/moves.py", "        self._look()\n        return super()._await(until, word)\n", "        return super()._await(until, word)\n", "a transfer that waits for a writer is cancelled", "test_transfers.py::test_aTransferThatWaitsForAWriterIsCancelledAtOnce"),
    Mutant(_WORK, "    if mine != theirs:\n", "    if False:\n", "copyFrom takes buffers of one shape and dtype", "test_transfers.py::test_copyFromRefusesWhatDoesNotFit"),
    Mutant(_WORK, "        engineFor(openBuffer).requireLink(home, gpu)\n", "        pass\n", "nothing is mapped over a link that corrupts", "test_transfers.py::test_mappedIsTheBufferItself"),
    Mutant(_COPYING, "        if buffer._isPrivate:\n            raise privateForKernels(buffer.name)\n", "", "private memory is not mapped for kernels", "test_transfers.py::test_privateMemoryIsNotMappedForKernels"),
    Mutant("muninn/api/attachment.py", "            self._mapFor(gpu, openBuffer)\n", "            pass\n", "a forked child reaches what its parent mapped", "test_transfers.py::test_aForkedChildReachesWhatItsParentMapped"),
    # --- two interruptions in a row ---------------------------------------------------
    Mutant("muninn/sync/moves.py", "        self._settle = settle\n", "", "an access lasts until the copy is over", "test_transfers.py::test_anInterruptionOfTheWaitLeavesTheAccessUntilTheCopyIsOver"),
    Mutant(_ENGINE, "            elif not way.isBusy:\n", "            else:\n", "a way that is at work is not closed", "test_transfers.py::test_anInterruptionOfTheWaitLeavesTheMemoryUntilTheCopyIsOver"),
    Mutant("muninn/devices/ways.py", "        self._held, self.isBusy = anchor(), True\n", "        self.isBusy = True\n", "the memory of a copy is held until it is over", "test_transfers.py::test_anInterruptionOfTheWaitLeavesTheMemoryUntilTheCopyIsOver"),
    # --- handles ----------------------------------------------------------------------
    Mutant(_HANDLE, "            if self._isOverdue():\n                self._go(State.OVERDUE)\n                return False\n", "", "a transfer whose deadline has passed does not begin", "test_transfers.py::test_aTransferThatIsOverBeforeItBeginsDoesNothing"),
    Mutant(_HANDLE, "            if self._state is State.QUEUED:\n                self._go(State.CANCELLED)\n            elif", "            if", "a transfer is cancelled before it begins", "test_transfers.py::test_aTransferThatIsOverBeforeItBeginsDoesNothing"),
    Mutant(_HANDLE, "            self._isToStop = True\n", "            pass\n", "cancel stops a transfer", "test_transfers.py::test_aTransferThatIsCancelledLeavesNothing"),
    Mutant(_HANDLE, "                self._go(State.STOPPING)\n            raise Stop\n", "                pass\n            raise Stop\n", "a transfer that is overdue is stopping first", "test_transfers.py::test_aDeadlineEndsATransfer", "its end follows at once, and RUNNING may end so too"),
    Mutant(_HANDLE, "        if self._isToStop or self._isOverdue():\n", "        if self._isToStop:\n", "a deadline ends a transfer between two windows", "test_transfers.py::test_aDeadlineEndsATransfer"),
    Mutant(_HANDLE, "        if self._isToStop or self._isOverdue():\n", "        if self._isOverdue():\n", "cancel ends a transfer between two windows", "test_transfers.py::test_aTransferThatIsCancelledLeavesNothing"),
    Mutant(_HANDLE, "            self._progress(sizeBytes)\n        self.check()\n", "            self._progress(sizeBytes)\n", "the runner asks after each window", "test_transfers.py::test_aTransferThatIsCancelledLeavesNothing"),
    Mutant(_HANDLE, "State.CANCELLED if self._isToStop else State.OVERDUE", "State.CANCELLED", "a deadline is no cancellation", "test_transfers.py::test_aDeadlineEndsATransfer"),
    Mutant(_HANDLE, "            elif isinstance(error, TimeoutError) and self._isOverdue():\n", "            elif False:\n", "a wait that the deadline ends makes it overdue", "test_transfers.py::test_aDeadlineEndsATransfer"),
    # --- verdicts ---------------------------------------------------------------------
    Mutant(_LINKS, 'note=verdict.note if verdict.isIntact is False else ""', "note=verdict.note", "what could not be verified is tried again", "test_transfers.py::test_whatCouldNotBeVerifiedIsTriedAgainByALaterProcess"),
    Mutant(_LINKS, "self._put(source, target, self._tried(source, target))", "pass", "a refresh verifies anew", "test_topology.py::test_refreshFindsOutEveryPairNow"),
    Mutant(_LINKS, '        except MuninnError as error:\n            return Verdict(note', '        except KeyError as error:\n            return Verdict(note', "a pair that can not be tried does not end a refresh", "test_topology.py::test_refreshFindsOutEveryPairNow"),
    Mutant(_PROBING, "        if verdict.isIntact:\n", "        if True:\n", "a link that corrupts is not measured", "test_topology.py::test_refreshFindsOutEveryPairNow"),
    Mutant(_PROBING, "            if speed > measured.stagedBytesPerSecond:\n", "            if False:\n", "the way by the host is measured", "test_topology.py::test_refreshFindsOutEveryPairNow"),
    Mutant(_PROBING, "    except MuninnError as error:\n        return Verdict(isIntact=None", "    except KeyError as error:\n        return Verdict(isIntact=None", "a GPU without room could not be tried", "test_transfers.py::test_aPairWithoutRoomIsNotVerified"),
    # --- emulated links ---------------------------------------------------------------
    Mutant(_EMULATED, "_PAIR.fullmatch(part)", "_PAIR.match(part)", "a pair and its kind are all that is written", "test_routes.py::test_linksThatAreNoneAreRefused"),
    Mutant(_EMULATED, " or match[1] == match[3]:\n", ":\n", "a GPU has no link to itself", "test_routes.py::test_linksThatAreNoneAreRefused"),
    Mutant(_EMULATED, "            if max(ends) >= gpuCount:\n", "            if False:\n", "a link is of GPUs that there are", "test_routes.py::test_linksThatAreNoneAreRefused"),
    Mutant(_EMULATED, '            if match[2] == "-":\n', "            if True:\n", "a link of one direction has one", "test_routes.py::test_linksAreReadAsTheyAreWritten"),
    Mutant(_EMULATED, "                self._named[ends[::-1]] = link\n", "                pass\n", "a link of both directions has both", "test_routes.py::test_linksAreReadAsTheyAreWritten"),
    Mutant(_EMULATED, "    except MuninnError as error:\n        raise _invalid", "    except KeyError as error:\n        raise _invalid", "a speed that is none is named", "test_routes.py::test_linksThatAreNoneAreRefused"),
    Mutant(_EMULATED, "link.refuses or not link.isThere", "link.refuses", "a link that is not there gives no access", "test_routes.py::test_linksAreReadAsTheyAreWritten"),
    # --- every ordered pair by itself -------------------------------------------------
    Mutant(_MAPPED, "        if not self.isReachedBy(gpu):\n", "        if gpu != self.gpu:\n", "access is given once", _MATRICES),
    Mutant(_LINKS, "self._verdicts.get((source, target))", "self._verdicts.get((source, target), self._verdicts.get((target, source)))", "a verdict is of one direction", _MATRICES),
    Mutant(_LINKS, "return self._device.gpuUuid(source), self._device.gpuUuid(target)", "return self._device.gpuUuid(target), self._device.gpuUuid(source)", "a verdict that is kept is of its direction", _MATRICES),
    Mutant("muninn/devices/host/device.py", "between(self.requireGpu(peer), self.requireGpu(gpu))", "between(self.requireGpu(gpu), self.requireGpu(peer))", "a GPU reaches another one by the link from it", _MATRICES),
    # --- interruptions ----------------------------------------------------------------
    Mutant("muninn/devices/ways.py", "            waiting[-1].settle()\n            waiting.pop()\n", "            waiting.pop().settle()\n", "a wait for streams that was interrupted goes on", "test_transfers.py::test_aSecondInterruptionWaitsForTheCopiesToo"),
    Mutant("muninn/devices/ways.py", "        stream.mark().close()\n", "        pass\n", "a copy gets its thread before it changes anything", "test_transfers.py::test_aCopyThatGetsNoThreadHasChangedNothing"),
    Mutant("muninn/system/threads.py", "        if not self.take():\n            return\n", "        self.take()\n", "a call is made by one thread", "test_threads.py"),
    Mutant("muninn/api/scratchroom.py", "_MOST_SLICE_BYTES = 4096, 1 << 62", "_MOST_SLICE_BYTES = 4096, 1 << 99", "slices are bounded", "test_promotion.py::test_argumentsThatCanNotBeAreRefused"),
    # --- what is cleared of new VRAM --------------------------------------------------
    Mutant(_COPIES, "    if end < sizeBytes:\n", "    if False:\n", "what a copy does not overwrite is cleared", "test_gaps.py"),
    Mutant(_COPIES, "gaps, end = [], filledBytes", "gaps, end = [], 0", "what a copy overwrites is not cleared", "test_gaps.py"),
    Mutant(_COPIES, "else [(filledBytes, sizeBytes)]", "else [(0, sizeBytes)]", "what a copy overwrites is not cleared where there are many gaps", "test_gaps.py"),
    # --- the command line -------------------------------------------------------------
    Mutant("muninn/cli/commands.py", "    if arguments.target_gpu is None and arguments.route is not None:\n", "    if False:\n", "a route without a GPU is wrong usage", "test_cli.py::test_wrongUsageIsStatusTwo"),
    Mutant("muninn/cli/listing.py", '        del info["transfers"], info["promotions"]  # this command\'s own\n', "        pass\n", "a list has no counts of the command itself", "test_cli.py::test_jsonOfListIsTheDomainAndItsBuffers"),
]
# fmt: on
