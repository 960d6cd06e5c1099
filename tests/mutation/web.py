"""Mutants of the HTTP interface."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_GUARDS = "muninn/service/web/guards.py"
_APPLICATION = "muninn/service/web/application.py"

_HANDLERS = "muninn/service/web/handlers.py"

# fmt: off
MUTANTS = [
    Mutant(_GUARDS, "len(hosts) != 1 or ", "", "a request has one host", "test_web.py::test_aHostIsGivenOnce"),
    Mutant(_GUARDS, "_OWN_HOST.fullmatch(hosts[0])", "_OWN_HOST.match(hosts[0])", "a host is a name of loopback and nothing else", "test_web.py::test_aHostIsANameOfLoopbackOrItIsRefused"),
    Mutant(_APPLICATION, "_metrics, guard, isPublic=False", "_metrics, guard, isPublic=True", "metrics need the token", "test_web.py::test_noUrlMakesARoutePublic"),
    Mutant(_APPLICATION, "guard(request.headers, False)", "guard(request.headers, True)", "operations need the token", "test_web.py::test_noUrlMakesARoutePublic"),
    Mutant("muninn/service/web/ids.py", "current().openBuffers.hold(*self)", "current().openBuffers.find(described['name'])", "an id opens its own buffer", "test_web.py::test_anIdIsNeverAnotherBuffers"),
    Mutant("muninn/api/listing.py", "state.incarnation != incarnation or ", "", "an id is of one incarnation", "test_web.py::test_aTakenNameAndAnUnknownIdAreSaid"),
    Mutant("muninn/api/listing.py", "_listed(membership, [(row, state)], row)", "[each for each in _listed(membership, rows.notFree()) if each['bufferId'] == f'{row}.{incarnation}']", "one buffer is described alone", "test_web.py::test_anOperationLooksAtItsOwnBufferAlone"),
]
