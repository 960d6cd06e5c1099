"""The workers of a soak as the supervisor sees them: started, heard, killed, stopped,
replaced, and ended.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import IO

#: The roles that the supervisor fills at all times.
FILLED = (
    "reader",
    "reader",
    "writer",
    "writer",
    "churner",
    "churner",
    "locker",
    "locker",
    "locker",
    "lessee",
    "loader",
    "loader",
    "publisher",
    "publisher",
    "gamer",
    "gamer",
)
#: A worker that prints nothing for so long, and was not stopped, hangs.
SILENCE_SECONDS = 75.0


class Tally:
    """The counts, and the messages that were shown, since the soak began."""

    def __init__(self, log: IO[str]) -> None:
        self._log = log
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def bad(self, kind: str, text: str) -> None:
        """Count a failure, and show it: on the terminal the first times, in the log
        always.
        """
        self.counts[kind] += 1
        self._log.write(f"{time.strftime('%H:%M:%S')} {kind}: {text}\n")
        self._log.flush()
        if self.counts[kind] <= 20:
            print(f"{kind}: {text}", flush=True)

    @property
    def failures(self) -> int:
        return sum(
            self.counts[kind]
            for kind in ("violation", "unexpected", "hang", "exit", "logged", "leak")
        )


class Worker:
    """One process. Signals go through its unreaped handle, so never to a stranger."""

    def __init__(self, role: str, seed: int, stderr: IO[str]) -> None:
        self.role = role
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.worker", role, str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.heardAt = time.monotonic()
        self.stoppedUntil = 0.0
        self.isEnding = False
        self.isAtWork = False  # it has printed a line
        self.done: list[str] = []
        self.freed: list[str] | None = None
        self._pending = b""
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def isStopped(self) -> bool:
        return self.stoppedUntil > 0

    def stop(self, seconds: float) -> None:
        self.stoppedUntil = time.monotonic() + seconds
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.stoppedUntil = 0.0
        self.heardAt = time.monotonic()
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, tally: Tally) -> None:
        """Read the lines that it has printed so far."""
        assert self.process.stdout is not None
        while read := self.process.stdout.read(1 << 16):
            self._pending += read
        *lines, self._pending = self._pending.split(b"\n")
        for line in lines:
            self.heardAt, self.isAtWork = time.monotonic(), True
            self._take(json.loads(line), tally)

    def _take(self, said: dict[str, object], tally: Tally) -> None:
        for kind, value in said.items():
            if kind == "operations":
                assert isinstance(value, int)
                tally.counts["operations"] += value
            elif kind == "errors":
                assert isinstance(value, dict)
                tally.errors.update(value)
            elif kind == "done":
                self.done.append(str(value))
            elif kind == "freed":
                assert isinstance(value, list)
                self.freed = value
            else:
                tally.bad(kind, f"{self.role} {self.pid}: {value}")

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Crowd:
    """All workers, and the roles that are to be filled."""

    def __init__(self, tally: Tally, log: Path) -> None:
        self._tally = tally
        self._stderr = log.open("a")
        self._stderrSeen = 0
        self._logPath = log
        self._selector = selectors.DefaultSelector()
        self._seed = 0
        self.workers: dict[int, Worker] = {}

    def start(self, role: str, seed: int) -> Worker:
        worker = Worker(role, seed, self._stderr)
        self.workers[worker.pid] = worker
        assert worker.process.stdout is not None
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        return worker

    def listen(self, seconds: float) -> None:
        """Read the workers' lines for `seconds`, and check for stops, silences and
        logged errors.
        """
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(remaining):
                key.data.hear(self._tally)
                if key.data.process.poll() is not None:
                    # The end of its file would be an event again and again.
                    self._selector.unregister(key.fileobj)
            time.sleep(min(0.02, max(0.0, until - time.monotonic())))
        now = time.monotonic()
        for worker in list(self.workers.values()):
            if worker.isStopped() and now >= worker.stoppedUntil:
                worker.resume()
            if worker.process.poll() is not None:
                if not worker.isEnding or worker.process.returncode != 0:
                    self._tally.bad(
                        "exit",
                        f"{worker.role} {worker.pid} ended by itself with status {worker.process.returncode}",
                    )
                self.remove(worker)
            elif not worker.isStopped() and now - worker.heardAt > SILENCE_SECONDS:
                worker.process.send_signal(signal.SIGUSR1)
                time.sleep(0.5)
                self._tally.bad(
                    "hang",
                    f"{worker.role} {worker.pid} was silent for {SILENCE_SECONDS} s; its stacks are in {self._logPath}",
                )
                worker.kill()
                self.remove(worker)
        self._readLog()

    def _readLog(self) -> None:
        """Errors that a worker's background thread has logged are failures too."""
        with self._logPath.open() as file:
            file.seek(self._stderrSeen)
            text = file.read()
            self._stderrSeen = file.tell()
        for line in text.splitlines():
            if " ERROR muninn" in line or line.startswith(
                ("Exception ignored", "Fatal Python error")
            ):
                self._tally.bad("logged", line)

    def remove(self, worker: Worker) -> None:
        """Forget a worker that has ended, after reading its last lines."""
        assert worker.process.stdout is not None
        worker.hear(self._tally)
        if worker.process.stdout in (key.fileobj for key in self._selector.get_map().values()):
            self._selector.unregister(worker.process.stdout)
        worker.close()
        del self.workers[worker.pid]

    def end(self, workers: list[Worker], boundSeconds: float) -> None:
        """Ask workers to end politely, and count those that do not."""
        for worker in workers:
            if worker.isStopped():
                worker.resume()
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        deadline = time.monotonic() + boundSeconds
        while (
            any(worker.process.poll() is None for worker in workers) and time.monotonic() < deadline
        ):
            for worker in workers:
                worker.hear(self._tally)
            time.sleep(0.02)
        for worker in workers:
            status = worker.process.poll()
            if status is None:
                worker.process.send_signal(signal.SIGUSR1)
                time.sleep(0.5)
                worker.kill()
            if status != 0:
                self._tally.bad(
                    "exit",
                    f"{worker.role} {worker.pid} was asked to end, and did with status {status}",
                )
            self.remove(worker)
        self._readLog()

    def killAll(self) -> None:
        """Leave no process behind, also after an error."""
        for worker in list(self.workers.values()):
            worker.kill()
            worker.close()
        self.workers.clear()
        self._stderr.close()
