"""Mutants outside the API: the command line, sizes, and the build of the package."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_OUTPUT = "muninn/cli/output.py"
_LISTING = "muninn/cli/listing.py"
_DOCTOR = "muninn/cli/doctor.py"
_SIZES = "muninn/config/sizes.py"
_BUILD = "hatch_build.py"

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
    # --- kernels ----------------------------------------------------------------------
    Mutant("muninn/kernels/launch.py", "    numbacuda.requireCompiler()\n", "", "a numpy that is too new is named", "test_kernels.py::test_aNumpyThatNumbaCompilesNothingBesideIsNamed"),
    Mutant("muninn/kernels/numbacuda.py", "* (_version(installed) <= _LAST_WITHOUT_NUMPY_2_5)", "", "a later numba-cuda is believed", "test_kernels.py::test_aNumpyThatNumbaCompilesNothingBesideIsNamed"),
    Mutant("muninn/kernels/launch.py", "    except _libraryMissing() as error:\n        raise _typed(error) from error\n    return str(ptx)", "    except KeyError as error:\n        raise _typed(error) from error\n    return str(ptx)", "a library of the toolkit that is missing is named", "test_kernels.py::test_aLibraryOfTheToolkitThatIsMissingIsNamed"),
    # --- sizes ------------------------------------------------------------------------
    Mutant(_SIZES, "if round(value) < 1 << 10:", "if value < 1 << 10:", "a byte less than 1M is 1M", "test_config.py::test_writesSizesAsItReadsThem"),
    Mutant(_SIZES, " or asBytes(text) == sizeBytes else", " or True else", "sizes that are compared are exact", "test_config.py::test_writesSizesAsItReadsThem"),
    # --- building ---------------------------------------------------------------------
    Mutant(_BUILD, "return shlex.split(text) or shlex.split(usual)", "return shlex.split(text)", "an empty CC is the usual compiler", "test_packaging.py::test_anEmptyCompilerIsTheUsualOne"),
    Mutant(_BUILD, "        except OSError as error:\n            if version", "        except KeyError as error:\n            if version", "a checkout that is read-only is built", "test_packaging.py::test_aCheckoutThatCanNotBeWrittenIsBuilt"),
    Mutant(_BUILD, "dir=target.parent, prefix=target.name)", "dir=target.parent, prefix=target.name); fresh = str(target) + '.new'", "builds of one checkout do not disturb each other", "test_packaging.py::test_buildsOfOneCheckoutDoNotDisturbEachOther"),
]
# fmt: on
