"""Copies from one GPU to the other again and again, and counts those that take the long
way once C could make them.
"""

import numpy as np

import muninn
from muninn.api import transfers


def copied(near: int) -> tuple[str, bool, int]:
    """The route, whether the bytes are right, and how many of ten copies C did not make."""
    source, target = (
        muninn.share(
            np.full(65536, gpu + 1, np.uint8),
            mode="fastMode",
            preferredGpu=gpu,
            access="readWrite",
        )
        for gpu in (near, 1 - near)
    )
    for _ in range(12):
        target.copyFrom(source)
    usual, count = transfers.copyFrom, 0

    def counted(*given):
        nonlocal count
        count += 1
        return usual(*given)

    transfers.copyFrom = counted
    try:
        for _ in range(10):
            target.copyFrom(source)
    finally:
        transfers.copyFrom = usual
    copy = source.copyTo(1 - near)
    return copy.transfer.route, bool((target.read() == near + 1).all()), count
