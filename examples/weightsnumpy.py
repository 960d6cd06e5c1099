"""numpy: tables that one process computes and several processes read.

`python examples/weightsnumpy.py` shares three arrays in one bundle, and starts two
workers that open it. A worker's arrays are the shared bytes, and read-only; with
`access="copyOnWrite"` it may change them for itself.
"""

from __future__ import annotations

import argparse
import os
import sys

import given
import numpy as np

import muninn


def worker(name: str) -> None:
    with muninn.openBundle(name) as tables:
        total = float(tables["matrix"] @ tables["vector"] @ tables["vector"])
    # Changes for this process alone: the other worker reads what was shared.
    with muninn.openBundle(name, access="copyOnWrite") as mine:
        mine["vector"][:] = 0
    print(total)


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    tables = {
        "matrix": np.arange(1_000_000.0).reshape(1000, 1000).T,
        "vector": np.linspace(0, 1, 1000),
        "words": np.array(["one", "two", "three"]),
    }
    name = f"example/weightsnumpy-{os.getpid()}"
    with muninn.shareBundle(tables, name, access="readOnly", lifetime="lastClose") as bundle:
        expected = str(float(tables["matrix"] @ tables["vector"] @ tables["vector"]))
        answers = [given.answerOf(__file__, "worker", name) for _ in range(2)]
        right = answers == [expected] * 2
        print(
            f"numpy {np.__version__}, {len(bundle)} arrays, {bundle.nbytes >> 10} KiB once: "
            f"{'2 workers compute one answer' if right else 'WRONG'}"
        )
    return 0 if right else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        given.run(lambda: worker(sys.argv[2]))
    given.run(main)
