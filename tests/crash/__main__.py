"""`python -m tests.crash --kills 1000`: kill owners and importers mid-kernel, and check
that nothing else is changed, lost or kept.

Between the buffers that victims write lie canaries: buffers full of a pattern, which no
process writes. After every kill, another process opens the victim's buffer and finds it
whole or gone, as its role requires. At once the program makes a buffer of zeros in its
place, which has to stay zero although a dead kernel wrote the memory a moment ago. At
the end, the canaries have their pattern, the GPU's free memory is as before, and the
domain is empty. Some owners are the brokers of a domain of their own; their directory
ends with them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import muninn
from muninn.kernels import references
from muninn.session import gpus, membership
from muninn.storage.paths import Paths
from tests.crash.worker import BOUND_SECONDS, ELEMENTS, mismatches

ROOT = Path(__file__).parents[2]
CUBIN = ROOT / "build" / "gpu" / "fillPattern.cubin"
CANARIES, CANARY_ELEMENTS = 8, 1 << 18
#: The kinds of owners: of VRAM that outlives them, the same in a broker, of host memory
#: that kernels write, and of VRAM that is lent.
ROLES = ("owner", "owner", "broker", "host", "lender")
#: How many rounds a buffer of zeros stays in the memory of a dead process.
SUCCESSORS = 2
#: Memory of the GPU that a domain may still occupy: granules of contexts that are about
#: to end.
_SLACK_BYTES = 64 << 20


def assemble() -> None:
    """Assemble `fillPattern` for this GPU."""
    from cuda.bindings import driver as cu
    from cuda.bindings import nvjitlink

    from muninn.devices.cuda.driver import call, initialise
    from muninn.kernels import launch

    initialise()
    attributes, device = cu.CUdevice_attribute, call(cu.cuDeviceGet, 0)
    capability = tuple(
        int(call(cu.cuDeviceGetAttribute, attribute, device))
        for attribute in (
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    ptx = launch.ptxOf("fillPattern", (capability[0], capability[1]))
    handle = nvjitlink.create(1, [f"-arch=sm_{capability[0]}{capability[1]}"])
    nvjitlink.add_data(handle, nvjitlink.InputType.PTX, ptx.encode(), len(ptx), "fillPattern")
    nvjitlink.complete(handle)
    cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
    nvjitlink.get_linked_cubin(handle, cubin)
    nvjitlink.destroy(handle)
    CUBIN.parent.mkdir(parents=True, exist_ok=True)
    CUBIN.write_bytes(cubin)


class Series:
    """One series of rounds: an owner and its importers start, some are killed, and a
    survivor checks the buffer.
    """

    def __init__(self, number: int, seed: int) -> None:
        self.random = random.Random(seed * 1000 + number)
        self.name = f"victim{number}"
        self.kills, self.failures, self.successorsDamaged = 0, list[str](), 0
        self.successors: deque[muninn.MuninnBuffer] = deque()

    def start(self, role: str, seed: int, domain: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.crash.worker", role, self.name, str(CUBIN), str(seed)],
            cwd=ROOT,
            env={**os.environ, "MUNINN_DOMAIN": domain},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def hear(self, process: subprocess.Popen[str], expected: str) -> None:
        assert process.stdout is not None and process.stderr is not None
        if (said := process.stdout.readline()) != f"{expected}\n":
            raise RuntimeError(said or process.stderr.read()[-2000:] or f"status {process.wait()}")

    def kill(self, process: subprocess.Popen[str]) -> None:
        time.sleep(self.random.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.letGo(process)
        self.kills += 1

    def letGo(self, process: subprocess.Popen[str]) -> None:
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()

    def round(self) -> None:
        """An owner and two importers: the first importer dies, then the owner, then the
        second importer, which is still at work.
        """
        seed = self.random.getrandbits(60)
        role = self.random.choice(ROLES)
        domain = (
            f"{os.environ['MUNINN_DOMAIN']}-{secrets.token_hex(4)}"
            if role == "broker"
            else os.environ["MUNINN_DOMAIN"]
        )
        owner = self.start(role, seed, domain)
        started = [owner]
        try:
            self.hear(owner, "at work")
            importers = [self.start("importer", seed, domain) for _ in range(2)]
            started += importers
            for importer in importers:
                self.hear(importer, "at work")
            for victim in (importers[0], owner):
                self.kill(victim)
            if role == "broker":
                started.append(self.start("successor", seed, domain))
                self.inherit(importers[1], started[-1])
                return
            if role == "lender":
                self.gone()
            else:
                self.look(seed)
            self.kill(importers[1])
            self.succeed("bigMode" if role == "host" else "fastMode")
        except (
            RuntimeError,
            OSError,
            subprocess.TimeoutExpired,
            muninn.MuninnError,
            AssertionError,
        ) as error:
            self.failures.append(f"{self.name} {role}: {error}")
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if role == "broker":
                removeDirectory(domain)

    def inherit(self, last: subprocess.Popen[str], successor: subprocess.Popen[str]) -> None:
        """The broker died with its buffer: a newcomer finds it whole, is the only
        member in the end, and leaves nothing.
        """
        self.hear(successor, "whole")
        self.kill(last)
        assert successor.stdin is not None
        successor.stdin.write("\n")
        successor.stdin.flush()
        self.hear(successor, "alone, and nothing is left")
        if status := successor.wait(BOUND_SECONDS):
            raise RuntimeError(f"the successor ended with status {status}")
        self.letGo(successor)

    def succeed(self, mode: str) -> None:
        """All writers are dead: the next buffer gets their memory, and has to stay
        zero.
        """
        self.successors.append(
            muninn.array(f"successor-{secrets.token_hex(4)}", ELEMENTS, np.uint64, mode=mode)
        )
        while len(self.successors) > SUCCESSORS:
            self.retire()

    def retire(self) -> None:
        successor = self.successors.popleft()
        self.successorsDamaged += bool(successor.read().any())
        successor.free()

    def look(self, seed: int) -> None:
        """The owner is dead, and the buffer is whole for a newcomer."""
        with muninn.open(self.name) as buffer:
            wrong = mismatches(buffer, seed)
            assert wrong == 0, f"{wrong} elements are not what every writer wrote"

    def gone(self) -> None:
        """The memory was lent, so the buffer ended with its owner."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                muninn.open(self.name).close()
            except muninn.MuninnError:
                return
            time.sleep(0.01)
        raise AssertionError("the name of lent memory outlived its owner")


