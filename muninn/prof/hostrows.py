"""The rows about host memory and processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

import muninn
from muninn.prof import limits
from muninn.prof.rows import REQUESTS_OF_A_NAME, ROWS, RowSpec
from muninn.prof.run import Run
from muninn.prof.timing import Sample, Samples, timed
from muninn.prof.wakes import Wakes, memoryFor
from muninn.system import clock

_WAIT_SECONDS = 30.0


def opening(run: Run, row: RowSpec) -> Samples:
    """The buffer is another process's, so nothing of it is here after a close."""
    run.ground.fresh()
    run.ground.peer("broker").line()
    path = run.ground.file()
    with open(path, "wb") as file:
        file.write(bytes(row.sizeBytes))
    limit = limits.mappedFile(path, row.sizeBytes)
    return run.sampled(row, timed(lambda: muninn.open("kept").close()), limit)


def openingAgain(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    run.ground.peer("broker").line()
    with muninn.open("kept"):
        return run.sampled(row, timed(lambda: muninn.open("kept").close()), limits.systemCall())


def exchanging(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    payload, out = np.ones(row.sizeBytes, np.uint8), np.empty(row.sizeBytes, np.uint8)
    request, answer = (
        muninn.share(payload, name=name, access="readWrite") for name in ("request", "answer")
    )
    run.ground.peer("echo").line()
    known = answer.generation

    def ours() -> None:
        nonlocal known
        with request.write() as view:
            view[:] = payload
        known = answer.waitNext(_WAIT_SECONDS, after=known, out=out)

    return run.sampled(row, timed(ours), _bareExchange(run, row.sizeBytes))


def _bareExchange(run: Run, sizeBytes: int) -> Sample:
    memory = memoryFor(sizeBytes)
    try:
        peer = run.ground.peer("answerWakes", memory.number, sizeBytes, passing=(memory.number,))
        peer.line()
        return timed(Wakes(memory.number, 0, sizeBytes).ask)
    finally:
        memory.close()


def locking(run: Run, row: RowSpec) -> Samples:
    """From the release in the other process to the end of `acquire` here."""
    run.ground.fresh()
    lock = muninn.Lock("lock")
    with lock:
        pass
    holder = run.ground.peer("holdLock", "lock")
    holder.line()

    def ours() -> float:
        holder.ask()  # it has the lock now
        lock.acquire(timeout=_WAIT_SECONDS)
        acquired = clock.now()
        lock.release()
        return acquired - float(holder.line())

    return run.sampled(row, ours, _bareWake(run))


def _bareWake(run: Run) -> Sample:
    """The same by a bare futex: from the wake in the other process to the end of the
    sleep here.
    """
    memory = memoryFor(0)
    try:
        waker = run.ground.peer("wakeSleeper", memory.number, passing=(memory.number,))
        waker.line()
        wakes = Wakes(memory.number, 0, 0)
    finally:
        memory.close()

    def sample() -> float:
        waker.say()
        wakes.awaited()
        woken = clock.now()
        return woken - float(waker.line())

    return sample


def sharingSmall(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    content = b"x" * row.sizeBytes
    file, ask = limits.madeFile(run.ground.file(), row.sizeBytes), _bareExchange(run, 0)

    def limit() -> float:
        return file() + sum(ask() for _ in range(REQUESTS_OF_A_NAME))

    return run.sampled(row, timed(lambda: muninn.share(content, name="again").free()), limit)


def allocating(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    sizeBytes = run.sizeOf(row)
    muninn.domainInfo()
    limit = limits.allocatedFile(run.ground.file(), sizeBytes)
    return run.sampled(row, timed(lambda: muninn.MuninnBuffer(sizeBytes).free()), limit)


def sharing(run: Run, row: RowSpec) -> Samples:
    """The time until the data are there; giving them back is not in it, on either side."""
    run.ground.fresh()
    array = np.ones(run.sizeOf(row), np.uint8)
    muninn.domainInfo()

    def ours() -> float:
        began = clock.now()
        shared = muninn.share(array)
        took = clock.now() - began
        shared.free()
        return took

    return run.sampled(row, ours, partial(limits.writingSeconds, [array], run.ground.file()))


def reading(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    out = np.zeros(run.sizeOf(row), np.uint8)
    with muninn.share(np.ones(out.size, np.uint8), "read") as shared:
        return run.sampled(row, timed(lambda: shared.read(out)), limits.memcpy(out.size))


#: By the names of the rows.
MEASURES: dict[str, Callable[[Run, RowSpec], Samples]] = {
    "open": opening,
    "open-again": openingAgain,
    "exchange": exchanging,
    "lock": locking,
    "share-small": sharingSmall,
    "alloc": allocating,
    "share": sharing,
    "snapshot": reading,
}
assert set(MEASURES) <= set(ROWS)
