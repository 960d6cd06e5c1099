"""The rows about versions of a model: publishing one, attaching to it, and changing
over to a newer one while four workers serve.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import muninn
from bench.harness import Options, Peer, Row, newDomain, seconds, writingSeconds
from muninn.session import creation, newmemory
from muninn.system import pages

_NAME, _OTHER_NAME, _VERSION = "model", "other", "version"
_SWAPS, _WORKERS = 100, 4
#: A version that nobody has open any more is freed within so many seconds.
_FREED_SECONDS = 30.0

#: A new version comes so many seconds after the one before.
_PAUSE_SECONDS = 0.05
#: Whether a row that needs huge pages has a limit, as in `bench/bulk.py`.
_OF_HUGE = pages.hugePages() in pages.OFFERS_HUGE or None
Model = Mapping[str, Any]

# --- publishing ----------------------------------------------------------------------


def publishing(options: Options) -> list[Row]:
    """Publishing in host memory, beside the copy alone: into a file in `/dev/shm`, as
    pages come there, and into fresh memory of the process.
    """
    return [
        *_publishedOnHost(100, options.pick(1 << 30, 32 << 20), options.pick(9, 2), 1.1),
        *_publishedOnHost(1000, 1000 * pages.PAGE_BYTES, options.pick(25, 2), None),
    ]


def _publishedOnHost(count: int, sizeBytes: int, rounds: int, limit: float | None) -> list[Row]:
    newDomain()
    arrays = {f"tensor{n}": np.ones(sizeBytes // count, np.uint8) for n in range(count)}

    def write() -> float:
        return writingSeconds(list(arrays.values()))

    def copy() -> float:
        return seconds(lambda: [array.copy() for array in arrays.values()])

    steps, (written, copied) = _published(arrays, "bigMode", rounds, (write, copy))
    what = f"publication of {count} tensors, {sizeBytes >> 20} MiB, in host memory"
    name = "writing the same bytes to a file in /dev/shm"
    return [
        Row(what, "ms", steps.whole, written, name, limit, 1.02),
        Row(what, "ms", steps.whole, copied, "copies in fresh memory", _OF_HUGE and limit, 1.02),
        *steps.rows(what),
    ]


def publishingInVram(options: Options, sizeBytes: int) -> list[Row]:
    """Publishing tensors that are on the GPU already, for `bench.gpu`, beside one copy
    by the driver into memory that is there.
    """
    from bench.driver import device, title

    for limit in ("MUNINN_FAST_MODE_MAX_BYTES", "MUNINN_DEFAULT_VRAM_QUOTA"):
        os.environ[limit] = str(6 * sizeBytes)  # the source, and the versions
    newDomain()
    own = muninn.MuninnBuffer(sizeBytes, mode="fastMode", name="source", access="readWrite")
    source, count = own.open(), 500
    arrays = {f"tensor{n}": part for n, part in enumerate(_parts(own, sizeBytes, count))}
    with device().allocate(0, sizeBytes) as target:
        into = target.address

        def copy() -> float:
            return seconds(lambda: device().copyNow(into, source, sizeBytes, 0))

        steps, (copied,) = _published(arrays, "fastMode", options.pick(9, 2), (copy,))
    what = f"publication of {count} tensors, {title(sizeBytes)}, in VRAM"
    name = "one copy in VRAM by the driver"
    return [Row(what, "ms", steps.whole, copied, name, 1.1, 1.02), *steps.rows(what)]


class _Part:
    """A part of a buffer in VRAM, as other libraries show their arrays."""

    def __init__(self, owner: muninn.MuninnBuffer, offset: int, sizeBytes: int) -> None:
        self._owner = owner
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": (sizeBytes,),
            "typestr": "|u1",
            "data": (owner.open() + offset, False),
            "strides": None,
            "stream": 1,
        }


def _parts(owner: muninn.MuninnBuffer, sizeBytes: int, count: int) -> Iterator[_Part]:
    each = sizeBytes // count // 256 * 256
    return (_Part(owner, number * each, each) for number in range(count))


class _Steps:
    """The milliseconds of publications, up to the first open of the new version by a
    process that waits for it, and of what a publication consists of.
    """

    def __init__(self) -> None:
        self.whole: list[float] = []
        self._spent: dict[str, list[float]] = {}

    def add(self, began: float, opened: float, calls: Mapping[str, tuple[float, float]]) -> None:
        """Add one publication: when it began, when the new version was open, and when
        its calls began and ended.
        """
        spent = {name: end - begin for name, (begin, end) in calls.items()}
        spent["commit, and open by a process that waits"] = opened - calls["commit"][0]
        del spent["commit"]
        spent["all else"] = opened - began - sum(spent.values())
        self.whole.append((opened - began) * 1e3)
        for name, value in spent.items():
            self._spent.setdefault(name, []).append(value * 1e3)

    def rows(self, what: str) -> list[Row]:
        return [
            Row(f"beside: {what}: {name}", "ms", values, [], "", None, None)
            for name, values in self._spent.items()
        ]


def _published(
    arrays: Model, mode: Any, rounds: int, peers: Sequence[Callable[[], float]]
) -> tuple[_Steps, list[list[float]]]:
    """Publish `rounds` versions, and after each measure the peers; returns the
    milliseconds of both.
    """
    muninn.publish(_NAME, arrays, mode=mode).close()
    follower, steps = Peer("followVersions", _NAME), _Steps()
    beside: list[list[float]] = [[] for _ in peers]
    try:
        follower.line()
        for number in range(rounds + 1):
            _awaitOne()
            with _timedCalls() as calls:
                began = time.perf_counter()
                bundle = muninn.publish(_NAME, arrays, mode=mode)
                opened = follower.line()
            took = [peer() * 1e3 for peer in peers]
            if number:  # what a process does once is in the first
                steps.add(began, opened, calls)
                for values, value in zip(beside, took, strict=True):
                    values.append(value)
            bundle.close()
    finally:
        follower.end(kill=True)
    muninn.free(_NAME)
    return steps, beside


@contextlib.contextmanager
def _timedCalls() -> Iterator[dict[str, tuple[float, float]]]:
    """Note when the calls of which a creation consists begin and end."""
    took: dict[str, tuple[float, float]] = {}
    steps = {
        "VRAM, with the copies": (newmemory, "_allocated"),
        "host memory, with the copies": (newmemory, "_fillSegment"),
        "commit": (creation, "_commit"),
    }
    originals = {title: getattr(*place) for title, place in steps.items()}

    def timed(title: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                took[title] = began, time.perf_counter()

        return run

    for title, (module, name) in steps.items():
        setattr(module, name, timed(title, originals[title]))
    try:
        yield took
    finally:
        for title, (module, name) in steps.items():
            setattr(module, name, originals[title])


def _awaitOne() -> None:
    """Wait until the memory of older versions is free."""
    deadline = time.monotonic() + _FREED_SECONDS
    while sum(each["name"] == _NAME for each in muninn.listBuffers()) > 1:
        if time.monotonic() > deadline:
            raise TimeoutError("an older version is not freed")
        time.sleep(0.01)


# --- attaching -----------------------------------------------------------------------


def attaching(options: Options) -> list[Row]:
    """A worker opens a bundle of 1,000 tensors, and takes each; for two sizes of them."""
    rows = []
    for itemBytes in (pages.PAGE_BYTES, options.pick(1 << 20, 1 << 14)):
        whole, _ = attached(itemBytes, "bigMode", options.pick(101, 5))
        what = f"attach 1,000 tensors of {itemBytes >> 10} KiB in host memory"
        rows.append(Row(what, "ms", whole, [], "", 20.0, 5.0))
    return rows


def attached(itemBytes: int, mode: Any, rounds: int) -> tuple[list[float], list[float]]:
    """The milliseconds of a worker's openings, and the driver's part in as many more."""
    newDomain()
    values = np.ones(itemBytes, np.uint8)
    # One array under all keys would be on the same bytes.
    arrays = {f"tensor{number}": values.copy() for number in range(1000)}
    bundle = muninn.shareBundle(arrays, _NAME, mode=mode)
    del arrays
    worker = Peer("attachBundle", _NAME, rounds, mode == "fastMode")
    whole, driver = worker.line()
    worker.end()
    bundle.free()
    return whole, driver


# --- changing over -------------------------------------------------------------------


def swapping(options: Options) -> list[Row]:
    return swapped(options, "bigMode", options.pick(64 << 20, 1 << 20))


def swapped(options: Options, mode: Any, sizeBytes: int) -> list[Row]:
    """Four workers serve requests, one after the other, while 100 versions are
    published. Then as many are published under another name, which shows how often the
    work of publishing makes a request wait, and then none.
    """
    newDomain()
    swaps = options.pick(_SWAPS, 10)
    arrays = {
        f"tensor{number}": np.zeros(sizeBytes // 100 // 4, np.float32) for number in range(100)
    }
    for name in (_NAME, _OTHER_NAME):
        _publishVersion(name, arrays, 0, mode)
    workers = [Peer("serveVersions", _NAME) for _ in range(_WORKERS)]
    for worker in workers:
        worker.line()

    def span(work: Callable[[], object]) -> tuple[float, list[dict[str, Any]]]:
        """(The seconds of `work`, what the workers say of their requests meanwhile)."""
        for worker in workers:
            worker.say()
        elapsed = seconds(work)
        return elapsed, [worker.ask() for worker in workers]

    def publish(name: str) -> None:
        for number in range(1, swaps + 1):
            _publishVersion(name, arrays, number, mode)
            time.sleep(_PAUSE_SECONDS)

    elapsed, swapping = span(lambda: publish(_NAME))
    _, beside = span(lambda: publish(_OTHER_NAME))
    _, calm = span(lambda: time.sleep(elapsed))
    for worker in workers:
        worker.end()
    for name in (_NAME, _OTHER_NAME):
        muninn.free(name)
    others = {"as many publications of another name": beside, "as long a time without any": calm}
    return _requestRows(f"{swaps} swaps at {_WORKERS} workers", swapping, others)


def _publishVersion(name: str, arrays: Model, version: int, mode: Any) -> None:
    """Publish the arrays, filled with the number of the version."""
    for array in arrays.values():
        array[:] = version
    muninn.publish(name, {**arrays, _VERSION: np.array(version)}, mode=mode).close()


def _requestRows(
    what: str, swapping: list[dict[str, Any]], others: Mapping[str, list[dict[str, Any]]]
) -> list[Row]:
    def total(of: list[dict[str, Any]], name: str) -> float:
        return float(sum(each[name] for each in of))

    def note(of: list[dict[str, Any]]) -> str:
        return (
            f"of {total(of, 'requests'):,.0f}; median {max(each['median'] for each in of):.2f} ms, "
            f"the slowest {max(each['slowest'] for each in of):.2f} ms; "
            f"{total(of, 'changes'):.0f} changes of version"
        )

    errors = "; ".join(sorted({error for each in swapping for error in each["errors"]}))
    slow = "requests that wait more than 1 ms longer than the median"
    return [
        Row(
            f"requests that fail during {what}",
            "",
            [total(swapping, "failed")],
            [],
            "",
            0.0,
            0.0,
            errors or note(swapping),
        ),
        Row(
            f"{slow}, during {what}",
            "",
            [total(swapping, "slow")],
            [],
            "",
            0.0,
            0.0,
            note(swapping),
        ),
        *(
            Row(
                f"beside: {slow}, during {during}",
                "",
                [total(each, "slow")],
                [],
                "",
                None,
                None,
                note(each),
            )
            for during, each in others.items()
        ),
    ]
