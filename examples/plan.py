"""A plan: what a job needs is data, checked before anything is done, and applied whole.

`python examples/plan.py [JOBS]` plays a scheduler that starts jobs on two GPUs. Each job
has a plan: weights that all jobs use, a cache of its own, and the hot ranges that are to
be in VRAM. The plan is checked, applied, applied again when the weights are loaded, and
one that does not fit is refused whole. An executor lets one copy go to a GPU at a time.
Where there are no two GPUs it emulates them.
"""

from __future__ import annotations

import argparse
import threading
from typing import Any

import given
import numpy as np

import muninn
from muninn import plans
from muninn.errors import QuotaExceeded
from muninn.plans import GO, Answer, Verdict, Work

MIB = 1 << 20


class OneAtATime(plans.Rehearsal):
    """At most one copy to each GPU at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._lock, self._busy = threading.Lock(), set[int]()
        self.times = 0

    def decide(self, work: Work) -> Answer:
        with self._lock:
            if self._busy.intersection(work.gpus):
                return Answer(Verdict.LATER, f"{work.target} is busy", pauseSeconds=0.002)
            self._busy.update(work.gpus)
            self.times += 1
            return GO

    def ended(self, work: Work, seconds: float, error: BaseException | None) -> None:
        with self._lock:
            self._busy.difference_update(work.gpus)


def planOf(job: int) -> dict[str, Any]:
    """What a job needs."""
    gpu = job % 2
    return {
        "version": 1,
        "buffers": [
            {
                "name": "weights",
                "size": "8M",
                "access": "readMostly",
                "hints": {"hotRanges": [[0, "1M"], ["4M", "512K"]], "priority": "high"},
            },
            {"name": f"cache-{job}", "size": "1M", "access": "readWrite"},
        ],
        "promotions": [{"buffer": f"cache-{job}", "targetGpu": gpu}],
        "prefetches": [{"buffer": "weights", "targetGpu": gpu}],
    }


def run(job: int, made: list[str]) -> None:
    """Apply the plan of a job, work, and let go; add the names of what is new."""
    with muninn.applyPlan(planOf(job), timeout=60) as applied:
        made += applied.created
        print(f"job {job}: {', '.join(applied.created)}; {applied.outcomes[-1].note}")
        (window,) = applied.windows
        window.deviceArray()[:] = job + 1
    with muninn.open(f"cache-{job}") as cache:
        assert (cache.read() == job + 1).all()


def main() -> None:
    parser = argparse.ArgumentParser(description="Plan jobs on two GPUs.")
    parser.add_argument("jobs", metavar="JOBS", nargs="?", type=given.count, default=4)
    jobs = parser.parse_args().jobs
    given.twoGpus()
    for step in plans.checkPlan(planOf(0)).steps:
        print(f"{step.path:14} {step.action:8} {step.buffer:8} {step.why}")
    executor, made = OneAtATime(), list[str]()
    try:
        with executor:
            run(0, made)
            with muninn.open("weights", access="readWrite") as weights, weights.write() as view:
                view[:] = np.arange(8 * MIB, dtype=np.uint8)
            for job in range(1, jobs):
                run(job, made)
        print(f"{executor.times} copies, one at a time to each GPU")
        tooLarge = planOf(jobs)
        tooLarge["buffers"].append({"name": "far too large", "size": "4P"})
        try:
            muninn.applyPlan(tooLarge)
        except QuotaExceeded as error:
            print(f"refused: {error.code} {error.reason}")
    finally:
        for name in made:
            muninn.free(name)


if __name__ == "__main__":
    given.run(main)
