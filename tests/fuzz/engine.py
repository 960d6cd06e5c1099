"""Run one target: its corpus, its seeds, the inputs that it always tries, and then
mutations of them, until there were enough.

The present input stands in a file that the driver reads, so that it knows the input
also when this process hangs or is gone.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import resource
import struct
import time
import traceback
import warnings
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from fuzz.target import MAX_INPUT_BYTES, Target

PROGRESS = struct.Struct("<QQ")
PROGRESS_BYTES = PROGRESS.size + MAX_INPUT_BYTES
#: The memory that a reader may take beyond what it had; a reader that believes a wrong
#: length takes more.
_MAX_GROWTH_BYTES = 512 << 20
_MAX_RESIDENT_GROWTH_KIB = 256 << 10
_BATCH = 500
_POOL = 2000


class Failure(NamedTuple):
    """An input and its failure."""

    raw: bytes
    what: str


class Report(NamedTuple):
    """One target's run."""

    inputs: int
    seconds: float
    failures: list[Failure]


def run(target: Target, inputs: int, seconds: float, seed: int, progress: mmap.mmap) -> Report:
    """Try `inputs` inputs, or as many as `seconds` allow, whichever comes first."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    target.open()
    resource.setrlimit(
        resource.RLIMIT_AS, (_virtualBytes() + _MAX_GROWTH_BYTES, resource.RLIM_INFINITY)
    )
    random = Random(f"{target.name} {seed}")
    failures: dict[tuple[object, ...], Failure] = {}
    known: set[tuple[object, ...]] = set()
    pool = [*target.corpus(), *target.seeds()]
    batch: list[bytes] = []
    started, done = time.monotonic(), 0
    base = _used()
    for raw in _inputs(target, pool, random):
        PROGRESS.pack_into(progress, 0, done, len(raw))
        progress[PROGRESS.size : PROGRESS.size + len(raw)] = raw
        place = _place(target, raw, failures)
        if place not in known and len(pool) < _POOL:
            known.add(place)
            pool.append(raw)  # It ended at a new place.
        done += 1
        batch.append(raw)
        if len(batch) >= _BATCH or done >= inputs:
            base = base or _used()
            if what := _grown(base):
                failures["leak",] = Failure(_culprit(target, batch), what)
                break
            batch.clear()
        if done >= inputs or time.monotonic() - started > seconds or len(failures) > 9:
            break
    spent = time.monotonic() - started
    target.close()
    return Report(done, spent, list(failures.values()))


def _inputs(target: Target, pool: list[bytes], random: Random) -> Iterator[bytes]:
    yield from list(pool)
    yield from target.all()
    while True:
        yield target.mutated(random, random.choice(pool), random.choice(pool))[:MAX_INPUT_BYTES]


def _place(
    target: Target, raw: bytes, failures: dict[tuple[object, ...], Failure]
) -> tuple[object, ...]:
    """The place at which reading ended: the type of the exception and the line that
    raised it. A failure is kept once for each place.
    """
    try:
        target.run(raw)
    except target.allowed as error:
        return _raisedAt(error)
    except BaseException as error:
        place = _raisedAt(error)
        failures.setdefault(place, Failure(raw, "".join(traceback.format_exception(error)[-12:])))
        return place
    return ()


def _raisedAt(error: BaseException) -> tuple[object, ...]:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (
        (type(error), trace.tb_frame.f_code, trace.tb_lineno)
        if trace is not None
        else (type(error),)
    )


def _used() -> tuple[int, int]:
    """(open descriptors, most resident KiB so far)."""
    return len(os.listdir("/proc/self/fd")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _grown(base: tuple[int, int]) -> str:
    descriptors, resident = _used()
    if descriptors > base[0] + 3:
        return f"{descriptors - base[0]} descriptors were left open"
    return (
        f"{(resident - base[1]) >> 10} MiB were taken"
        if resident - base[1] > _MAX_RESIDENT_GROWTH_KIB
        else ""
    )


def _culprit(target: Target, batch: list[bytes]) -> bytes:
    """The first input of a batch that leaves a descriptor, or takes memory, when it is
    tried again.
    """
    for raw in batch:
        before = _used()
        _place(target, raw, {})
        after = _used()
        if after[0] > before[0] or after[1] > before[1] + (_MAX_RESIDENT_GROWTH_KIB >> 2):
            return raw
    return batch[-1]


def _virtualBytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def save(folder: str, raw: bytes) -> str:
    """Keep an input in the corpus; returns its path."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, hashlib.sha256(raw).hexdigest()[:16])
    with open(path, "wb") as file:
        file.write(raw)
    return path
