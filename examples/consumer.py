"""Print what `producer.py` publishes, until nothing new comes for two seconds.

A slow consumer misses publications and never sees half of one: a buffer has its latest content and no history.
"""

import argparse

import muninn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--buffer", default="example/ticks", help="name of the buffer (default: %(default)s)")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait for the buffer to appear (default: %(default)s)")
    arguments = parser.parse_args()
    with muninn.open(arguments.buffer, timeout=arguments.wait) as buffer:
        generation = 0
        while True:
            try:
                generation = buffer.waitNext(timeout=2.0, after=generation)
            except TimeoutError:
                print("nothing new for 2 s")
                return
            print(f"generation {generation}: {buffer.read()}", flush=True)


if __name__ == "__main__":
    main()
