"""Publish a small array, again and again. Start `consumer.py` in another terminal,
before this or after.

Muninn frees the buffer when both have ended. A buffer that is there already, as one that
`python -m muninn alloc` has made, is published to instead; on a GPU, too.
"""

import argparse
import time

import given
import numpy

import muninn


def opened(name: str, tenant: str | None) -> muninn.MuninnBuffer:
    """The buffer that is there, or else a new one of this tenant."""
    try:
        return muninn.open(name, access="readWrite")
    except muninn.errors.BufferNotFound:
        return muninn.array(name, shape=4, dtype="f8", lifetime="lastClose", tenant=tenant)


def publish(buffer: muninn.MuninnBuffer, number: int) -> None:
    """Fill the buffer with a number."""
    number %= 128  # which any type has room for
    if buffer.gpu is None:
        with buffer.write() as view:
            view[:] = number
    else:
        with muninn.share(numpy.full(buffer.shape, number, buffer.dtype)) as onHost:
            buffer.copyFrom(onHost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--buffer", default="example/ticks", help="name of the buffer (default: %(default)s)"
    )
    parser.add_argument(
        "--tenant", help="whose quota it counts against, or whose it must be if it is there"
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
    with opened(arguments.buffer, arguments.tenant) as buffer:
        given.requireTenant(buffer, arguments.tenant)
        for number in range(1, arguments.count + 1):
            publish(buffer, number)
            print(f"published {number} as generation {buffer.generation}", flush=True)
            time.sleep(arguments.seconds)


if __name__ == "__main__":
    given.run(main)
