"""Mutants of plans and of the executor that is asked before bytes move."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_EXECUTING = "muninn/api/executing.py"
_BACKOFF = "muninn/transfer/backoff.py"
_APPLYING = "muninn/plans/applying.py"
_DECIDING = "muninn/plans/deciding.py"
_FIELDS = "muninn/plans/fields.py"
_SCHEMAS = "muninn/plans/schemas.py"
_READING = "muninn/plans/reading.py"
_BAR = "muninn/observe/progressbar.py"
_SPANS = "muninn/observe/spans.py"

# fmt: off
MUTANTS = [
    Mutant(_EXECUTING, " or left <= 0:\n", ":\n", "the wait for an executor ends", "test_execution.py::test_theWaitEndsWithTheTimeout"),
    Mutant(_EXECUTING, "        work = work._replace(waitedSeconds=clock.now() - begun)\n", "", "an executor is told how long work has waited", "test_execution.py::test_whatIsToWaitBeginsLater"),
    Mutant(_EXECUTING, "        look()\n", "", "who waits for an executor can be cancelled", "test_execution.py::test_aCopyThatWaitsCanBeCancelled"),
    Mutant(_EXECUTING, "            list(map(self._executor.ended, self._untold, (seconds,), (error,)))\n", "            pass\n", "an executor is told the end", "test_execution.py::test_theEndOfWhatFailsIsToldWithItsError"),
    Mutant(_EXECUTING, "self._executor.ended, self._untold, ", "self._executor.ended, (self._work,), ", "an executor is told the end of the work that it let go, once", "test_execution.py::test_whatIsToWaitBeginsLater"),
    Mutant(_EXECUTING, "        except Exception:\n", "        except ():\n", "an error at the end is none of the copy", "test_execution.py::test_anErrorAtTheEndIsLogged"),
    Mutant(_EXECUTING, "min(left, _SLICE_SECONDS)", "left", "a pause ends with the copy", "test_execution.py::test_aLongPauseEndsWithTheCopy"),
    Mutant("muninn/api/transfers.py", "        with admission, admission:\n            return made(", "        with admission:\n            return made(", "an interruption of the end is made up for", "test_execution.py::test_eachGoHasItsEndWhereverAnInterruptionComes"),
    Mutant("muninn/api/promotion.py", "        if not self.admission.hasGone:\n", "        if True:\n", "a promotion is asked about once", "test_execution.py::test_whoWaitsForRoomIsAskedAboutOnce"),
    Mutant("muninn/api/transfers.py", "if asked is None and answer.byHost", "if answer.byHost", "the caller's route is kept", "test_execution.py::test_byHostIsARouteUnlessTheCallerDemandsOne"),
    Mutant(_BACKOFF, "work.kind is Kind.PREFETCH and isNear(condition)", "isNear(condition)", "only prefetches wait early", "test_execution.py::test_whatWaitsForWhat"),
    Mutant(_BACKOFF, "        if isWaiting and pauseSeconds > 0:\n", "        if isWaiting:\n", "a copy waits for a second only", "test_execution.py::test_aCopyWaitsForASecondAndThenGoes"),
    Mutant(_BACKOFF, "min(COPY_SECONDS, timeout * _COPY_PART)", "COPY_SECONDS", "a copy goes while it has time", "test_execution.py::test_aCopyWithAShortTimeoutGoesWhileItHasTime"),
    Mutant("muninn/api/scratchmemory.py", "                with self.inside():\n                    return make()\n", "                made = make()\n                with self.inside():\n                    return made\n", "memory is asked for inside the access", "test_execution.py"),
    Mutant("muninn/api/inprocess.py", "        if now - askedSeconds >= FRESH_SECONDS:\n", "        if True:\n", "the driver is asked once a second", "test_execution.py::test_theDriverIsAskedOnceASecond"),
    Mutant(_BAR, "            self._screen.draw(self)\n        except Exception as error:\n", "            self._screen.draw(self)\n        except KeyError as error:\n", "no bar ends a copy", "test_progressbar.py::test_aTerminalThatIsGoneDisturbsNoCopy"),
    Mutant(_BAR, "            def on_broken_pipe(self) -> None:\n", "            def onBrokenPipe(self) -> None:\n", "a pipe that nobody reads ends no process", "test_progressbar.py::test_aTerminalThatIsGoneDisturbsNoCopy"),
    Mutant(_BAR, "            redirect_stdout=False,\n", "", "what the program prints is left alone", "test_progressbar.py::test_whatTheProgramPrintsStaysWhereItGoes"),
    Mutant(_SPANS, "            self._leave()\n            self._end(None)\n", "            self._end(None)\n", "an interruption leaves no context", "test_spans.py::test_anInterruptionLeavesNoContext"),
    Mutant(_SPANS, "    except Exception:\n        return type(error).__name__\n", "    except KeyError:\n        return type(error).__name__\n", "an error without a text is one", "test_spans.py::test_anErrorWithoutATextEndsItsSpan"),
    Mutant(_APPLYING, "        for what, undo in self._undoing[::-1]:\n", "        for what, undo in []:\n", "a failure undoes", "test_plans.py::test_aFailureUndoesWhatThisApplicationDid"),
    Mutant(_APPLYING, "    with _alone(deadline):\n", "    with contextlib.nullcontext():\n", "applications exclude each other", "test_plans.py::test_anotherApplicationIsWaitedFor"),
    Mutant(_APPLYING, "            found = differences(self._planned[step.path], there, facts)\n", "            found = []\n", "a name that is taken meanwhile must match", "test_plans.py::test_aNameThatIsTakenMeanwhileIsKeptOnlyIfItMatches"),
    Mutant(_APPLYING, "                held.callback(window.__exit__, kind, error, trace)\n", "                held.callback(window.close)\n", "what was written in windows comes back", "test_plans.py::test_theEndOfTheBlockCopiesBackWhatWasWrittenInWindows"),
    Mutant(_APPLYING, "        decisions.require()\n", "", "what is refused is not begun", "test_plans.py::test_aPlanLargerThanTheQuotasIsRefusedWhole"),
    Mutant(_DECIDING, "        self._quotas.add(usage, usage.sizeBytes)\n        if not isFast", "        if not isFast", "quotas add up over a plan", "test_plans.py::test_aPlanLargerThanTheQuotasIsRefusedWhole"),
    Mutant(_DECIDING, "        if found := differences(planned, there, self._facts):\n", "        if found := []:\n", "what differs is refused", "test_plans.py::test_whatDiffersIsSaidAndNotTouched"),
    Mutant(_DECIDING, "            Quotas(self._facts.limits).admit(*asked)  # refused alone, it waits for nothing\n", "", "a window that never fits is refused", "test_plans.py::test_aWindowThatIsLargerThanItsGpuWaitsForNothing"),
    Mutant(_FIELDS, "            if key not in fields:\n", "            if False:\n", "an unknown field is refused", "test_plans.py"),
    Mutant(_FIELDS, "        if type(value) is not int:\n", "        if not isinstance(value, int):\n", "true is no number", "test_plans.py"),
    Mutant(_SCHEMAS, "        if buffer.name in first:\n", "        if False:\n", "each buffer has a name of its own", "test_plans.py"),
    Mutant(_READING, "        if not stat.S_ISREG(path.stat().st_mode):\n", "        if False:\n", "a FIFO is not waited for", "test_plans.py::test_aFileThatIsNoneIsSaid"),
    Mutant(_READING, "        if key in found:\n", "        if False:\n", "a key stands once", "test_plans.py"),
]
# fmt: on
