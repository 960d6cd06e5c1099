"""Sizes as people write them: ``"64K"``, ``"1.5M"``, ``"512GiB"``. Powers of 1024."""

from __future__ import annotations

import math
import re

from muninn.errors import InvalidArgument

# Not more digits than any size has: what follows may then convert them without a bound of its own.
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?) *([KMGTP]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
MAX_BYTES = 1 << 56


def asBytes(text: str) -> int:
    """The bytes that `text` means, at most 2**56, or `InvalidArgument`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"{text[:40]!r} is no size", 'Write a number and K, M, G or T, such as "512G"')
    number, power = match[1], _POWERS[match[2].upper()]
    # Integers stay exact; a fraction is of the unit, and what is below a byte is cut off.
    sizeBytes = int(number) << 10 * power if "." not in number else int(float(number) * (1 << 10 * power))
    if sizeBytes > MAX_BYTES:
        raise InvalidArgument(f"{text!r} is more than any machine has", f"Use at most {MAX_BYTES} bytes")
    return sizeBytes


def asText(sizeBytes: int) -> str:
    """`sizeBytes` for a person: 512 B, 1.5 MiB."""
    if sizeBytes < 1024:
        return f"{sizeBytes} B"
    power = min(4, int(math.log(sizeBytes, 1024)))
    return f"{sizeBytes / 1024**power:.4g} {'KMGT'[power - 1]}iB"
