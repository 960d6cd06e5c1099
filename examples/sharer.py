"""Shares a model and stays: `python sharer.py NAME`. The demo kills it.

Every tensor of the model's file and the tokenizer's vocabulary go into one bundle; the
file is read straight into shared memory.
"""

from __future__ import annotations

import argparse
import json
import sys

import given
import model
import numpy as np
from embedder import pss

import muninn
from muninn.formats import openFile


def share(name: str) -> None:
    print(json.dumps({"pssBefore": pss()}), flush=True)
    vocabulary = np.frombuffer((model.folder() / "vocab.txt").read_bytes(), np.uint8)
    with openFile(model.folder() / "model.safetensors") as source:
        specs: dict[str, tuple[object, object]] = dict(source.entries)
        specs[model.VOCABULARY] = (vocabulary.shape, vocabulary.dtype)

        def fill(spec: muninn.BundleDraft) -> None:
            spec[model.VOCABULARY][:] = vocabulary
            for key in source.entries:
                source.readInto(
                    key,
                    spec.bytesOf(key),
                    progress=lambda count: print(json.dumps({"read": count}), flush=True),
                )

        bundle = muninn.loadBundle(specs, fill, name=name, access="readOnly")
    print(json.dumps({"shared": bundle.nbytes, "tensors": len(source.entries)}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"pss": pss()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", help="the bundle's")
    share(parser.parse_args().name)


if __name__ == "__main__":
    given.run(main)
