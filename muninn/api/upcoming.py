"""Newer versions of a bundle, prepared on a thread while the program goes on with the
version that it has.

The thread sleeps on the wake word of the name, and keeps the newest version that it has
prepared. What it can not do, it leaves to the program, whose own attempt raises the
error.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from muninn.api.bundle import Bundle
from muninn.errors import ThreadsExhausted
from muninn.session.membership import joined
from muninn.session.names import NameWatch
from muninn.session.standing import Standing
from muninn.session.tables import Tables
from muninn.sync.versions import Version
from muninn.system import clock, threads
from muninn.system.beside import besideTheProgram
from muninn.system.logs import Log

_log = Log("muninn.api")
_ERROR_PAUSE_SECONDS = 0.5
Value = TypeVar("Value")


class Prepared(NamedTuple, Generic[Value]):
    """A version that is open, and what was made of it."""

    bundle: Bundle
    value: Value


class Upcoming(Generic[Value]):
    """The newest version of a name, opened before it is asked for. The thread ends when
    this object is garbage.

    Parameters
    ----------
    bundle
        The version that the program has.
    openNewest
        Opens the newest one.
    prepare
        Makes of an open bundle what the program needs. Neither may refer to this object.
    """

    def __init__(
        self, bundle: Bundle, openNewest: Callable[[], Bundle], prepare: Callable[[Bundle], Value]
    ) -> None:
        self._name = bundle.name
        self._openNewest, self._prepare = openNewest, prepare
        #: The version that the program had first, or that was opened last.
        self._seen = Version.of(bundle.buffer._checked())
        self._ready: Prepared[Value] | None = None
        self._hasFailed = False
        #: How often the program has opened the newest version itself.
        self._forgotten = 0
        self._pid = 0
        self._start()

    @property
    def hasFailed(self) -> bool:
        """Whether the program is to open the newest version itself: the thread could not,
        there is none, or this is a forked child whose thread has just begun.
        """
        self._start()
        return self._hasFailed

    def ready(self) -> Prepared[Value] | None:
        """The version that was prepared last; None before the first. The program lets it
        go by forgetting it, as this object does once it has another.
        """
        self._start()
        return self._ready

    def forget(self) -> None:
        """Let go what is prepared or being prepared: the program has opened the newest
        version itself.
        """
        self._forgotten += 1
        self._ready = None

    def _start(self) -> None:
        if self._pid != os.getpid():
            # A forked child can not use an older version that it has not used before.
            self._ready, self._hasFailed = None, self._pid != 0
            self._pid, this = os.getpid(), weakref.ref(self)
            try:
                threads.start(lambda: _run(this), "muninn-upcoming")
            except (ThreadsExhausted, RuntimeError):
                self._hasFailed = True

    def _look(self, tables: Tables) -> NameWatch:
        """Prepare the newest version if it is a newer one. Returns the watch over the
        name, as it was before this look.
        """
        watch = NameWatch(tables, self._name)
        watch.see()
        if self._seen.rows is not tables.rows or not self._seen.isCurrent:
            before = self._forgotten
            with besideTheProgram():
                bundle = self._openNewest()
                self._seen = Version.of(bundle.buffer._checked())
                prepared = Prepared(bundle, self._prepare(bundle))
            if before == self._forgotten:
                self._ready = prepared
            self._hasFailed = False
        return watch


def _run(upcoming: weakref.ref[Upcoming[Value]]) -> None:
    while (each := upcoming()) is not None and not Standing.isExiting:
        membership, watch = joined(), None
        try:
            if membership is not None:  # to join is the program's to do
                watch = each._look(membership.tables)
        except Exception as error:
            # The program makes its own attempt then, and is told why it fails.
            _log.debug("a newer version of %r is not prepared: %s", each._name, error)
        if watch is None:
            # In this order: what is prepared is taken only while nothing has failed.
            each._hasFailed = True
            each._ready = None
        del each  # this thread does not keep it
        if watch is None:
            clock.sleep(_ERROR_PAUSE_SECONDS)
        else:
            watch.sleep(None)
