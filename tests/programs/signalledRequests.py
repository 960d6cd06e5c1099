import signal, threading
from muninn.broker.catalog import Catalog
from muninn.session import membership

muninn.share(np.arange(5), name="k")
add, armed = Catalog.add, []


def signalled(self, row, usage):
    if armed:
        armed.clear()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
        time.sleep(0.02)
    add(self, row, usage)


Catalog.add = signalled
