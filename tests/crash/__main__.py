"""`python -m tests.crash --kills 1000`: kill owners and importers mid-kernel, and see that nothing else is touched, lost or kept.

Between the buffers that are written and killed lie others, full of a pattern, that nobody writes. After every kill the victim's buffer
is opened by somebody else, who finds it whole or gone, as it should be; at the end the patterns are what they were, the GPU's free
memory is what it was, and the domain is empty.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
CUBIN = ROOT / "build" / "gpu" / "fillPattern.cubin"
CANARIES, CANARY_ELEMENTS = 8, 1 << 18
#: What a domain may leave behind in a GPU's books: granules of contexts that are on their way out.
_SLACK_BYTES = 64 << 20


def assemble() -> None:
    """`fillPattern` for the GPU that is there."""
    from cuda.bindings import driver as cu
    from cuda.bindings import nvjitlink

    from muninn.devices.cuda.driver import call, initialise
    from muninn.kernels import launch

    initialise()
    attributes, device = cu.CUdevice_attribute, call(cu.cuDeviceGet, 0)
    capability = tuple(
        int(call(cu.cuDeviceGetAttribute, attribute, device))
        for attribute in (attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
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


class Lane:
    """One after the other: an owner, its importer, a kill of either, and the look of the one that is left."""

    def __init__(self, number: int, seed: int) -> None:
        self.random = random.Random(seed * 1000 + number)
        self.name = f"victim{number}"
        self.kills, self.failures = 0, list[str]()

    def start(self, role: str, seed: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.crash.worker", role, self.name, str(CUBIN), str(seed)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def atWork(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.readline() != "at work\n":
            raise RuntimeError(process.stderr.read()[-2000:] or f"status {process.wait()}")

    def kill(self, process: subprocess.Popen[str]) -> None:
        time.sleep(self.random.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        self.kills += 1

    def round(self) -> None:
        """An owner and two importers: the first importer dies, then the owner, then the one that was left and is at work still."""
        import muninn

        seed = self.random.getrandbits(60)
        role = self.random.choice(("owner", "owner", "lender"))
        owner = self.start(role, seed)
        started = [owner]
        try:
            self.atWork(owner)
            importers = [self.start("importer", seed) for _ in range(2)]
            started += importers
            for importer in importers:
                self.atWork(importer)
            for victim in (importers[0], owner):
                self.kill(victim)
            if role == "owner":
                self.look(seed)
            else:
                self.gone()
            self.kill(importers[1])
        except (RuntimeError, muninn.MuninnError, AssertionError) as error:
            self.failures.append(f"{self.name} {role}: {error}")
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def look(self, seed: int) -> None:
        """Its owner is dead, and the buffer is whole for a newcomer."""
        import muninn
        from muninn.kernels import twins
        from tests.crash.worker import ELEMENTS

        with muninn.open(self.name) as buffer:
            found, wrong = buffer.read().view(np.uint64), np.zeros(1, np.uint64)
            twins.countMismatches(found[:ELEMENTS], seed, wrong)
            assert wrong[0] == 0, f"{wrong[0]} elements are not what every writer wrote"

    def gone(self) -> None:
        """It was lent, so it went with its owner."""
        import muninn

        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                muninn.open(self.name).close()
            except muninn.MuninnError:
                return
            time.sleep(0.01)
        raise AssertionError("the name of lent memory outlived its owner")


def run(kills: int, lanes: int, seed: int) -> dict[str, object]:
    """Kill so many; what was seen."""
    os.environ["MUNINN_DOMAIN"] = f"crash-{secrets.token_hex(4)}"
    import muninn
    from muninn.api import gpus, membership
    from muninn.kernels import twins

    assemble()
    canary = np.zeros(CANARY_ELEMENTS, np.uint64)
    twins.fillPattern(canary, 1)
    kept = [muninn.share(canary, f"canary{number}", mode="fastMode") for number in range(CANARIES)]
    device = gpus.deviceOf(membership.current())
    freeBefore = device.memoryInfo(0).freeBytes
    working = [Lane(number, seed) for number in range(lanes)]
    started = time.monotonic()

    def work(lane: Lane) -> None:
        while sum(each.kills for each in working) < kills and not lane.failures:
            lane.round()

    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(work, working))
    damaged = sum(not np.array_equal(buffer.read(), canary) for buffer in kept)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        left = [each["name"] for each in muninn.listBuffers() if each["name"].startswith("victim")]
        freeAfter = device.memoryInfo(0).freeBytes
        if not left and freeAfter >= freeBefore - _SLACK_BYTES:
            break
        time.sleep(0.2)
    members = len(muninn.domainInfo()["members"])
    for buffer in kept:
        buffer.free()
    return {
        "kills": sum(lane.kills for lane in working),
        "seconds": round(time.monotonic() - started, 1),
        "failures": [failure for lane in working for failure in lane.failures],
        "canariesDamaged": damaged,
        "buffersLeft": left,
        "membersLeft": members - 1,
        "freeBytesLost": max(0, freeBefore - freeAfter),
        "seed": seed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--lanes", type=int, default=min(8, max(1, (os.cpu_count() or 2) - 2)), help="how many owners at a time")
    parser.add_argument("--seed", type=int, default=20261123)
    arguments = parser.parse_args()
    seen = run(arguments.kills, arguments.lanes, arguments.seed)
    print(json.dumps(seen, indent=2))
    isClean = not seen["failures"] and not seen["canariesDamaged"] and not seen["buffersLeft"] and not seen["membersLeft"]
    return 0 if isClean and int(str(seen["freeBytesLost"])) <= _SLACK_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
