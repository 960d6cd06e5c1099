"""Mutants of what surrounds the API: the command line, sizes, and how the package is built."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_OUTPUT, _LISTING, _DOCTOR, _SIZES = "muninn/cli/output.py", "muninn/cli/listing.py", "muninn/cli/doctor.py", "muninn/config/sizes.py"
_BUILD = "hatch_build.py"

# fmt: off
MUTANTS = [
    # --- the command line ---
    Mutant(_OUTPUT, "no_wrap=True, ", "", "a row of a list is one line", "test_cli.py::test_aNarrowWindowBreaksNoRow"),
    Mutant(_OUTPUT, '"ellipsis" if isCut else "ignore"', '"ellipsis"', "nothing of a description is cut", "test_cli.py::test_aNarrowWindowBreaksNoRow"),
    Mutant(_LISTING, 'while info["brokerPid"] is None and', "while False and", "a list says the same each time", "test_cli.py::test_whoLooksIsToldFromWhoIsThere"),
    Mutant(_DOCTOR, 'if finding.verdict == "fail" else name', 'if False else name', "one reason is said once", "test_cli.py::test_doctorSaysThatTheCPartIsMissing"),
    Mutant("muninn/control/atomics.py", "        return _Missing(error)\n", "        raise\n", "doctor says that the C part is missing", "test_cli.py::test_doctorSaysThatTheCPartIsMissing"),
    # --- sizes ---
    Mutant(_SIZES, "if round(value) < 1 << 10:", "if value < 1 << 10:", "a byte less than 1M is 1M", "test_config.py::test_writesSizesAsItReadsThem"),
    Mutant(_SIZES, " or asBytes(text) == sizeBytes else", " or True else", "sizes that are compared are exact", "test_config.py::test_writesSizesAsItReadsThem"),
    # --- building ---
    Mutant(_BUILD, "return shlex.split(text) or shlex.split(usual)", "return shlex.split(text)", "an empty CC is the usual compiler", "test_packaging.py::test_anEmptyCompilerIsTheUsualOne"),
    Mutant(_BUILD, "        except OSError as error:\n            if version", "        except KeyError as error:\n            if version", "a checkout that is read-only is built", "test_packaging.py::test_aCheckoutThatCanNotBeWrittenIsBuilt"),
    Mutant(_BUILD, "dir=target.parent, prefix=target.name)", "dir=target.parent, prefix=target.name); fresh = str(target) + '.new'", "builds of one checkout do not disturb each other", "test_packaging.py::test_buildsOfOneCheckoutDoNotDisturbEachOther"),
]
# fmt: on
