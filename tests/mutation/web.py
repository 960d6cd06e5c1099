"""Mutants of the HTTP interface."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_GUARDS = "muninn/service/web/guards.py"
_APPLICATION = "muninn/service/web/application.py"

_LISTENERS = "muninn/service/web/listeners.py"
_WORKSHOP = "muninn/service/web/workshop.py"

# fmt: off
MUTANTS = [
    Mutant(_GUARDS, "len(hosts) != 1 or ", "", "a request has one host", "test_web.py::test_aHostIsGivenOnce"),
    Mutant(_GUARDS, "_OWN_HOST.fullmatch(hosts[0])", "_OWN_HOST.match(hosts[0])", "a host is a name of loopback and nothing else", "test_web.py::test_aHostIsANameOfLoopbackOrItIsRefused"),
    Mutant(_APPLICATION, "_metrics, workshop, guard, isPublic=False", "_metrics, workshop, guard, isPublic=True", "metrics need the token", "test_web.py::test_noUrlMakesARoutePublic"),
    Mutant(_APPLICATION, "guard(request.headers, False)", "guard(request.headers, True)", "operations need the token", "test_web.py::test_noUrlMakesARoutePublic"),
    Mutant(_LISTENERS, "        if (other := _answering(path)) is not None:\n", "        if False:\n", "one process serves for a domain", "test_web.py::test_aSecondServerOfADomainIsRefused"),
    Mutant(_LISTENERS, "            if isThere and _fileOf(path) == mine:\n", "            if True:\n", "a process unlinks its own socket only", "test_web.py::test_aProcessUnlinksNoSocketButItsOwn"),
    Mutant(_LISTENERS, "        listener.bind(path)\n        listener.listen(_BACKLOG)\n", "        listener.bind(path)\n", "it listens before it says where", "test_web.py::test_clientsCanConnectOnceItSaysWhere"),
    Mutant(_WORKSHOP, "        if not waits:\n", "        if True:\n", "promotions have places of their own", "test_web.py::test_promotionsThatWaitKeepNothingElseWaiting"),
    Mutant(_WORKSHOP, "                return self._done(work, arguments)\n            finally:\n                self._places.append(None)\n", "                return self._done(work, arguments)\n            finally:\n                pass\n", "a place is given back", "test_web.py::test_promotionsThatWaitKeepNothingElseWaiting"),
    Mutant(_WORKSHOP, "            with besideTheProgram():\n                return work(*arguments)\n", "            return work(*arguments)\n", "a handler does not join", "test_web.py::test_aHandlerThatOutlivesItsServerDoesNotJoinAgain"),
    Mutant(_WORKSHOP, "            if self._isOver:\n                raise _noMore()\n", "", "no work begins after the end", "test_web.py::test_theEndWaitsForWhatIsAtWorkAndBeginsNothing"),
    Mutant(_WORKSHOP, "if not each.wait(remaining(deadline))", "if not each.isSet()", "the end waits for handlers", "test_web.py::test_theEndWaitsForWhatIsAtWorkAndBeginsNothing"),
    Mutant(_WORKSHOP, "            _clear(error)\n            raise\n", "            raise\n", "an error keeps no buffer in use", "test_web.py::test_noPromotionKeepsABufferThatIsDeleted"),
    Mutant("muninn/service/web/held.py", "                self._buffers[bufferId] = buffer\n                return\n", "                pass\n            self._buffers[bufferId] = buffer\n            return\n", "nothing is held after the end", "test_web.py::test_whatIsGivenToBeHeldAfterTheEndIsNot"),
    Mutant("muninn/service/web/ids.py", "current().openBuffers.hold(*self)", "current().openBuffers.find(described['name'])", "an id opens its own buffer", "test_web.py::test_anIdIsNeverAnotherBuffers"),
    Mutant("muninn/api/listing.py", "state.incarnation != incarnation or ", "", "an id is of one incarnation", "test_web.py::test_aTakenNameAndAnUnknownIdAreSaid"),
    Mutant("muninn/api/listing.py", "_listed(membership, [(row, state)], row)", "[each for each in _listed(membership, rows.notFree()) if each['bufferId'] == f'{row}.{incarnation}']", "one buffer is described alone", "test_web.py::test_anOperationLooksAtItsOwnBufferAlone"),
]
