"""Waiters: which processes sleep until something happens to a buffer.

No word of the control block names them: a waiter leaves nothing that its death would
leave behind. But the kernel says on which address a thread sleeps (`/proc/PID/task/TID/
syscall`), to root and, where Yama allows it, to the same user; and the process's map says
which word of the control block is there. Where the kernel says nothing, there is only the
row's word that somebody waits.

A look costs some files for each thread, so only the holders of buffers on the screen are
looked at. A waiter wakes now and then for a moment, in which it is not seen.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from muninn.control import layout
from muninn.control.memberreader import MemberKey

#: The number of futex(2), by machine.
_FUTEX = {"x86_64": 202, "aarch64": 98}
#: The words of a row on which threads sleep, and what they wait for.
_WORDS = {
    layout.ROW_OWNER_LOCK_OFFSET: "write",
    layout.ROW_READERS_OFFSET: "readers",
    layout.ROW_GENERATION_OFFSET: "publication",
    layout.ROW_TICKET_WAKE_OFFSET: "fence",
}


class Waiter(NamedTuple):
    """A process of which a thread sleeps at a word of a row.

    Attributes
    ----------
    isFor
        ``write``: the right to write; ``readers``: that readers leave; ``publication``:
        the next generation; ``fence``: the work of a stream or a process.
    """

    row: int
    slot: int
    isFor: str


class Waiters:
    """Where the threads of processes sleep.

    Parameters
    ----------
    rowsOffset
        Where the rows begin in the control block.
    inode
        Of the control block's file.
    """

    def __init__(self, rowsOffset: int, inode: int) -> None:
        self._rowsOffset, self._inode = rowsOffset, inode
        self._futex = _FUTEX.get(platform.machine())
        self._starts: dict[MemberKey, int | None] = {}

    def among(self, processes: Iterable[tuple[MemberKey, int]]) -> list[Waiter]:
        """The waiters among members with these pids, which this process can see."""
        return [waiter for key, pid in processes for waiter in dict.fromkeys(self._of(key, pid))]

    def _of(self, key: MemberKey, pid: int) -> Iterable[Waiter]:
        if key not in self._starts:
            self._starts[key] = self._startIn(pid)
        start = self._starts[key]
        if start is None:
            return
        with contextlib.suppress(OSError):  # it has ended, or the kernel does not tell
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/syscall") as file:
                    waiter = self._waiterOf(key.slot, start, file.read().split())
                if waiter is not None:
                    yield waiter

    def _waiterOf(self, slot: int, start: int, fields: Sequence[str]) -> Waiter | None:
        """The waiter that a thread is, which is in that system call."""
        if len(fields) < 2 or fields[0] != str(self._futex):
            return None
        row, offset = divmod(int(fields[1], 16) - start - self._rowsOffset, layout.ROW_BYTES)
        return Waiter(row, slot, _WORDS[offset]) if row >= 0 and offset in _WORDS else None

    def _startIn(self, pid: int) -> int | None:
        """Where the process has mapped the beginning of the control block."""
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps") as file:
            for line in file:
                fields = line.split(maxsplit=5)
                if fields[4] == str(self._inode) and int(fields[2], 16) == 0:
                    return int(fields[0].partition("-")[0], 16)
        return None
