"""The types of arguments: text of the command line to numbers, or an error of usage."""

from __future__ import annotations

import argparse

_MAX_SECONDS, _MAX_PERCENT = 10**9, 10**6


def count(text: str) -> int:
    """A whole number above 0."""
    if not _isWhole(text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0 up."""
    if not _isWhole(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def port(text: str) -> int:
    """A TCP port."""
    if not _isWhole(text) or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 1 to 65535")
    return int(text)


def _isWhole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 16


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from 0 to {_MAX_SECONDS}"
        )
    return value


def percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MAX_PERCENT:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage from 0 to {_MAX_PERCENT}")
    return value
