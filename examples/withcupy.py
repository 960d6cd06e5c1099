"""CuPy: an array in VRAM in two processes, without a copy.

`python examples/withcupy.py` shares a tensor and starts a second, unrelated process that opens it by name, doubles it in place, and ends.
Needs a GPU and CuPy; says so otherwise, with exit status 2.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys

try:
    import cupy
except ImportError:
    cupy = None

import muninn


def other() -> None:
    """The other process: the same bytes, changed where they lie."""
    buffer = muninn.open("array", access="readWrite")
    with buffer.write(stream=cupy.cuda.get_current_stream()):
        array = cupy.asarray(buffer)  # by __cuda_array_interface__, no copy
        array *= 2


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    os.environ.setdefault("MUNINN_DOMAIN", f"withcupy-{secrets.token_hex(4)}")
    if cupy is None or not cupy.cuda.is_available():
        print("CuPy is not installed, or sees no GPU (pip install cupy-cuda13x)", file=sys.stderr)
        return 2
    mine = cupy.arange(1_000_000, dtype=cupy.float32)
    buffer = muninn.share(mine, "array", access="readWrite")
    view = cupy.asarray(buffer)
    subprocess.run([sys.executable, "-W", "ignore", __file__, "other"], check=True, timeout=300)
    buffer.wait(None, timeout=60)
    right = bool((view == 2 * mine).all())
    print(f"CuPy {cupy.__version__}, {view.size} elements on GPU {view.device.id}: {'both processes see one array' if right else 'WRONG'}")
    return 0 if right else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["other"]:
        other()
        sys.exit(0)
    sys.exit(main())
