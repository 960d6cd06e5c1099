"""`make gpu`: run everything that needs a real GPU, and print one table. Without a GPU
it says so and exits with 2.

With `--rehearse` the same parts run on the stand-in driver with small sizes: that shows
whether the command works, and says nothing about a GPU. The parts are: the suite (every
kernel against its CPU reference, the rules of the device port, the library on real
VRAM, the crashes); the three demos; the benchmarks; the answers that the stand-in had to
guess; the sanitizer; and hundreds of processes that are killed inside a kernel. The
results go to `build/gpu/`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
OUT = ROOT / "build" / "gpu"
LINES = OUT / "lines.json"
#: A part that takes longer hangs. For the kills: the seconds that each takes on a busy
#: machine.
_BOUND_SECONDS, _KILL_SECONDS = 540.0, 2.0


class Line(NamedTuple):
    """One line of the table."""

    part: str
    found: str
    passed: bool


def gpu() -> tuple[str, str]:
    """The first GPU's name and the driver's version; empty, and why, where there is
    none.
    """
    code = (
        "from muninn.devices.cuda.device import findGpus\nfrom muninn.devices.cuda import "
        "driver, CudaDevice\n"
        "count, why = findGpus()\nprint(CudaDevice().gpuName(0) if count else ''); "
        "print(driver.version() if count else why)"
    )
    ran = captured([sys.executable, "-c", code])
    lines = ran.stdout.splitlines()
    return (
        (lines[0], lines[1])
        if len(lines) == 2
        else ("", ran.stderr.strip().splitlines()[-1] if ran.stderr else "")
    )


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        **more,
    }


def captured(
    command: list[str], bound: float = _BOUND_SECONDS, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command; when its time is over, end it with all processes that it started.
    The exit status is then 124, and its output is kept.
    """
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as ran:
        try:
            printed, errors = ran.communicate(timeout=bound)
        except subprocess.TimeoutExpired:
            os.killpg(ran.pid, signal.SIGKILL)
            printed, errors = ran.communicate()
            return subprocess.CompletedProcess(
                command, 124, printed, f"{errors}\nnot over after {bound:.0f} s"
            )
    return subprocess.CompletedProcess(command, ran.returncode, printed, errors)


