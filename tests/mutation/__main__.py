"""`python -m tests.mutation`: try every mutant, and name those that no test noticed."""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.mutation import (
    api,
    broker,
    control,
    outer,
    plans,
    promotion,
    seeing,
    shim,
    transfers,
    web,
)
from tests.mutation.mutant import Mutant
from tests.mutation.quotes import placesOf

MUTANTS: list[Mutant] = [
    *control.MUTANTS,
    *broker.MUTANTS,
    *api.MUTANTS,
    *outer.MUTANTS,
    *shim.MUTANTS,
    *transfers.MUTANTS,
    *plans.MUTANTS,
    *seeing.MUTANTS,
    *promotion.MUTANTS,
    *web.MUTANTS,
]
BUILD = Path("build/mutation")
COPIED = ("muninn", "tests", "cshim", "ops", "Makefile", "pyproject.toml", "hatch_build.py")
#: A mutant that takes longer than its tests do without it, by so much, hangs.
LEAST_SECONDS, TIMES_LONGER = 30.0, 6.0
QUICK_SECONDS, QUICK_SEED = 36.0, 20
#: As many are tried at once as there are processors.
PARALLEL = len(os.sched_getaffinity(0))
#: Exit statuses of pytest (pytest.ExitCode).
PASSED, FAILED = 0, 1


class Result(NamedTuple):
    """The outcome of one mutant: `"noticed"`, `"survived"`, `"error"`."""

    number: int
    mutant: Mutant
    outcome: str
    seconds: float
    how: str

    def isWrong(self) -> bool:
        """Whether it is neither noticed nor explained, or explained although it is
        noticed.
        """
        return self.outcome == "error" or (self.outcome == "survived") != bool(
            self.mutant.equivalent
        )


def copied(name: str) -> Path:
    """A fresh copy of the files that the tests need."""
    target = BUILD / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for part in COPIED:
        if Path(part).is_dir():
            shutil.copytree(part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(part, target / part)
    return target.resolve()


def compilerFlags() -> list[str]:
    """The compiler flags of the build. They are read from the source, because
    `hatch_build` itself imports hatchling, which only a build has.
    """
    for node in ast.parse(Path("hatch_build.py").read_text()).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "FLAGS"
        ):
            flags: list[str] = ast.literal_eval(node.value)
            return flags
    raise SystemExit("hatch_build.py states no FLAGS")


def environment(root: Path, domains: str) -> dict[str, str]:
    """The environment of a run in the copy, in which other processes that a test starts
    find the copy's package too.
    """
    return {
        **os.environ,
        "PYTHONPATH": str(root),
        "TEST_DOMAINS": domains,
    }


def runTests(root: Path, tests: str, bound: float, *options: str) -> tuple[int | None, str]:
    """(exit status, output) of some tests in a copy; no status when they took longer
    than the bound.
    """
    domains = f"test-m{os.getpid()}x{root.name}"
    paths = [f"tests/{test}" for test in tests.split()]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *paths],
        cwd=root,
        env=environment(root, domains),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=bound)
        status: int | None = process.returncode
    except subprocess.TimeoutExpired:
        status, output = None, ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            # The session holds the process and all that it has started.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        removeDomains(domains)
    return status, output


def removeDomains(prefix: str) -> None:
    """Remove the files that killed processes left in `/dev/shm`."""
    for entry in os.listdir("/dev/shm"):
        if entry.startswith(f"muninn-{os.getuid()}-{prefix}-"):
            path = f"/dev/shm/{entry}"
            shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else os.unlink(path)


