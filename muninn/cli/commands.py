"""What changes something: `alloc`, `open`, `close`, `free`, `evict`, `drain`, `keep`, `load`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from muninn.cli.output import printJson, size


def _stopped() -> threading.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _say(arguments: argparse.Namespace, result: dict[str, Any], text: str) -> int:
    if arguments.json:
        printJson(result)
    else:
        print(text)
    sys.stdout.flush()
    return 0


@contextmanager
def _bar(what: str, total: int) -> Iterator[Any]:
    """A progress bar on stderr, where that is a terminal; yields what to call with the bytes that are done."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def runAlloc(arguments: argparse.Namespace) -> int:
    import muninn
    from muninn.api.creation import asSize

    with _bar(f"allocating {arguments.name}", asSize(arguments.size)) as progress:
        buffer = muninn.MuninnBuffer(
            arguments.size, arguments.mode, arguments.gpu, arguments.access, arguments.name, arguments.tenant,
            lifetime="keep", lifetimeMs=arguments.lifetime_ms, reserve=arguments.reserve, progress=progress,
        )  # fmt: skip
    with buffer:
        if buffer.mode == "fastMode":
            print("muninn: fastMode memory lives as long as somebody holds it; holding it until Ctrl-C", file=sys.stderr)
        status = _say(arguments, buffer.describe(), f"{buffer.name}: {size(buffer.nbytes)} of {buffer.mode}")
        if buffer.mode == "fastMode":
            _stopped().wait()
    return status


def runOpen(arguments: argparse.Namespace) -> int:
    import muninn

    with muninn.open(arguments.name, arguments.access, arguments.timeout) as buffer:
        stop = _stopped()
        shown = f"{buffer.name}: {size(buffer.nbytes)} of {buffer.mode} at {buffer.open():#x}; held until Ctrl-C"
        status = _say(arguments, buffer.describe(), shown)
        stop.wait(arguments.seconds)
    return status


def runClose(arguments: argparse.Namespace) -> int:
    from muninn.api import admin
    from muninn.errors import BufferNotFound

    revoked = admin.evict(arguments.name, pid=arguments.pid)
    if not revoked:
        raise BufferNotFound(f"process {arguments.pid} holds no lease on {arguments.name!r}", "Look at `python -m muninn` for who does")
    return _say(arguments, {"revoked": revoked}, f"{arguments.name}: {revoked} lease of process {arguments.pid} revoked")


def runFree(arguments: argparse.Namespace) -> int:
    import muninn

    muninn.open(arguments.name).free()
    return _say(arguments, {"freed": arguments.name}, f"{arguments.name}: freed; its memory goes with its last holder")


def runEvict(arguments: argparse.Namespace) -> int:
    from muninn.api import admin

    revoked = admin.evict(arguments.name, arguments.tenant)
    return _say(arguments, {"revoked": revoked}, f"{revoked} leases revoked")


def runDrain(arguments: argparse.Namespace) -> int:
    from muninn.api import admin

    held = admin.drain(not arguments.off, arguments.reason)
    text = "the domain creates buffers again" if arguments.off else f"the domain creates nothing new; {held} leases are still held"
    return _say(arguments, {"draining": not arguments.off, "leases": held}, text)


def runKeep(arguments: argparse.Namespace) -> int:
    from muninn.api import admin, membership

    stop = _stopped()
    member = membership.joinPreferred()
    domain, pid = member.places.domain, os.getpid()
    _say(arguments, {"domain": domain, "pid": pid}, f"keeping domain {domain!r} as process {pid}, until Ctrl-C")
    admin.keep(stop)
    return 0


def runLoad(arguments: argparse.Namespace) -> int:
    import numpy as np

    import muninn
    from muninn.formats import openFile

    keywords = {"name": arguments.name, "tenant": arguments.tenant, "access": arguments.access}
    with openFile(arguments.file) as source, _bar(f"loading {source.path.name}", source.sizeBytes) as progress:
        if source.isBundle:

            def fill(draft: muninn.BundleDraft) -> None:
                for key in source.entries:
                    source.readInto(key, draft[key], progress)

            loaded: Any = muninn.loadBundle(source.entries, fill, **keywords)
        else:
            entry = source.entries[""]

            def fillOne(array: np.ndarray[Any, Any]) -> None:
                source.readInto("", array, progress)

            loaded = muninn.loadArray(entry.shape, entry.dtype, fillOne, **keywords)
    with loaded:
        what = f"{len(source.entries)} arrays" if source.isBundle else "1 array"
        return _say(arguments, loaded.describe(), f"{arguments.name}: {what}, {size(source.sizeBytes)}, from {source.path.name}")
