"""`python -m tests.soak --hours 1`: the supervisor."""

from __future__ import annotations

import argparse
import csv
import os
import random
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.soak import unrest
from tests.soak.crowd import FILLED, Crowd, Tally, Worker
from tests.soak.sight import Footprint, Sight, descriptorsOf

RESULTS = Path("build/soak")
ENVIRONMENT = {
    "MUNINN_LEASE_TTL_MS": "1000",
    "MUNINN_MAX_MEMBERS": "64",
    "MUNINN_MAX_BUFFERS": "512",
    "MUNINN_MAX_LEASES": "128",
    "MUNINN_HOST_GPU_BYTES": "16M",
    "MUNINN_PREFAULT_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
KILL_SECONDS, STOP_SECONDS, BROKER_KILL_SECONDS, LINE_SECONDS = 1.0, 7.0, 4.0, 10.0
TAKEOVER_SECONDS = 0.3
MAX_SHM_BYTES = 256 << 20
#: The growth of the anchor that is no failure: allocators keep memory that they had
#: once.
MAX_GROWTH_KIB = 32 << 10
BOUND_SECONDS = 90.0
COLUMNS = (
    "seconds",
    "operations",
    "kills",
    "brokerKills",
    "stops",
    "takeovers",
    "failures",
    "orphanBytes",
    "shmBytes",
    "rows",
    "leases",
    "members",
    "rssKib",
    "descriptors",
    "threads",
    "errors",
)


class Soak:
    """One run."""

    def __init__(self, seed: int, hours: float, part: str) -> None:
        self._part = part
        self.domain = f"soak-{secrets.token_hex(4)}"
        os.environ.update(ENVIRONMENT, MUNINN_DOMAIN=self.domain)
        self._chance = random.Random(seed)
        self._seconds = hours * 3600
        RESULTS.mkdir(parents=True, exist_ok=True)
        stem = RESULTS / f"{time.strftime('%Y%m%dT%H%M%S')}-{seed}"
        self._log = stem.with_suffix(".log")
        self.csv = stem.with_suffix(".csv")
        print(f"seed {seed}, domain {self.domain}, {self.csv}, {self._log}", flush=True)
        self._tally = Tally(self._log.open("a"))
        self._crowd = Crowd(self._tally, stem.with_suffix(".stderr"))
        self._orphans: dict[tuple[int, int], int] = {}
        self._began = time.monotonic()

    def run(self) -> int:
        """The whole soak; returns the exit status."""
        try:
            self._anchor = self._crowd.start("anchor", self._draw())
            self._order(self._anchor, "warm")
            self._sight = Sight(self.domain)
            self._baseline = self._footprintAtRest()
            self._firstEpoch = self._sight.epoch()
            self._anchor.tell("run")
            self._storm()
            return self._conclude()
        finally:
            self._crowd.killAll()
            self._removeDomain()

    # --- the beginning ---------------------------------------------------------------

    def _footprintAtRest(self) -> Footprint:
        """The footprint of the anchor when it is alone in the domain and the broker,
        after it was an ordinary member once.
        """
        helper = self._crowd.start("churner", self._draw())
        self._until(lambda: self._sight.left().members == 2, "a helper has joined")
        epoch = self._sight.epoch()
        self._anchor.stop(BOUND_SECONDS)
        self._until(
            lambda: self._sight.epoch() > epoch, "the helper has deposed the stopped anchor"
        )
        self._anchor.resume()
        self._order(self._anchor, "warm")
        self._crowd.end([helper], BOUND_SECONDS)
        self._until(lambda: self._isAlone(), "the anchor is alone")
        self._order(self._anchor, "warm")
        self._order(self._anchor, "clean")
        self._until(lambda: self._sight.left()[:2] == (0, 0), "nothing is shared")
        self._baselineDescriptors = descriptorsOf(self._anchor.pid)
        return Footprint.of(self._anchor.pid)

    def _isAlone(self) -> bool:
        return self._sight.left().members == 1 and self._sight.brokerPid() == self._anchor.pid

    # --- the middle ------------------------------------------------------------------

    def _storm(self) -> None:
        now = self._began = time.monotonic()
        end, killAt, stopAt, brokerAt, lineAt = (
            now + self._seconds,
            now + 5,
            now + 5,
            now + 5,
            now + LINE_SECONDS,
        )
        with self.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            while (now := time.monotonic()) < end:
                self._fill()
                if now >= killAt:
                    killAt = max(killAt + KILL_SECONDS, now)
                    brokerAt = self._wakeWatchers(now, brokerAt)
                if self._part == "storm" and now >= stopAt and self._stopBroker():
                    stopAt = now + STOP_SECONDS
                if now >= lineAt:
                    lineAt = max(lineAt + LINE_SECONDS, now)
                    self._line(writer)
                    file.flush()
                self._crowd.listen(0.1)
            self._line(writer)

    def _fill(self) -> None:
        """Start the missing workers."""
        missing = list(FILLED)
        for worker in self._crowd.workers.values():
            if worker.role in missing:
                missing.remove(worker.role)
        for role in missing:
            self._crowd.start(role, self._draw())
        if self._anchor.pid not in self._crowd.workers:
            raise RuntimeError("the anchor has ended")

    def _wakeWatchers(self, now: float, brokerAt: float) -> float:
        """Perform the deed of this part of the soak, once a second; returns the time at
        which the broker is to be killed next.
        """
        if self._part == "unrest":
            self._unsettleOne()
            return brokerAt
        return self._killOne(now, brokerAt)

    def _unsettleOne(self) -> None:
        """Interrupt a worker, or let it fork, exec, or end while one of its threads is
        at work.
        """
        deed = self._chance.choice(unrest.DEEDS)
        calm = [
            worker
            for worker in self._crowd.workers.values()
            if worker is not self._anchor and worker.isAtWork and not worker.isEnding
        ]
        # A body that is interrupted inside a lock leaves the protected data half
        # changed, which is no fault of the lock.
        fit = [
            worker
            for worker in calm
            if deed != "interrupt"
            or worker.role in ("reader", "churner", "lessee", "loader", "publisher", "writer")
        ]
        if not fit:
            return
        worker = self._chance.choice(fit)
        self._tally.counts[deed] += 1
        worker.isEnding = deed == "endBusy"
        try:
            if deed == "interrupt":
                worker.process.send_signal(signal.SIGINT)
            else:
                worker.tell(deed)
        except BrokenPipeError:
            return  # The worker has just ended; `hear` counts that.

    def _killOne(self, now: float, brokerAt: float) -> float:
        """Kill a worker by SIGKILL, the broker when it is time; returns the time for
        the next broker.
        """
        mortal = [worker for worker in self._crowd.workers.values() if worker is not self._anchor]
        broker = self._broker()
        victim = self._chance.choice(mortal)
        if self._part == "calm" and victim is broker:
            return brokerAt
        if (
            self._part == "storm"
            and now >= brokerAt
            and broker is not None
            and broker is not self._anchor
        ):
            victim, brokerAt = broker, now + BROKER_KILL_SECONDS
        self._tally.counts["kills"] += 1
        self._tally.counts["brokerKills"] += victim is broker
        victim.kill()
        self._crowd.remove(victim)
        return brokerAt

    def _stopBroker(self) -> bool:
        broker = self._broker()
        if broker is None or broker.isStopped():
            return False
        broker.stop(TAKEOVER_SECONDS * self._chance.uniform(1.5, 4))
        self._tally.counts["stops"] += 1
        return True

    def _broker(self) -> Worker | None:
        return self._crowd.workers.get(self._sight.brokerPid() or 0)

    def _line(self, writer: Any) -> None:
        """One line for the terminal, one row for the file."""
        orphans = self._sight.orphans()
        lasting = sum(size for key, size in orphans.items() if key in self._orphans)
        self._orphans = orphans
        left, footprint = self._sight.left(), Footprint.of(self._anchor.pid)
        counts = self._tally.counts
        if lasting:
            self._tally.bad(
                "leak",
                f"{lasting} bytes of segments for which no row has vouched since {LINE_SECONDS} s: {sorted(orphans)}",
            )
        if left.shmBytes > MAX_SHM_BYTES:
            raise RuntimeError(f"the domain has {left.shmBytes} bytes in /dev/shm")
        errors = " ".join(f"{code}:{count}" for code, count in sorted(self._tally.errors.items()))
        values = (
            round(time.monotonic() - self._began, 1),
            counts["operations"],
            counts["kills"],
            counts["brokerKills"],
            counts["stops"],
            self._sight.epoch() - self._firstEpoch,
            self._tally.failures,
            lasting,
            left.shmBytes,
            left.rows,
            left.leases,
            left.members,
            *footprint,
            errors,
        )
        row = dict(zip(COLUMNS, values, strict=True))
        writer.writerow(row)
        print(" ".join(f"{column}={value}" for column, value in row.items()), flush=True)

    # --- the end ---------------------------------------------------------------------

    def _conclude(self) -> int:
        """Let all workers end politely, and count everything that is left."""
        self._crowd.end(
            [worker for worker in self._crowd.workers.values() if worker is not self._anchor],
            BOUND_SECONDS,
        )
        if self._anchor.isStopped():
            self._anchor.resume()
        self._until(self._isAlone, "the anchor is alone again")
        self._until(
            lambda: not self._sight.orphans(), "no segment is an orphan", 10, isRequired=False
        )
        orphanBytes = sum(self._sight.orphans().values())
        self._order(self._anchor, "clean")
        nameless = [name for name in self._anchor.freed or () if name.startswith("anonymous-")]
        if nameless:
            self._tally.bad("leak", f"buffers without a name were left: {nameless}")
        self._until(
            lambda: max(self._growth()[1:]) <= 0,
            "the anchor has closed its descriptors and ended its threads",
            10,
            isRequired=False,
        )
        rssKib, descriptors, threads = self._growth()
        if descriptors > 0:
            self._tally.bad(
                "leak",
                f"descriptors: {self._baselineDescriptors} became {descriptorsOf(self._anchor.pid)}",
            )
        takeovers = self._sight.epoch() - self._firstEpoch
        self._crowd.end([self._anchor], BOUND_SECONDS)
        left = self._sight.left()
        counts, isGrown = self._tally.counts, rssKib > MAX_GROWTH_KIB
        print(
            f"soak: {time.monotonic() - self._began:.0f} s, {counts['operations']} operations, {counts['kills']} kills ({counts['brokerKills']} of "
            f"the broker), {counts['stops']} stops, {takeovers} takeovers; violations {counts['violation']}, unexpected {counts['unexpected']}, "
            f"hangs {counts['hang']}, bad ends {counts['exit']}, logged errors {counts['logged']}, leaks seen {counts['leak']}"
        )
        if self._part == "unrest":
            print(f"soak: {', '.join(f'{counts[deed]} times {deed}' for deed in unrest.DEEDS)}")
        print(f"soak: expected errors: {dict(sorted(self._tally.errors.items()))}")
        print(
            f"soak: left: {left.shmBytes + orphanBytes} bytes, {left.rows} rows, {left.leases} leases, {left.members} member slots; "
            f"{descriptors} descriptors, {threads} threads, {rssKib} KiB in the anchor"
        )
        isClean = not any(
            (
                *left,
                orphanBytes,
                max(0, descriptors),
                max(0, threads),
                isGrown,
                self._tally.failures,
            )
        )
        print("soak: clean" if isClean else "soak: NOT CLEAN", flush=True)
        return 0 if isClean else 1

    def _growth(self) -> tuple[int, int, int]:
        now = Footprint.of(self._anchor.pid)
        return (
            now.rssKib - self._baseline.rssKib,
            now.descriptors - self._baseline.descriptors,
            now.threads - self._baseline.threads,
        )

    # --- helpers ---------------------------------------------------------------------

    def _draw(self) -> int:
        return self._chance.randrange(1 << 32)

    def _order(self, worker: Worker, command: str) -> None:
        """Send the anchor a command, and wait until it is done."""
        before = len(worker.done)
        worker.tell(command)
        self._until(lambda: command in worker.done[before:], f"the anchor has done {command!r}")

    def _until(
        self,
        holds: Callable[[], bool],
        what: str,
        bound: float = BOUND_SECONDS,
        isRequired: bool = True,
    ) -> None:
        deadline = time.monotonic() + bound
        while not holds():
            if time.monotonic() > deadline:
                if isRequired:
                    raise RuntimeError(f"not within {bound} s: {what}")
                return
            self._crowd.listen(0.05)

    def _removeDomain(self) -> None:
        """Remove the domain's remaining files; they were counted before."""
        stem = f"muninn-{os.getuid()}-{self.domain}"
        for entry in os.listdir("/dev/shm"):
            if entry == stem or entry.startswith(f"{stem}."):
                path = f"/dev/shm/{entry}"
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        help="of a run that is to be repeated; drawn and printed otherwise",
    )
    parser.add_argument(
        "--part",
        choices=("storm", "calm", "unrest"),
        default="storm",
        help="storm: the broker is killed and stopped too; calm: others are killed, and the broker lives; unrest: workers are interrupted, "
        "fork, exec, and end while a thread is at work",
    )
    asked = parser.parse_args()
    return Soak(
        secrets.randbelow(1 << 32) if asked.seed is None else asked.seed, asked.hours, asked.part
    ).run()


if __name__ == "__main__":
    sys.exit(main())
