"""The processes of a domain: their programs, their parents, and what they use.

The words of a member's slot say which process it is; `psutil` says the rest, for a
process that this one can see. What does not change is asked once, the parents now and
then, and processor time and memory only for the processes that are on the screen.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from collections.abc import Callable, Iterable
from typing import NamedTuple

import psutil

from muninn.cli.output import printable
from muninn.control.memberreader import MemberKey
from muninn.service.onlooker import Process
from muninn.system.processes import startTimeOf

#: A parent may have ended: it is asked again after so many readings.
_ASKED_AGAIN = 10
_MAX_ANCESTORS = 16


class Usage(NamedTuple):
    """What a process uses now: percent of a core since the last look, bytes in memory."""

    processor: float
    residentBytes: int


class Person(NamedTuple):
    """The process of a member.

    Attributes
    ----------
    command
        Its command line, or the name that it gave itself when it joined.
    ancestors
        (pid, name) of its parent, of that one's parent, and so on.
    isNear
        Whether this process can see it; its pid is only its own number for itself if not.
    """

    key: MemberKey
    pid: int
    program: str
    command: str
    user: str
    ancestors: tuple[tuple[int, str], ...]
    isNear: bool
    joinedMs: int

    @property
    def title(self) -> str:
        return printable(f"{self.pid} {self.program}")


class TreeLine(NamedTuple):
    """A line of the tree of processes: a member, or an ancestor of some."""

    prefix: str
    pid: int
    name: str
    person: Person | None


class People:
    """The processes of the members, kept from reading to reading.

    Parameters
    ----------
    process
        Returns the process of a member.
    """

    def __init__(self, process: Callable[[MemberKey], Process]) -> None:
        self._process = process
        self._known: dict[MemberKey, tuple[Person, psutil.Process | None]] = {}
        self._names: dict[int, tuple[int, str]] = {}
        self._readings = 0

    def of(self, members: Iterable[MemberKey]) -> dict[int, Person]:
        """The processes of these members, by slot."""
        members = list(members)
        self._readings += 1
        if self._readings % _ASKED_AGAIN == 0:
            self._names.clear()
            for key, (person, seen) in self._known.items():
                self._known[key] = person._replace(ancestors=self._ancestorsOf(seen)), seen
        for gone in self._known.keys() - set(members):
            del self._known[gone]
        for key in members:
            if key not in self._known:
                self._known[key] = self._met(key)
        return {key.slot: self._known[key][0] for key in members}

    def usage(self, person: Person) -> Usage | None:
        """What the process uses; None if this process can not see it."""
        seen = self._known.get(person.key, (person, None))[1]
        with contextlib.suppress(psutil.Error):
            if seen is not None:
                return Usage(seen.cpu_percent(None), seen.memory_info().rss)
        return None

    def _met(self, key: MemberKey) -> tuple[Person, psutil.Process | None]:
        identity, program, isNear = self._process(key)
        seen, command, user = None, "", str(identity.uid)
        with contextlib.suppress(psutil.Error, OSError):
            if isNear and startTimeOf(identity.pid) == identity.startTime:
                seen = psutil.Process(identity.pid)
                command, user = _joined(seen.cmdline()), seen.username()
        return Person(
            key,
            identity.pid,
            printable(program),
            printable(command or program),
            printable(user),
            self._ancestorsOf(seen),
            seen is not None,
            identity.joinedMs,
        ), seen

    def _ancestorsOf(self, seen: psutil.Process | None) -> tuple[tuple[int, str], ...]:
        found = list[tuple[int, str]]()
        with contextlib.suppress(psutil.Error):
            pid = 0 if seen is None else seen.ppid()
            while pid > 1 and len(found) < _MAX_ANCESTORS:
                if pid not in self._names:
                    ancestor = psutil.Process(pid)
                    self._names[pid] = ancestor.ppid(), printable(ancestor.name())
                parent, name = self._names[pid]
                found.append((pid, name))
                pid = parent
        return tuple(found)


def _joined(command: list[str]) -> str:
    """The command line, without the folder of the program, which says little."""
    shown = [each for each in command if each]
    return shlex.join([os.path.basename(shown[0]), *shown[1:]]) if shown else ""


def treeOf(people: Iterable[Person]) -> list[TreeLine]:
    """The members below their parents. Of the ancestors that are no members, those are
    left out that have one line below them only, and no member directly.
    """
    nodes, persons = dict[int, str](), dict[int, list[Person]]()
    children, roots = dict[int, list[int]](), list[int]()
    for person in people:
        # A process in another PID namespace has a number that may be another's here.
        pid = person.pid if person.isNear else -1 - person.key.slot
        persons.setdefault(pid, []).append(person)
        chain = [(pid, person.program), *(person.ancestors if person.isNear else ())]
        for (child, _), (parent, name) in itertools.pairwise(chain):
            nodes.setdefault(parent, name)
            if child not in (below := children.setdefault(parent, [])):
                below.append(child)
        if chain[-1][0] not in roots:
            roots.append(chain[-1][0])
        nodes.setdefault(pid, person.program)
    lines = list[TreeLine]()

    def visit(pid: int, before: str, isLast: bool, isRoot: bool) -> None:
        below = sorted(children.get(pid, ()))
        if pid not in persons and len(below) == 1 and below[0] not in persons:
            visit(below[0], before, isLast, isRoot)
            return
        mark = "" if isRoot else "└─ " if isLast else "├─ "
        for person in persons.get(pid, [None]):
            shown = abs(pid) if person is None else person.pid
            lines.append(TreeLine(before + mark, shown, nodes[pid], person))
        inner = before + ("" if isRoot else "   " if isLast else "│  ")
        for number, child in enumerate(below):
            visit(child, inner, number == len(below) - 1, isRoot=False)

    for root in sorted(roots):
        visit(root, "", isLast=True, isRoot=True)
    return lines
