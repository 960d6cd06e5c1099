import os, time
import numpy as np
import muninn
from muninn.errors import HostMemoryFull

small = muninn.share(np.ones(1000), name="small")


def segments():
    folder = muninn.session.membership.current().paths.directory
    return sorted(entry for entry in os.listdir(folder) if entry.startswith("segment-"))


before = segments()
assert len(before) == 1


def eventually(isSo, what):
    deadline = time.monotonic() + 60
    while not isSo():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


def full(what, make):
    # The broker in this process copies its journal meanwhile, and a copy takes a
    # descriptor and a page for a moment.
    eventually(
        lambda: not muninn.session.membership.current().role.broker._maintenance.isPending(),
        "the broker has nothing to do",
    )
    free, descriptors = os.statvfs("/dev/shm").f_bfree, len(os.listdir("/proc/self/fd"))
    try:
        make()
    except HostMemoryFull as error:
        assert error.code == "MNN-0015" and error.reason and error.fix
    else:
        raise SystemExit(what + ": there was room")
    assert segments() == before and [each["name"] for each in muninn.listBuffers()] == ["small"], (
        what
    )
    eventually(
        lambda: (
            os.statvfs("/dev/shm").f_bfree >= free - 1
            and len(os.listdir("/proc/self/fd")) == descriptors
        ),
        what,
    )


source = np.ones(4 << 20)
records = np.zeros(100, [("f%d" % number, "<f8") for number in range(500)])
full("whole", lambda: muninn.MuninnBuffer("30M", name="big"))
full("larger than all", lambda: muninn.MuninnBuffer("1G", name="big"))
full("copy", lambda: muninn.share(source, name="big"))
full("strided copy", lambda: muninn.share(source[::2], name="big"))
full("lazy copy", lambda: muninn.share(source, name="big", reserve="lazy"))
full("lazy strided copy", lambda: muninn.share(np.ones(8 << 20)[::2], name="big", reserve="lazy"))
full("bundle", lambda: muninn.shareBundle({"a": source}, name="big"))
full("load", lambda: muninn.loadArray(4 << 20, "f8", lambda array: None, "big"))
full("attach or create", lambda: muninn.array("big", 4 << 20))
full("once", lambda: muninn.shareOnce("big", lambda: source))
with open("/dev/shm/filler", "wb", buffering=0) as filler:
    try:
        while filler.write(b"x" * 4096):
            pass
    except OSError:
        pass
full("one page", lambda: muninn.share(b"x", name="big"))
full("lazy manifest", lambda: muninn.array("big", 100, records.dtype, reserve="lazy"))
assert small.array.sum() == 1000 and muninn.open("small").array.sum() == 1000
with small.write() as view:
    view[:] = 2
assert small.read().sum() == 2000
os.unlink("/dev/shm/filler")
assert muninn.share(np.ones(1000), name="big").array.sum() == 1000
assert muninn.array("lazy", 100, records.dtype, reserve="lazy").array["f7"].sum() == 0
print("survived")
