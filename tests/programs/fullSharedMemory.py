import os, sys, numpy as np, muninn
from muninn import errors

small = muninn.share(np.ones(1000), name="small")
for size in (1 << 30, 30 << 20):
    try:
        muninn.MuninnBuffer(size, name="big")
    except errors.HostMemoryFull as error:
        assert error.code == "MNN-0015"
    else:
        raise AssertionError("there was room")
try:
    muninn.share(np.ones(4 << 20), name="copy")
except errors.HostMemoryFull:
    pass
assert [each["name"] for each in muninn.listBuffers()] == ["small"]
folders = [entry for entry in os.listdir("/dev/shm") if entry.endswith(".d")]
assert (
    len([entry for entry in os.listdir("/dev/shm/" + folders[0]) if entry.startswith("segment-")])
    == 1
)
assert small.array.sum() == 1000
fits = muninn.MuninnBuffer(1 << 20)
print("survived")
