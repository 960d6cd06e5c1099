"""The C header of the control block, made from `layout.py`: ``python -m
muninn.control.cheader > cshim/layout.h``.

Each number of `layout.py` becomes ``MNN_<name>``, and each bit field
``MNN_<name>_SHIFT`` and ``MNN_<name>_MASK``, the field's bits where they are in the
word. The last macro of the header names all of them, so that the compiled library can
tell what it was made with (`cshim/layout.c`).
"""

from __future__ import annotations

from muninn.control import layout
from muninn.control.bits import BitField

_HEAD = """\
/* The control block for C. Generated: change `muninn/control/layout.py`, which has the
 * drawing and says which process writes which word, and run
 *
 *     python -m muninn.control.cheader > cshim/layout.h
 *
 * Offsets that end in _OFFSET are relative to the structure that they are in; a _MASK is
 * a field's bits where they are in the word.
 */
#ifndef MUNINN_LAYOUT_H
#define MUNINN_LAYOUT_H

#include <stdint.h>

"""
_WIDEST_INT = (1 << 31) - 1


def numbers() -> dict[str, int]:
    """All numbers of the layout, by the names that C has for them but for the prefix,
    in the order of the source.
    """
    found: dict[str, int] = {}
    for name, value in vars(layout).items():
        if isinstance(value, BitField):
            found |= {f"{name}_SHIFT": value.shift, f"{name}_MASK": value.mask}
        elif name.isupper() and isinstance(value, int):
            found[name] = value
    return found


def text() -> str:
    """The header."""
    words = {
        f"{name}_MASK": value.wordBits
        for name, value in vars(layout).items()
        if isinstance(value, BitField)
    }
    magic = "".join(chr(byte) if 32 < byte < 127 else f"\\{byte:03o}" for byte in layout.MAGIC)
    lines = [f'#define MNN_MAGIC "{magic}"']
    lines += [
        f"#define MNN_{name} {_written(value, words.get(name, 0))}"
        for name, value in numbers().items()
    ]
    table = " \\\n".join(
        ["", "#define MNN_LAYOUT(NUMBER)", *(f"\tNUMBER({name}, MNN_{name})" for name in numbers())]
    ).lstrip(" \\\n")
    return (
        f"{_HEAD}{chr(10).join(lines)}\n\n/* `NUMBER(name, value)` for each number above. "
        f"*/\n{table}\n\n#endif\n"
    )


def _written(value: int, wordBits: int) -> str:
    """A mask has the type of its word; anything else is an `int` where it fits."""
    if wordBits:
        return f"UINT{wordBits}_C({value:#x})"
    return str(value) if value <= _WIDEST_INT else f"UINT64_C({value})"


if __name__ == "__main__":
    print(text(), end="")
