"""Mutants of promotion: scratch memory, dirty slices, and the way back."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_PROMOTION = "muninn/api/promotion.py"
_SCRATCH = "muninn/api/scratch.py"
_MOVES = "muninn/sync/moves.py"
_DIRTY = "muninn/transfer/dirty.py"

# fmt: off
MUTANTS = [
    Mutant(_MOVES, "        if found != self._promoted:\n", "        if False:\n", "a writeback does not overwrite what others wrote", "test_promotion.py::test_aBufferThatWasWrittenMeanwhileIsNotOverwritten"),
    Mutant(_MOVES, "        self._kind = owners.KIND_STREAM\n        self._promoted", "        self._promoted", "a writeback looks before it begins", "test_promotion.py::test_aBufferThatWasWrittenMeanwhileIsNotOverwritten"),
    Mutant(_MOVES, "        super()._awaitOthers(until)\n        found", "        found", "a writeback waits for readers", "test_promotion.py::test_whatWasNotWrittenBackStaysDirty"),
    Mutant(_SCRATCH, "            self._flags |= marked\n", "", "what was not written back stays dirty", "test_promotion.py::test_whatWasNotWrittenBackStaysDirty"),
    Mutant(_SCRATCH, "        self._flags[:] = 0\n", "", "what was written back is clean", "test_promotion.py::test_whatWasNotWrittenBackStaysDirty"),
    Mutant(_SCRATCH, "        self._generation += 2\n", "", "a window is written back twice", "test_promotion.py"),
    Mutant(_SCRATCH, "        if not self._isWritten:\n", "        if False:\n", "a window of a reader is not written", "test_promotion.py::test_policiesDecideWhatComesBack"),
    Mutant(_SCRATCH, "            if kind is None and isEager", "            if isEager", "after an exception nothing is written back", "test_promotion.py"),
    Mutant(_SCRATCH, "self._policy is Access.READ_WRITE and self._isWritten", "self._isWritten", "readMostly comes back on request", "test_promotion.py::test_policiesDecideWhatComesBack"),
    Mutant(_SCRATCH, "found._base._held() is not base._checked()", "False", "a window is written back to its own buffer", "test_promotion.py::test_aWindowIsWrittenBackByItsAddress"),
    Mutant(_PROMOTION, "            length = -(-self._window.sizeBytes // WORD_BYTES) * WORD_BYTES\n", "            length = self._window.sizeBytes\n", "a window of an odd size begins clean", "test_promotion.py::test_aWindowOfAnySizeBeginsClean"),
    Mutant(_PROMOTION, "    if room.sizeBytes > most:\n", "    if False:\n", "a window above the budget is refused at once", "test_promotion.py"),
    Mutant(_PROMOTION, "            if arena.trim(0.0):\n                continue\n", "", "idle scratch memory gives way", "test_promotion.py"),
    Mutant(_DIRTY, "np.minimum(edges[1::2] * sliceBytes, windowBytes)", "edges[1::2] * sliceBytes", "no byte behind the window is written back", "test_promotion.py::test_rangesCoverWhatWasMarkedAndNoMoreThanItsSlices"),
    Mutant(_DIRTY, "-(-(offset + sizeBytes) // sliceBytes)", "(offset + sizeBytes) // sliceBytes", "the last slice that is touched is dirty", "test_promotion.py::test_rangesCoverWhatWasMarkedAndNoMoreThanItsSlices"),
    Mutant(_PROMOTION, "{device.gpuUuid(gpu)[-12:]}", "", "each GPU has its own copy of a shared window", "test_promotion.py::test_processesShareTheWindowOfAReadOnlyBuffer"),
]
# fmt: on