def run(
    name: str, *command: str, bound: float = _BOUND_SECONDS, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a part and keep its output."""
    print(f"{time.strftime('%H:%M:%S')} {name} …", flush=True)
    ran = captured([sys.executable, *command], bound, **more)
    (OUT / f"{name}.txt").write_text(
        f"{' '.join(command)}\nexit status {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    )
    return ran


def suite(driver: str) -> list[Line]:
    report = OUT / "suite.xml"
    report.unlink(missing_ok=True)
    options = (
        "-v",
        "-p",
        "no:cacheprovider",
        "-o",
        "faulthandler_timeout=150",
        f"--junitxml={report}",
    )
    ran = run(
        "suite", "-m", "pytest", *options, "tests/conformance", "tests/cuda", TEST_DRIVER=driver
    )
    try:
        results = next(iter(ElementTree.parse(report).getroot().iter("testsuite")))
    except (OSError, ElementTree.ParseError, StopIteration):
        return [
            Line(
                "suite",
                f"exit status {ran.returncode}, and no report: see the last test of "
                "build/gpu/suite.txt",
                False,
            )
        ]
    counts, reasons = (
        results.attrib,
        Counter(each.get("message", "") for each in results.iter("skipped")),
    )
    failed = int(counts["failures"]) + int(counts["errors"])
    passed = int(counts["tests"]) - failed - int(counts["skipped"])
    skips = [
        Line("", f"skipped {count}: {reason}", True) for reason, count in reasons.most_common()
    ]
    found = f"{passed} passed, {failed} failed, {counts['skipped']} skipped"
    return [Line("suite", found, ran.returncode == 0 and failed == 0 < passed), *skips]


def crashes(kills: int, seconds: float, driver: str) -> Line:
    bound = min(max(_BOUND_SECONDS, kills * _KILL_SECONDS), seconds + _BOUND_SECONDS)
    ran = run(
        "crash",
        "-m",
        "tests.crash",
        "--kills",
        str(kills),
        "--seconds",
        str(seconds),
        bound=bound,
        TEST_DRIVER=driver,
    )
    try:
        seen = json.loads(ran.stdout)
    except ValueError:
        return Line(
            "kills mid-kernel", f"exit status {ran.returncode}: see build/gpu/crash.txt", False
        )
    found = (
        f"{seen['kills']} kills of {seen['asked']} in {seen['seconds']} s: "
        f"{len(seen['failures'])} failures, {seen['canariesDamaged']} canaries damaged, "
        f"{len(seen['buffersLeft'])} buffers and {seen['membersLeft']} members left, "
        f"{seen['freeBytesLost']} bytes of VRAM lost"
    )
    return Line("kills mid-kernel", found, ran.returncode == 0)


def demo(title: str, name: str, *arguments: str) -> list[Line]:
    ran = run(name, f"examples/{name}.py", *arguments)
    printed = ran.stdout.strip().splitlines() or [ran.stderr.strip()[-200:]]
    return [
        Line(title if number == 0 else "", text, ran.returncode == 0)
        for number, text in enumerate(printed)
    ]


def benchmarks(quick: bool, driver: str) -> list[Line]:
    rows = OUT / "bench.json"
    rows.unlink(missing_ok=True)
    options = ("--json", str(rows), *(["--quick"] if quick else []))
    ran = run(
        "bench", "-W", "ignore", "-m", "bench.gpu", *options, TEST_DRIVER=driver, COLUMNS="180"
    )
    if not rows.exists():
        return [Line("bench", f"exit status {ran.returncode}: see build/gpu/bench.txt", False)]
    lines = []
    for row in json.loads(rows.read_text())["rows"]:
        value, unit = f"{row['median']:.3g}", "×" if row["peer"] else row["unit"]
        beside = f" {row['peerName']}" if row["peer"] else ""
        own = (
            f" ({sorted(row['ours'])[len(row['ours']) // 2]:.3g} {row['unit']})"
            if row["peer"]
            else ""
        )
        must = f", must be at most {row['limit']:.3g}" if row["limit"] is not None else ""
        lines.append(
            Line(
                "bench",
                f"{row['what']}: {value} {unit}{beside}{own}{must}",
                row["verdict"] != "SHORT",
            )
        )
    return lines


def guesses(driver: str) -> Line:
    """Ask this driver the questions whose answers the stand-in had to guess, and
    compare with the recorded answers of a GPU (tests/standin/README.md).
    """
    recorded = ("--record", str(OUT / "answers.json"), "--beside", "tests/standin/seen.json")
    ran = run("guesses", "-W", "ignore", "tests/standin/guesses", *recorded, TEST_DRIVER=driver)
    last = (
        ran.stdout.strip().splitlines()
        or [f"exit status {ran.returncode}: see build/gpu/guesses.txt"]
    )[-1]
    return Line("guesses", last, ran.returncode == 0)


def sanitizers() -> Line:
    """compute-sanitizer over every kernel, where it is installed."""
    found, passed = [], True
    kernels = (
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/cuda/test_kernels.py",
        "-k",
        "everyKernel",
    )
    for tool in ("memcheck", "racecheck"):
        try:
            ran = captured(
                [
                    "compute-sanitizer",
                    "--tool",
                    tool,
                    "--error-exitcode",
                    "9",
                    sys.executable,
                    *kernels,
                ],
                TEST_DRIVER="gpu",
            )
        except FileNotFoundError:
            return Line("sanitizer", "compute-sanitizer is not installed here", False)
        (OUT / f"{tool}.txt").write_text(ran.stdout + ran.stderr)
        summary = re.findall(r"=+ (?:ERROR|RACECHECK) SUMMARY: (.*)", ran.stdout + ran.stderr)
        found.append(f"{tool}: {summary[-1] if summary else f'exit status {ran.returncode}'}")
        passed = passed and ran.returncode == 0
    return Line("sanitizer", "; ".join(found), passed)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make gpu", description="Run on a GPU what needs one, and print one table."
    )
    parser.add_argument("--rehearse", action="store_true", help="on the stand-in driver, small")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument(
        "--kill-seconds",
        type=float,
        default=float("inf"),
        help="begin no more of them after that: a GPU may be lent",
    )
    parser.add_argument(
        "--go-on", action="store_true", help="keep what the table says of the other parts"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=["suite", "demos", "bench", "guesses", "sanitizer", "crash"],
    )
    arguments = parser.parse_args()
    name, version = gpu()
    if not name or (name.startswith("Stand-in") and not arguments.rehearse):
        print(f"there is no GPU here that a driver shows: {version or name}", file=sys.stderr)
        return 2
    OUT.mkdir(parents=True, exist_ok=True)
    small, driver = arguments.rehearse, "standin" if arguments.rehearse else "gpu"
    parts = {
        "suite": lambda: suite(driver),
        "demos": lambda: [
            *demo("demo A", "stream", *(["0.1", "2", "2"] if small else [])),
            *demo("demo B", "vram", *(["30", "4"] if small else ["500", "256"])),
            *demo("demo C", "routes", "16" if small else "2048"),
            *demo("weights", "weights", "--gib", "0.05" if small else "8"),
        ],
        "bench": lambda: benchmarks(small, driver),
        "guesses": lambda: [guesses(driver)],
        "sanitizer": lambda: [] if small else [sanitizers()],
        "crash": lambda: [
            crashes(20 if small else arguments.kills, arguments.kill_seconds, driver)
        ],
    }
    cuda = f"{int(version) // 1000}.{int(version) % 1000 // 10}"
    what = (
        f"{name}, driver for CUDA {cuda}, Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    kept: dict[str, list[Line]] = {}
    if arguments.go_on and LINES.exists():
        kept = {
            part: [Line(*line) for line in lines]
            for part, lines in json.loads(LINES.read_text()).items()
        }
    for part, measure in parts.items():
        if not arguments.only or part in arguments.only:
            kept[part] = measure()
            # The result of a finished part is kept, also if a later part fails.
            LINES.write_text(json.dumps(kept))
            text = "\n".join(
                f"{'ok   ' if line.passed else 'FAIL '} {line.part:17} {line.found}"
                for each in parts
                for line in kept.get(each, [])
            )
            (OUT / "table.txt").write_text(f"{what}\n{text}\n")
    print(f"\n{(OUT / 'table.txt').read_text()}", end="")
    return 0 if all(line.passed for lines in kept.values() for line in lines) or small else 1


if __name__ == "__main__":
    sys.exit(main())
