"""Graphs of the past in one line: two values a character in braille, or one in ASCII."""

from __future__ import annotations

from collections.abc import Sequence

#: The dots of a column of four, from the bottom up: of the left, and of the right.
_LEFT = (0x00, 0x40, 0x44, 0x46, 0x47)
_RIGHT = (0x00, 0x80, 0xA0, 0xB0, 0xB8)
_BRAILLE = 0x2800
_LEVELS = " .:-=+*#"
_BAR, _ASCII_BAR = "█▒·", "#=."


def spark(values: Sequence[float], width: int, isUnicode: bool = True) -> str:
    """The newest values as a graph of so many characters, the newest at the right. Its
    full height is the largest of them, and every value above 0 is seen. One value alone is
    no graph.
    """
    if len(values) < 2:
        return " " * width
    perCharacter = 2 if isUnicode else 1
    room = width * perCharacter
    shown = [0.0] * max(0, room - len(values)) + list(values)[-room:] if room > 0 else []
    steps = 4 if isUnicode else len(_LEVELS) - 1
    top = max(shown, default=0.0)
    levels = [_level(value, top, steps) for value in shown]
    if not isUnicode:
        return "".join(_LEVELS[level] for level in levels)
    return "".join(
        # Some fonts draw the braille character without a dot as an empty frame.
        chr(_BRAILLE + _LEFT[left] + _RIGHT[right]) if left or right else " "
        for left, right in zip(levels[::2], levels[1::2], strict=True)
    )


def _level(value: float, top: float, steps: int) -> int:
    if value <= 0 or top <= 0:
        return 0
    return max(1, min(steps, round(value / top * steps)))


def bar(parts: Sequence[int], width: int, isUnicode: bool = True) -> list[str]:
    """A bar of so many characters: a text for each part, in its share of the sum. A part
    above 0 has at least one character while there is room.
    """
    marks = _BAR if isUnicode else _ASCII_BAR
    total = sum(parts)
    if total <= 0 or width <= 0:
        return [*([""] * (len(parts) - 1)), marks[-1] * max(0, width)]
    left, lengths = width, []
    for part in parts[:-1]:
        length = min(left, max(1, round(part / total * width)) if part > 0 else 0)
        lengths.append(length)
        left -= length
    lengths.append(left)
    return [mark * length for mark, length in zip(marks, lengths, strict=True)]
