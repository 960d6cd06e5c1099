"""The demo of Muninn on real input: all workers use one copy of a model, the broker is
killed meanwhile, and a new version comes while they serve.

`make demo` runs this. It measures every figure that it prints and checks every claim
that it makes. The exit status is 0 only if all claims hold.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import model
import numpy as np
import swap
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Table

HERE = Path(__file__).parent
NAME = "minilm"
WORKERS = 4
console = Console(highlight=False)


class Program:
    """A Python process that shares only the domain with this one, and talks in lines of
    JSON.
    """

    def __init__(self, script: str, argument: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / script), argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.pid = self._process.pid

    def line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            sys.exit(f"process {self.pid} ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def ask(self, question: str = "") -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n")
        return self.line()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def share() -> tuple[Program, dict[str, Any]]:
    """Start the sharer and show how the file goes into shared memory."""
    sharer = Program("sharer.py", NAME)
    before = sharer.line()["pssBefore"]
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(
            "model.safetensors → shared memory",
            total=(model.folder() / "model.safetensors").stat().st_size,
        )
        while "shared" not in (answer := sharer.line()):
            progress.advance(task, answer["read"])
    return sharer, {**answer, "pssBefore": before}


def gather(title: str, argument: str) -> tuple[list[Program], list[dict[str, Any]]]:
    """Start the workers, wait until each has embedded the text, and then ask all of
    them what they hold.
    """
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task(title, total=WORKERS)
        programs = [Program("embedder.py", argument) for _ in range(WORKERS)]
        answers = []
        for program in programs:
            answers.append(program.line())
            progress.advance(task)
    for program, answer in zip(programs, answers, strict=True):
        answer["added"] = program.ask()["pss"] - answer["pssBefore"]
    return programs, answers


def mib(sizeBytes: float) -> str:
    return f"{sizeBytes / (1 << 20):.1f} MiB"


def table(answers: list[dict[str, Any]], reference: dict[str, Any]) -> Table:
    shown = Table(box=None, padding=(0, 2), title_justify="left")
    for heading in ("worker", "open", "memory it added (Pss)", "result"):
        shown.add_column(heading, justify="right" if heading != "result" else "left")
    for answer in answers:
        same = (answer["vectors"], answer["checksum"]) == (
            reference["vectors"],
            reference["checksum"],
        )
        shown.add_row(
            str(answer["pid"]),
            f"{answer['seconds'] * 1e6:.0f} µs",
            mib(answer["added"]),
            "equal, bit for bit" if same else "[red]DIFFERENT",
        )
    return shown


def closest(answer: dict[str, Any]) -> str:
    """The two sentences whose vectors are most alike: a result with a use."""
    vectors = np.frombuffer(bytes.fromhex(answer["vectors"]), np.float32).reshape(
        len(model.SENTENCES), -1
    )
    similarity = vectors @ vectors.T - 2 * np.eye(len(vectors))
    first, second = np.unravel_index(similarity.argmax(), similarity.shape)
    return f"“{model.SENTENCES[first][:44]}…”\n     “{model.SENTENCES[second][:44]}…”"


def succession(sharer: Program, private: dict[str, Any]) -> list[str]:
    """Kill the broker, and let a newcomer open and share. Returns the claims that did
    not hold.
    """
    import muninn

    before = muninn.domainInfo()
    console.print(
        f"\n[bold]3[/]  kill -9 {sharer.pid}: the process that shared the model, broker of "
        f"epoch {before['epoch']}"
    )
    muninn.openBundle(NAME).close()
    killed = time.perf_counter()
    sharer.kill()
    muninn.openBundle(NAME).close()
    opened = time.perf_counter() - killed
    probe = muninn.share(b"a directory operation", name="probe")
    created = time.perf_counter() - killed
    probe.free()
    fifth = Program("embedder.py", NAME)
    answer = fifth.line()
    after = muninn.domainInfo()
    same = (answer["vectors"], answer["checksum"]) == (private["vectors"], private["checksum"])
    console.print(f"   first open by another member    {opened * 1e3:8.2f} ms after the kill")
    console.print(f"   first share, by the new broker  {created * 1e3:8.2f} ms after the kill")
    result = "equal, bit for bit" if same else "DIFFERENT"
    console.print(
        f"   a fifth worker, {answer['pid']}: opened in {answer['seconds'] * 1e6:.0f} µs, "
        f"results {result}"
    )
    console.print(f"   broker now: process {after['brokerPid']}, epoch {after['epoch']}")
    fifth.end()
    checks = {
        "the dead process was the broker": before["brokerPid"] == sharer.pid,
        "another process is broker now": after["brokerPid"] not in (None, sharer.pid),
        "the fifth worker's results are equal": same,
    }
    return [claim for claim, holds in checks.items() if not holds]


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    os.environ["MUNINN_DOMAIN"] = domain = f"demo-{secrets.token_hex(4)}"
    import muninn

    programs: list[Program] = []
    try:
        console.print(
            f"[bold]1[/]  One process shares a real model, {WORKERS} unrelated ones find it "
            "by its name"
        )
        sharer, shared = share()
        programs.append(sharer)
        console.print(
            f"   {shared['tensors']} tensors and the vocabulary: {mib(shared['shared'])} in "
            f"one bundle, {NAME!r}\n"
        )
        workers, answers = gather("workers on the shared model", NAME)
        programs += workers
        once = (
            sharer.ask()["pss"] - shared["pssBefore"] + sum(answer["added"] for answer in answers)
        )
        console.print(f"[bold]2[/]  The same work with {WORKERS} private copies, to compare")
        copies, privates = gather("workers on private copies", "--private")
        programs += copies
        console.print(table(answers, privates[0]))
        copied = sum(answer["added"] for answer in privates)
        console.print(
            f"\n   held once   {mib(once):>10}  by the sharer and {WORKERS} workers together"
        )
        reading = f"{privates[0]['seconds'] * 1e3:.0f} ms to read each"
        console.print(
            f"   {WORKERS} copies    {mib(copied):>10}  by {WORKERS} workers together, and "
            f"{reading}"
        )
        console.print(f"   most alike, they all say:\n     {closest(answers[0])}")
        failures = succession(sharer, privates[0])
        if any(
            (each["vectors"], each["checksum"]) != (privates[0]["vectors"], privates[0]["checksum"])
            for each in answers
        ):
            failures.append("every worker's results are equal to a private copy's")
        if once >= copied:
            failures.append("sharing takes less memory than copies")
        muninn.openBundle(NAME).free()
        failures += swap.swap(console, Program, WORKERS)
    finally:
        for program in programs:
            program.end()
    muninn.session.membership.current().leave()
    stem = f"muninn-{os.getuid()}-{domain}"
    left = [entry for entry in os.listdir("/dev/shm") if entry == stem]
    left += [entry for entry in os.listdir(f"/dev/shm/{stem}.d") if entry != "lock"]
    shutil.rmtree(f"/dev/shm/{stem}.d", ignore_errors=True)
    if left:
        failures.append(f"nothing is left behind ({', '.join(left)})")
    for failure in failures:
        console.print(f"[red]NOT TRUE:[/] {failure}")
    console.print(
        "\n[bold red]The demo failed."
        if failures
        else f"\n[bold green]All of it holds.[/] {copied / once:.1f} times less memory, and "
        "the model outlived its owner."
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
