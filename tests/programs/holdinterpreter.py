# Keep the interpreter's lock until the other end of the FIFO at PATH is closed: what is
# called through PyDLL keeps the lock, and the long interval keeps it between the calls.
import ctypes
import sys
import time

library = ctypes.PyDLL(None)
interval = sys.getswitchinterval()
sys.setswitchinterval(3600)
time.sleep(0.1)  # a thread that waits by the interval of before has had the lock
descriptor = library.open(PATH, 0)  # the test's end opens here
library.read(descriptor, ctypes.create_string_buffer(1), 1)
library.close(descriptor)
sys.setswitchinterval(interval)
