"""Sizes as people write them: ``"64K"``, ``"1.5M"``, ``"512GiB"``. Powers of 1024."""

from __future__ import annotations

import re

from muninn.errors import InvalidArgument

# At most as many digits as a size can have, so the conversion below needs no bound of
# its own.
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?) *([KMGTP]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
MAX_BYTES = 1 << 56


def asBytes(text: str) -> int:
    """The bytes that `text` means, at most 2**56, or `InvalidArgument`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(
            f"{text[:40]!r} is no size", 'Write a number and K, M, G or T, such as "512G"'
        )
    number, power = match[1], _POWERS[match[2].upper()]
    # Integers stay exact. A fraction is a part of the unit, and is cut to whole bytes.
    sizeBytes = (
        int(number) << 10 * power if "." not in number else int(float(number) * (1 << 10 * power))
    )
    if sizeBytes > MAX_BYTES:
        raise InvalidArgument(
            f"{text!r} is more than any machine has", f"Use at most {exactly(MAX_BYTES)}"
        )
    return sizeBytes


def asText(sizeBytes: int) -> str:
    """`sizeBytes` for a person, as `asBytes` reads it too: 128G, 1.5M, 512 B."""
    text = f"{sizeBytes} B"
    for unit, power in _POWERS.items():
        value = sizeBytes / (1 << 10 * power)
        if power > 0:
            text = (
                f"{value:.0f}{unit}" if value >= 100 else f"{value:.1f}".removesuffix(".0") + unit
            )
        if round(value) < 1 << 10:  # a value that would be shown as 1024K is shown as 1M
            break
    return text


def exactly(sizeBytes: int) -> str:
    """`asText` for sizes that are compared, followed by the bytes if it was rounded:
    3M (3145729 bytes).
    """
    if sizeBytes > MAX_BYTES:
        return f"{sizeBytes} bytes"
    text = asText(sizeBytes)
    return (
        text if sizeBytes < 1 << 10 or asBytes(text) == sizeBytes else f"{text} ({sizeBytes} bytes)"
    )
