"""A fuzz target: one reader of bytes, the inputs that it knows, and the errors that it
may raise.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from random import Random

from muninn.errors import MuninnError

CORPUS = Path(__file__).with_name("corpus")
MAX_INPUT_BYTES = 1 << 17
_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0\0\0\0\x80",
    b"\xff" * 8,
    b"\x01" + b"\0" * 7,
)


class Target:
    """One reader.

    Attributes
    ----------
    name
        The name of the target, and of its folder in the corpus.
    share
        Its share of a run's inputs, relative to the other targets.
    allowed
        The exceptions that the reader may raise.
    """

    name: str
    share: float = 1
    allowed: tuple[type[BaseException], ...] = (MuninnError,)

    def open(self) -> None:
        """Called once, in the process that runs the target."""

    def seeds(self) -> list[bytes]:
        """Valid inputs, and some invalid ones."""
        raise NotImplementedError

    def all(self) -> Iterable[bytes]:
        """Inputs that are always tried besides the corpus: every truncation, every bit."""
        return ()

    def mutated(self, random: Random, raw: bytes, other: bytes) -> bytes:
        """Another input, made of one input and perhaps of a second."""
        return mutated(random, raw, other)

    def run(self, raw: bytes) -> None:
        """Read it."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of everything that `open` made."""

    def corpus(self) -> list[bytes]:
        """The inputs that have failed in earlier runs."""
        folder = CORPUS / self.name
        return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


def mutated(random: Random, raw: bytes, other: bytes) -> bytes:
    """One to a few changes: bits, bytes, known bad values, pieces doubled, cut out, and
    taken from the other.
    """
    changed = bytearray(raw)
    for _ in range(1 << random.randrange(4) if random.random() < 0.7 else 1):
        at = random.randrange(len(changed) + 1)
        kind = random.randrange(8)
        if kind <= 1 and changed:
            changed[at % len(changed)] ^= 1 << random.randrange(8)
        elif kind == 2 and changed:
            changed[at % len(changed)] = random.randrange(256)
        elif kind == 3:
            value = random.choice(_INTERESTING)
            changed[at : at + len(value)] = value
        elif kind == 4:
            changed[at:at] = random.randbytes(random.randrange(9))
        elif kind == 5:
            del changed[at : at + random.randrange(1, 17)]
        elif kind == 6:
            changed[at:at] = changed[at : at + random.randrange(65)]
        else:
            start = random.randrange(len(other) + 1)
            changed[at : at + random.randrange(33)] = other[start : start + random.randrange(33)]
    return bytes(changed[:MAX_INPUT_BYTES])


def eachBit(raw: bytes) -> Iterable[bytes]:
    """`raw` with each of its bits turned over."""
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def eachLength(raw: bytes) -> Iterable[bytes]:
    """`raw` cut off at every length."""
    return (raw[:length] for length in range(len(raw)))
