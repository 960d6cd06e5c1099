"""Outside: the files of a domain as a process opens them that joins no domain and changes
none.

Such a file is a stranger's, also one of the same user. It is opened for reading, not
through a link and without waiting, and it is checked for its owner. Nothing is made, no
mode is put right, and nothing is mapped, because a file may shrink at any moment. So
root may look at the files of any user.
"""

from __future__ import annotations

import contextlib
import os
import stat

from muninn.errors import ControlBlockInvalid
from muninn.storage.paths import Paths
from muninn.system import descriptors
from muninn.system.descriptors import Descriptor

_READ_ONLY = os.O_RDONLY | os.O_NONBLOCK


def openedFile(paths: Paths, path: str) -> Descriptor:
    """A file of the domain, opened for reading.

    Raises
    ------
    ControlBlockInvalid
        It is no regular file of the domain's user.
    OSError
        It can not be opened.
    """
    fd = descriptors.opened(path, _READ_ONLY)
    # The owner of the directory may have put a link in its place meanwhile: what is open
    # counts.
    status = os.fstat(fd.number)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != paths.uid:
        fd.close()
        raise ControlBlockInvalid(f"{path} is no file of uid {paths.uid}")
    return fd


def openedBlock(paths: Paths) -> tuple[Descriptor, str]:
    """The control block, and the name that led to it. Raises as `openedFile`;
    `FileNotFoundError`: there is none.
    """
    with contextlib.suppress(FileNotFoundError):
        return openedFile(paths, paths.linkPath), paths.linkPath
    return openedFile(paths, paths.blockPath), paths.blockPath
