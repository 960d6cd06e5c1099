"""The verdict on one ordered pair of GPUs: what was found out by sending bytes."""

from __future__ import annotations

from typing import NamedTuple


class Verdict(NamedTuple):
    """The verdict on the way from one GPU to another.

    Attributes
    ----------
    isIntact
        Whether the bytes that arrived over the link were those that were sent; None:
        not verified.
    p2pBytesPerSecond, stagedBytesPerSecond
        How fast bytes go over the link, and by way of the host; 0: not measured.
    pieceBytes, pieceCount
        The pinned pieces with which the way by the host was fastest; 0: not tuned.
    note
        Why the link was not verified, for people.
    """

    isIntact: bool | None = None
    p2pBytesPerSecond: float = 0.0
    stagedBytesPerSecond: float = 0.0
    pieceBytes: int = 0
    pieceCount: int = 0
    note: str = ""
