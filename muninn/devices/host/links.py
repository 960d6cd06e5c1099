"""The links between emulated GPUs, as a setting describes them: good ones, and each of the
bad ones that real machines have.

The text names pairs: ``"0-1=none, 1>2=corrupt, 0-2=slow:200M, 1-3=refuse"``. ``a-b`` is
both directions, ``a>b`` is the bytes that go from GPU a to GPU b. A pair that is not
named has a good link. Nothing is shared between processes; each reads the setting.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from muninn.config.sizes import asBytes
from muninn.errors import InvalidConfig, MuninnError, TopologyNotPeerable
from muninn.system import atomics, clock

_PAIR = re.compile(r"(\d+)([->])(\d+)=(none|refuse|corrupt|slow:[0-9.]+[KMGTkmgt]?)")
#: A corrupt link changes a byte of each of so many.
_CORRUPT_EVERY_BYTES = 64 << 10


class Link(NamedTuple):
    """What the bytes from one GPU to another meet.

    Attributes
    ----------
    isThere
        Whether the driver says that there is a path. It does so for a link that
        refuses, too.
    refuses
        Whether access can not be set.
    corrupts
        Whether some bytes arrive changed, and nothing says so.
    bytesPerSecond
        How fast it is; 0 is as fast as memory.
    """

    isThere: bool = True
    refuses: bool = False
    corrupts: bool = False
    bytesPerSecond: int = 0


class Links:
    """All links of the emulated GPUs.

    Raises
    ------
    InvalidConfig
        The text is not of the form above, or names a GPU that there is not.
    """

    def __init__(self, text: str, gpuCount: int) -> None:
        self.text = text
        self._named: dict[tuple[int, int], Link] = {}
        for part in filter(None, map(str.strip, text.split(","))):
            match = _PAIR.fullmatch(part)
            if match is None or match[1] == match[3]:
                raise _invalid(part, "it is no pair and kind")
            ends = int(match[1]), int(match[3])
            if max(ends) >= gpuCount:
                raise _invalid(part, f"there are {gpuCount} emulated GPUs")
            link = _linkOf(part, match[4])
            self._named[ends] = link
            if match[2] == "-":
                self._named[ends[::-1]] = link

    def between(self, source: int, target: int) -> Link:
        """The link for the bytes that go from `source` to `target`."""
        return self._named.get((source, target), _GOOD)

    def require(self, source: int, target: int) -> None:
        """Raise `TopologyNotPeerable` if access of `target` to `source` can not be set."""
        link = self.between(source, target)
        if link.refuses or not link.isThere:
            why = "refuses access" if link.refuses else "is not there"
            raise TopologyNotPeerable(
                f"the emulated link from GPU {source} to GPU {target} {why} (devices.hostLinks)"
            )

    def send(
        self, source: int, sourceGpu: int, target: int, targetGpu: int, sizeBytes: int
    ) -> None:
        """Copy bytes over a link, as well and as fast as it does."""
        link, begun = self.between(sourceGpu, targetGpu), clock.now()
        atomics.copy(target, source, sizeBytes)
        if link.corrupts:
            for offset in range(0, sizeBytes, _CORRUPT_EVERY_BYTES):
                wrong = bytearray(1)
                atomics.copy(atomics.addressOfBytes(wrong), target + offset, 1)
                wrong[0] ^= 0x55
                atomics.copy(target + offset, atomics.addressOfBytes(wrong), 1)
        if link.bytesPerSecond:
            clock.sleep(max(0.0, begun + sizeBytes / link.bytesPerSecond - clock.now()))


_GOOD = Link()


def _linkOf(part: str, kind: str) -> Link:
    word, _, speed = kind.partition(":")
    if word != "slow":
        return Link(isThere=word != "none", refuses=word == "refuse", corrupts=word == "corrupt")
    try:
        return Link(bytesPerSecond=max(1, asBytes(speed)))
    except MuninnError as error:
        raise _invalid(part, error.reason) from error


def _invalid(part: str, reason: str) -> InvalidConfig:
    return InvalidConfig(
        f"devices.hostLinks: {part!r}: {reason}",
        "Write pairs such as `0-1=none, 1>2=corrupt, 0-2=slow:200M, 1-3=refuse`",
    )
