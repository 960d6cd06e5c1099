"""The broker's role: a member's campaign for the office, its terms as broker, and what
it keeps from one term for the next.

Any member may be elected. The one whose slot is in the election word makes a `Broker`
and serves on its background thread until it is deposed, fails, or the process leaves.
What the broker had in its hands goes into the handover *before* the office is given up:
from then on another thread may already say hello to the successor, and brings the
handover with it. A death in between loses nothing but what nobody else has open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from muninn.broker.candidacy import Candidacy
from muninn.broker.policy.limits import Limits
from muninn.config import Settings
from muninn.control.block import BlockLost
from muninn.control.election import Term
from muninn.control.rows import Deposed
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
    """That of one member.

    Attributes
    ----------
    broker
        This process's own broker, while it serves.
    isPreferred
        Whether this member stays and should be broker before others.
    handOverUntil
        Until when this process, which leaves, lets others have the office.
    threadId
        The background thread, as the kernel counts threads.
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
        """Stand for the succession of `term`. Called by the background thread, and by
        any that waits for an answer.
        """
        tables = self._tables
        if clock.now() < self.handOverUntil:
            # we are leaving, and others are there
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
        """Be broker for `term`, until `run` does not return.

        Parameters
        ----------
        held
            What this member has open of memory without a name.
        run
            Called with the broker: lets it step, again and again.
        """
        tables = self._tables
        broker: Broker | None = None
        try:
            broker = self._made(term, self.candidacy.abler)
            broker.start()
            # the others bring theirs with their hello
            broker.inherit([*self.handover.taken(), *held()])
            self.broker = broker
            run(broker)
        except Deposed:
            _log.info("deposed as broker of epoch %d", term.epoch)
        except BlockLost:
            # who may not look, or looks elsewhere, finds no name
            if not isAstray(tables.paths.uid):
                self._abandonBlock()
        except Exception as error:
            # Whatever it is, another member may do better; a broker that can not serve
            # must not sit in office.
            if not isDisplaced(tables.paths.uid) and tables.election.term() == term:
                # who is another uid by now, or deposed, has not failed in office
                self.candidacy.resigned(term, error)
            self.broker = None
            if broker is not None:
                self.handover.keep(broker.handOver())
            tables.election.replace(term, self.candidacy.successor())
        finally:
            # The handover first: once there is no broker here, another thread may say
            # hello to the successor, with what we have then.
            if broker is not None:
                self.handover.keep(broker.handOver())
            self.broker = None
            if broker is not None:
                broker.close()

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
        """Be sure that the background thread ends and this process joins anew at its
        next call. What is mapped stays.
        """
        self._standing.isLost = self._standing.isStopping = True

    def _abandonBlock(self) -> None:
        """Nobody finds this control block any more: join anew at the next call, as
        whoever is elected next does.
        """
        tables = self._tables
        _log.warning(
            "the control block of %s was removed from /dev/shm: this process joins anew",
            tables.paths.domain,
        )
        self.loseBlock()
        tables.election.replace(tables.election.term(), None)


def limitsOf(settings: Settings) -> Limits:
    """What a broker of these settings allows."""
    memory, tenancy = settings.memory, settings.tenancy
    return Limits(
        memory.bigModeMaxBytes,
        memory.fastModeMaxBytes,
        tenancy.defaultPinnedHostQuota,
        tenancy.defaultVramQuota,
    )
