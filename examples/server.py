"""Answers questions with the newest version of a model: `python server.py NAME`.

For each line on its standard input it embeds that sentence and prints one line of JSON.
Between two questions it looks whether its version is the current one, which costs a look
at a word of shared memory.
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
from wordpiece import embedded

import muninn


def serve(name: str) -> None:
    follower = muninn.followBundle(name)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        # The old version's memory is freed when its last worker lets go.
        bundle = follower.newest()
        vocabulary = bundle[model.VOCABULARY].tobytes().decode()
        vector = embedded([line], vocabulary, bundle[model.WORDS])
        answer = {
            "version": int(bundle[model.VERSION]),
            "digest": hashlib.sha256(vector.tobytes()).hexdigest(),
            "seconds": time.perf_counter() - started,
        }
        print(json.dumps(answer), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", help="the bundle's")
    serve(parser.parse_args().name)


if __name__ == "__main__":
    given.run(main)
