"""The broker's role: how a member becomes broker, serves its terms, and hands over.

Takeover, as seen from one member:

1. The background thread notices that the election word names no member, or a member
   that is suspected dead. A thread that waits for an answer notices that the broker's
   heartbeat has stood still for `takeoverMs`.
2. If another member is preferred as broker, this member first gives it a few
   milliseconds' head start.
3. The member chooses the slot that should serve (`broker/candidacy.py`), and replaces
   the election word {epoch, slot} by {epoch + 1, chosen slot} with one CAS. One of the
   members that try at the same time wins; a member that read a stale word loses its
   CAS, and reads the word again.
4. The member whose slot is in the election word makes a `Broker`, and runs it on its
   background thread (`broker/broker.py` has the order of what it does) until it is
   deposed, fails, or the process leaves.

Handover. The descriptors that the broker has of memory without a name go into the
handover *before* the election word is given to a successor, and before `role.broker`
is cleared. From then on another thread of the process may say hello to the successor,
and it brings the handover along. If the process dies in between, only memory that no
other process has open is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from muninn.broker.candidacy import Candidacy
from muninn.broker.policy.limits import Limits
from muninn.config import Settings
from muninn.control import layout
from muninn.control.block import BlockLost
from muninn.control.election import Term
from muninn.control.rows import Deposed
from muninn.observe import events
from muninn.observe.counters import count
from muninn.session.credentials import isAstray, isDisplaced
from muninn.session.handover import Allocation, Handover
from muninn.session.lateimports import load
from muninn.session.standing import Standing
from muninn.session.tables import Tables
from muninn.session.wakeup import Wakeup
from muninn.system import atomics, clock
from muninn.system.logs import Log

if TYPE_CHECKING:
    from muninn.broker.broker import Broker

_log = Log("muninn.member")
#: How long the others wait for a member that is preferred as broker.
_HEAD_START_NS = 5_000_000


class BrokerRole:
    """The broker's role of one member.

    Attributes
    ----------
    broker
        This process's own broker, while it serves.
    isPreferred
        Whether this member stays and should be broker before others.
    handOverUntil
        Until this time a process that leaves lets other members become broker.
    threadId
        The kernel's thread id of the background thread.
    """

    def __init__(
        self, tables: Tables, standing: Standing, wakeup: Wakeup, isPreferred: bool
    ) -> None:
        self._tables = tables
        self._standing = standing
        self._wakeup = wakeup
        self.isPreferred = isPreferred
        self.broker: Broker | None = None
        self.handover = Handover()
        self.candidacy = Candidacy(tables.block, tables.members, tables.key)
        self.handOverUntil = 0.0
        self.threadId = 0

    def campaign(self, term: Term) -> None:
        """Stand for election as successor of `term`. The background thread calls this,
        and so does any thread that waits for an answer.
        """
        tables = self._tables
        if clock.now() < self.handOverUntil:
            # This process leaves, and other members can serve.
            tables.election.awaitReady(tables.election.readyEpoch(), _HEAD_START_NS)
            return
        onThread = atomics.threadId() == self.threadId
        if term.slot != tables.key.slot:
            if (
                not self.isPreferred
                and onThread
                and tables.members.preferredOther(tables.key) is not None
            ):
                tables.election.awaitReady(tables.election.readyEpoch(), _HEAD_START_NS)
            self.candidacy.stand(tables.election, term, onThread)

    def serve(
        self, term: Term, held: Callable[[], list[Allocation]], run: Callable[[Broker], object]
    ) -> None:
        """Be broker for `term`, until `run` ends.

        Parameters
        ----------
        held
            Returns descriptors of the memory without a name that this member has open.
        run
            Called with the broker: lets the broker take one step after another.
        """
        tables = self._tables
        broker: Broker | None = None
        try:
            broker = self._made(term, self.candidacy.abler)
            self._begin(broker, term)
            # The other members bring their descriptors with their hello.
            broker.inherit([*self.handover.taken(), *held()])
            self.broker = broker
            run(broker)
        except Deposed:
            if not (self._standing.isLeaving or self.handOverUntil):
                events.say("deposed", term=term.epoch)
        except BlockLost:
            # A process of another uid, or with another /dev/shm, finds no name either.
            if not isAstray(tables.paths.uid):
                self._abandonBlock()
        except Exception as error:
            # Another member may not have the same error; a process that can not serve
            # must not stay broker.
            if not isDisplaced(tables.paths.uid) and tables.election.term() == term:
                # A process whose uid has changed, or that was deposed, has not failed
                # as broker.
                self.candidacy.resigned(term, error)
            self.broker = None
            if broker is not None:
                self.handover.keep(broker.handOver())
            tables.election.replace(term, self.candidacy.successor())
        finally:
            # The handover comes first: once `self.broker` is None, another thread may
            # say hello to the successor, and brings what is in the handover then.
            if broker is not None:
                self.handover.keep(broker.handOver())
            self.broker = None
            if broker is not None:
                broker.close()

    def _begin(self, broker: Broker, term: Term) -> None:
        begun = clock.now()
        broker.start()
        count("elections")
        if not events.isOn("takeover"):
            return
        tables = self._tables
        events.say(
            "takeover",
            term=term.epoch,
            buffers=tables.rows.countInState(layout.ROW_LIVE),
            durationMs=(clock.now() - begun) * 1e3,
        )

    def _made(self, term: Term, abler: Callable[[], int | None]) -> Broker:
        tables, wakeFd = self._tables, self._wakeup.event.checked()
        return load().broker(
            tables.block,
            tables.members,
            tables.election,
            term,
            tables.key,
            limitsOf(tables.settings),
            wakeFd,
            abler,
        )

    def loseBlock(self) -> None:
        """Let the background thread end, and this process join again at its next call.
        Mapped memory stays mapped.
        """
        self._standing.isLost = self._standing.isStopping = True

    def _abandonBlock(self) -> None:
        """The control block was removed: give it up, and join again at the next call.
        The member that is elected next in this block does the same.
        """
        tables = self._tables
        _log.warning(
            "the control block of %s was removed from /dev/shm: this process joins anew",
            tables.paths.domain,
        )
        self.loseBlock()
        tables.election.replace(tables.election.term(), None)


def limitsOf(settings: Settings) -> Limits:
    """The limits that a broker with these settings sets to creations."""
    memory, tenancy, promotion = settings.memory, settings.tenancy, settings.promotion
    return Limits(
        memory.bigModeMaxBytes,
        memory.fastModeMaxBytes,
        tenancy.defaultPinnedHostQuota,
        tenancy.defaultVramQuota,
        promotion.perGpuScratchBytes,
        promotion.perTenantScratchBytes,
        promotion.maxConcurrentPromotions,
    )
