"""The catalog: which names are taken, which lifetimes end, and which rows count against
quotas.

The catalog is private memory of the broker, and ends with its term. A new broker does
not read the older rows one by one. It takes the sums from one pass in C. It looks a
name up in the shared name index, and then checks the row behind the entry, since the
index is only a hint. The index may lack names: of rows for which it had no room, or of
rows that a program of an older version made. So until `indexNames` has gone over all
rows, the catalog looks for a name that is not in the index in the rows, again by a pass
in C.
"""

from __future__ import annotations

from muninn.broker.lifetimes import Lifetimes
from muninn.broker.policy.limits import Limits
from muninn.broker.policy.quotas import Quotas
from muninn.broker.policy.usage import Usage
from muninn.control.descriptions import Taken
from muninn.control.index import NameIndex
from muninn.control.rows import RowTable
from muninn.errors import BufferExists

_COUNTED, _HAS_DEADLINE = 1, 2


class Catalog:
    """Names and sums over the rows."""

    def __init__(self, rows: RowTable, limits: Limits) -> None:
        self._rows = rows
        self.quotas = Quotas(limits)
        self._index = NameIndex(rows.block)
        self._usages: dict[int, Usage] = {}  # of this term
        # The names of this term, and the names for which the index has no room.
        self._rowOfName: dict[str, int] = {}
        self._unindexed: dict[int, str] = {}  # the latter, by row
        self._indexNext, self._indexEnd = 0, rows.count()
        sums, self._marks = rows.sums()  # by row of before: whether it is counted
        for taken, sumBytes in sums.items():
            self.quotas.add(taken, sumBytes)
        self._lifetimes = Lifetimes()
        row = -1
        while (row := self._marks.find(_COUNTED | _HAS_DEADLINE, row + 1)) >= 0:
            self._lifetimes.put(row, rows.taken(row).deadlineMs)

    # --- names -----------------------------------------------------------------------

    def find(self, name: str) -> int | None:
        row = self._rowOfName.get(name)
        if row is not None:
            return row
        raw = name.encode(errors="surrogatepass")
        for row, incarnation in self._index.candidates(raw):
            if self._rows.isNamed(row, incarnation, raw):
                return row
        return (
            self._rows.findNamed(raw, self._indexNext) if self._indexNext < self._indexEnd else None
        )

    def lacks(self, name: str) -> bool:
        """Whether no row has the name. It only reads, so any thread may call it. Before
        all names are in the index it returns False.
        """
        # This is read first: a name may move from the rows to the index meanwhile.
        isWhole = self._indexNext >= self._indexEnd
        return isWhole and self.find(name) is None

    def indexNames(self, atMost: int) -> bool:
        """Put the next names of rows from before this term into the index, unless they
        are in it; returns whether there are more.
        """
        end = min(self._indexNext + atMost, self._indexEnd)
        for row in self._rows.named(self._indexNext, end):
            name, incarnation = self._rows.name(row), self._rows.state(row).incarnation
            if (row, incarnation) not in self._index.candidates(name) and not self._index.insert(
                name, row, incarnation
            ):
                text = name.decode(errors="surrogateescape")
                self._unindexed[row] = text
                self._rowOfName.setdefault(text, row)
        self._indexNext = end
        return end < self._indexEnd

    def nameOf(self, row: int) -> str | None:
        """The name under which a row was counted last, even if the name is free again."""
        usage = self._usages.get(row)
        return None if usage is None else usage.name

    def add(self, row: int, usage: Usage) -> None:
        """Count a row and take its name. Raises `BufferExists` when another row has it."""
        if self.find(usage.name) not in (None, row):
            raise BufferExists(f"{usage.name!r} exists already")
        self._rowOfName[usage.name] = row
        self._count(row, usage)

    def replace(self, row: int, usage: Usage) -> None:
        """Count a row that takes its name from another one, whose bytes still count. No
        moment comes at which no row has the name.
        """
        self.forgetName(row)
        self._rowOfName[usage.name] = row
        self._count(row, usage)

    def forgetName(self, row: int) -> None:
        """Free the name; the bytes still count. A name from before this term is free as
        soon as its row can not be opened any more.
        """
        usage = self._usages.get(row)
        name = self._unindexed.pop(row, None) if usage is None else usage.name
        if name is not None and self._rowOfName.get(name) == row:
            del self._rowOfName[name]

    def remove(self, row: int) -> None:
        """Free the name and the bytes."""
        self.forgetName(row)
        self._uncount(row)

    # --- bytes -----------------------------------------------------------------------

    def _count(self, row: int, usage: Usage) -> None:
        self._uncount(row)
        self._usages[row] = usage
        if usage.deadlineMs:
            self._lifetimes.put(row, usage.deadlineMs)
        self.quotas.add(usage, usage.sizeBytes)

    def _uncount(self, row: int) -> None:
        self._lifetimes.forget(row)
        taken: Usage | Taken | None = self._usages.pop(row, None)
        if taken is None and row < len(self._marks) and self._marks[row]:
            self._marks[row] = 0
            taken = self._rows.taken(row)
        if taken is not None:
            self.quotas.add(taken, -taken.sizeBytes)

    def forgetDeadline(self, row: int) -> None:
        """The lifetime has ended, and the broker has begun to free the row."""
        self._lifetimes.forget(row)

    def nextDeadline(self) -> tuple[int, int] | None:
        """(monotonic ms, row) of the row whose lifetime ends first."""
        return self._lifetimes.first()
