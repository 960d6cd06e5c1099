"""CuPy: an array in VRAM in two processes, without a copy.

`python examples/withcupy.py` shares a tensor and starts a second, unrelated process
that opens it by name, doubles it in place, and ends. Needs a GPU and CuPy; says so
otherwise, with exit status 2.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import given

try:
    import cupy
except ImportError:
    cupy = None

import muninn


def other(name: str) -> None:
    """The other process: the same bytes, changed where they lie."""
    buffer = muninn.open(name, access="readWrite")
    with buffer.write(stream=cupy.cuda.get_current_stream()):
        array = cupy.asarray(buffer)  # takes it by __cuda_array_interface__, without a copy
        array *= 2


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if cupy is None or not cupy.cuda.is_available():
        print("CuPy is not installed, or sees no GPU (pip install cupy-cuda13x)", file=sys.stderr)
        return 2
    mine = cupy.arange(1_000_000, dtype=cupy.float32)
    name = f"example/withcupy-{os.getpid()}"
    buffer = muninn.share(mine, name, access="readWrite", lifetime="lastClose")
    view = cupy.asarray(buffer)
    subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "other", name], check=True, timeout=300
    )
    buffer.wait(None, timeout=60)
    right = bool((view == 2 * mine).all())
    print(
        f"CuPy {cupy.__version__}, {view.size} elements on GPU {view.device.id}: "
        f"{'both processes see one array' if right else 'WRONG'}"
    )
    return 0 if right else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["other"]:
        given.run(lambda: other(sys.argv[2]))
    given.run(main)
