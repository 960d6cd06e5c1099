"""The checks of `doctor` that look at the domain: its members and buffers, and whether
its files belong to this user alone.
"""

from __future__ import annotations

import contextlib
import os
import stat

from muninn.cli.finding import Finding
from muninn.cli.listing import domainLine, domainNow
from muninn.cli.output import counted
from muninn.config.sizes import asText


def domain() -> Finding:
    from muninn.config import loadSettings
    from muninn.control.header import openNamed, readHeader
    from muninn.storage.paths import Paths

    paths = Paths(os.geteuid(), loadSettings().control.domain)
    orphans = len(paths.segments())
    left = (
        f", and {counted(orphans, 'segment')} {'is' if orphans == 1 else 'are'} left over"
        if orphans
        else ""
    )
    named = openNamed(paths)
    if named is None:
        return Finding(
            "ok",
            f"{paths.domain!r}: no process is in it{left}",
            "The next process that joins adopts the buffers that journals name" if orphans else "",
        )
    fd, path = named
    try:
        if readHeader(fd, path) is None:
            return Finding(
                "warn",
                f"{path} is withdrawn, or of another boot{left}",
                "The next process that joins gives it back or replaces it",
            )
    finally:
        fd.close()
    import muninn
    from muninn.control import layout

    info, buffers = domainNow(), muninn.listBuffers()
    held = f"{counted(len(buffers), 'buffer')}, {asText(sum(buffer['size'] for buffer in buffers))}"
    found = f"{domainLine(info).removeprefix('domain ')}; {held}; layout version {layout.VERSION}"
    if info["draining"]:
        return Finding(
            "warn", found, "It creates nothing new: `python -m muninn drain --off` ends that"
        )
    return Finding("ok", found)


def names() -> Finding:
    """Files of other users under names of this domain. Muninn does not use them, but
    the user should know of them.
    """
    from muninn.config import loadSettings
    from muninn.storage.paths import SHM_ROOT, Paths

    paths = Paths(os.geteuid(), loadSettings().control.domain)
    stem = paths.stem
    strangers = []
    with os.scandir(SHM_ROOT) as entries:
        for entry in entries:
            if entry.name == stem or entry.name.startswith(f"{stem}."):
                status = entry.stat(follow_symlinks=False)
                if status.st_uid != paths.uid or stat.S_ISLNK(status.st_mode):
                    strangers.append(f"{entry.path} (uid {status.st_uid}'s)")
    if not strangers:
        return Finding("ok", "no other user's file has a name of this domain")
    found = (
        f"not this user's own: {', '.join(sorted(strangers)[:5])}; the domain is in "
        f"{paths.directory}"
    )
    return Finding("warn", found, "Let their owner or root remove them: Muninn does not use them")


def modes() -> Finding:
    """Files of the domain that another user owns or may have written to. If others
    could only read a file, the next process that opens it takes that right away.
    """
    from muninn.config import loadSettings
    from muninn.storage.paths import Paths
    from muninn.system.ownership import isWritableByOthers

    paths = Paths(os.geteuid(), loadSettings().control.domain)
    folder = paths.directory
    entries = (
        [folder, *(os.path.join(folder, name) for name in os.listdir(folder))]
        if os.path.isdir(folder)
        else []
    )
    found: dict[str, os.stat_result] = {}
    for path in entries:
        with contextlib.suppress(FileNotFoundError):  # its broker has removed it
            found[path] = os.lstat(path)
    if foreign := sorted(path for path, status in found.items() if status.st_uid != paths.uid):
        return Finding(
            "fail",
            f"in the domain's directory, and another user's: {', '.join(foreign[:5])}",
            "Remove them",
        )
    if shared := sorted(path for path, status in found.items() if isWritableByOthers(status)):
        return Finding(
            "fail",
            f"others may have written to: {', '.join(shared[:5])}",
            f"`chmod -R go= {folder}` if they have not; otherwise remove them",
        )
    return Finding(
        "ok",
        f"only this user has access to the files in {folder}"
        if found
        else "there is no directory of the domain",
    )
