"""JAX: an array that two processes read, without a copy. JAX's arrays do not change, so
the writer is numpy or a kernel.

`python examples/withjax.py` shares a tensor and starts a second, unrelated process that
opens it by name, doubles it in place, and ends. On a machine with a GPU and JAX's CUDA
plug-in the array is in VRAM; else it is in host memory. Says so when JAX is missing,
with exit status 2.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

# Otherwise the first process takes most of the GPU's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
try:
    import jax
    import jax.numpy
except ImportError:
    jax = None
import given
import numpy as np

import muninn

#: Arrays that stay until the interpreter has ended. A thread of JAX's may drop an array
#: after its sum is there, and would end the process if it did so while the interpreter ends.
_kept: list[object] = []


def isOnGpu() -> bool:
    return jax.default_backend() == "gpu"


def other(name: str) -> None:
    """The other process: the same bytes, changed where they lie."""
    buffer = muninn.open(name, access="readWrite")
    array = jax.numpy.from_dlpack(buffer)
    _kept.append(array)
    total = float(array.sum())
    assert abs(total / (1_000_000 * 999_999 / 2) - 1) < 1e-5, total
    if isOnGpu():
        from muninn.kernels import launch

        with buffer.write(stream=None) as view:
            launch.launch("scaleAdd", view, 1.0, view)
    else:
        with buffer.write() as view:
            view *= 2


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if jax is None:
        print("JAX is not installed (pip install jax)", file=sys.stderr)
        return 2
    mine = np.arange(1_000_000, dtype=np.float32)
    name, mode = f"example/withjax-{os.getpid()}", "fastMode" if isOnGpu() else "bigMode"
    buffer = muninn.share(mine, name, mode=mode, access="readWrite", lifetime="lastClose")
    subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "other", name], check=True, timeout=300
    )
    buffer.wait(None, timeout=60)
    view = jax.numpy.from_dlpack(buffer)
    right = bool((np.asarray(view) == 2 * mine).all())
    found = "both processes see one array" if right else "WRONG"
    print(f"JAX {jax.__version__}, {view.size} elements on {next(iter(view.devices()))}: {found}")
    return 0 if right else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["other"]:
        given.run(lambda: other(sys.argv[2]))
    given.run(main)
