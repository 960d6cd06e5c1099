"""Image: other processes see here that `exec` has replaced a member's program.

An exec keeps the pid and its start time, ends every thread but one, closes descriptors
and unmaps everything. So a process that claims a slot maps a page of its own, whose
name contains the slot's nonce. As long as `/proc/<pid>/maps` lists that page, code of
the member may run. The next program in the process, perhaps a member itself, has
another page. A forked child maps its parent's page too, but no process asks about it:
the child has another pid.
"""

from __future__ import annotations

import weakref
from typing import Any

from muninn.system import atomics
from muninn.system.files import openFile
from muninn.system.pages import PAGE_BYTES

_READ_BYTES = 1 << 20


def mark(owner: object, nonce: int) -> weakref.finalize[..., Any]:
    """Map the page. It stays mapped until `owner` is destroyed, or until the returned
    function is called. Raises `OSError`.
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
    """Whether the process runs another program than that which mapped this page. A
    process that is ending runs no program, and counts as not replaced.

    A program whose maps this process may not read has other rights, so it is another
    program.
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
        return False  # the process is gone, which others confirm; or no descriptor is left


def _nameOf(nonce: int) -> str:
    return f"muninn-member-{nonce:016x}"
