"""Print the publications of `producer.py`, until none comes for two seconds.

A slow consumer misses publications, because a buffer has its latest content and no
history. It sees no publication twice, and none half written.
"""

import argparse

import given
import numpy

import muninn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--buffer", default="example/ticks", help="name of the buffer (default: %(default)s)"
    )
    parser.add_argument(
        "--wait",
        type=given.seconds,
        default=30.0,
        help="seconds to wait for the buffer to appear (default: %(default)s)",
    )
    arguments = parser.parse_args()
    with muninn.open(arguments.buffer, timeout=arguments.wait) as buffer:
        generation, content = 0, numpy.empty(buffer.shape, buffer.dtype)
        while True:
            try:
                # the generation that is in `content`
                generation = buffer.waitNext(timeout=2.0, after=generation, out=content)
            except TimeoutError:
                print("nothing new for 2 s")
                return
            print(f"generation {generation}: {content}", flush=True)


if __name__ == "__main__":
    given.run(main)
