"""Control groups: the limits that a container, a batch system or systemd sets to the
processes of a group. Reading only.

A process is in one group of each hierarchy, and what limits its ancestors limits it
too. Version 2 has one hierarchy for all controllers, version 1 one for each; both may
be there at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from muninn.system.files import openFile

ROOT = "/sys/fs/cgroup"
#: Version 1's way to say that there is none is a number near 2**63.
_UNLIMITED = 1 << 60
_OWN = "/proc/thread-self/cgroup"


def directories(
    controller: str, membership: str | None = None, root: str = ROOT
) -> Iterator[tuple[int, str]]:
    """(version of the interface, directory) of each group that this process is in, and
    of their ancestors.

    Parameters
    ----------
    membership
        What `/proc/<pid>/cgroup` says; of this thread if not given.
    """
    for line in (textOf(_OWN) if membership is None else membership).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            version, top = 2, root
        elif controller in controllers.split(","):
            version, top = 1, f"{root}/{controller}"
        else:
            continue
        # In a container the path may be the host's, and then only the root is mounted:
        # what can not be read does not limit.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            yield version, "/".join([top, *parts[:depth]])


def limitIn(path: str) -> int | None:
    """The number in a file; None when it is missing, or says that there is no limit."""
    text = textOf(path).strip()
    return int(text) if text.isdigit() and int(text) < _UNLIMITED else None


def mostTasks() -> int | None:
    """How many threads and processes this process's groups may have at most; None: as
    many as they like.
    """
    limits = (limitIn(os.path.join(directory, "pids.max")) for _, directory in directories("pids"))
    return min((limit for limit in limits if limit is not None), default=None)


def textOf(path: str) -> str:
    """A file's text; nothing when it can not be read."""
    try:
        with openFile(path) as file:
            return file.read()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # that says nothing about limits
        return ""
