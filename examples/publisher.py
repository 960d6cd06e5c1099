"""Publishes the versions of a model: `python publisher.py NAME`.

The first version is the model as it is. For each line on its standard input it makes
another one, whose word vectors are centred around their mean, and publishes it under
the same name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import given
import model
import numpy as np

import muninn
from muninn.formats import openFile


def tensors() -> dict[str, np.ndarray]:
    """The model in memory of this process."""
    read = {}
    with openFile(model.folder() / "model.safetensors") as source:
        for key, entry in source.entries.items():
            flat = np.empty(entry.sizeBytes, np.uint8)
            source.readInto(key, flat)
            read[key] = flat.view(entry.element.dtype).reshape(entry.shape)
    read[model.VOCABULARY] = np.frombuffer((model.folder() / "vocab.txt").read_bytes(), np.uint8)
    return read


def publish(name: str) -> None:
    arrays, version = tensors(), 0
    while version == 0 or sys.stdin.readline():
        version += 1
        if version > 1:
            arrays[model.WORDS] = arrays[model.WORDS] - arrays[model.WORDS].mean(axis=0)
        started = time.perf_counter()
        bundle = muninn.publish(
            name, {**arrays, model.VERSION: np.array(version)}, access="readOnly"
        )
        seconds, sizeBytes = time.perf_counter() - started, bundle.nbytes
        bundle.close()
        print(json.dumps({"pid": os.getpid(), "seconds": seconds, "bytes": sizeBytes}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", help="the bundle's")
    publish(parser.parse_args().name)


if __name__ == "__main__":
    given.run(main)
