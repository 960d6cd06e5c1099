"""Candidacy: whether this process can serve as broker, and which member should serve.

A broker works in a process that has limits of its own, and these limits would apply to
the whole domain. Therefore each member writes into its slot how many descriptors it can
spend as broker. A process that chooses a successor, for a broker that died or has
reached its limits, chooses itself if it can serve all members. Otherwise it chooses the
member that can serve most. A stale number costs one more election. A process that has
failed as broker does not stand for a while, which is longer after each failure.
"""

from __future__ import annotations

import errno
import os
import resource
from typing import TypeGuard

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.election import Election, Term
from muninn.control.members import MemberKey, MemberTable
from muninn.control.rows import RowTable
from muninn.errors import BrokerUnavailable, DescriptorsExhausted, DomainChanged, MuninnError
from muninn.observe import events
from muninn.system import clock
from muninn.system.logs import Log
from muninn.system.oserrors import fileError, missingShm

_log = Log("muninn.broker")
#: The descriptors that a broker opens for itself: journal and copy, sockets, its epoll
#: and that of its descriptor server; and those that it needs for a moment.
OWN_DESCRIPTORS = 16
_LEAST_FILE_BYTES = 1 << 20  # a journal of few buffers
_ROW_FILE_BYTES = 2048  # twice a record, twice over
_MEASURE_SECONDS = 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 5.0
_FORGOTTEN_SECONDS = 10.0
#: So many failures as broker may be accidents: a thread that asks waits for the next
#: attempt, and gets no error.
_FAILURES_UNTOLD = 2
_LONGEST_SLEEP_SECONDS = 0.25


