"""A model of many GiB in VRAM, replaced while it is served: `python examples/weights.py
--gib 8`.

The model is synthetic: tensors in bfloat16 whose bits are a pattern of the version and
the tensor. Four workers open it by its name, and each answers questions by a kernel that
reads a whole tensor and compares its bits with the pattern of the version which it has.
Meanwhile a new version is published, and its publisher is killed. Without a GPU the
emulated GPUs do the same in host memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import given
import numpy as np

import muninn
from muninn.kernels import launch

_TENSORS, _WORKERS = 32, 4
_VERSION = "version"
_SERVE_SECONDS = 2.0
_FREED_SECONDS = 20.0


def seedOf(version: int, number: int) -> int:
    return version * _TENSORS + number


def publish(name: str, gib: float) -> None:
    """Publish a version for each line that comes."""
    words = max(1, int(gib * (1 << 30)) // 8 // _TENSORS)
    version = 0
    while version == 0 or sys.stdin.readline():
        version += 1
        made = {}
        for number in range(_TENSORS):
            made[f"tensor{number}"] = tensor = muninn.array(
                f"{name}-{version}-{number}",
                4 * words,
                "bfloat16",
                mode="fastMode",
                lifetime="lastClose",
            )
            launch.launch("fillPattern", tensor.deviceArray(dtype="u8"), seedOf(version, number))
        started = time.perf_counter()
        bundle = muninn.publish(
            name,
            {**made, _VERSION: np.array(version)},
            mode="fastMode",
            access="readOnly",
            timeout=60,
        )
        seconds = time.perf_counter() - started
        told = {"pid": os.getpid(), "seconds": seconds, "bytes": bundle.nbytes}
        bundle.close()
        made.clear()
        del tensor
        print(json.dumps(told), flush=True)


def serve(name: str) -> None:
    """Answer a line, the number of a tensor, by how many of its elements are wrong."""
    follower = muninn.followBundle(name)
    counted = muninn.share(np.zeros(1, np.uint64), mode="fastMode", access="readWrite")

    def answer(number: int) -> dict[str, int]:
        bundle = follower.newest()
        version = int(np.asarray(bundle[_VERSION]))
        tensor = bundle[f"tensor{number}"].deviceArray(dtype="u8")
        with counted.write(stream=None) as wrong:
            launch.launch("countMismatches", tensor, seedOf(version, number), wrong)
        return {"version": version, "wrong": int(counted.read()[0])}

    answer(0)  # compiles the kernel
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(int(line))), flush=True)


class Program:
    """One of the other processes, which talks in lines of JSON."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.answers: list[dict[str, Any]] = []
        self.failed = 0

    def line(self) -> dict[str, Any]:
        text = self._process.stdout.readline()
        if not text:
            raise EOFError
        answer: dict[str, Any] = json.loads(text)
        return answer

    def ask(self, question: object = "") -> dict[str, Any]:
        self._process.stdin.write(f"{question}\n")
        return self.line()

    def load(self, stop: threading.Event) -> None:
        """Ask until `stop` is set."""
        while not stop.is_set():
            started = time.perf_counter()
            try:
                answer = self.ask(random.randrange(_TENSORS))
            except (OSError, EOFError):
                self.failed += 1
                return
            self.answers.append({**answer, "seconds": time.perf_counter() - started})

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def held(name: str) -> int:
    return sum(each["size"] for each in muninn.listBuffers() if each["name"] == name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--gib",
        type=given.gib,
        default=0.25,
        help="size of the model (default: %(default)s); two versions are there for a moment",
    )
    gib = parser.parse_args().gib
    os.environ["MUNINN_DOMAIN"] = domain = f"weights-{secrets.token_hex(4)}"
    # Two versions are there for a moment, and the tensors of which the second is made.
    for limit in ("MUNINN_FAST_MODE_MAX_BYTES", "MUNINN_DEFAULT_VRAM_QUOTA"):
        os.environ[limit] = f"{int(gib * 4) + 1}G"
    name = "weights"
    publisher = Program("publish", name, str(gib))
    workers: list[Program] = []
    try:
        first = publisher.line()
        workers += [Program("serve", name) for _ in range(_WORKERS)]
        for worker in workers:
            worker.line()
        stop = threading.Event()
        threads = [threading.Thread(target=worker.load, args=(stop,)) for worker in workers]
        for thread in threads:
            thread.start()
        time.sleep(_SERVE_SECONDS)
        second = publisher.ask()
        time.sleep(_SERVE_SECONDS)
        publisher.kill()
        time.sleep(_SERVE_SECONDS)
        stop.set()
        for thread in threads:
            thread.join()
        return told(name, workers, first, second)
    finally:
        for program in (publisher, *workers):
            program.kill()
        if muninn.listBuffers():
            muninn.free(name)
        muninn.session.membership.current().leave()
        shutil.rmtree(f"/dev/shm/muninn-{os.getuid()}-{domain}.d")


def told(name: str, workers: list[Program], first: dict[str, Any], second: dict[str, Any]) -> int:
    answers = [answer for worker in workers for answer in worker.answers]
    seconds = sorted(answer["seconds"] for answer in answers)
    deadline = time.monotonic() + _FREED_SECONDS
    while held(name) > second["bytes"] and time.monotonic() < deadline:
        time.sleep(0.05)
    checks = {
        "no request failed": not any(worker.failed for worker in workers),
        "no answer was of two versions": not any(answer["wrong"] for answer in answers),
        "each worker changed over": all(
            worker.answers and worker.answers[-1]["version"] == 2 for worker in workers
        ),
        "one version is held": held(name) == second["bytes"] == first["bytes"],
    }
    print(
        f"{second['bytes'] / (1 << 30):.2f} GiB in VRAM, {len(workers)} workers: "
        f"{len(answers)} answers, {statistics.median(seconds) * 1e3:.2f} ms each, the slowest "
        f"{seconds[-1] * 1e3:.2f} ms; published in {second['seconds'] * 1e3:.1f} ms"
    )
    for claim, holds in checks.items():
        print(f"  {'yes' if holds else 'NOT TRUE'}: {claim}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["publish"]:
        given.run(lambda: publish(sys.argv[2], float(sys.argv[3])))
    if sys.argv[1:2] == ["serve"]:
        given.run(lambda: serve(sys.argv[2]))
    given.run(main)
