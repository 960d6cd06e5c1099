"""A membership: one process in one domain, from its entry to its end.

`Membership` builds the parts that do the work and connects them. `tables` has the
shared memory, `worker` the one background thread, `role` this process's part as broker,
`client` the requests to the broker, `openBuffers` the open buffers, and `leaving` the
end. Correctness does not depend on a call of `leave`: a process that leaves at exit
only saves the broker the work of reclaiming. A forked child finds its identity page
wiped, and joins the domain as a new member.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from muninn.config import Settings
from muninn.control.block import ControlBlock
from muninn.control.election import Election
from muninn.control.index import NameIndex
from muninn.control.lockfile import LockFile
from muninn.control.members import MemberKey, MemberTable
from muninn.control.rows import RowTable
from muninn.observe.counters import counting
from muninn.session.client import Client
from muninn.session.clientcontext import ClientContext
from muninn.session.context import Context
from muninn.session.departure import Departure
from muninn.session.entry import enter
from muninn.session.gpus import Gpus
from muninn.session.handover import Allocation
from muninn.session.leaving import Leaving
from muninn.session.lending import Lent
from muninn.session.names import absent
from muninn.session.openbuffers import OpenBuffers
from muninn.session.owners import Owners
from muninn.session.releases import Releases
from muninn.session.role import BrokerRole
from muninn.session.services import Begin, Services
from muninn.session.standing import Standing
from muninn.session.tables import Tables
from muninn.session.unclaimed import Unclaimed
from muninn.session.wakeup import Wakeup
from muninn.session.worker import Worker
from muninn.storage.paths import Paths
from muninn.system import atomics
from muninn.system.logs import surroundings

if TYPE_CHECKING:
    from muninn.devices.port import Registration


class Membership:
    """One process in one domain.

    Parameters
    ----------
    settings
        Where to join, and with which bounds.
    isPreferred
        Whether this member stays and should be broker before others.
    """

    _role: type[BrokerRole] = BrokerRole
    _isAlone = False

    def __init__(self, settings: Settings, isPreferred: bool = False) -> None:
        with contextlib.ExitStack() as undo:
            # The files of a domain belong to the effective uid.
            self._lockFile = LockFile(Paths(os.geteuid(), settings.control.domain))
            undo.callback(self._lockFile.close)
            entry = enter(self._lockFile.paths, self._lockFile, settings.control, isPreferred, undo)
            self.tables = tables = Tables.of(settings, *entry)
            surroundings.fields = {"domain": tables.paths.domain}
            self.wakeup = Wakeup(tables.block, tables.key.slot)
            undo.callback(self.wakeup.close)
            self.standing = standing = Standing(tables.identity, self._isAlone)
            owners = Owners(tables.block.geometry.maxBuffers)
            self.departure = Departure(owners)
            self.gpus = Gpus(tables, self.wakeup.wake)
            self.role = self._role(tables, standing, self.wakeup, isPreferred)
            self.client = self._connected()
            releases = Releases(tables, standing, self.client, self.wakeup.wake)
            lent = Lent(tables, self.client)
            context = Context(
                tables,
                standing.isStale,
                self.departure,
                self.client,
                self.gpus,
                releases,
                lent,
                Unclaimed(tables.rows),
                owners,
            )
            self.openBuffers = OpenBuffers(context, self.wakeup.wake)
            self.worker = Worker(standing, self._lockFile, self.wakeup, self.role, self.openBuffers)
            self.services = Services()
            self.leaving = Leaving(
                standing, self._lockFile, self.role, self.openBuffers, self.worker, self.services
            )
            self._begin()
            undo.pop_all()
        # Not in `leave`: buffers that are still referenced use the block, and their
        # finalizers wake the thread, until the last of these objects is collected.
        given = tables.block, self.gpus.fenceWords, tables.identity.isWiped
        weakref.finalize(tables, _letGo, *given).atexit = False
        weakref.finalize(self.wakeup, self.wakeup.event.close).atexit = False
        self.worker.awaitEntry()
        counting.join(tables.block, tables.key.slot, tables, settings.observability.counters)

    def _connected(self) -> Client:
        tables, control, role = self.tables, self.tables.settings.control, self.role
        nonce = tables.members.identity(tables.key.slot).nonce
        return Client(
            ClientContext(
                tables.paths,
                tables.members,
                tables.election,
                tables.key,
                nonce,
                control.takeoverMs,
                control.requestTimeoutMs,
                lambda: role.broker,
                lambda term: role.campaign(term),
                self.isLost,
                self._allocations,
                self.wakeup.wake,
                lambda: self.worker.requireSlot(),
                lambda: self.standing.hasLeft,
            )
        )

    def _allocations(self) -> list[Allocation]:
        """The descriptors that this member brings to a new broker: of the memory
        without a name that it has open, and those that it kept when it was broker
        itself.
        """
        return [*self.openBuffers.allocations(), *self.role.handover.duplicates()]

    def _begin(self) -> None:
        self.worker.begin()

    def beginServices(self, begins: list[Begin]) -> None:
        """Begin the services of other layers that the settings ask for."""
        self.services.begin(begins, self.tables, self.gpus, self.role.isPreferred)

    # --- its parts -------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return self.tables.settings

    @property
    def domain(self) -> str:
        """The name of the domain."""
        return self.tables.paths.domain

    @property
    def paths(self) -> Paths:
        return self.tables.paths

    @property
    def block(self) -> ControlBlock:
        return self.tables.block

    @property
    def members(self) -> MemberTable:
        return self.tables.members

    @property
    def key(self) -> MemberKey:
        return self.tables.key

    @property
    def election(self) -> Election:
        return self.tables.election

    @property
    def rows(self) -> RowTable:
        return self.tables.rows

    @property
    def index(self) -> NameIndex:
        return self.tables.index

    @property
    def leaseLock(self) -> _thread.RLock:
        return self.tables.leaseLock

    # --- its state and its end -------------------------------------------------------

    def isStale(self) -> bool:
        """Whether this is a forked child, or the membership has ended. Then the process
        must join again.
        """
        return self.standing.isStale()

    def isLost(self) -> bool:
        """Whether the control block was removed from `/dev/shm`, or another process has
        the slot.
        """
        return self.standing.isLost

    def requireSame(self, other: Tables, name: str) -> Membership:
        """Itself; see `Tables.requireSame`."""
        self.tables.requireSame(other, name)
        return self

    def located(self, name: str) -> tuple[int, int]:
        """(row, incarnation) of a live name, as the broker knows it. Raises
        `BufferNotFound` if there is none.
        """
        pair, _ = self.client.find(name)
        if pair is None:
            raise absent(self.tables, name)
        return pair

    def wake(self) -> None:
        """See `Wakeup.wake`."""
        self.wakeup.wake()

    def leave(self) -> None:
        """See `Leaving.leave`."""
        self.leaving.leave()

    def forgetInChild(self) -> None:
        """In a forked child: close the child's copies of the parent's descriptors. The
        only shared word that the child writes is the one that says that it exists.
        """
        # SYNC forked: pairs with lingering. The child's mappings were made before this
        # store.
        atomics.storeRelease32(self.block.forkedAddress, 1)
        counting.leave(self.tables)
        self.services.forget()
        broker, self.role.broker = self.role.broker, None  # the parent is the broker
        self.client.closeInChild()
        if broker is not None:
            broker.closeInChild()
        self.wakeup.close()
        self._lockFile.close()


def _letGo(
    block: ControlBlock, fenceWords: dict[int, Registration], isForked: Callable[[], bool]
) -> None:
    """Unmap the block, and before that its fence words from the GPUs: other memory may come
    to its addresses. A child leaves what its parent's GPUs have mapped alone.
    """
    mapped = [] if isForked() else list(fenceWords.values())
    left = mapped[:]

    def closed() -> None:
        left.pop()
        if not left:
            block.close()

    for each in mapped:
        each.closeThen(closed)
    if not mapped:
        block.close()
