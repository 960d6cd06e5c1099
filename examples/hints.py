"""Hints: find out which rows of a table are hot, say so, and see whether it was worth it.

`python examples/hints.py [LOOKUPS]` shares a table of embeddings in host memory and looks
rows up as requests for text do: few words of each language make up most of it. From the
first lookups it learns which ranges are hot, gives them as hints, prefetches them to a
GPU, and serves as many other lookups by a kernel there. The kernel marks what it reads,
so the example can say how much of the prefetched bytes was used. Where there is no GPU
it emulates one.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import given
import numpy as np

import muninn
from muninn.kernels import markUsed

LANGUAGES, WORDS, COLUMNS = 12, 8192, 64
ROW_BYTES, SLICE_BYTES, MOST_RANGES = COLUMNS * 4, 4096, 15
#: So many of the observed lookups are to be in hot ranges.
COVERED = 0.8


def lookups(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows as requests ask for them. Within a language the words are in the order of their
    frequency, as in vocabularies of tokenizers, and follow Zipf's law.
    """
    random = np.random.default_rng(seed)
    weights = 1 / (np.arange(WORDS) + 2.7)
    words = random.choice(WORDS, count, p=weights / weights.sum())
    languages = random.choice(LANGUAGES, count, p=_shares(LANGUAGES))
    return languages * WORDS + words


def _shares(count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    shares = 1 / (np.arange(count) + 1.0)
    return shares / shares.sum()


def hotRanges(rows: np.ndarray[Any, np.dtype[np.int64]]) -> list[tuple[int, int]]:
    """The ranges that the lookups touch most, in bytes, the hottest first."""
    slices = LANGUAGES * WORDS * ROW_BYTES // SLICE_BYTES
    touched = np.bincount(rows * ROW_BYTES // SLICE_BYTES, minlength=slices)
    hottest = np.argsort(-touched, kind="stable")
    needed = int(np.searchsorted(touched[hottest].cumsum(), COVERED * len(rows))) + 1
    chosen = np.sort(hottest[:needed])
    gaps = np.diff(chosen)
    # What lies between two near slices is prefetched too, if there are too many ranges.
    widest = np.sort(gaps)[::-1][MOST_RANGES - 1] if len(gaps) >= MOST_RANGES else 1
    ranges = np.split(chosen, np.flatnonzero(gaps > max(1, widest)) + 1)
    ranges.sort(key=lambda each: -int(touched[each].sum()) / (each[-1] + 1 - each[0]))
    return [
        (int(each[0]) * SLICE_BYTES, int(each[-1] + 1 - each[0]) * SLICE_BYTES) for each in ranges
    ]


def lookUp(
    index: Any, rows: Any, table: Any, first: Any, flags: Any, sliceBytes: Any, sums: Any
) -> None:
    """Serve one lookup from a window of the table that begins at row `first`."""
    row = rows[index] - first
    if row >= 0 and (row + 1) * COLUMNS <= table.size:
        total = np.float32(0)
        for column in range(COLUMNS):
            total += table[row * COLUMNS + column]
        sums[index] = total
        markUsed(flags, sliceBytes, row * ROW_BYTES, ROW_BYTES)


def launch(scratch: Any, rows: Any, sums: Any) -> None:
    """Serve all lookups that are in a window, on its GPU."""
    table, flags, first = scratch.deviceArray(), scratch.usedFlags, scratch.offset // ROW_BYTES
    if isinstance(table, np.ndarray):  # an emulated GPU: its kernels run here
        for index in range(len(rows)):
            lookUp(index, rows, table, first, flags, scratch.sliceBytes, sums)
        return
    from numba import cuda

    one = cuda.jit(device=True)(lookUp)

    @cuda.jit  # type: ignore[untyped-decorator]
    def kernel(rows: Any, table: Any, first: Any, flags: Any, sliceBytes: Any, sums: Any) -> None:
        for index in range(cuda.grid(1), rows.size, cuda.gridsize(1)):
            one(index, rows, table, first, flags, sliceBytes, sums)

    onGpu, result = cuda.to_device(rows), cuda.to_device(sums)
    kernel[256, 256](onGpu, table, first, flags, scratch.sliceBytes, result)
    cuda.synchronize()
    result.copy_to_host(sums)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "lookups",
        metavar="LOOKUPS",
        type=given.count,
        nargs="?",
        default=20_000,
        help="how many are observed, and how many are served (default: %(default)s)",
    )
    arguments = parser.parse_args()
    content = np.random.default_rng(1).random((LANGUAGES * WORDS, COLUMNS), np.float32)
    name = f"example/hints-{os.getpid()}"
    # Without `lastClose` a named table would stay after the program.
    with muninn.share(content, name, access="readOnly", lifetime="lastClose") as table:
        ranges = hotRanges(lookups(arguments.lookups, seed=2))
        table.setHints(hotRanges=ranges, priority="high", lifetimeMs=60_000)
        ready = table.prefetch(0).result()
        print(
            f"{len(ranges)} hot ranges: {ready >> 10} of {table.nbytes >> 10} KiB are on the GPU, "
            f"{ready / table.nbytes:.1%} of the table",
            flush=True,
        )
        rows = lookups(arguments.lookups, seed=3)
        sums = np.zeros(len(rows), np.float32)
        usedBytes = 0.0
        for offset, length in ranges:
            with table.promote(offset, length, 0, sliceBytes=SLICE_BYTES) as scratch:
                launch(scratch, rows, sums)
                usedBytes += (scratch.usefulRatio() or 0.0) * length
        served = sums != 0
        isRight = np.allclose(sums[served], content[rows[served]].sum(axis=1), rtol=1e-4)
    print(f"{served.mean():.1%} of {len(rows)} other lookups were served from there")
    print(f"useful bytes: {usedBytes / ready:.3f} of what was prefetched was read")
    print("the sums are right" if isRight else "the sums are WRONG")
    return 0 if isRight else 1


if __name__ == "__main__":
    given.run(main)
