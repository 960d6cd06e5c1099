"""PyTorch: a model that is loaded once and served by several processes.

`python examples/weightstorch.py` shares the weights of a small network, in VRAM where
there is a GPU, and starts three workers. Each of them builds the network without
weights, on the device "meta", attaches the shared ones, and answers a question. The
first worker forgets `eval()`, which changes pages of its own, and perhaps its answer,
but none of the others'. Says so when PyTorch is missing, with exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys

import given

try:
    import torch
except ImportError:
    torch = None


_WIDTH, _CLASSES = 512, 10


def network(device: str) -> torch.nn.Module:
    with torch.device(device):
        return torch.nn.Sequential(
            torch.nn.Linear(_WIDTH, _WIDTH),
            torch.nn.BatchNorm1d(_WIDTH),
            torch.nn.ReLU(),
            torch.nn.Linear(_WIDTH, _CLASSES),
        ).to(torch.bfloat16)


def answer(module: torch.nn.Module) -> str:
    device = next(module.parameters()).device
    with torch.no_grad():
        scores = module.eval()(torch.ones(1, _WIDTH, dtype=torch.bfloat16, device=device))
    return f"class {int(scores.argmax())}"


def worker(name: str, forgets: bool) -> None:
    import muninn.torch

    module = network("meta")
    muninn.torch.attachModule(module, name)
    if forgets and next(module.parameters()).device.type == "cpu":
        module.train()(torch.randn(8, _WIDTH, dtype=torch.bfloat16))
    print(answer(module))


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if torch is None:
        print("PyTorch is not installed (pip install torch)", file=sys.stderr)
        return 2
    import muninn.torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    module, name = network(device), f"example/weightstorch-{os.getpid()}"
    with muninn.torch.shareModule(module, name, lifetime="lastClose") as bundle:
        expected = answer(module)
        answers = [given.answerOf(__file__, "worker", name, str(number)) for number in range(3)]
        right = answers[1:] == [expected] * 2
        print(
            f"PyTorch {torch.__version__}, {len(bundle)} tensors, {bundle.nbytes >> 10} KiB once "
            f"on {device}: {'the workers give one answer, ' + expected if right else 'WRONG'}"
        )
    return 0 if right else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        given.run(lambda: worker(sys.argv[2], sys.argv[3] == "0"))
    given.run(main)
