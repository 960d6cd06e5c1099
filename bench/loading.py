"""The rows about files: the first load of a model, beside the library that wrote it.

The file is in memory already, so the rows compare the ways of the bytes and not disks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import muninn
from bench.harness import Options, Row, alternated, newDomain, newFile, seconds

_TENSORS = 64


def toHost(options: Options) -> list[Row]:
    newDomain()
    with _model(options.pick(1 << 30, 32 << 20)) as (path, sizeBytes):

        def ours() -> float:
            return _timed(lambda: muninn.load(path))

        def theirs() -> float:
            return _timed(lambda: muninn.shareBundle(load_file(path)))

        times = alternated(options.pick(7, 2), ours, theirs)
    return [
        Row(
            f"first load of {sizeBytes >> 20} MiB to host memory",
            "ms",
            *times,
            "safetensors.numpy.load_file and shareBundle",
            0.6,
            0.4,
        )
    ]


def toVram(options: Options, modelBytes: int) -> list[Row]:
    """The same to VRAM, for `bench.gpu`: there is a CUDA driver."""
    newDomain()
    with _model(modelBytes) as (path, sizeBytes):

        def ours() -> float:
            return _timed(lambda: muninn.load(path, mode="fastMode"))

        peer, name = _vramPeer(path)
        # The first use of a library makes its context, and is not counted.
        times = alternated(options.pick(7, 2), ours, peer)
    what = f"first load of {sizeBytes >> 20} MiB to VRAM"
    return [Row(what, "ms", *times, name, 0.35, 0.15)]


def _vramPeer(path: Path) -> tuple[Callable[[], float], str]:
    """The peer in VRAM, and its name: safetensors with PyTorch, or where PyTorch has no
    CUDA, the reading of the file as a whole and one copy of it.
    """
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None and torch.cuda.is_available():
        from safetensors.torch import load_file as loadOnGpu

        def library() -> float:
            def load() -> object:
                loaded = loadOnGpu(path, device="cuda")
                torch.cuda.synchronize()
                return loaded

            return seconds(load)

        return library, "safetensors.torch.load_file(device='cuda')"

    def plain() -> float:
        return _timed(lambda: muninn.share(np.fromfile(path, np.uint8), mode="fastMode"))

    return plain, "reading the file as a whole, and one copy"


def _timed(make: Callable[[], muninn.Bundle | muninn.MuninnBuffer]) -> float:
    made: list[muninn.Bundle | muninn.MuninnBuffer] = []
    elapsed = seconds(lambda: made.append(make()))
    made[0].free()
    return elapsed


@contextmanager
def _model(sizeBytes: int) -> Iterator[tuple[Path, int]]:
    """A model's file in `/dev/shm`, and the bytes of its tensors."""
    count = sizeBytes // _TENSORS
    values = np.random.default_rng(1).integers(0, 255, count, np.uint8).view(np.float16)
    path = newFile(".safetensors")
    try:
        save_file({f"layer{number}": values for number in range(_TENSORS)}, path)
        yield path, _TENSORS * values.nbytes
    finally:
        path.unlink(missing_ok=True)
