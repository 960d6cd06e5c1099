"""Digests: BLAKE2b, as the standard library has it.

Of `hashlib` it is one function, and importing that loads the whole of libcrypto: 3.4
MiB resident in each process that joins. So it is taken from where `hashlib` takes it,
and from `hashlib` only where an interpreter was built without.
"""

from __future__ import annotations

try:
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b


def digestOf(data: bytes, sizeBytes: int, key: bytes = b"") -> bytes:
    """The digest of `data`, of 1 to 64 bytes; with a `key` of at most 64 bytes, a MAC."""
    return blake2b(data, digest_size=sizeBytes, key=key).digest()


def isSameMac(one: bytes, other: bytes, key: bytes) -> bool:
    """Whether two MACs under `key` are the same, in a time that tells nothing of how
    far they agree: their own MACs are compared.
    """
    return digestOf(one, 64, key) == digestOf(other, 64, key)
