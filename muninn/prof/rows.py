"""Rows: what is measured, beside which limit of this machine, what that means, and what
to do if it is bad. Data only; `measuring.py` has the functions.
"""

from __future__ import annotations

from typing import NamedTuple

HOST, GPU, DEATH = "host memory and processes", "GPU", "death of the broker"
_KERNEL = "Run `python -m muninn doctor`; close what else uses the processors, and try again"
_MEMORY = (
    "Look for programs that use the memory meanwhile, for huge pages in `doctor`, and for "
    "threads on another NUMA node than the memory"
)
_BUS = (
    "Look at `python -m muninn topology` and `nvidia-smi -q -d PCIE` for a narrow or slow link, "
    "and for other programs that copy"
)


class RowSpec(NamedTuple):
    """A row before it is measured.

    Attributes
    ----------
    group
        `HOST`, `GPU` or `DEATH`.
    what, limit
        What is measured, and the limit beside it, for people. `{size}` is the number of
        bytes.
    sizeBytes
        How many bytes move; 0 if that does not matter, -1 for as many as fit well.
    usual
        The ratio up to which nothing is wrong.
    meaning
        What the figure tells, for people.
    advice
        What to do if the ratio is larger.
    isMoving
        Whether the bytes are moved or only mapped: throughput is of bytes that move.
    budgetSeconds
        How long it is measured, in a full run.
    """

    name: str
    group: str
    what: str
    limit: str
    sizeBytes: int
    usual: float
    meaning: str
    advice: str
    isMoving: bool = False
    budgetSeconds: float = 2.5


AS_FITS, SMALL_BYTES, EXCHANGED_BYTES = -1, 64, 64 << 10
#: What a buffer asks the broker for: a row, the name, and the end of both.
REQUESTS_OF_A_NAME = 3

ROWS: dict[str, RowSpec] = {
    row.name: row
    for row in (
        RowSpec(
            "open",
            HOST,
            "open and close a buffer that this process has not open",
            "open, map and close a file",
            8192,
            16,
            "what the first use of a name costs each process",
            _KERNEL,
        ),
        RowSpec(
            "open-again",
            HOST,
            "open a buffer that this process has open already",
            "one system call (getppid)",
            8192,
            40,
            "what each further use of the name costs",
            f"Keep the object instead of opening it for each request. {_KERNEL}",
        ),
        RowSpec(
            "exchange",
            HOST,
            "{size} to another process and back (write, waitNext)",
            "the same by bare futexes and memcpy",
            EXCHANGED_BYTES,
            5,
            "the latency of a request and its answer between two processes",
            f"Give both processes a processor each. {_KERNEL}",
            isMoving=True,
        ),
        RowSpec(
            "lock",
            HOST,
            "a Lock from the process that releases it to the one that waits",
            "one futex wake between two processes",
            0,
            3,
            "how long a lock that is wanted stands idle between two holders",
            f"Give both processes a processor each. {_KERNEL}",
        ),
        RowSpec(
            "share-small",
            HOST,
            "share and free {size} under a name",
            f"make, map and remove a file in /dev/shm; {REQUESTS_OF_A_NAME} wakes there and back",
            SMALL_BYTES,
            20,
            "what a new name costs, the broker's part included",
            f"Publish into one buffer instead of making a new one each time. {_KERNEL}",
        ),
        RowSpec(
            "alloc",
            HOST,
            "make a buffer of {size} zeros, and free it",
            "allocate, map and remove a file of that size in /dev/shm",
            AS_FITS,
            2,
            "how fast the kernel gives new shared memory",
            "Mount /dev/shm with huge=advise (see `doctor`), or keep buffers and reuse them",
        ),
        RowSpec(
            "share",
            HOST,
            "share an array of {size}",
            "write those bytes to a new file in /dev/shm",
            AS_FITS,
            2.5,
            "how fast data get into shared memory for the first time",
            "Mount /dev/shm with huge=advise (see `doctor`), or publish into a buffer that exists",
            isMoving=True,
        ),
        RowSpec(
            "snapshot",
            HOST,
            "read {size} of one generation into an array",
            "memcpy of those bytes",
            AS_FITS,
            2,
            "the bandwidth of readers that take a copy",
            _MEMORY,
            isMoving=True,
        ),
        RowSpec(
            "open-vram",
            GPU,
            "open a buffer of {size} in VRAM of another process, up to the pointer",
            "the driver's import of such memory",
            AS_FITS,
            4,
            "what the first use of a weight in VRAM costs each process",
            "Keep the object instead of opening it for each request; see docs/gpus.md",
        ),
        RowSpec(
            "to-gpu",
            GPU,
            "copyTo: {size} of host memory to new VRAM",
            "H2D of those bytes from pinned memory",
            AS_FITS,
            4,
            "how fast a buffer gets to a GPU, new VRAM included",
            f"Use `copyFrom` into a buffer that exists. {_BUS}",
            isMoving=True,
        ),
        RowSpec(
            "from-gpu",
            GPU,
            "copyFrom: {size} of VRAM to host memory",
            "D2H of those bytes to pinned memory",
            AS_FITS,
            1.5,
            "how fast results get back from a GPU",
            _BUS,
            isMoving=True,
        ),
        RowSpec(
            "within-gpu",
            GPU,
            "copyFrom: {size} within one GPU",
            "copy of those bytes within VRAM",
            AS_FITS,
            3,
            "the cost of a private copy of a buffer in VRAM",
            "Look for other programs on this GPU (`nvidia-smi`), and at its clocks and heat",
            isMoving=True,
        ),
        RowSpec(
            "p2p",
            GPU,
            "copyFrom: {size} from GPU 0 straight to GPU 1",
            "the driver's copy between the two",
            AS_FITS,
            2,
            "the bandwidth of the link between two GPUs",
            "Run `python -m muninn topology --refresh`: it measures each link",
            isMoving=True,
        ),
        RowSpec(
            "staged",
            GPU,
            "copyFrom: {size} from GPU 0 to GPU 1 by way of the host",
            "the slower of D2H and H2D",
            AS_FITS,
            2.5,
            "the bandwidth between two GPUs without a link",
            _BUS,
            isMoving=True,
        ),
        RowSpec(
            "promotion",
            GPU,
            "promote a window of {size} to scratch VRAM",
            "H2D of those bytes from pinned memory",
            AS_FITS,
            2,
            "how soon a kernel can read a window of a large buffer at the speed of VRAM",
            f"Promote ahead of the use (`prefetch`). {_BUS}",
            isMoving=True,
        ),
        RowSpec(
            "writeback",
            GPU,
            "write 10 % of a window of {size} back",
            "D2H of those 10 %",
            AS_FITS,
            8,
            "how soon other processes see what a kernel wrote to a window",
            f"Mark fewer slices as dirty. {_BUS}",
            isMoving=True,
        ),
        RowSpec(
            "takeover-open",
            DEATH,
            "the broker is killed, and another process opens a buffer",
            "the kernel tells of a killed process (pidfd)",
            0,
            3,
            "how long names stand still after a crash",
            f"{_KERNEL}. More than a second: look at control.takeoverMs",
        ),
        RowSpec(
            "takeover-share",
            DEATH,
            "the broker is killed, and another process shares a new buffer",
            "the kernel tells of a killed process (pidfd)",
            0,
            15,
            "how long new names wait after a crash, for the next broker",
            f"{_KERNEL}. More than a second: look at control.takeoverMs",
        ),
    )
}
