# A forked child is given a bundle by its parent's follower, and uses it only after a newer
# version was published.
import os

follower = muninn.followBundle("m", ahead=AHEAD)
reading, writing = os.pipe()
going, go = os.pipe()
child = os.fork()
if child == 0:
    bundle = follower.newest()
    os.write(writing, b"x")
    os.read(going, 1)
    os.write(writing, str(int(bundle["a"][0])).encode())
    os._exit(0)
os.read(reading, 1)
