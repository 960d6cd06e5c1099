"""Streams: queues of work for a GPU, which a program makes for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.observe.calls import named
from muninn.session.membership import current

if TYPE_CHECKING:
    from muninn.devices.port import Stream


@named
def createStream(gpu: int = 0) -> Stream:
    """A new stream of a GPU, for `signal` and `wait`: a queue whose work is done in
    order, concurrently with the caller.

    Raises
    ------
    DeviceUnavailable
        There is no such GPU, not even an emulated one.
    """
    return current().gpus.chosen().createStream(gpu)
