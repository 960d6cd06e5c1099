"""Lines: how a record of the log looks, as a line of JSON or as text for people.

A line of JSON is one object of R§7's fields and more, and never longer than a pipe takes
whole (`PIPE_BUF`), so that the lines of several processes do not mix. What is too long is
shortened: first the text of an exception, then the message, then all other texts.
"""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
from datetime import UTC, datetime
from typing import Any

#: What a pipe takes whole, on Linux.
MAX_LINE_BYTES = 4096
#: To how many characters the texts are shortened, one after the other, until it fits. A
#: character takes at most 12 bytes in JSON.
_SHORTER = (2000, 1000, 250, 60, 12)
#: What a record of `logging` has in any case. The other attributes are fields.
_USUAL = {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName"}
#: The fields that every line of JSON has, in this order.
ALWAYS = ("ts", "level", "event", "message", "pid", "domain")


def fieldsOf(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a record beside its message."""
    return {
        key: value
        for key, value in vars(record).items()
        if key not in _USUAL and value not in (None, "")
    }


def asJson(record: logging.LogRecord) -> bytes:
    """The line, with its end."""
    fields = fieldsOf(record)
    line: dict[str, Any] = {
        "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "event": fields.pop("event", "message"),
        "message": record.getMessage(),
        "pid": os.getpid(),
        "domain": fields.pop("domain", ""),
        "logger": record.name,
        **{key: _plain(value) for key, value in fields.items()},
    }
    line["ts"] = line["ts"].replace("+00:00", "Z")
    if record.exc_info:
        line["exception"] = _traceback(record)
    for most in (None, *_SHORTER):
        if most is not None:
            line = {key: _shortened(key, value, most) for key, value in line.items()}
        if len(raw := json.dumps(line).encode()) < MAX_LINE_BYTES:
            return raw + b"\n"
    # There are more fields than fit, which none of ours has.
    return json.dumps({key: line[key] for key in ALWAYS}).encode() + b"\n"


def asText(record: logging.LogRecord) -> bytes:
    """The line for people: the time, the process, the level unless it is "info"."""
    at = time.strftime("%H:%M:%S", time.localtime(record.created))
    level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
    text = f"{at}.{int(record.msecs):03d} muninn[{os.getpid()}] {level}{record.getMessage()}"
    lines = [text, *(_traceback(record).splitlines() if record.exc_info else ())]
    # A name that has control characters must not command the terminal.
    return "".join(f"{_printable(each)}\n" for each in lines).encode(errors="backslashreplace")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    return value if isinstance(value, str | int) else str(value)


def _shortened(key: str, value: Any, most: int) -> Any:
    if not isinstance(value, str) or len(value) <= most:
        return value
    # The end of a traceback says what happened.
    return f"…{value[-most:]}" if key == "exception" else f"{value[:most]}…"


def _traceback(record: logging.LogRecord) -> str:
    assert record.exc_info
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
