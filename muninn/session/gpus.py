"""The GPUs of this process: the device, which is chosen at its first use, and the
tickets that its streams have not completed yet.

Private to the process. When the process dies, the broker poisons the tickets that it
has promised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from muninn.control.rowstate import TAKING
from muninn.control.shortages import EVERYTHING, Shortages, groupOf
from muninn.session.windownames import wordOf
from muninn.system.cleanups import Cleanups
from muninn.system.forks import Guard
from muninn.system.oserrors import typedErrors
from muninn.system.threads import refuseImports
from muninn.terms import Mode

if TYPE_CHECKING:
    from muninn.devices.port import Device, Registration
    from muninn.session.tables import Tables

_lock = Guard(isWhole=True)  # the back-end is imported inside
_companying = Guard()


class Companion(Protocol):
    """An object of a layer above that belongs to a membership's device."""

    def trim(self) -> object:
        """Give back what was idle for long. Called by the background thread."""

    def hasIdle(self) -> bool:
        """Whether there is anything to give back sometime."""

    def giveWay(self, belowRank: int, gpu: int | None) -> list[object]:
        """What nothing uses now, on one GPU or on any, and ranks below something that has no
        room. The caller drops it.
        """

    def close(self) -> None:
        """Give back everything: the membership ends."""


Kind = TypeVar("Kind", bound=Companion)


class Gpus:
    """The GPUs of one membership.

    Attributes
    ----------
    device
        The back-end, once it was used.
    promised
        (row, ticket) that streams of this process have promised and not completed.
    fenceWords
        By the first row of a chunk: its fence words, for GPUs.
    signalling
        Tickets that are being issued.
    """

    def __init__(self, tables: Tables, wake: Callable[[], object]) -> None:
        self._settings = tables.settings.devices
        # A device asks for the rows as long as any thread uses it, also when this
        # process has left. While these tables are there, the block is mapped.
        self._tables = tables
        self.device: Device | None = None
        self.promised: set[tuple[int, int]] = set()
        self.fenceWords: dict[int, Registration] = {}
        self.signalling = Cleanups(wake)
        self._wake = wake
        self._shortages = Shortages(tables.block)
        #: The groups of the GPUs, and the counts of shortages that this process knows.
        self._groups: list[int] = []
        self._known: list[tuple[int, ...]] = []
        self._companions: dict[type[Companion], Companion] = {}

    def chosen(self) -> Device:
        """The back-end that the settings ask for. Its memory is counted by the rows of
        the whole domain.
        """
        with _lock.lock:
            if self.device is None:
                refuseImports("this process has not used a GPU yet")
                with typedErrors("the device back-end"):
                    from muninn.devices.choose import chooseDevice

                    made = chooseDevice(self._settings, self._usedBytes)
                if self.device is None:  # a signal handler may have chosen it meanwhile
                    self.device = made
            return self.device

    def companion(self, kind: type[Kind], make: Callable[[], Kind]) -> Kind:
        """The one object of this kind of a layer above, made now if there is none."""
        with _companying.lock:
            found = self._companions.get(kind)
            if not isinstance(found, kind):
                found = self._companions[kind] = make()
            return found

    def tidy(self) -> None:
        """Let the companions give back what was idle for long, and what another process has
        no room for.
        """
        if self.hasIdle():
            for gpu, belowRank in self._told():
                self.giveWay(belowRank, gpu).clear()
        for each in list(self._companions.values()):
            each.trim()

    def tidySoon(self) -> None:
        """A companion has got something to give back, and `tidy` is to be called now and
        then. What others had no room for before does not count.
        """
        self._known = self._counts()
        self._wake()

    def _told(self) -> list[tuple[int, int]]:
        """The GPUs of which others have told a shortage since the last look, and the highest
        rank.
        """
        before, self._known = self._known, self._counts()
        pairs = enumerate(zip(before, self._known, strict=False))  # the GPUs may be new here
        changes = (
            (gpu, [rank for rank, count in enumerate(now) if count != known[rank]])
            for gpu, (known, now) in pairs
        )
        return [(gpu, ranks[-1]) for gpu, ranks in changes if ranks]

    def _counts(self) -> list[tuple[int, ...]]:
        device = self.device
        if device is not None and not self._groups:
            self._groups = [groupOf(wordOf(device.gpuUuid(gpu))) for gpu in range(device.gpuCount)]
        return [self._shortages.counts(group) for group in self._groups]

    def hasIdle(self) -> bool:
        """Whether `tidy` is to be called again soon."""
        return any(each.hasIdle() for each in list(self._companions.values()))

    def giveWay(self, belowRank: int = EVERYTHING, gpu: int | None = None) -> list[object]:
        """What the companions have and do not use, for the caller to drop."""
        return [
            dropped
            for each in list(self._companions.values())
            for dropped in each.giveWay(belowRank, gpu)
        ]

    def close(self) -> None:
        """The membership ends."""
        for each in list(self._companions.values()):
            each.close()

    def _usedBytes(self, gpu: int) -> int:
        """Bytes that the domain holds on a GPU: a sum over the rows."""
        rows = self._tables.rows
        taking = [row for row, state in rows.notFree() if state.state in TAKING]
        described = map(rows.description, taking)
        return sum(
            each.segmentBytes for each in described if each.mode is Mode.FAST and each.gpu == gpu
        )


class UsesGpus(Protocol):
    """An object that belongs to one membership and knows its GPUs."""

    @property
    def gpus(self) -> Gpus: ...


def deviceOf(owner: UsesGpus) -> Device:
    """The back-end of a membership, or of an object that belongs to it."""
    return owner.gpus.chosen()
