import threading

real, main, me = threading.get_ident, threading.get_ident(), [0]
threading.get_ident = lambda: (
    real() + (me[0] if real() == main else 0)
)  # as libraries do that make greenlets of threads
lock, said = muninn.Lock("l"), []


def tell(call):
    try:
        said.append(call())
    except (RuntimeError, TimeoutError) as error:
        said.append(type(error).__name__)


with lock:
    tell(lambda: lock.acquire(timeout=0.05))
    tell(lock.release)
    me[0] = 1
    tell(lambda: lock.acquire(timeout=0.05))
    tell(lock.release)
    me[0] = 0
tell(lambda: lock.acquire(timeout=0.05))
