"""Fences between the streams of two processes: Muninn's tickets beside the driver's
interprocess events. Needs a GPU.
"""

from __future__ import annotations

import ctypes

import numpy as np
from cuda.bindings import driver as cu

import muninn
from bench.driver import device, lastTicket, openEvent, spinUntil
from bench.harness import Options, Peer, Row, microseconds, newDomain
from muninn.devices.cuda.driver import call


def fencing(options: Options) -> list[Row]:
    """There and back between the streams of two processes: by Muninn's tickets, and by
    bare interprocess events.
    """
    newDomain()
    exchanges, rounds = options.pick(300, 30), options.pick(9, 2)
    ours, peers = [], []
    for _ in range(rounds):
        ours.append(byTickets(exchanges))
        peers.append(byEvents(exchanges))
    return [
        Row(
            "signal→wait between two processes' streams, one way",
            "µs",
            ours,
            peers,
            "bare interprocess events",
            None,
            None,
        )
    ]


def byTickets(exchanges: int) -> float:
    there, back = (
        muninn.array(name, 8, np.uint8, mode="fastMode", access="readWrite")
        for name in ("there", "back")
    )
    peer = Peer("answerTickets", exchanges)
    peer.line()
    stream = device().createStream(0)
    known = 0

    def exchange() -> None:
        nonlocal known
        there.signal(stream)
        known += 1
        spinUntil(lambda: lastTicket(back) >= known)
        back.wait(stream, known)
        call(cu.cuStreamSynchronize, stream.handle)

    elapsed = microseconds(exchange, exchanges)
    peer.end()
    there.free()
    back.free()
    return elapsed / 2


def byEvents(exchanges: int) -> float:
    """The same with events: a process that has recorded its event says so by a counter
    in shared memory.
    """
    call(cu.cuCtxSetCurrent, call(cu.cuDevicePrimaryCtxRetain, 0))
    interprocess = int(cu.CUevent_flags.CU_EVENT_INTERPROCESS) | int(
        cu.CUevent_flags.CU_EVENT_DISABLE_TIMING
    )
    event = call(cu.cuEventCreate, interprocess)
    counters = muninn.array("counters", 2, np.uint64)
    raw = ctypes.string_at(call(cu.cuIpcGetEventHandle, event).getPtr(), 64)
    peer = Peer("answerEvents", exchanges, raw.hex())
    theirs = openEvent(peer.line())
    stream, shown = call(cu.cuStreamCreate, 1), counters.array
    done = 0

    def exchange() -> None:
        nonlocal done
        done += 1
        call(cu.cuEventRecord, event, stream)
        shown[0] = done
        spinUntil(lambda: int(shown[1]) >= done)
        call(cu.cuStreamWaitEvent, stream, theirs, 0)
        call(cu.cuStreamSynchronize, stream)

    elapsed = microseconds(exchange, exchanges)
    peer.end()
    counters.free()
    return elapsed / 2
