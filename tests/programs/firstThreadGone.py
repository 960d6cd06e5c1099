import ctypes, os, sys, threading
import muninn, numpy as np


def work():
    b = muninn.share(np.arange(4.0), name=sys.argv[1])
    print(
        muninn.open("w").read().sum() if sys.argv[2] else b.read().sum(),
        muninn.domainInfo()["brokerPid"] == os.getpid(),
        flush=True,
    )
    sys.stdin.readline()
    os._exit(0)


if sys.argv[3]:
    muninn.domainInfo()
threading.Thread(target=work).start()
ctypes.CDLL(None).pthread_exit(None)
