"""Image: how others see that a member's program was replaced by `exec`.

An exec leaves the pid and its start time as they are, ends every thread but one, closes
descriptors and unmaps everything. So each claim of a slot maps a page of its own that
is named after the owner lock's nonce. As long as `/proc/<pid>/maps` lists it, code of
that member may run; the next program in the process, a member itself perhaps, has
another one. A forked child maps its parent's too, and no process asks about it: its pid
is another.
"""

from __future__ import annotations

import weakref
from typing import Any

from muninn.system import atomics
from muninn.system.files import openFile
from muninn.system.pages import PAGE_BYTES

_READ_BYTES = 1 << 20


def mark(owner: object, nonce: int) -> weakref.finalize[..., Any]:
    """Map the page, for as long as `owner` lives, or until what is returned is called.
    Raises `OSError`.
    """
    fd = atomics.opened(atomics.memfdCreate(_nameOf(nonce).encode(), PAGE_BYTES), "memfd_create")
    try:
        address = atomics.mapped(fd, PAGE_BYTES, writable=False)
    finally:
        fd.close()
    unmap = weakref.finalize(owner, atomics.unmap, address, PAGE_BYTES)
    unmap.atexit = False
    return unmap


def isReplaced(pid: int, nonce: int) -> bool:
    """Whether the process runs another program than the one that mapped this page; one
    that is ending runs none, and is not replaced.

    A program that may not be looked into, as one with other rights may not, is another
    one.
    """
    wanted = f"/memfd:{_nameOf(nonce)} ".encode()
    try:
        with openFile(f"/proc/{pid}/maps", "rb", buffering=0) as maps:
            tail, isAny = b"", False
            while chunk := maps.read(_READ_BYTES):
                if wanted in tail + chunk:
                    return False
                tail, isAny = chunk[-len(wanted) :], True
            return isAny
    except PermissionError:
        return True
    except OSError:
        return False  # gone, which others have to prove, or no descriptor left


def _nameOf(nonce: int) -> str:
    return f"muninn-member-{nonce:016x}"
