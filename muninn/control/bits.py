"""A bit field: where some bits of a shared word are. `layout.py` names each field of
each word with one.

The methods are for code that is called seldom and for tests. Code that runs with each
open or lock takes `shift`, `top` and `mask` out once, when its module is imported.
"""

from __future__ import annotations

from typing import NamedTuple


class BitField(NamedTuple):
    """`bits` bits of a word, from bit `shift` upward; the word has `wordBits` bits."""

    shift: int
    bits: int
    wordBits: int = 64

    @property
    def top(self) -> int:
        """The largest value of the field, which is also the mask of a value that was
        shifted down.
        """
        return (1 << self.bits) - 1

    @property
    def mask(self) -> int:
        """The field's bits where they are in the word."""
        return self.top << self.shift

    def of(self, word: int) -> int:
        """The value of the field in `word`."""
        return word >> self.shift & self.top

    def put(self, value: int, word: int = 0) -> int:
        """`word` with `value` in the field. Raises `ValueError` for a value that has no
        room there.
        """
        if not 0 <= value <= self.top:
            raise ValueError(f"{value} does not fit into {self.bits} bits")
        return word & ~self.mask | value << self.shift
