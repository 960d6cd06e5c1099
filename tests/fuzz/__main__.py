"""`python -m fuzz --inputs 1000000 --seed N`, from `tests/`: every target, two at a
time, each in a process of its own that is watched.

A reader fails if it raises an exception that it may not, hangs, dies, takes memory or
keeps descriptors. Its input is then printed as hex and kept in the corpus, and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import math
import mmap
import os
import pickle
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import domain, files, parsers, shared
from fuzz.engine import PROGRESS, PROGRESS_BYTES, Failure, Report, run, save
from fuzz.target import CORPUS, Target

TARGETS: dict[str, type[Target]] = {
    target.name: target
    for target in (*shared.TARGETS, *domain.TARGETS, *files.TARGETS, *parsers.TARGETS)
}
#: A target that starts no new input for so long hangs. It is longer than two processes
#: may wait for each other.
_HANG_SECONDS = 120.0


@dataclass
class Job:
    """One running target, and the time at which it last began another input."""

    name: str
    process: subprocess.Popen[bytes]
    progress: Path
    result: Path
    tried: int = -1
    triedAt: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument(
        "--inputs", type=int, default=0, help="how many in all; 0: as many as --seconds allow"
    )
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="for how long, when there is no --inputs"
    )
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument(
        "--target",
        choices=sorted(TARGETS),
        action="append",
        help="only this one; may be given again",
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    names = given.target or list(TARGETS)
    if given.worker:
        return _work(names[0], given.inputs, given.seconds, seed, *given.worker)
    return _drive(names, given.inputs, given.seconds, seed)


def _drive(names: list[str], inputs: int, seconds: float, seed: int) -> int:
    whole = sum(TARGETS[name].share for name in names)
    started, done, failed = time.monotonic(), 0, 0
    waiting, jobs = list(names), list[Job]()
    print(f"fuzz: seed {seed}")
    with tempfile.TemporaryDirectory(prefix="muninn-fuzz-") as folder:
        while waiting or jobs:
            while waiting and len(jobs) < 2:
                name = waiting.pop(0)
                count = math.ceil(inputs * TARGETS[name].share / whole) if inputs else 1 << 60
                jobs.append(
                    _start(
                        name,
                        count,
                        3600.0 if inputs else 2 * seconds / len(names),
                        seed,
                        Path(folder),
                    )
                )
            for job in list(jobs):
                if (report := _ended(job)) is not None:
                    jobs.remove(job)
                    done, failed = done + report.inputs, failed + len(report.failures)
                    _tell(job.name, report, seed)
            time.sleep(0.05)
    print(
        f"fuzz: {done} inputs in {time.monotonic() - started:.0f} s, {failed} failures, seed {seed}"
    )
    return 1 if failed else 0


def _start(name: str, inputs: int, seconds: float, seed: int, folder: Path) -> Job:
    progress, result = folder / f"{name}.progress", folder / f"{name}.result"
    progress.write_bytes(bytes(PROGRESS_BYTES))
    command = [
        sys.executable,
        "-m",
        "fuzz",
        "--target",
        name,
        "--inputs",
        str(inputs),
        "--seconds",
        str(seconds),
        "--seed",
        str(seed),
    ]
    # Descriptors and memory of the readers are measured, and the threads of a numerics
    # library would only disturb that.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--worker", str(progress), str(result)],
        cwd=Path(__file__).parents[1],
        env=environment,
    )
    return Job(name, process, progress, result)


def _ended(job: Job) -> Report | None:
    """The report of a target that has ended by itself or because it hung; None while it
    runs.
    """
    status = job.process.poll()
    content = job.progress.read_bytes()
    done, length = PROGRESS.unpack_from(content)
    if done != job.tried:
        job.tried, job.triedAt = done, time.monotonic()
    if status == 0:
        loaded: Report = pickle.loads(job.result.read_bytes())
        return loaded
    if status is None and time.monotonic() - job.triedAt < _HANG_SECONDS:
        return None
    if status is None:
        job.process.kill()
        job.process.wait()
    what = (
        f"no end within {_HANG_SECONDS:.0f} s"
        if status is None
        else f"the process ended with status {status}"
    )
    return Report(done, 0.0, [Failure(content[PROGRESS.size : PROGRESS.size + length], what)])


def _tell(name: str, report: Report, seed: int) -> None:
    rate = report.inputs / report.seconds if report.seconds else 0.0
    print(
        f"fuzz: {name:<12} {report.inputs:>9} inputs {report.seconds:>7.1f} s {rate:>9.0f}/s {len(report.failures):>3} failures, seed {seed}",
        flush=True,
    )
    for failure in report.failures:
        print(
            f"  {failure.what.rstrip()}\n  input, kept as {save(str(CORPUS / name), failure.raw)}: {failure.raw.hex()[:4000]}",
            flush=True,
        )


def _work(name: str, inputs: int, seconds: float, seed: int, progress: str, result: str) -> int:
    faulthandler.enable()
    with open(progress, "r+b") as file, mmap.mmap(file.fileno(), PROGRESS_BYTES) as seen:
        report = run(TARGETS[name](), inputs, seconds, seed, seen)
    Path(result).write_bytes(pickle.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
