"""A Ctrl-C at each place of `Condition.wait` where the interpreter looks for one, and
LATER places later a second one; 0: there is none.
"""
# ruff: noqa: F821

import signal

from interrupts import tracing
from muninn.system.green import Condition

signal.signal(signal.SIGINT, signal.default_int_handler)
condition = Condition()
lock, owned, wrong = condition.lock, [], []


def act(_):
    with lock, lock:
        try:
            condition.wait(0.001)
        finally:
            owned.append(lock._is_owned())


def isFree():
    """Whether the lock is free, and was the waiter's at the end of its wait."""
    was, owned[:] = list(owned), []
    return was == [True] and not lock._is_owned()


act(None)
assert isFree()
places = [each for each in tracing.rehearse(act, None, None) if each.mayBeInterrupted()]
assert isFree()
for place in places:
    outcome = tracing.interrupt(act, None, place, 1, None, None, LATER)
    if not (isFree() and outcome.isDone and type(outcome.raised) is KeyboardInterrupt):
        wrong.append(f"{place}: {outcome}")
seen = {place.function for place in places}
