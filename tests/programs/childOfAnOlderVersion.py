"""A child that was forked while its parent had an older version open, which the child
has not used. Run in an actor; gives the child's error, and what it reads then.
"""

import os

import numpy as np

import muninn

older = muninn.publish("a", np.arange(3))
newer = muninn.publish("a", np.arange(4))
reading, writing = os.pipe()
if (child := os.fork()) == 0:
    try:
        older.read()
    except muninn.errors.BufferFreed as error:
        text = error.reason + str(muninn.open("a").read().tolist())
    os.write(writing, text.encode())
    os._exit(0)
os.waitpid(child, 0)
os.read(reading, 1000).decode()
