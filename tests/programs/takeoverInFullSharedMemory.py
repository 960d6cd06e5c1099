import os, sys
import muninn
from support import Actor, ActorError, eventually, leftovers

broker = Actor(
    "a = muninn.share(np.arange(1000), name='a'); b = muninn.share(b'x' * 100000, name='b')"
)
assert muninn.domainInfo()["brokerPid"] == broker.pid
with open("/dev/shm/filler", "wb", buffering=0) as filler:
    try:
        while filler.write(b"x" * 4096):
            pass
    except OSError:
        pass
broker.kill()
assert muninn.open("a").array.sum() == 499500
try:
    muninn.share(b"x" * 50000, name="c")
    raise SystemExit("it is not full")
except muninn.errors.HostMemoryFull as error:
    print(error)
assert muninn.domainInfo()["brokerPid"] == os.getpid()
muninn.open("b").free()
eventually(
    lambda: len(leftovers(os.environ["MUNINN_DOMAIN"])) == 1,
    "the freed buffer's memory is there again",
)
muninn.share(b"x" * 50000, name="c")
assert sorted(each["name"] for each in muninn.listBuffers()) == ["a", "c"]
print("good")