def baseline(mutants: list[Mutant]) -> dict[str, float]:
    """Seconds of each named test without any mutation. All must pass, otherwise no
    later result means anything.
    """
    root = copied("none")
    where = subprocess.run(
        [sys.executable, "-c", "import muninn; print(muninn.__file__)"],
        cwd=root,
        env=environment(root, ""),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.startswith(str(root)), f"the copy's tests would use {where}"
    named = " ".join(sorted({test for mutant in mutants for test in mutant.tests.split()}))
    report = root / "report.xml"
    status, output = runTests(root, named, 900, f"--junitxml={report}", "-x")
    if status != PASSED:
        raise SystemExit(f"without any mutation the tests do not pass:\n{output[-3000:]}")
    seconds: dict[str, float] = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        file = case.get("classname", "").rpartition(".")[2] + ".py"
        for key in (file, f"{file}::{case.get('name', '').partition('[')[0]}"):
            seconds[key] = seconds.get(key, 0.0) + float(case.get("time", 0))
    return seconds


def secondsOf(mutant: Mutant, seconds: dict[str, float]) -> float:
    return sum(seconds[test] for test in mutant.tests.split())


def applied(mutant: Mutant, source: str) -> str:
    """The source of the mutant's file with the mutation in it."""
    (place,) = placesOf(mutant.old, source, mutant.file)
    return place.replaced(source, mutant.new, mutant.file)


def tryOut(number: int, mutant: Mutant, bound: float) -> Result:
    """Apply one mutant to a copy, and run its tests there."""
    began = time.monotonic()

    def result(outcome: str, how: str) -> Result:
        return Result(number, mutant, outcome, time.monotonic() - began, how)

    root = copied(str(number))
    try:
        path = root / mutant.file
        path.write_text(applied(mutant, path.read_text()))
        if path.suffix == ".c":
            library = root / "muninn" / "_shim" / "libmuninn.so"
            made = subprocess.run(
                [
                    *shlex.split(os.environ.get("CC") or "cc"),
                    *compilerFlags(),
                    "-Wno-error",
                    "-o",
                    str(library),
                    *map(str, sorted((root / "cshim").glob("*.c"))),
                ],
                capture_output=True,
                text=True,
            )
            if made.returncode != 0:
                return result("error", f"does not compile: {made.stderr[-500:]}")
        status, output = runTests(root, mutant.tests, bound, "-x")
        if status == PASSED:
            return result("survived", "")
        if status is None:
            return result("noticed", f"hung for {bound:.0f} s")
        if status == FAILED or status < 0:
            failed = next(
                (line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))),
                f"ended by signal {-status}",
            )
            return result("noticed", failed[:150])
        return result("error", f"pytest ended with {status}: {output[-800:]}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def misplaced(mutants: list[Mutant]) -> Iterator[str]:
    """The mutants whose text is not, or not once, in their file; those whose result is
    no valid source; those that name no test or are in the list twice.
    """
    seen = set()
    for number, mutant in enumerate(mutants):
        source = Path(mutant.file).read_text()
        count = len(placesOf(mutant.old, source, mutant.file))
        if count != 1:
            yield f"{number} {mutant.file}: {count} times in the file: {mutant.old!r}"
        elif mutant.file.endswith(".py"):
            try:
                ast.parse(applied(mutant, source))
            except SyntaxError as error:
                yield f"{number} {mutant.file}: the result is no Python, {error}: {mutant.old!r}"
        if (
            mutant.old == mutant.new
            or not mutant.tests.split()
            or (mutant.file, mutant.old, mutant.new) in seen
        ):
            yield f"{number} {mutant.file}: changes nothing, names no test, or is there twice: {mutant.old!r}"
        seen.add((mutant.file, mutant.old, mutant.new))


def sampled(
    numbered: list[tuple[int, Mutant]], seconds: dict[str, float], seed: int, bound: float
) -> list[tuple[int, Mutant]]:
    """Mutants drawn by the seed, as many as should take no longer than `bound` seconds."""
    chance, left = random.Random(seed), bound * PARALLEL
    found = []
    for number, mutant in chance.sample(numbered, len(numbered)):
        # for a copy, an interpreter and a collection of tests
        left -= secondsOf(mutant, seconds) + 3.0
        if left < 0:
            break
        found.append((number, mutant))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sample for CI")
    parser.add_argument(
        "--seconds", type=float, default=QUICK_SECONDS, help="that the sample takes"
    )
    parser.add_argument("--seed", type=int, default=QUICK_SEED, help="of the sample")
    parser.add_argument(
        "--only",
        default="",
        help="numbers with commas, or text that the file, the source or what breaks has",
    )
    asked = parser.parse_args()
    wrong = list(misplaced(MUTANTS))
    for text in wrong:
        print(f"ERROR {text}")
    if wrong:
        return 2
    numbered = [
        (number, mutant)
        for number, mutant in enumerate(MUTANTS)
        if not asked.only
        or str(number) in asked.only.split(",")
        or asked.only in f"{mutant.file} {mutant.old} {mutant.breaks}"
    ]
    if not numbered:
        parser.error(f"no mutant has {asked.only!r}")
    if asked.quick:
        # The sample is drawn first, by the average time of a test; then only the tests
        # that it names are run without a mutation.
        guess = dict.fromkeys((test for mutant in MUTANTS for test in mutant.tests.split()), 3.0)
        numbered = sampled(numbered, guess, asked.seed, asked.seconds)
    print(
        f"{len(numbered)} of {len(MUTANTS)} mutants"
        + (f", drawn by seed {asked.seed}" if asked.quick else ""),
        flush=True,
    )
    seconds = baseline([mutant for _, mutant in numbered])
    print(f"without a mutation {len(seconds)} tests and files pass", flush=True)
    results = []
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [
            pool.submit(
                tryOut, number, mutant, LEAST_SECONDS + TIMES_LONGER * secondsOf(mutant, seconds)
            )
            for number, mutant in numbered
        ]
        for future in futures:
            result = future.result()
            results.append(result)
            mark = "" if not result.isWrong() else "  <<<"
            print(
                f"{result.number:4} {result.outcome:8} {result.seconds:5.1f} s  {result.mutant.file}: {result.mutant.breaks}  {result.how}{mark}",
                flush=True,
            )
    return conclude(results)


def conclude(results: list[Result]) -> int:
    """Print the sums and everything that is wrong; returns the exit status."""
    counts = {
        outcome: sum(result.outcome == outcome for result in results)
        for outcome in ("noticed", "survived", "error")
    }
    explained = [
        result for result in results if result.outcome == "survived" and result.mutant.equivalent
    ]
    bad = [result for result in results if result.isWrong()]
    for result in bad:
        what = (
            "is called equivalent and was noticed"
            if result.outcome == "noticed"
            else result.outcome
        )
        print(
            f"\n{what}: {result.number} {result.mutant.file}: {result.mutant.breaks}\n- {result.mutant.old}\n+ {result.mutant.new}\n{result.how}"
        )
    print(
        f"\nmutation: {len(results)} mutants: {counts['noticed']} noticed, {len(explained)} equivalent and explained, {len(bad)} not as they should be"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
