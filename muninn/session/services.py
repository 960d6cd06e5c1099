"""Services: what a layer above runs in this process for as long as a membership lasts,
such as the endpoint of the metrics.

`session/` knows none of them. The package registers each by `atJoin`, when it is
imported; that imports nothing of the service. At a join, each says by the settings
whether it is wanted, and imports what it needs; it can still refuse the join. When the
process is a member, those that are wanted begin. They end before the member's slot is
given back, and a forked child closes what it has inherited of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from muninn.config import Settings
from muninn.errors import MuninnError
from muninn.session.gpus import Gpus
from muninn.session.tables import Tables
from muninn.system.logs import Log

_log = Log("muninn.member")


class Service(Protocol):
    """One service of one membership."""

    def end(self) -> None:
        """Stop, and give back what it has; a second call does nothing."""

    def forget(self) -> None:
        """In a forked child: close what was inherited of it."""


#: Begins a service. The flag says whether this member is preferred as broker.
Begin: TypeAlias = Callable[[Tables, Gpus, bool], Service]
#: Says whether a service is wanted. It may import, and raise what refuses the join.
Prepare: TypeAlias = Callable[[Settings], Begin | None]
_prepares: list[Prepare] = []


def atJoin(prepare: Prepare) -> None:
    """Let a service be asked at each join of this process."""
    _prepares.append(prepare)


def wanted(settings: Settings) -> list[Begin]:
    """The services that the settings ask for."""
    return [begin for prepare in _prepares if (begin := prepare(settings)) is not None]


class Services:
    """The services of one membership."""

    def __init__(self) -> None:
        self._running: list[Service] = []

    def begin(self, begins: list[Begin], tables: Tables, gpus: Gpus, isPreferred: bool) -> None:
        """Begin those that are wanted. The program goes on without one that can not
        begin.
        """
        for begin in begins:
            try:
                self._running.append(begin(tables, gpus, isPreferred))
            except (MuninnError, OSError, RuntimeError) as error:
                # No thread, no descriptor, or the interpreter ends.
                _log.error("a service does not begin: %s", error)

    def end(self) -> None:
        """End them, the last first."""
        while self._running:
            self._running.pop().end()

    def forget(self) -> None:
        """In a forked child: close what was inherited of them."""
        while self._running:
            self._running.pop().forget()
