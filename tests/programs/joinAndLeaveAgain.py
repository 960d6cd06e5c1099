import gc, threading
from muninn.session import membership


def cycle():
    buffer = muninn.share(np.arange(3), lifetime="lastClose")
    assert buffer.array.sum() == 3
    membership.current().leave()


def count():
    gc.collect()
    return (
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        sum("muninn" in line for line in open("/proc/self/maps")),
    )


for _ in range(3):
    cycle()
