"""Looking: the domain, read again and again, as pictures.

Processor time, memory and waiters are asked for what is on the screen, once for each
picture.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from muninn.cli.top.buffers import Names, buffersOf
from muninn.cli.top.people import People, Person, Usage
from muninn.cli.top.picture import Picture, tiersOf
from muninn.cli.top.rates import History
from muninn.cli.top.waiters import Waiter, Waiters
from muninn.control.memberreader import MemberKey
from muninn.service.capacity import Capacity
from muninn.service.onlooker import Onlooker

if TYPE_CHECKING:
    from muninn.config import Settings
    from muninn.storage.paths import Paths

#: Of so many processes at most one look asks whether they wait.
_MAX_ASKED = 64


class Looking:
    """One domain, as long as it is looked at."""

    def __init__(self, paths: Paths, settings: Settings) -> None:
        self._onlooker = Onlooker(paths)
        self._capacity = Capacity(settings)
        self._history = History()
        self._names = Names(self._onlooker.names)
        self._people = People(self._onlooker.process)
        self._waiters: Waiters | None = None
        self._identity = 0
        self._usages: dict[MemberKey, Usage | None] = {}
        self._found: dict[MemberKey, list[Waiter]] = {}

    def picture(self) -> Picture | None:
        """The domain now; None while nothing is in it."""
        reading, onlooker = self._onlooker.read(), self._onlooker
        # Buffers that nobody holds outlive the processes of a domain.
        if reading is None or not (reading.members or len(reading.rows.number)):
            return None
        if reading.identity != self._identity:
            self._identity = reading.identity
            self._waiters = Waiters(*onlooker.rowsPlace())
            self._people = People(onlooker.process)
        self._usages.clear()
        self._found.clear()
        rates = self._history.add(reading)
        return Picture(
            onlooker.paths.domain,
            onlooker.paths.uid,
            reading,
            rates,
            self._history,
            buffersOf(reading, rates, self._names.of(reading)),
            self._people.of(reading.members),
            tiersOf(
                reading, self._capacity.gpus, self._capacity.hostEmpty, self._capacity.gpuEmpty
            ),
            self._usageOf,
            self._waitersOf,
            onlooker.drainReason(),
            time.strftime("%H:%M:%S"),
        )

    def _usageOf(self, person: Person) -> Usage | None:
        if person.key not in self._usages:
            self._usages[person.key] = self._people.usage(person)
        return self._usages[person.key]

    def _waitersOf(self, people: Iterable[Person]) -> list[Waiter]:
        waiters, found = self._waiters, list[Waiter]()
        for person in people:
            if person.key not in self._found:
                if waiters is None or not person.isNear or len(self._found) >= _MAX_ASKED:
                    continue
                self._found[person.key] = waiters.among([(person.key, person.pid)])
            found += self._found[person.key]
        return found

    def close(self) -> None:
        """Let the domain go."""
        self._onlooker.close()
