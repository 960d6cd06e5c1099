import ctypes, os, threading
from muninn.cli import doctor
from muninn.system import clock


def look():
    threading.main_thread().join(0.5)
    clock._own = clock._UNKNOWN
    clock._HOST_NAMESPACE = (
        0  # as if this process were in another namespace, so that the offsets are read
    )
    print(
        bool(clock.learn().inode),
        doctor._mountOf("/dev/shm")[0] != "unknown",
        bool(doctor._pidNamespace()),
        flush=True,
    )
    os._exit(0)


threading.Thread(target=look).start()
ctypes.CDLL(None).pthread_exit(None)
