"""Publish a small array, again and again. Start `consumer.py` in another terminal,
before this or after.

Muninn frees the buffer when both have ended.
"""

import argparse
import time

import given

import muninn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--buffer", default="example/ticks", help="name of the buffer (default: %(default)s)"
    )
    parser.add_argument(
        "--count", type=given.count, default=10, help="how many publications (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=given.seconds,
        default=0.2,
        help="pause between two (default: %(default)s)",
    )
    arguments = parser.parse_args()
    with muninn.array(arguments.buffer, shape=4, dtype="f8", lifetime="lastClose") as buffer:
        for number in range(1, arguments.count + 1):
            with buffer.write() as view:
                view[:] = number
            print(f"published {number} as generation {buffer.generation}", flush=True)
            time.sleep(arguments.seconds)


if __name__ == "__main__":
    given.run(main)
