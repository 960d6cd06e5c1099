"""Numba: an array in VRAM in two processes, changed by kernels of both.

`python examples/withnumba.py` shares a tensor and starts a second, unrelated process
that opens it by name, doubles it in place, and ends. Where there is no GPU, the kernel
is its CPU reference and the VRAM is emulated: the program is the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import given
import numpy as np

import muninn
from muninn.kernels import launch


def other(name: str) -> None:
    """The other process: the same bytes, changed where they lie."""
    buffer = muninn.open(name, access="readWrite")
    with buffer.write(stream=None) as view:  # Numba's device array, or numpy's on an emulated GPU
        launch.launch("fillPattern", view, 42)


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    name = f"example/withnumba-{os.getpid()}"
    buffer = muninn.array(name, 1_000_000, np.uint64, mode="fastMode", lifetime="lastClose")
    subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "other", name], check=True, timeout=300
    )
    wrong = np.zeros(1, np.uint64)
    launch.launch("countMismatches", buffer.read(), 42, wrong)
    where = f"{buffer.describe()['transport']} on GPU {buffer.gpu}"
    print(
        f"{buffer.nbytes} bytes by {where}: "
        f"{'both processes see one array' if not wrong[0] else 'WRONG'}"
    )
    return 0 if not wrong[0] else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["other"]:
        given.run(lambda: other(sys.argv[2]))
    given.run(main)