class Candidacy:
    """Whether this member could serve as broker, and whether the others say that they
    could.
    """

    def __init__(self, block: ControlBlock, members: MemberTable, key: MemberKey) -> None:
        self._block = block
        self._members = members
        self._key = key
        self._measureAt = 0.0
        self._failures = 0
        self._standsAgainAt = 0.0
        self._reason: MuninnError | None = None
        self.measure()

    # --- one's own limits ------------------------------------------------------------

    def measure(self) -> int:
        """How many descriptors this process could spend as broker; 0 if it can not
        serve. The number is written into its slot.
        """
        self._measureAt = clock.now() + _MEASURE_SECONDS
        mayServe = (
            not self._isPausing() and self._isOwnUid() and self._isHere() and self._mayWrite()
        )
        spare = self._spare() if mayServe else 0
        self._members.tellSpareDescriptors(self._key.slot, spare)
        return spare

    def measureSometimes(self) -> None:
        if clock.now() >= self._measureAt:
            self.measure()

    def _spare(self) -> int:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            taken = len(os.listdir("/proc/thread-self/fd"))
        except OSError as error:
            self._reason = _typed(error)
            return 0
        spare = max(0, (0xFFFFFFFF if limit == resource.RLIM_INFINITY else limit) - taken)
        if spare <= OWN_DESCRIPTORS:
            self._reason = DescriptorsExhausted(
                f"{self._who()} may open {limit} descriptors and has {taken} open: too few to "
                f"serve {self._block.paths.domain!r}",
                "Raise its `ulimit -n`, or run `python -m muninn keep`, which serves instead",
            )
        return spare

    def _isOwnUid(self) -> bool:
        uid = self._block.paths.uid
        if os.geteuid() != uid:
            self._reason = DomainChanged(
                f"{self._who()} joined as uid {uid}, and is uid {os.geteuid()} now",
                "Ask again: it joins anew",
            )
        return os.geteuid() == uid

    def _isHere(self) -> bool:
        """Whether the domain's files are in the `/dev/shm` that this process sees."""
        if (missing := missingShm()) is not None:
            self._reason = missing
        return missing is None

    def _mayWrite(self) -> bool:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit == resource.RLIM_INFINITY:
            return True
        wanted = (
            _LEAST_FILE_BYTES
            + RowTable(self._block).countInState(layout.ROW_LIVE) * _ROW_FILE_BYTES
        )
        if limit < wanted:
            self._reason = BrokerUnavailable(
                f"{self._who()} may write no file of more than {limit} bytes: the journal of "
                f"{self._block.paths.domain!r} needs more",
                "Raise its `ulimit -f`, or run `python -m muninn keep`, which serves instead",
            )
        return limit >= wanted

    def _who(self) -> str:
        return f"process {os.getpid()} ({self._members.program(self._key.slot)})"

    # --- whom to choose --------------------------------------------------------------

    def stand(self, election: Election, term: Term, mayWait: bool) -> None:
        """Have a successor of `term` elected. If no member can serve, a thread that may
        wait sleeps for a while; any other gets the reason as an error.
        """
        # A pause that begins or ends during this call counts as well.
        wasPausing = self._isPausing()
        slot = self.choice(term)
        if slot is not None:
            self._elect(election, term, slot)
        elif mayWait:
            clock.sleep(
                min(
                    _LONGEST_SLEEP_SECONDS,
                    max(_FIRST_PAUSE_SECONDS, self._standsAgainAt - clock.now()),
                )
            )
        elif not (wasPausing or self._isPausing()) or self._failures > _FAILURES_UNTOLD:
            raise self._reason or BrokerUnavailable(
                f"{self._who()} has failed as broker", "Its log says why"
            )

    def _elect(self, election: Election, term: Term, slot: int) -> None:
        """Of several processes that elect at the same time, one does, and says so."""
        why = self._whyNeeded(term) if events.isOn("election") else ""
        elected = election.replace(term, slot)
        if elected is not None:
            events.say(
                "election",
                term=elected.epoch,
                chosenPid=self._members.identity(slot).pid,
                program=self._members.program(slot),
                reason=why,
            )

    def _whyNeeded(self, term: Term) -> str:
        """Why `term` needs a successor. The slot of its broker is not another's yet."""
        if term.slot is None:
            return "there was none"
        key = MemberKey(term.slot, self._members.state(term.slot)[1])
        pid, program = self._members.identity(term.slot).pid, self._members.program(term.slot)
        end = "has died" if self._members.isSuspectedDead(key) else "did not answer"
        return f"process {pid} ({program}) {end}"

    def _isPausing(self) -> bool:
        return clock.now() < self._standsAgainAt

    def choice(self, term: Term) -> int | None:
        """The slot of the member that should succeed `term`; None if none can serve."""
        own = self.measure()
        if own >= OWN_DESCRIPTORS + self._members.count:
            return self._key.slot
        spare, slot = self._ablest(term.slot)
        if own < self._wanted() and spare > own and spare > OWN_DESCRIPTORS:
            return slot
        return self._key.slot if own > OWN_DESCRIPTORS else None

    def abler(self) -> int | None:
        """The slot of another member that can serve all members, when this process,
        which is broker, has reached its limits; None if there is no such member.
        """
        own = self.measure()
        spare, slot = self._ablest(self._key.slot)
        return slot if spare > own and spare >= self._wanted() else None

    def successor(self) -> int | None:
        """The slot of the member that should follow this broker when it resigns; None
        lets any member become broker that stands first.
        """
        spare, slot = self._ablest(self._key.slot)
        return slot if spare > OWN_DESCRIPTORS else None

    def _wanted(self) -> int:
        return OWN_DESCRIPTORS + len(self._members.othersAlive(self._key)) + 1

    def _ablest(self, exceptSlot: int | None) -> tuple[int, int | None]:
        others = [
            key.slot for key in self._members.othersAlive(self._key) if key.slot != exceptSlot
        ]
        spare = {slot: self._members.spareDescriptors(slot) for slot in others}
        slot = max(spare, key=spare.__getitem__, default=None)
        return (0, None) if slot is None else (spare[slot], slot)

    # --- how it went -----------------------------------------------------------------

    def resigned(self, term: Term, error: Exception) -> None:
        """This process has failed as broker: it does not stand again for a while."""
        self._reason = _typed(error)
        # Its uid was another one, perhaps for a moment only: this is no failure.
        if isinstance(self._reason, DomainChanged):
            events.say(
                "handover",
                term=term.epoch,
                reason=self._reason.reason,
            )
            return
        if (
            self._reason.code == BrokerUnavailable.code
            and not isinstance(error, MuninnError)
            and not _isLoss(error)
        ):
            _log.error(
                "gave up as broker of %s in term %d, after an error that Muninn did not expect",
                self._block.paths.domain,
                term.epoch,
                exc_info=error,
            )
        else:  # the text of this error has the fix
            _log.error(
                "gave up as broker of %s in term %d: %s",
                self._block.paths.domain,
                term.epoch,
                self._reason,
            )
        now = clock.now()
        self._failures = 1 if now - self._standsAgainAt > _FORGOTTEN_SECONDS else self._failures + 1
        self._standsAgainAt = now + min(
            _LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1)
        )
        self.measure()


def _isLoss(error: Exception) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno == errno.EBADF


def _typed(error: Exception) -> MuninnError:
    if _isLoss(error):
        return BrokerUnavailable(
            f"process {os.getpid()} has closed descriptors that Muninn had opened in it: "
            f"{error.strerror}",
            "Let it close only what it has opened itself",
        )
    typed = fileError(error, "serving as broker") if isinstance(error, OSError) else error
    return (
        typed
        if isinstance(typed, MuninnError)
        else BrokerUnavailable(f"serving as broker failed: {error}", "The log says where")
    )
