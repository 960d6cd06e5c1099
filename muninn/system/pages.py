"""Pages of memory, and what `/dev/shm` offers of huge ones."""

from __future__ import annotations

from muninn.system.files import openFile

#: What the kernel maps at once on every machine that Muninn runs on.
PAGE_BYTES = 4096
HUGE_PAGE_BYTES = 2 << 20
#: What a mount may say of huge pages that makes asking for them worth while.
OFFERS_HUGE = ("advise", "within_size", "always")
_SHM_ROOT = "/dev/shm"
_SHMEM_HUGE = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
_MOUNTS = "/proc/thread-self/mountinfo"


def pagesUp(sizeBytes: int) -> int:
    """`sizeBytes` in whole pages."""
    return -(-sizeBytes // PAGE_BYTES) * PAGE_BYTES


def alignmentOf(sizeBytes: int) -> int:
    """At which multiple an address range of `sizeBytes` should begin, so that huge
    pages fit into it; 0 when it does not matter.
    """
    return HUGE_PAGE_BYTES if sizeBytes >= HUGE_PAGE_BYTES else 0


def hugePages() -> str:
    """What `/dev/shm` offers of huge pages: `"never"`, `"advise"`, `"within_size"`,
    `"always"`, or `"unavailable"` in the kernel.
    """
    try:
        with openFile(_SHMEM_HUGE) as machine, openFile(_MOUNTS) as mounts:
            return offered(machine.read(), mounts.read())
    except OSError:
        return "unavailable"


def offered(machine: str, mounts: str) -> str:
    """The same from the texts of `shmem_enabled` and `mountinfo`.

    A mount decides by its own option ``huge=``, which is hidden where it is `never`, as
    nearly everywhere. The machine's setting is about memory that has no mount, but for
    `deny` and `force`: they are about all (Linux,
    Documentation/admin-guide/mm/transhuge.rst).
    """
    chosen = machine.partition("[")[2].partition("]")[0]
    if chosen in ("deny", "force"):
        return "never" if chosen == "deny" else "always"
    found = "never"
    for fields in (line.split() for line in mounts.splitlines()):
        if fields[4] == _SHM_ROOT:  # mounted over one another, the last one is what is seen
            found = next(
                (
                    option.removeprefix("huge=")
                    for option in fields[-1].split(",")
                    if option.startswith("huge=")
                ),
                "never",
            )
    return found
