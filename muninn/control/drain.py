"""The drain: whether the domain creates nothing new, and why.

The broker writes it, every process reads it, and it outlives every process: the last
member that leaves does not withdraw a block that drains (`entry.retire`), and a block
that replaces another takes its drain over (`repair`).

The broker writes the reason first and the word that says "on" second; a reader reads
the word first and the reason second. The reason is text for people. It stands in
several words, five bytes in each, with the broker's epoch beside them, so that the CAS
of a deposed broker fails as everywhere. A broker that dies between two words leaves the
beginning of one text and the end of another; the text decides nothing.
"""

from __future__ import annotations

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.rows import Deposed
from muninn.system import atomics

_EPOCH_SHIFT = layout.DRAIN_EPOCH.shift
_TEXT_MASK, _TEXT_BYTES = layout.DRAIN_TEXT.mask, layout.DRAIN_TEXT.bits // 8
#: The longest reason, in bytes of UTF-8; a longer text is cut.
MAX_REASON_BYTES = layout.DRAIN_REASON_WORDS * _TEXT_BYTES


class Drain:
    """The drain of a control block."""

    def __init__(self, block: ControlBlock) -> None:
        self._word = block.drainAddress
        self._texts = [
            block.drainAddress + 8 * (1 + index) for index in range(layout.DRAIN_REASON_WORDS)
        ]

    def isOn(self) -> bool:
        return bool(atomics.loadAcquire64(self._word) & layout.DRAIN_ON.mask)

    def reason(self) -> str | None:
        """The reason why the domain creates nothing new, an empty text if none was
        given. None if the domain does not drain.
        """
        # SYNC drain: pairs with Drain.set. The word is read first, the reason
        # second.
        if not self.isOn():
            return None
        texts = (int(atomics.loadAcquire64(address)) & _TEXT_MASK for address in self._texts)
        raw = b"".join(text.to_bytes(_TEXT_BYTES, "little") for text in texts)
        return raw.partition(b"\0")[0].decode(errors="replace")

    def set(self, epoch: int, isOn: bool, reason: str) -> None:
        """Begin or end the drain, for the broker of `epoch`. Raises `Deposed`."""
        text = " ".join(reason.replace("\0", " ").split()).encode(errors="replace")[
            :MAX_REASON_BYTES
        ]
        # No character is cut in half.
        text = text.decode(errors="ignore").encode().ljust(MAX_REASON_BYTES, b"\0")
        for index, address in enumerate(self._texts):
            self._change(
                address,
                epoch,
                int.from_bytes(text[index * _TEXT_BYTES : (index + 1) * _TEXT_BYTES], "little"),
            )
        # SYNC drain: pairs with Drain.reason; the reason is visible before the word.
        self._change(self._word, epoch, int(isOn))

    def _change(self, address: int, epoch: int, value: int) -> None:
        word = int(atomics.loadAcquire64(address))
        # SYNC drain: pairs with Drain.reason. Of several words the word that says "on"
        # is changed last.
        if (
            word >> _EPOCH_SHIFT > epoch
            or atomics.casSeqCst64(address, word, epoch << _EPOCH_SHIFT | value) != word
        ):
            raise Deposed
