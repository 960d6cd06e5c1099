"""The rows about many bytes: reading a buffer as a stream, and sharing an array."""

from __future__ import annotations

import statistics

import numpy as np

import muninn
from bench.harness import Options, Peer, Row, newDomain, seconds, writingSeconds
from muninn.system import pages

#: Whether the rows that need huge pages have a limit: pages of 4 KiB can not reach it.
_OF_HUGE = pages.hugePages() in pages.OFFERS_HUGE or None


def streaming(options: Options) -> list[Row]:
    """Seconds of a read of all bytes; the ratio is of throughputs, private over shared,
    so below 1 is faster.
    """
    newDomain()
    sizeBytes, rounds = options.pick(4 << 30, 64 << 20), options.pick(5, 2)
    return [row for readers in (1, 2) for row in _streamBy(readers, sizeBytes, rounds)]


def _streamBy(readers: int, sizeBytes: int, rounds: int) -> list[Row]:
    buffer = muninn.MuninnBuffer(sizeBytes, name="stream", access="readWrite")
    buffer.array[:] = 1
    shared = [Peer("streamShared", "stream", 1) for _ in range(readers)]
    private, alike = (
        [Peer("streamPrivate", sizeBytes, 1, isHuge) for _ in range(readers)]
        for isHuge in (True, False)
    )
    everybody = (*shared, *private, *alike)
    for peer in everybody:
        peer.line()

    def scope(peers: list[Peer]) -> float:
        for peer in peers:
            peer.say()
        return statistics.mean(peer.line()[0] for peer in peers)

    ours, huge, small = zip(
        *((scope(shared), scope(private), scope(alike)) for _ in range(rounds)), strict=True
    )
    for peer in everybody:
        peer.end()
    buffer.free()
    what = f"streaming read of {sizeBytes >> 20} MiB by {readers} process{'es' * (readers > 1)}"
    return [
        Row(
            what,
            "s",
            list(ours),
            list(small),
            "of private memory without huge pages",
            1 / 0.97,
            1.0,
        ),
        Row(what, "s", list(ours), list(huge), "of private memory", _OF_HUGE and 1 / 0.97, 1.0),
    ]


def sharing(options: Options) -> list[Row]:
    newDomain()
    array = np.ones(options.pick(1 << 30, 32 << 20), np.uint8)

    def ours() -> float:
        shared: list[muninn.MuninnBuffer] = []
        elapsed = seconds(lambda: shared.append(muninn.share(array)))
        shared[0].free()
        return elapsed

    def private() -> float:
        return seconds(lambda: np.copyto(np.empty_like(array), array))

    def file() -> float:
        return writingSeconds([array])

    ours(), private(), file()
    mine, copied, written = zip(
        *((ours(), private(), file()) for _ in range(options.pick(9, 2))), strict=True
    )
    what = f"share(array) of {array.nbytes >> 20} MiB, huge={pages.hugePages()} in /dev/shm"
    return [
        Row(
            what,
            "s",
            list(mine),
            list(written),
            "writing the same bytes to a file in /dev/shm",
            1.1,
            1.0,
        ),
        Row(
            what,
            "s",
            list(mine),
            list(copied),
            "np.copyto into fresh memory",
            _OF_HUGE and 1.15,
            1.0,
        ),
    ]
