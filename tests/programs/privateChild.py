"""A forked child that inherits private memory, and an array of it: `said` tells whether
the child found its parent's write and its own in both, whether the shared bytes stayed,
how many private mappings it had after its close and after its last array, and how often
it was among the holders meanwhile: opened, closed with an array left, and at the end.
"""

import os

import muninn


def mapped():
    with open("/proc/self/maps") as file:
        return sum("/segment-" in line and "rw-p" in line for line in file)


def holds():
    (listed,) = muninn.listBuffers()
    return [each["pid"] for each in listed["importers"]].count(os.getpid())


b = muninn.open("a", access="copyOnWrite")
before = b.array
before[0] = 1
reading, writing = os.pipe()
child = os.fork()
if not child:
    b.array[1] = 2
    isSame = before.tolist() == b.array.tolist() == [1, 2, 0, 0]
    isPrivate = b.describe()["openedAs"] == "copyOnWrite" and not b.read().any()
    counts = [holds()]
    b.close()
    mappings = [mapped()]
    before[2] = 3
    counts.append(holds())
    del before
    mappings.append(mapped())
    counts.append(holds())
    os.write(writing, f"{isSame} {isPrivate} {mappings} {counts}".encode())
    os._exit(0)
os.close(writing)
with os.fdopen(reading) as answer:
    said = answer.read()
os.waitpid(child, 0)
