"""Events: what happened, in a line each, with the names of buffers and programs.

`EVENTS` is the table: who greps or alarms relies on the names of events and fields, and
`docs/logs.md` lists them. An event goes to `logging` (`system/logs.py`), and to the span
that is open, if spans are made. A text that takes long to make is made only where
`isOn` says that somebody wants it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from muninn.config.sizes import asText
from muninn.observe import spans
from muninn.system.logs import Log, surroundings


class Event(NamedTuple):
    """One kind of event.

    Attributes
    ----------
    text
        The message; each ``%(field)s`` in it is a field that the event has.
    meaning
        When it happens, for the documentation.
    isNoted
        Whether it is noted in the span that is open. Any other has a span of its own.
    """

    logger: str
    level: int
    text: str
    meaning: str
    isNoted: bool = True


_BROKER, _MEMBER = "muninn.broker", "muninn.member"
_PROMOTION, _TRANSFER = "muninn.promotion", "muninn.transfer"
_DEBUG, _INFO, _WARNING = logging.DEBUG, logging.INFO, logging.WARNING

#: By name.
EVENTS: dict[str, Event] = {
    # The broker.
    "election": Event(
        _MEMBER,
        _INFO,
        "process %(chosenPid)d (%(program)s) is elected broker of %(domain)s for term %(term)d: "
        "%(reason)s",
        "a process chose a broker, because there was none, or the one before had died or stood "
        "still; written by the process that chose",
    ),
    "handover": Event(
        _MEMBER,
        _INFO,
        "the broker of %(domain)s hands over after term %(term)d: %(reason)s",
        "a broker gave its role away on its own account; the next line is the successor's",
    ),
    "takeover": Event(
        _BROKER,
        _INFO,
        "serving %(domain)s as its broker in term %(term)d, after %(durationMs).1f ms; buffers "
        "there: %(buffers)d",
        "this process is broker from now on, and answers requests",
    ),
    "deposed": Event(
        _MEMBER,
        _INFO,
        "broker of %(domain)s no more: term %(term)d has ended",
        "another process was elected, or the role was handed over",
    ),
    # Members.
    "memberLeft": Event(
        _BROKER,
        _DEBUG,
        "process %(memberPid)d (%(program)s) has left",
        "a process left the domain, by its exit or by itself",
    ),
    "memberReclaimed": Event(
        _BROKER,
        _INFO,
        "process %(memberPid)d (%(program)s) ended without leaving; leases taken back: "
        "%(leases)d, buffers half made: %(halfMade)d",
        "a process ended without leaving, as after kill -9",
    ),
    "leakReclaimed": Event(
        _BROKER,
        _INFO,
        "memory that belonged to nothing is freed: %(segment)s, %(size)s",
        "a segment was found that no buffer has; a broker or a creator died at a bad moment",
    ),
    "memoryLost": Event(
        _BROKER,
        _INFO,
        "%(bufferId)r has lost its memory: the processes that had it have ended",
        "a buffer is gone with the process that lent it, or with the last one that had it open",
    ),
    "revocation": Event(
        _BROKER,
        _INFO,
        "revoked the lease of process %(holderPid)d (%(program)s) on %(bufferId)r%(window)s: "
        "%(reason)s",
        "one lease of a process that lives was revoked; its next use is an error",
    ),
    "drain": Event(
        _BROKER,
        _INFO,
        "draining is %(state)s: %(reason)s",
        "the domain creates no buffers from now on, or does so again",
    ),
    # Buffers.
    "creation": Event(
        _MEMBER,
        _DEBUG,
        "made %(bufferId)r: %(size)s, %(mode)s",
        "a buffer was made",
        isNoted=False,
    ),
    "publication": Event(
        _MEMBER,
        _INFO,
        "published a new version of %(bufferId)r: %(size)s",
        "`publish` gave a name to a new version",
        isNoted=False,
    ),
    # Bytes.
    "transfer": Event(
        _TRANSFER,
        _INFO,
        "%(size)s of %(bufferId)r from %(source)s to %(target)s: %(route)s (%(reason)s), "
        "%(durationMs).3f ms, %(speed)s%(note)s",
        "bytes were copied between two places, and which way they went",
        isNoted=False,
    ),
    "promotion": Event(
        _PROMOTION,
        _INFO,
        "promoted %(size)s from %(offset)d on of %(bufferId)r to GPU %(gpu)d in "
        "%(durationMs).3f ms",
        "a window is in the memory of a GPU",
        isNoted=False,
    ),
    "promotionFailure": Event(
        _PROMOTION,
        _INFO,
        "no promotion of %(size)s from %(offset)d on of %(bufferId)r to GPU %(gpu)d: %(error)s",
        "a promotion ended with an error, which the program got",
    ),
    "promotionAlone": Event(
        _PROMOTION,
        _INFO,
        "the window from %(offset)d on of %(bufferId)r on GPU %(gpu)d is not shared: %(note)s",
        "a window could not be had together with the processes that use the same one",
    ),
    "usage": Event(
        _PROMOTION,
        _INFO,
        "of a window of %(bufferId)r on GPU %(gpu)d, %(usedBytes)d of %(bytes)d bytes were used",
        "a window ended whose use was marked",
    ),
    "writeback": Event(
        _PROMOTION,
        _INFO,
        "wrote %(size)s back from GPU %(gpu)d to %(bufferId)r in %(durationMs).3f ms: "
        "generation %(generation)d",
        "what was written to a window is in the buffer again",
        isNoted=False,
    ),
    # Errors.
    "error": Event(
        _MEMBER,
        _DEBUG,
        "%(errorCode)s for the program: %(error)s",
        "a call ended with an error, which the program got; many are expected",
    ),
}
_LOGS = {event.logger: Log(event.logger) for event in EVENTS.values()}


def isOn(name: str) -> bool:
    """Whether anybody wants an event of this name."""
    event = EVENTS[name]
    return spans.isOn() or _LOGS[event.logger].isOn(event.level)


def wish(name: str) -> Callable[[], bool]:
    """A function that says, as soon as can be, whether anybody may want an event of this
    name.
    """
    event = EVENTS[name]
    level, isEnabledFor = event.level, _LOGS[event.logger].isEnabledFor

    def isWished() -> bool:
        return (
            isEnabledFor(level) or surroundings.sink is not None or spans.tracing.tracer is not None
        )

    return isWished


def say(name: str, **fields: object) -> None:
    """An event has happened. Raises nothing.

    Parameters
    ----------
    **fields
        Those of R§7 (`bufferId`, `leaseId`, `tenant`, `gpu`, `route`, `bytes`,
        `offset`, `durationMs`, `errorCode`) as far as they are known, and those that
        the event's text names.
    """
    event = EVENTS[name]
    if event.isNoted and spans.isOn():
        spans.note(name, fields)
    log = _LOGS[event.logger]
    if log.isOn(event.level):
        words = {
            **surroundings.fields,
            **fields,
            "size": _size(fields.get("bytes")),
            "speed": _speed(fields.get("bytesPerSecond")),
        }
        log.say(event.level, event.text, (words,), {"event": name, **fields})


def _speed(bytesPerSecond: object) -> str:
    """What a text calls `speed`: in powers of 1000, as the makers of links count."""
    if not isinstance(bytesPerSecond, int | float):
        return ""
    isFast = bytesPerSecond >= 1e9
    return f"{bytesPerSecond / (1e9 if isFast else 1e6):.3g} {'GB/s' if isFast else 'MB/s'}"


def _size(sizeBytes: object) -> str:
    """What a text calls `size`: the bytes in units for people."""
    return asText(sizeBytes) if isinstance(sizeBytes, int) else ""
