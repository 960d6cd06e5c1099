"""Every error of Muninn, as data: one table.

A row is a code that is never reused, a name, its meaning, its usual fix and a category:
`retry` (the same call may succeed later), `caller` (the arguments or the program are
wrong) or `fatal` (this buffer or this domain is lost). `errors` has a class for each
row.
"""

from __future__ import annotations

from typing import NamedTuple


class ErrorRow(NamedTuple):
    """One row of the table."""

    code: str
    name: str
    meaning: str
    fix: str
    category: str


ERRORS: tuple[ErrorRow, ...] = tuple(
    ErrorRow(f"MNN-{number:04d}", *rest)
    for number, *rest in (
        (
            1,
            "InvalidConfig",
            "Config parse or validation failed",
            "Correct the key that is named",
            "caller",
        ),
        (
            2,
            "UnsupportedMode",
            "Mode string not recognised",
            "Use `bigMode` or `fastMode`",
            "caller",
        ),
        (
            3,
            "IpcHandleMismatch",
            "Imported handle does not match its exporter",
            "Use the same driver and runtime on both sides, and open again",
            "caller",
        ),
        (
            4,
            "LeaseExpired",
            "Lease TTL exceeded",
            'Open the buffer again; renew sooner, or use renew="auto"',
            "retry",
        ),
        (
            5,
            "TopologyNotPeerable",
            "GPUs lack a P2P path",
            "Use `copyTo` or `open(targetGpu=)` without `route`, or place it on the other GPU",
            "caller",
        ),
        (
            6,
            "PromotionDenied",
            "Over budget, or promotion not allowed",
            "Raise the budget, or ask for a smaller window",
            "retry",
        ),
        (
            7,
            "NvmeSpillUnavailable",
            "NVMe spill disabled, or its path invalid",
            "Enable NVMe spill and check the path's permissions",
            "caller",
        ),
        (
            8,
            "PermissionDenied",
            "Tenant not authorised, or access above what the buffer allows",
            "Use the owner's tenant, or open with the access that the buffer was shared with",
            "caller",
        ),
        (
            9,
            "BarPressureHigh",
            "Mapped-window budget exhausted",
            "Close mapped buffers, or raise the budget",
            "retry",
        ),
        (
            10,
            "OwnerDied",
            "The process that owned the memory, or had promised the fence, has died",
            "Recreate the buffer, or write it again",
            "fatal",
        ),
        (
            11,
            "BufferNotFound",
            "No live buffer has this name",
            "Check the name with `python -m muninn list`; give `timeout=` to wait for it",
            "retry",
        ),
        (
            12,
            "BufferMismatch",
            "The name exists with another shape, dtype or mode",
            "Free the old buffer, or use another name",
            "caller",
        ),
        (
            13,
            "BufferFreed",
            "The buffer was freed or closed; what is mapped stays readable",
            "Open the name again, or share the data again",
            "caller",
        ),
        (
            14,
            "LeaseRevoked",
            "The lease was revoked",
            "Close the buffer; open it again if the reason allows",
            "retry",
        ),
        (
            15,
            "HostMemoryFull",
            "The host has no room for these bytes",
            'Free buffers, enlarge /dev/shm, or use reserve="lazy"',
            "retry",
        ),
        (
            16,
            "QuotaExceeded",
            "A quota or an admission cap forbids these bytes",
            "Free buffers of this tenant, or raise the quota named",
            "retry",
        ),
        (
            17,
            "TableFull",
            "A table of the control block has no free slot",
            "Close what is not used; raise the limit named in [control] and restart the domain",
            "retry",
        ),
        (
            18,
            "HandleInvalid",
            "The handle is forged, damaged, stale, or of another domain",
            "Ask the owner for a new handle",
            "caller",
        ),
        (
            19,
            "ControlBlockInvalid",
            "The control block is damaged, or of another version of Muninn",
            "Stop the domain's processes and run `python -m muninn doctor --repair`",
            "fatal",
        ),
        (
            20,
            "ProtocolViolation",
            "A message on the socket was malformed or out of order",
            "Use one version of Muninn in all processes",
            "caller",
        ),
        (
            21,
            "BrokerUnavailable",
            "No broker answered in time",
            "Try again; `python -m muninn doctor` says who holds the domain",
            "retry",
        ),
        (
            22,
            "WriterDied",
            "A writer died half way; the bytes may be torn",
            "Write the buffer again: the next writer repairs it",
            "retry",
        ),
        (
            23,
            "FileInvalid",
            "The file can not be read in the format that it claims to have",
            "Check the path and that the file is whole",
            "caller",
        ),
        (
            24,
            "DomainDraining",
            "The domain is draining and creates nothing new",
            "Wait until maintenance is over, or use another domain",
            "retry",
        ),
        (
            25,
            "DescriptorsExhausted",
            "The process or the host has no file descriptor left",
            "Close files, or raise `ulimit -n`",
            "retry",
        ),
        (
            26,
            "InvalidArgument",
            "An argument has a value that can not work",
            "Correct the argument: the reason says what is wrong with it",
            "caller",
        ),
        (
            27,
            "InvalidDtype",
            "The data type can not live in shared memory",
            "Use a fixed-size dtype without Python objects",
            "caller",
        ),
        (
            28,
            "BufferExists",
            "A buffer of this name exists already",
            "Open it, free it, or use another name",
            "caller",
        ),
        (
            29,
            "DeviceUnavailable",
            "No such device, or its driver failed",
            "Run `python -m muninn doctor`",
            "caller",
        ),
        (
            30,
            "ForkedAfterCuda",
            "CUDA can not be used in a child forked after it was initialised",
            'Start processes by "spawn" or "forkserver"',
            "caller",
        ),
        (
            31,
            "PlatformUnsupported",
            "This kernel or machine lacks something that Muninn needs",
            "Run `python -m muninn doctor`",
            "fatal",
        ),
        (
            32,
            "NotHostVisible",
            "The bytes are in VRAM, which the CPU does not reach",
            "Use `deviceArray()` in kernels; on the host `numpy.asarray()` of it is a copy",
            "caller",
        ),
        (
            33,
            "DomainChanged",
            "The object belongs to another domain, or to a control block that is no more",
            "Open the name again: this process is in another control block now",
            "caller",
        ),
        (
            34,
            "ThreadsExhausted",
            "No thread can be started",
            "Raise the limit that is reached",
            "retry",
        ),
        (
            35,
            "HolderSilent",
            "A process that has the memory has not brought it to the new broker",
            "Let that process go on or end it, and try again",
            "retry",
        ),
        (
            36,
            "TransferCancelled",
            "A transfer was told to stop before it was done",
            "Start it again",
            "retry",
        ),
        (
            37,
            "WritebackConflict",
            "The buffer was written after the window was promoted",
            "Promote the window again, and do the work on what is there now",
            "caller",
        ),
    )
)
