"""Succession: how a new version takes the name of the version before it.

The creator of the new version got its row under a name of its own, and has filled it.
Its `commit` says that the buffer replaces the one that has the public name. The broker

1. checks that the new version may: both are arrays, or both are bundles, and both
   belong to one tenant;
2. writes both rows into the replacement's word (`control/replacement.py`), and a `live`
   record into the journal that names the old row;
3. puts the name into the index for the new row, and takes the new row from CREATING to
   LIVE by a CAS;
4. takes the old row from LIVE to REPLACED by a CAS, removes its entry from the index,
   and empties the word;
5. changes the name's wake word, and tries to reclaim the old row.

From step 3 to step 4 an opener finds two live rows of one name, and may open either:
both are whole. At no time it finds none. Holders of a REPLACED row go on using it, and
no process opens it any more; it is reclaimed like a DYING row, once no lease is left
(`broker/directory.py`).

A broker that dies before the CAS of step 3 leaves the old version as it was. The
creator repeats its commit at the successor, or dies and its row is reclaimed. After
that CAS the new version counts, and the successor does step 4 before it answers any
request (`finishLeft`). The journal is not needed for that. It is needed where the
control block is lost: there the record of step 2 says that the old row's name is taken.
Therefore a successor that takes the exchange back vouches for the old row again, in its
own journal.
"""

from __future__ import annotations

import contextlib

from muninn.broker.journal import Journal
from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.descriptions import RowDescription
from muninn.control.index import NameIndex
from muninn.control.replacement import Exchange, Replacement
from muninn.control.rowreader import RowReader
from muninn.control.rows import RowTable
from muninn.errors import ControlBlockInvalid
from muninn.system.logs import Log

_log = Log("muninn.broker")
_NAMED = (layout.ROW_LIVE, layout.ROW_PROBING)


class Succession:
    """The exchanges of versions in one broker's term."""

    def __init__(
        self, block: ControlBlock, rows: RowTable, index: NameIndex, epoch: int, journal: Journal
    ) -> None:
        self._rows = rows
        self._index = index
        self._epoch = epoch
        self._journal = journal
        self._word = Replacement(block)

    def begin(self, row: int, incarnation: int, description: RowDescription, old: int) -> None:
        """Note that `row` takes the name of the row `old`. Raises `HostMemoryFull` when
        the journal can not grow, and then nothing has changed.
        """
        self._word.begin(self._epoch, Exchange(old, row))
        try:
            self._journal.append(
                "live",
                row=row,
                incarnation=incarnation,
                description=description.packed(),
                replaced=[old, self._rows.state(old).incarnation],
            )
        except Exception:
            self._word.end(self._epoch)
            raise

    def finish(self, old: int) -> None:
        """The new row is LIVE: take the old one's name away."""
        state = self._rows.state(old)
        if state.state in _NAMED:  # a predecessor may have died after this step
            self._rows.change(old, state, self._epoch, layout.ROW_REPLACED)
        try:
            name = self._rows.description(old).name.encode()
            self._index.remove(name, old, state.incarnation)
        except ControlBlockInvalid:
            pass  # the entry of a damaged row stays as a stale hint; readers check the row
        except Exception:
            self._word.end(self._epoch)
            raise
        self._word.end(self._epoch)

    def finishLeft(self) -> None:
        """Finish the exchange that was begun, or take it back: a predecessor has died in
        the middle of it, or this broker had an unexpected error. The caller has fenced,
        and is answering no other request.
        """
        exchange = self._word.read()
        if exchange is None or max(exchange) >= self._rows.count():
            return
        old, new = exchange
        if hasTaken(self._rows, exchange):
            _log.info(
                "%r has its new version: a broker had died in the midst of the exchange",
                self._rows.name(new).decode(errors="replace"),
            )
            self.finish(old)
            with contextlib.suppress(ControlBlockInvalid):
                self._index.tell(self._rows.description(new).name.encode())
            return
        state = self._rows.state(old)
        # If the new one is named otherwise, the word was left over in a damaged block,
        # and the rows were used again.
        if _isNamed(self._rows, old) and not _isNamed(self._rows, new):
            self._journal.note(
                "live",
                row=old,
                incarnation=state.incarnation,
                description=self._rows.packed(old),
            )
        self._word.end(self._epoch)


def hasTaken(rows: RowReader, exchange: Exchange) -> bool:
    """Whether the new row of an exchange that was not finished has the name, and the
    old one is to lose it.
    """
    old, new = exchange
    return max(exchange) < rows.count() and _isNamed(rows, new) and rows.nameIs(old, rows.name(new))


def _isNamed(rows: RowReader, row: int) -> bool:
    return rows.state(row).state in _NAMED
