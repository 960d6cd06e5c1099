"""The arena: scratch memory of this process that no window uses.

*Idle* memory is kept for some seconds. If the same window is promoted again, and the
buffer was not written meanwhile, its bytes are there. Otherwise the next window of the
same buffer, of about its size and on the same GPU, gets the memory: to allocate a GiB
takes a tenth of the time of copying one to it. A window of another buffer does not: the
name of the memory says whose it is, and lists and evictions go by that.

*Prefetched* memory has the bytes of a window already, of one generation of its buffer.
It is kept until its time is over, and while the buffer is used. So is memory that
processes share, for some seconds after its last window here.

Both count against the budgets, and are given back when a promotion finds no room:
prefetched memory only to one of the same priority or a higher one, or to a prefetch of a
higher one. Private to the
process; with it the memory goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from muninn.control.generations import Generation
from muninn.errors import MuninnError
from muninn.session.windownames import WindowPlace
from muninn.system import clock
from muninn.terms import Priority
from muninn.transfer.kept import Kept, Watch

if TYPE_CHECKING:
    from muninn.session.context import Context
    from muninn.session.openbuffer import OpenBuffer
    from muninn.transfer.dirty import Range

IDLE_SECONDS = 4.0
#: Memory of more than so many times the wanted size is left to a larger window.
_MOST_TIMES = 2


class Content(NamedTuple):
    """Whose bytes are in memory: those of one window of a buffer, at one generation.

    Attributes
    ----------
    base
        The row of the buffer, and its incarnation.
    """

    base: tuple[int, int]
    gpu: int
    window: Range
    generation: int

    def covers(self, wanted: Content) -> bool:
        """Whether all bytes of another one are in it."""
        mine, theirs = self.window, wanted.window
        return (
            self._replace(window=theirs) == wanted
            and mine.offset <= theirs.offset
            and sum(theirs) <= sum(mine)
        )


class Prefetched(NamedTuple):
    """Memory that has its bytes already."""

    content: Content
    #: What is where in the memory, as its user has laid it out.
    room: object
    memory: OpenBuffer
    priority: Priority
    untilSeconds: float

    @property
    def gpu(self) -> int:
        return self.content.gpu

    @property
    def tenant(self) -> str:
        return self.memory.description.tenant

    def isValid(self) -> bool:
        """Whether it may still be used: its time is not over, it was not evicted, and its
        buffer was neither freed nor written since.
        """
        row, incarnation = self.content.base
        tables = self.memory.tables
        generation = Generation(tables.block.rowAddress(row)).value()
        return (
            clock.now() < self.untilSeconds
            and tables.rows.mayBeUsed(row, incarnation)
            and generation == self.content.generation
            and isHeld(self.memory)
        )


class _Idle(NamedTuple):
    gpu: int
    memory: OpenBuffer
    sinceSeconds: float
    #: None if it is not known, or not of any generation.
    content: Content | None
    room: object

    @property
    def tenant(self) -> str:
        return self.memory.description.tenant

    @property
    def sizeBytes(self) -> int:
        return self.memory.description.sizeBytes

    def isNamedAs(self, place: WindowPlace) -> bool:
        """Whether the memory is named as of the same buffer, and for the same use."""
        mine = WindowPlace.of(self.memory.description.name)
        return mine is not None and (mine.base, mine.isFlags) == (place.base, place.isFlags)


class Arena:
    """The unused scratch memory of one membership.

    Parameters
    ----------
    trimSoon
        Called when there is a first memory: from then on `trim` is to be called now and
        then, as long as `hasIdle`.
    """

    def __init__(self, trimSoon: Callable[[], object]) -> None:
        self._watch = Watch(trimSoon)
        self._idle = Kept[_Idle](self._watch)
        self._prefetched = Kept[Prefetched](self._watch)
        self._isClosed = False

    # --- idle --------------------------------------------------------------------------

    def take(self, gpu: int, tenant: str, sizeBytes: int, place: WindowPlace) -> OpenBuffer | None:
        """Memory of at least so many bytes, and not much more, that is named as of the same
        buffer; None if there is none.
        """
        fitting = [
            each
            for each in self._idle
            if (each.gpu, each.tenant) == (gpu, tenant)
            and each.isNamedAs(place)
            and sizeBytes <= each.sizeBytes <= _MOST_TIMES * sizeBytes
            and isHeld(each.memory)
        ]
        for each in sorted(fitting, key=lambda each: each.sizeBytes):
            if self._idle.hasTaken(each):
                return each.memory
        return None

    def giveBack(
        self, gpu: int, memory: OpenBuffer, content: Content | None = None, room: object = None
    ) -> None:
        """No work uses the memory any more, in which a window is still whole."""
        if self._isClosed or not isHeld(memory):
            return
        self._idle.add(_Idle(gpu, memory, clock.now(), content, room))

    # --- prefetched --------------------------------------------------------------------

    def keep(self, prefetched: Prefetched) -> None:
        """Keep memory with its bytes, in place of an older one of the same window."""
        if self._isClosed or not isHeld(prefetched.memory):
            return
        for each in self._prefetched:
            if each.content._replace(generation=0) == prefetched.content._replace(generation=0):
                self._prefetched.hasTaken(each)
        self._prefetched.add(prefetched)

    def keepShared(self, content: Content, room: object, memory: OpenBuffer) -> None:
        """A window that processes share is not used here any more."""
        if not any(each.memory is memory for each in self._prefetched):
            until = clock.now() + IDLE_SECONDS
            self.keep(Prefetched(content, room, memory, Priority.LOW, until))

    def covering(self, wanted: Content) -> Prefetched | None:
        """Prefetched memory in which all the wanted bytes are. It stays here."""
        found = [each for each in self._prefetched if each.content.covers(wanted)]
        valid = (each for each in found if each.isValid())
        return min(valid, key=lambda each: each.content.window.sizeBytes, default=None)

    def takeCovering(self, wanted: Content) -> Prefetched | None:
        """The same, taken out: nobody else writes it meanwhile. The caller keeps it again."""
        found = self.covering(wanted)
        return found if found is not None and self._prefetched.hasTaken(found) else None

    def takeFilled(self, wanted: Content, room: object) -> OpenBuffer | None:
        """Memory of exactly this window, laid out so, for one user."""
        for each in self._prefetched:
            isIt = each.content == wanted and each.room == room and each.isValid()
            if isIt and self._prefetched.hasTaken(each):
                return each.memory
        for idle in self._idle:
            isIt = idle.content == wanted and idle.room == room and isHeld(idle.memory)
            if isIt and self._idle.hasTaken(idle):
                return idle.memory
        return None

    def goOn(self, base: tuple[int, int], generation: int, written: Range) -> None:
        """The next generation of a buffer differs from this one in a window only."""

        def following(content: Content) -> Content | None:
            """The same of the next generation; None if it is not of this one, or changes."""
            isOfIt = (content.base, content.generation) == (base, generation)
            if isOfIt and not content.window.overlaps(written):
                return content._replace(generation=generation + 2)
            return None

        for each in self._prefetched:
            content = following(each.content)
            if content is not None and self._prefetched.hasTaken(each):
                self._prefetched.add(each._replace(content=content))
        for idle in self._idle:
            content = None if idle.content is None else following(idle.content)
            if content is not None and self._idle.hasTaken(idle):
                self._idle.add(idle._replace(content=content))

    # --- the end -----------------------------------------------------------------------

    def makeRoom(self, belowRank: int, gpu: int | None = None, tenant: str | None = None) -> bool:
        """Let go of all idle memory, or else of the prefetched memory that ranks lowest, if
        it ranks below that. Returns whether there was any. Of one GPU and of one tenant, if
        they are given: where others have their memory there is room that nobody needs.
        """

        def isThere(each: _Idle | Prefetched) -> bool:
            return gpu in (None, each.gpu) and tenant in (None, each.tenant)

        dropped = [self._idle.hasTaken(each) for each in self._idle if isThere(each)]
        if any(dropped):
            return True
        there = filter(isThere, self._prefetched)
        least = min(there, key=lambda each: each.priority.rank, default=None)
        isBelow = least is not None and least.priority.rank < belowRank
        return least is not None and isBelow and self._prefetched.hasTaken(least)

    def giveWay(self, belowRank: int, gpu: int | None) -> list[object]:
        """All idle memory on a GPU, and what was prefetched there and ranks below something
        that finds no room, perhaps in another process.
        """
        idle = [each for each in self._idle if gpu in (None, each.gpu)]
        below = [
            each
            for each in self._prefetched
            if gpu in (None, each.gpu) and each.priority.rank < belowRank
        ]
        return [each for each in idle if self._idle.hasTaken(each)] + [
            each for each in below if self._prefetched.hasTaken(each)
        ]

    def trim(self, olderThanSeconds: float = IDLE_SECONDS) -> None:
        """Let go of what was idle for so long, and of what may not be used any more."""
        if not self._isAny():
            self._watch.end(self._isAny)
            return
        oldest = clock.now() - olderThanSeconds
        for idle in self._idle:
            if idle.sinceSeconds <= oldest or not isHeld(idle.memory):
                self._idle.hasTaken(idle)
        for each in self._prefetched:
            if not each.isValid():
                self._prefetched.hasTaken(each)

    def _isAny(self) -> bool:
        return bool(self._idle) or bool(self._prefetched)

    def hasIdle(self) -> bool:
        return self._watch.isOn

    def close(self) -> None:
        """The membership ends."""
        self._isClosed = True
        self._idle.clear()
        self._prefetched.clear()


def arenaOf(context: Context) -> Arena:
    """The arena of a membership, made at its first use."""
    return context.gpus.companion(Arena, lambda: Arena(context.gpus.tidySoon))


def isHeld(memory: OpenBuffer) -> bool:
    """Whether this process's lease on it is in force: it may have been evicted."""
    try:
        memory.check()
    except MuninnError:
        return False
    return True