def removeDirectory(domain: str) -> None:
    """Remove the empty lock file that a domain keeps for its next members; this one
    will have none.
    """
    shutil.rmtree(Paths(os.getuid(), domain).directory, ignore_errors=True)


def run(kills: int, workers: int, seed: int, seconds: float) -> dict[str, object]:
    """Kill `kills` processes, or as many as the time allows; returns the results."""
    os.environ["MUNINN_DOMAIN"] = f"crash-{secrets.token_hex(4)}"
    assemble()
    canary = np.zeros(CANARY_ELEMENTS, np.uint64)
    references.fillPattern(canary, 1)
    kept = [muninn.share(canary, f"canary{number}", mode="fastMode") for number in range(CANARIES)]
    # The context of this process may grow once in its life by one granule, 2 MiB, when
    # several series run at a time; on one H200 it grew no more once something was freed
    # in it. The granule lives as long as the process, so it has to come before anything
    # is counted.
    muninn.share(canary, mode="fastMode").free()
    device = gpus.deviceOf(membership.current())
    freeBefore = device.memoryInfo(0).freeBytes
    working = [Series(number, seed) for number in range(workers)]
    started = time.monotonic()

    def work(worker: Series) -> None:
        while (
            sum(each.kills for each in working) < kills
            and not worker.failures
            and time.monotonic() < started + seconds
        ):
            worker.round()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, working))
    for worker in working:
        while worker.successors:
            worker.retire()
    damaged = sum(not np.array_equal(buffer.read(), canary) for buffer in kept) + sum(
        worker.successorsDamaged for worker in working
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        left = [
            each["name"] for each in muninn.listBuffers() if not each["name"].startswith("canary")
        ]
        freeAfter = device.memoryInfo(0).freeBytes
        if not left and freeAfter >= freeBefore - _SLACK_BYTES:
            break
        time.sleep(0.2)
    members = len(muninn.domainInfo()["members"])
    for buffer in kept:
        buffer.free()
    membership.current().leave()
    removeDirectory(os.environ["MUNINN_DOMAIN"])
    return {
        "kills": sum(worker.kills for worker in working),
        "asked": kills,
        "seconds": round(time.monotonic() - started, 1),
        "failures": [failure for worker in working for failure in worker.failures],
        "canariesDamaged": damaged,
        "buffersLeft": left,
        "membersLeft": members - 1,
        "freeBytesLost": max(0, freeBefore - freeAfter),
        "seed": seed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no round after that"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, max(1, (os.cpu_count() or 2) - 2)),
        help="how many owners at a time",
    )
    parser.add_argument("--seed", type=int, default=20261123)
    arguments = parser.parse_args()
    seen = run(arguments.kills, arguments.workers, arguments.seed, arguments.seconds)
    print(json.dumps(seen, indent=2))
    isWhole = int(str(seen["kills"])) >= arguments.kills
    isClean = (
        isWhole
        and not seen["failures"]
        and not seen["canariesDamaged"]
        and not seen["buffersLeft"]
        and not seen["membersLeft"]
    )
    return 0 if isClean and int(str(seen["freeBytesLost"])) <= _SLACK_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
