"""Control groups: the limits that a container, a batch system or systemd sets to the
processes of a group. This module only reads.

A process is in one group of each hierarchy, and the limits of the group's ancestors
hold for it too. Version 2 has one hierarchy for all controllers, and version 1 has one
for each. A host may have both at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from muninn.system.files import openFile

ROOT = "/sys/fs/cgroup"
#: Version 1 writes a number near 2**63 for "no limit".
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
        The text of `/proc/<pid>/cgroup`; by default that of this thread.
    """
    for line in (textOf(_OWN) if membership is None else membership).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            version, top = 2, root
        elif controller in controllers.split(","):
            version, top = 1, f"{root}/{controller}"
        else:
            continue
        # In a container the path may be the host's, and then only the root is mounted.
        # A file that can not be read sets no limit here.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            yield version, "/".join([top, *parts[:depth]])


def limitIn(path: str) -> int | None:
    """The number in a file; None if the file is missing, or says that there is no
    limit.
    """
    text = textOf(path).strip()
    return int(text) if text.isdigit() and int(text) < _UNLIMITED else None


def mostTasks() -> int | None:
    """The lowest limit on the threads and processes of this process's groups; None if
    there is none.
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
            raise  # the file may set a limit all the same
        return ""
