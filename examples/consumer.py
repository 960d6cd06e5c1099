"""Print the publications of `producer.py`, until none comes for two seconds.

A slow consumer misses publications, because a buffer has its latest content and no
history. It sees no publication twice, and none half written. With `--target-gpu` it
copies the buffer to that GPU, and each publication after that, and prints which way the
bytes went.
"""

import argparse

import given
import numpy

import muninn


def printEach(buffer: muninn.MuninnBuffer) -> None:
    generation, content = 0, numpy.empty(buffer.shape, buffer.dtype)
    while True:
        # the generation that is in `content`
        generation = buffer.waitNext(timeout=2.0, after=generation, out=content)
        print(f"generation {generation}: {content}", flush=True)


def copyEach(buffer: muninn.MuninnBuffer, gpu: int) -> None:
    generation = buffer.generation & ~1  # odd: it is being written
    with buffer.copyTo(gpu, access="readWrite") as there:
        assert there.transfer is not None, "it is a copy"
        print(f"{buffer.name} to GPU {gpu}: {given.wayOf(there.transfer)}", flush=True)
        while True:
            generation = buffer.waitNext(timeout=2.0, after=generation)
            transfer = there.startCopyFrom(buffer)
            transfer.result()
            print(f"generation {generation}: {given.wayOf(transfer)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--buffer", default="example/ticks", help="name of the buffer (default: %(default)s)"
    )
    parser.add_argument("--tenant", help="whose buffer it must be (default: anybody's)")
    parser.add_argument(
        "--wait",
        type=given.seconds,
        default=30.0,
        help="seconds to wait for the buffer to appear (default: %(default)s)",
    )
    parser.add_argument(
        "--target-gpu", type=given.gpu, metavar="G", help="copy to this GPU (default: to the host)"
    )
    arguments = parser.parse_args()
    with muninn.open(arguments.buffer, timeout=arguments.wait) as buffer:
        given.requireTenant(buffer, arguments.tenant)
        try:
            if arguments.target_gpu is None:
                printEach(buffer)
            else:
                copyEach(buffer, arguments.target_gpu)
        except TimeoutError:
            print("nothing new for 2 s")


if __name__ == "__main__":
    given.run(main)
