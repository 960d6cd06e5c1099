import threading
from muninn.session import gpus, membership

b = muninn.open("a", access="readWrite", timeout=30)
d = gpus.deviceOf(membership.current())
p = b.open()
semaphore = threading.Event()
kept = []
s, t = d.createStream(0), d.createStream(0)


def fill(stream, number, stands=True):
    source, filled = d.allocate(0, BYTES), np.full(BYTES, number, np.uint8)
    kept.append(source)
    d.copyNow(source.address, filled.ctypes.data, BYTES, 0)
    if stands:
        stream.submit(lambda: semaphore.wait(60))
    d.copy(p, source.address, BYTES, stream)


def taken(stream):
    target = d.allocate(0, BYTES)
    kept.append(target)
    d.copy(target.address, p, BYTES, stream)
    return target


def bytesOf(target):
    out = np.zeros(BYTES, np.uint8)
    d.copyNow(out.ctypes.data, target.address, BYTES, 0)
    return sorted(set(out.tolist()))


def inside(scope):
    scope.__enter__()
    kept.append(scope)
    return scope
