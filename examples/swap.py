"""The second act of the demo: a new version of the model while four workers serve. No
request fails, the name is there at every moment, and the memory is held once again as
soon as the last worker has changed over.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import model
from rich.console import Console

NAME = "minilm-served"
_BEFORE_SECONDS = _AFTER_SECONDS = 1.5
#: A version is freed by a thread, after its last holder has let go.
_FREED_SECONDS = 10.0


class Load:
    """Questions to one worker, one after the other, by a thread."""

    def __init__(self, program: Any) -> None:
        self._program = program
        self._stop = threading.Event()
        self.answers: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.perf_counter()
            try:
                answer = self._program.ask(model.SENTENCES[0])
            except (OSError, SystemExit) as error:
                self.failed.append(str(error))
                return
            self.answers.append({**answer, "waited": time.perf_counter() - started})

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


class Watch:
    """Opens the name again and again, and counts how often it was not there."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self.looks = self.missed = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        import muninn

        while not self._stop.is_set():
            self.looks += 1
            try:
                muninn.openBundle(NAME).close()
            except muninn.errors.BufferNotFound:
                self.missed += 1

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def heldBytes() -> int:
    """The bytes of all versions that are still there."""
    import muninn

    return sum(each["size"] for each in muninn.listBuffers() if each["name"] == NAME)


def swap(console: Console, start: Callable[[str, str], Any], workers: int) -> list[str]:
    """Serve, publish, kill the publisher. Returns the claims that did not hold."""
    publisher = start("publisher.py", NAME)
    programs = [publisher]
    try:
        first = publisher.line()
        servers = [start("server.py", NAME) for _ in range(workers)]
        programs += servers
        for server in servers:
            server.line()
        watch, loads = Watch(), [Load(server) for server in servers]
        time.sleep(_BEFORE_SECONDS)
        second = publisher.ask()
        time.sleep(_AFTER_SECONDS)
        publisher.kill()
        time.sleep(_AFTER_SECONDS)
        for part in (*loads, watch):
            part.end()
        return _told(console, first, second, loads, watch)
    finally:
        for program in programs:
            program.end()


def _told(
    console: Console,
    first: dict[str, Any],
    second: dict[str, Any],
    loads: list[Load],
    watch: Watch,
) -> list[str]:
    import muninn

    answers = [answer for load in loads for answer in load.answers]
    byVersion = {
        version: {answer["digest"] for answer in answers if answer["version"] == version}
        for version in (1, 2)
    }
    waited = [answer["waited"] * 1e3 for answer in answers]
    failed = [error for load in loads for error in load.failed]
    console.print(
        f"\n[bold]4[/]  {len(loads)} workers serve, and a new version of the model is published"
    )
    console.print(f"   answers                  {len(answers):>8}, {len(failed)} failed")
    console.print(
        f"   an answer took           {statistics.median(waited):8.2f} ms, the slowest "
        f"{max(waited):.2f} ms"
    )
    console.print(
        f"   the name was looked up   {watch.looks:>8} times, and missing {watch.missed} times"
    )
    console.print(
        f"   published in             {second['seconds'] * 1e3:8.0f} ms, "
        f"{second['bytes'] / (1 << 20):.1f} MiB"
    )
    deadline = time.monotonic() + _FREED_SECONDS
    while (held := heldBytes()) > second["bytes"] and time.monotonic() < deadline:
        time.sleep(0.05)
    console.print(
        f"   memory held afterwards   {held / (1 << 20):8.1f} MiB, with the publisher killed"
    )
    checks = {
        "no request failed": not failed,
        "the name was there at every moment": watch.looks > 0 and not watch.missed,
        "each version has one answer": all(len(found) == 1 for found in byVersion.values()),
        "the versions answer differently": byVersion[1] != byVersion[2],
        "each worker changed over": all(
            load.answers and load.answers[-1]["version"] == 2 for load in loads
        ),
        "the older version's memory is gone": held == second["bytes"] and first["bytes"] > 0,
    }
    muninn.free(NAME)
    return [claim for claim, holds in checks.items() if not holds]
