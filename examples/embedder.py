"""Embeds text with a model: `python embedder.py NAME` takes the shared one, `python
embedder.py --private` reads a copy of its own.

It prints one line of JSON about what that cost, waits for a line on its standard input,
and ends.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time

import given
import model
import numpy as np
from wordpiece import embedded

import muninn
from muninn.formats import openFile


def pss() -> int:
    """Bytes of this process's memory, in which each shared page is divided among its
    sharers (`/proc/self/smaps_rollup`).
    """
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))


def shared(name: str) -> tuple[dict[str, np.ndarray], float]:
    """The tensors of the bundle, and the seconds that opening it took in a process that
    is a member already.
    """
    muninn.domainInfo()
    started = time.perf_counter()
    bundle = muninn.openBundle(name)
    seconds = time.perf_counter() - started
    return {key: bundle[key] for key in bundle}, seconds


def private() -> tuple[dict[str, np.ndarray], float]:
    """The same tensors, read into memory of this process."""
    started = time.perf_counter()
    with openFile(model.folder() / "model.safetensors") as source:
        tensors = {
            key: np.empty(entry.shape, entry.element.dtype) for key, entry in source.entries.items()
        }
        for key, tensor in tensors.items():
            source.readInto(key, tensor.reshape(-1).view(np.uint8))
    tensors[model.VOCABULARY] = np.frombuffer((model.folder() / "vocab.txt").read_bytes(), np.uint8)
    return tensors, time.perf_counter() - started


def embed(name: str | None) -> None:
    before = pss()
    tensors, seconds = private() if name is None else shared(name)
    if missing := {model.VOCABULARY, model.WORDS} - tensors.keys():
        sys.exit(
            f"the bundle {name!r} has no {' and no '.join(sorted(missing))}: share the model "
            "by sharer.py"
        )
    vectors = embedded(
        model.SENTENCES, tensors[model.VOCABULARY].tobytes().decode(), tensors[model.WORDS]
    )
    checksum = hashlib.sha256(
        b"".join(tensors[key].tobytes() for key in sorted(tensors))
    ).hexdigest()
    print(
        json.dumps(
            {
                "pid": os.getpid(),
                "seconds": seconds,
                "pssBefore": before,
                "vectors": vectors.tobytes().hex(),
                "checksum": checksum,
            }
        ),
        flush=True,
    )
    for _ in sys.stdin:
        print(json.dumps({"pss": pss()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", nargs="?", help="the bundle's")
    parser.add_argument("--private", action="store_true", help="read a copy of its own")
    arguments = parser.parse_args()
    if arguments.private == (arguments.name is not None):
        parser.error("give a name, or --private")
    embed(arguments.name)


if __name__ == "__main__":
    given.run(main)
