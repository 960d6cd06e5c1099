"""Rows about many bytes: streaming reads, and sharing an array."""

from __future__ import annotations

import statistics

import numpy as np

import muninn
from bench.harness import Options, Peer, Row, newDomain, seconds
from muninn.control import segments


def streaming(options: Options) -> list[Row]:
    """Seconds of a read of all bytes; the ratio is of throughputs, private over shared, so below 1 is faster."""
    newDomain()
    sizeBytes, rounds = options.pick(4 << 30, 64 << 20), options.pick(5, 2)
    return [_streamBy(readers, sizeBytes, rounds) for readers in (1, 2)]


def _streamBy(readers: int, sizeBytes: int, rounds: int) -> Row:
    buffer = muninn.MuninnBuffer(sizeBytes, name="stream", access="readWrite")
    buffer.array[:] = 1
    shared = [Peer("streamShared", "stream", 1) for _ in range(readers)]
    private = [Peer("streamPrivate", sizeBytes, 1) for _ in range(readers)]
    for peer in (*shared, *private):
        peer.line()

    def turn(peers: list[Peer]) -> float:
        for peer in peers:
            peer.say()
        return statistics.mean(peer.line()[0] for peer in peers)

    pairs = [(turn(shared), turn(private)) for _ in range(rounds)]
    for peer in (*shared, *private):
        peer.end()
    buffer.free()
    what = f"streaming read of {sizeBytes >> 20} MiB by {readers} process{'es' * (readers > 1)}"
    return Row(what, "s", [ours for ours, _ in pairs], [peer for _, peer in pairs], "the same of private memory", 1 / 0.97, 1.0)


def sharing(options: Options) -> list[Row]:
    newDomain()
    array = np.ones(options.pick(1 << 30, 32 << 20), np.uint8)

    def ours() -> float:
        shared: list[muninn.MuninnBuffer] = []
        elapsed = seconds(lambda: shared.append(muninn.share(array)))
        shared[0].free()
        return elapsed

    def peer() -> float:
        def copy() -> None:
            np.copyto(np.empty_like(array), array)

        return seconds(copy)

    ours(), peer()
    pairs = [(ours(), peer()) for _ in range(options.pick(9, 2))]
    what = f"share(array) of {array.nbytes >> 20} MiB, huge={segments.hugePages()} in /dev/shm"
    return [Row(what, "s", [mine for mine, _ in pairs], [other for _, other in pairs], "np.copyto into fresh memory", 1.15, 1.0)]
