"""JAX: the parameters of a model, a pytree, that several processes share.

`python examples/weightsjax.py` shares the leaves of a pytree in one bundle, each under
its path, and starts two workers that build the same tree on the shared memory, without
a copy, and compute with it. Says so when JAX is missing, with exit status 2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from typing import Any

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

_WIDTH = 256
#: Arrays that stay until the interpreter has ended; see `withjax.py`.
_kept: list[object] = []


def parameters() -> Any:
    """A tree of parameters: layers in a list, arrays in dicts."""
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "layers": [
            {
                "weight": jax.random.normal(key, (_WIDTH, _WIDTH), jax.numpy.bfloat16),
                "bias": jax.numpy.zeros(_WIDTH),
            }
            for key in keys
        ],
        "scale": jax.numpy.float32(0.5),
    }


def answer(tree: Any) -> float:
    value = jax.numpy.ones(_WIDTH)
    for layer in tree["layers"]:
        value = jax.numpy.tanh(layer["weight"] @ value + layer["bias"])
    return float((tree["scale"] * value).sum())


def digestOf(tree: Any) -> str:
    """All bits of a tree. The answer may differ in its last ones: a GPU has several ways
    to multiply.
    """
    found = hashlib.sha256()
    for leaf in leavesOf(tree).values():
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def leavesOf(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their paths."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in pairs}


def worker(name: str) -> None:
    # JAX refuses memory that it might have to protect: copy-on-write needs no protection.
    # There is none in VRAM, where the bundle was shared for writing; JAX writes to no array.
    shape = jax.eval_shape(parameters)  # the tree without its arrays
    access = "readWrite" if jax.default_backend() == "gpu" else "copyOnWrite"
    bundle = muninn.openBundle(name, access=access)
    leaves = [jax.dlpack.from_dlpack(bundle[path]) for path in leavesOf(shape)]
    _kept.extend(leaves)
    tree = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shape), leaves)
    print(json.dumps({"answer": answer(tree), "digest": digestOf(tree)}))


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if jax is None:
        print("JAX is not installed (pip install jax)", file=sys.stderr)
        return 2
    tree, name = parameters(), f"example/weightsjax-{os.getpid()}"
    leaves = leavesOf(tree)
    with muninn.shareBundle(leaves, name, access="readWrite", lifetime="lastClose") as bundle:
        expected = answer(tree)
        answers = [json.loads(given.answerOf(__file__, "worker", name)) for _ in range(2)]
        right = all(
            found["digest"] == digestOf(tree) and abs(found["answer"] / expected - 1) < 0.01
            for found in answers
        )
        print(
            f"JAX {jax.__version__}, {len(bundle)} leaves, {bundle.nbytes >> 10} KiB once on "
            f"{jax.default_backend()}: {'2 workers compute one answer' if right else 'WRONG'}"
        )
    return 0 if right else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        given.run(lambda: worker(sys.argv[2]))
    given.run(main)
