import os, subprocess
import muninn

descriptors = len(os.listdir("/proc/self/fd"))
from muninn.errors import HostMemoryFull

for attempt in range(3):
    try:
        muninn.domainInfo()
    except HostMemoryFull as error:
        print(error.code, bool(error.fix))
    except RuntimeError as error:
        raise SystemExit(repr(error))
assert os.statvfs("/dev/shm").f_bfree >= 0
print(
    len(os.listdir("/proc/self/fd")) - descriptors,
    sum("muninn-" in line for line in open("/proc/self/maps")),
)
subprocess.run(["mount", "-o", "remount,size=16m", "/dev/shm"], check=True)
print(muninn.share(b"there", name="a").array.tobytes().decode())
