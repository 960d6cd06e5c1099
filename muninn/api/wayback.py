"""The way of dirty ranges from scratch memory back to the buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from muninn.api import transfers
from muninn.devices.ways import drain, streamFor
from muninn.session.gpus import deviceOf
from muninn.transfer.handle import Transfer

if TYPE_CHECKING:
    from muninn.session.openbuffer import OpenBuffer
    from muninn.sync.moves import WritingBack
    from muninn.transfer import dirty
    from muninn.transfer.tiers import Place


class WayBack(NamedTuple):
    """The way of one window.

    Attributes
    ----------
    memory, gpu
        The scratch memory, which has the window at its beginning, and its GPU.
    offset
        The beginning of the window in the buffer.
    shadowAt
        The copy in the scratch memory with which the window is compared, if it is.
    """

    memory: OpenBuffer
    gpu: int
    offset: int
    shadowAt: int | None

    def send(self, base: OpenBuffer, ranges: list[dirty.Range], access: WritingBack) -> None:
        """Copy ranges to the buffer, and to the shadow. All copies are over when this
        returns or raises, or else when the access ends.
        """
        device, source = deviceOf(base.context), self.memory.memory.address
        whole, home = transfers.windowOf(base, lambda: None), base.memory.gpu
        target = whole.address + self.offset
        with streamFor(device, self.gpu) as stream:
            access.covers(lambda: drain((stream,)))
            if (shadowAt := self.shadowAt) is not None:
                kept = [(source + shadowAt + at, source + at, length) for at, length in ranges]
                device.copyBatch(kept, stream)
            if home in (None, self.gpu):
                device.copyBatch(
                    [(target + at, source + at, length) for at, length in ranges], stream
                )
        if home not in (None, self.gpu):
            self._sendAcross(base, whole.place, target, ranges, access)

    def _sendAcross(
        self,
        base: OpenBuffer,
        place: Place,
        target: int,
        ranges: list[dirty.Range],
        access: WritingBack,
    ) -> None:
        """Copy ranges to another GPU."""
        window = transfers.windowOf(self.memory, lambda: None)
        sizeBytes = sum(each.sizeBytes for each in ranges)
        transfer: Transfer[None] = Transfer(window.place, place, sizeBytes)
        with transfers.engineFor(base).way(transfer, window, place, None) as way:
            access.covers(way.settle)
            for at, length in ranges:
                way.send(window.address + at, target + at, length, lambda _: None)
