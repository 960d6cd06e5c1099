"""Pages of memory, and the huge pages that `/dev/shm` offers."""

from __future__ import annotations

from muninn.system.files import openFile

#: The size of a page on every machine that Muninn runs on.
PAGE_BYTES = 4096
HUGE_PAGE_BYTES = 2 << 20
#: The settings of a mount with which it is worth while to ask for huge pages.
OFFERS_HUGE = ("advise", "within_size", "always")
_SHM_ROOT = "/dev/shm"
_SHMEM_HUGE = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
_MOUNTS = "/proc/thread-self/mountinfo"


def pagesUp(sizeBytes: int) -> int:
    """`sizeBytes` in whole pages."""
    return -(-sizeBytes // PAGE_BYTES) * PAGE_BYTES


def alignmentOf(sizeBytes: int) -> int:
    """The alignment at which an address range of `sizeBytes` can have huge pages; 0 if
    the alignment does not matter.
    """
    return HUGE_PAGE_BYTES if sizeBytes >= HUGE_PAGE_BYTES else 0


def hugePages() -> str:
    """The huge pages that `/dev/shm` offers: `"never"`, `"advise"`, `"within_size"` or
    `"always"`; `"unavailable"` if the kernel has none.
    """
    try:
        with openFile(_SHMEM_HUGE) as machine, openFile(_MOUNTS) as mounts:
            return offered(machine.read(), mounts.read())
    except OSError:
        return "unavailable"


def offered(machine: str, mounts: str) -> str:
    """The same, from the texts of `shmem_enabled` and `mountinfo`.

    The option ``huge=`` of the mount decides. The kernel does not show the option if it
    is `never`, as it is on nearly every host. The machine's setting is for memory
    without a mount, except that `deny` and `force` hold for all (Linux,
    Documentation/admin-guide/mm/transhuge.rst).
    """
    chosen = machine.partition("[")[2].partition("]")[0]
    if chosen in ("deny", "force"):
        return "never" if chosen == "deny" else "always"
    found = "never"
    for fields in (line.split() for line in mounts.splitlines()):
        if fields[4] == _SHM_ROOT:  # of several mounts there, the last is visible
            found = next(
                (
                    option.removeprefix("huge=")
                    for option in fields[-1].split(",")
                    if option.startswith("huge=")
                ),
                "never",
            )
    return found
