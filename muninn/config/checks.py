"""The checks of the settings: which keys each table has, and which values a key may have."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

from muninn.config.sizes import MAX_BYTES, asBytes
from muninn.errors import InvalidArgument
from muninn.terms import asTenant, nearest


def _size(least: int, unit: int = 1) -> Callable[[Any], int]:
    check = _count(least, unit=unit)
    return lambda value: check(asBytes(value) if isinstance(value, str) else value)


def _count(least: int, most: int = MAX_BYTES, unit: int = 1) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?\d{1,1000}", value, re.ASCII):
            value = int(value)  # the value of a variable is always text
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidArgument(f"{str(value)[:40]!r} is no whole number")
        if not least <= value <= most:
            raise InvalidArgument(f"{str(value)[:40]} is not between {least} and {most}")
        if value % unit:
            raise InvalidArgument(f"{value} is no multiple of {unit}")
        return value

    return check


def _tenant(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{value!r} is no text")
    return asTenant(value)


def _word(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise InvalidArgument(f"{value!r} is not one of {', '.join(choices)}")
        return str(value)

    return check


def _flag(value: Any) -> bool:
    if value in ("true", "false"):
        return bool(value == "true")  # the value of a variable is always text
    if not isinstance(value, bool):
        raise InvalidArgument(f"{str(value)[:40]!r} is neither true nor false")
    return value


def _text(pattern: str, words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise InvalidArgument(f"{value!r:.80} is not {words}")
        return value

    return check


def _address(value: Any) -> str:
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, TypeError, ValueError):
            socket.inet_pton(family, value)
            return str(value)
    raise InvalidArgument(f"{value!r:.80} is no IP address such as 127.0.0.1, 0.0.0.0 or ::1")


LEVELS = ("debug", "info", "warning", "error")


def _lines(value: Any) -> str:
    """Which lines are written, and where: "" for none, or the level, a colon, and the
    file, which is empty for stderr.
    """
    if not isinstance(value, str):
        raise InvalidArgument(f"{str(value)[:40]!r} is no text")
    level, _, path = value.partition(":")
    level = level.strip().lower()
    if level not in LEVELS:
        level, path = "info", value
    if not path:
        return f"{level}:" if value else ""
    if "\0" in path:
        raise InvalidArgument(f"{path[:80]!r} is no path")
    if "/" not in path and "." not in path:
        # A misspelt level must not make a file of that name.
        meant, before = nearest(path.lower(), list(LEVELS)), value[: len(value) - len(path)]
        raise InvalidArgument(
            f"{value[:80]!r} is neither {', '.join(LEVELS)} nor a file"
            + (f" (did you mean {meant}?)" if meant else f" ({before}./{path[:80]} is one)")
        )
    return f"{level}:{path}"


#: Each check returns the value in its type, or raises `InvalidArgument`.
CHECKS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "server": {
        "logLevel": _word(*LEVELS),
        "log": _lines,
        "enableTracing": _flag,
        "metricsPort": _count(0, 65535),
        "metricsAddress": _address,
    },
    "memory": {
        "bigModeMaxBytes": _size(0),
        "fastModeMaxBytes": _size(0),
        "prefaultThreads": _count(0, 1024),
        "loadThreads": _count(0, 1024),
    },
    "tenancy": {
        "defaultTenant": _tenant,
        "defaultPinnedHostQuota": _size(0),
        "defaultVramQuota": _size(0),
    },
    "promotion": {
        "defaultPolicy": _word("readOnly", "readMostly", "readWrite"),
        "enablePromotion": _flag,
        "defaultSliceBytes": _size(4096, unit=8),
        "perGpuScratchBytes": _size(0),
        "perTenantScratchBytes": _size(0),
        "maxConcurrentPromotions": _count(1, 1024),
    },
    "topology": {
        "enablePeerProbing": _flag,
        "preferP2P": _flag,
        "cachePath": _text(
            r"|-|/[^\0]*", 'an absolute path, or "-" for none, or "" for the usual place'
        ),
    },
    "observability": {"counters": _flag},
    "security": {"leaseTtlMs": _count(10, 1 << 40), "handleBytes": _count(64, 64)},
    "control": {
        "domain": _text(r"[A-Za-z0-9_-]{1,32}", "1 to 32 letters, digits, - and _"),
        "takeoverMs": _count(10, 60_000),
        "requestTimeoutMs": _count(100, 3_600_000),
        "maxMembers": _count(1, 4094),
        "maxBuffers": _count(1, 1_048_320),
        "maxLeases": _count(1, 65_536),
    },
    "devices": {
        "device": _word("auto", "host", "cuda"),
        "hostGpus": _count(0, 64),
        "hostGpuBytes": _size(1),
        "hostLinks": _text(r"[^\n]{0,4096}", "one line of at most 4096 characters"),
        "mappedWindowBytes": _size(0),
        "ipcGraceMs": _count(0, 3_600_000),
    },
}
