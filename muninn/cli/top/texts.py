"""Texts of the live view: numbers with their units, and names that fit.

Other processes chose the names. A character that a terminal would obey is replaced, and a
long name is shortened in its middle, since names of one program often differ at the end.
"""

from __future__ import annotations

from muninn.cli import fitting
from muninn.cli.output import printable

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def perSecond(value: float) -> str:
    """How often something happens in a second."""
    if value <= 0:
        return "-"
    if value < 10:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 1e5 else f"{value / 1e3:.0f}k"


def throughput(bytesPerSecond: float) -> str:
    """Such as ``12.3 GB/s``: powers of 1000, as the makers of links count."""
    if bytesPerSecond <= 0:
        return "-"
    value, unit = bytesPerSecond, 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1e3, unit + 1
    return f"{value:.{0 if value >= 99.95 or unit == 0 else 1}f} {_UNITS[unit]}/s"


def shortened(text: str, width: int) -> str:
    """The text in at most so many columns."""
    return fitting.shortened(printable(text), width) if width > 0 else ""


def padded(text: str, width: int, isRight: bool = False) -> str:
    """The text in exactly so many columns."""
    text = shortened(text, width)
    blank = " " * (width - fitting.widthOf(text))
    return blank + text if isRight else text + blank
