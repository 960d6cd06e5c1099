"""Digests: BLAKE2b of the standard library.

Muninn needs one function of `hashlib`, and importing `hashlib` loads the whole of
libcrypto: 3.4 MiB resident in each process that joins. So the function is imported from
the module in which `hashlib` finds it, and from `hashlib` only if the interpreter was
built without that module.
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
    """Whether two MACs under `key` are the same. The time that it takes does not show
    how many bytes agree, because the function compares MACs of the MACs.
    """
    return digestOf(one, 64, key) == digestOf(other, 64, key)
