"""A Ctrl-C at each place of a registration where the interpreter looks for one, and a
second one LATER places later. It follows `pinsInPieces`.
"""
# ruff: noqa: F821

import signal

from interrupts import tracing

signal.signal(signal.SIGINT, signal.default_int_handler)
left, missed = [], []


def act(_):
    d.registerHost(address, KIB64 * 4, True, lambda part: None)


act(None)
isFree()
places = [each for each in tracing.rehearse(act, None, None) if each.mayBeInterrupted()]
isFree()


def tryAll():
    for place in places:
        outcome = tracing.interrupt(act, None, place, 1, None, None, LATER)
        if not outcome.isDone:
            missed.append(str(place))
        if not isFree():
            left.append(str(place))
    return left
