"""Mutants of what shows a domain: counts, lines, the live view; and of who is evicted."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_RATES = "muninn/cli/top/rates.py"
_READINGS = "muninn/service/readings.py"
_OUTLET = "muninn/observe/outlet.py"

# fmt: off
MUTANTS = [
    Mutant(_RATES, "        if before is not None and before.identity != reading.identity:\n", "        if False:\n", "another control block counts from 0", "test_top.py::test_anotherControlBlockIsNotComparedWithTheOneBefore"),
    Mutant(_RATES, "    isSame = incarnation[rows.number] == rows.incarnation\n", "    isSame = incarnation[rows.number] >= 0\n", "a row with another buffer begins anew", "test_top.py::test_aRowWithAnotherBufferHasNoRateOfTheOneBefore"),
    Mutant(_RATES, "np.maximum(steps, 0) / 2 / seconds", "np.maximum(steps, 0) / seconds", "a publication is two steps", "test_top.py::test_aPublicationIsTwoStepsOfTheGeneration"),
    Mutant(_RATES, "        if not route or label.partition(\"/\")[0] == route\n", "        if True\n", "throughput is by route", "test_top.py::test_throughputIsBytesByTheClockByRouteAndByProcess"),
    Mutant(_READINGS, " & (gpu >= -1)", "", "a damaged row is left out", "test_metrics.py::test_aDamagedRowIsLeftOut"),
    Mutant(_READINGS, " & np.isin(slot, slots)\n", "\n", "the dead hold nothing", "test_metrics.py::test_countersFollowWhatHappens"),
    Mutant("muninn/observe/counters.py", "atomics.exchangeSeqCst64(self._own + offset, 0)", "atomics.loadAcquire64(self._own + offset)", "what was counted before a join is brought along once", "test_counters.py::test_whatWasCountedBeforeAJoinIsBroughtAlongOnce"),
    Mutant(_OUTLET, "            descriptor = own(os.open(_STDERR_PATH, _FLAGS & ~os.O_CREAT))\n", "            raise OSError\n", "a terminal that nobody reads holds nobody up", "test_lines.py::test_aStderrThatNobodyReadsHoldsNobodyUp"),
    Mutant("muninn/session/services.py", "(MuninnError, OSError, RuntimeError)", "(MuninnError, RuntimeError)", "a program goes on without a service", "test_endpoint.py::test_withoutAThreadOrADescriptorTheProgramGoesOnAndSaysWhy"),
    Mutant("muninn/session/membership.py", "    if job is not None and not job.isOwn():\n", "    if False:\n", "who leaves waits for a join that was interrupted", "test_prof.py::test_whoLeavesWaitsForAJoinThatWasInterrupted"),
    Mutant("muninn/prof/results.py", "    if os.path.exists(path) and not os.path.isfile(path):\n", "    if False:\n", "a device stays one", "test_prof.py::test_aLinkStaysOneAndWhatIsNoFileStaysWhatItIs"),
    Mutant("muninn/session/openbuffer.py", "        if isHeld or self.description.kind == layout.ROW_KIND_WINDOW:\n", "        if True:\n", "who opens a revoked buffer anew has a lease again", "test_openbuffers.py::test_whoOpensARevokedBufferAnewHasALeaseAgain"),
    Mutant("muninn/session/openbuffer.py", " or self.description.kind == layout.ROW_KIND_WINDOW", "", "an evicted window is given back", "test_hints.py::test_evictedWindowsAreRefusedAndGivenBack"),
]
# fmt: on
