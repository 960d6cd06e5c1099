"""PyTorch: a tensor in two processes, without a copy and without torch.multiprocessing.

`python examples/withtorch.py` shares a tensor and starts a second, unrelated process
that opens it by name, doubles it in place, and ends. On a machine with a GPU the tensor
is in VRAM and outlives its maker; else it is in host memory. Says so when PyTorch is
missing, with exit status 2.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import given

try:
    import torch
except ImportError:
    torch = None

import muninn


def place() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def other(name: str) -> None:
    """The other process: the same bytes, changed where they lie."""
    buffer = muninn.open(name, access="readWrite")
    tensor = torch.from_dlpack(buffer)
    assert tensor.device.type == place()
    if place() == "cuda":
        stream = torch.cuda.current_stream()
        # The stream waits for readers and writers, and signals at the end of the block.
        with buffer.write(stream=stream):
            tensor.mul_(2)
    else:
        with buffer.write():
            tensor.mul_(2)


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if torch is None:
        print("PyTorch is not installed (pip install torch)", file=sys.stderr)
        return 2
    mine = torch.arange(1_000_000, dtype=torch.float32, device=place())
    name = f"example/withtorch-{os.getpid()}"
    # Without `lastClose` it would stay until a process frees it.
    buffer = muninn.share(mine, name, access="readWrite", lifetime="lastClose")
    view = torch.from_dlpack(buffer)
    subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "other", name], check=True, timeout=300
    )
    buffer.wait(None, timeout=60)
    right = bool((view == 2 * mine).all())
    print(
        f"PyTorch {torch.__version__}, {view.numel()} elements on {view.device}: "
        f"{'both processes see one tensor' if right else 'WRONG'}"
    )
    return 0 if right else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["other"]:
        given.run(lambda: other(sys.argv[2]))
    given.run(main)
