"""Execution: the contract between Muninn and what decides when bytes move, which the
roadmap calls Grendel, and the words in which the two speak.

Muninn asks the executor of the process before each piece of work that copies bytes for a
user: a promotion, a hot range that is prefetched, a copy between two buffers. The work
has no memory and no access yet, so who waits holds nobody up. `api/executing.py` asks,
and has the executor that is there unless the program sets another one. Plain values;
nothing here is shared.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from muninn.devices.port import GpuCondition
    from muninn.transfer.tiers import Place


class Kind(enum.StrEnum):
    """What moves bytes."""

    #: `copyTo`, `copyFrom`, and opening for another GPU.
    COPY = "copy"
    PROMOTION = "promotion"
    #: A promotion that nobody waits for.
    PREFETCH = "prefetch"


class Work(NamedTuple):
    """Work that is about to begin.

    Attributes
    ----------
    kind
        What asks for it.
    name
        The buffer whose bytes move.
    source, target
        Where they are and where they go.
    sizeBytes
        How many there are.
    priority
        Of the buffer's hints: ``"low"``, ``"normal"`` or ``"high"``.
    waitedSeconds
        For how long it has been told to wait so far.
    timeoutSeconds
        How long its caller gives it, from the first question on; None: no bound.
    """

    kind: Kind
    name: str
    source: Place
    target: Place
    sizeBytes: int
    priority: str = "normal"
    waitedSeconds: float = 0.0
    timeoutSeconds: float | None = None

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that take part."""
        return tuple(each.gpu for each in (self.source, self.target) if each.gpu >= 0)


class Verdict(enum.StrEnum):
    """What becomes of work."""

    GO = "go"
    LATER = "later"
    REFUSE = "refuse"


class Answer(NamedTuple):
    """The answer of an executor.

    Attributes
    ----------
    reason
        Why not now, with figures; it becomes the text of MNN-0006.
    pauseSeconds
        When to ask again, for `LATER`.
    byHost
        Whether bytes between two GPUs go by way of the host, for `GO`. The link can not be
        demanded: the engine takes it where it is known to be right.
    """

    verdict: Verdict
    reason: str = ""
    pauseSeconds: float = 0.05
    byHost: bool = False


GO = Answer(Verdict.GO)


class GpuState(NamedTuple):
    """A GPU as an executor sees it.

    Attributes
    ----------
    condition
        Its heat and power; None where nothing tells.
    trouble
        Why work waits for it now, for people; "" if none does.
    """

    gpu: int
    name: str
    numaNode: int | None
    totalBytes: int
    freeBytes: int
    condition: GpuCondition | None
    trouble: str


class Topology(NamedTuple):
    """The GPUs of this process, and for each ordered pair whether the driver has a path
    and what was found out about it (``"intact"``, ``"corrupt"``, ``"unverified"``, or
    ``"unknown"`` before the first copy).
    """

    gpus: tuple[GpuState, ...]
    links: dict[tuple[int, int], tuple[bool, str]]


class Reservation(Protocol):
    """Scratch memory that is claimed for windows of a buffer.

    Attributes
    ----------
    sizeBytes
        How much there is, with what a window needs beside its bytes.
    """

    @property
    def sizeBytes(self) -> int: ...

    def handOver(self) -> None:
        """Give it to the next promotion of that buffer, within some seconds."""

    def close(self) -> None:
        """Give it back. Does nothing once it was handed over or closed."""


class Executor(Protocol):
    """What decides when bytes move. An object with these methods may be set as the
    executor of a process (`muninn.plans.setExecutor`).

    Any thread may call each method, several at once. `decide` and `ended` are called on
    the way of each copy, so they return soon and do not call Muninn. What `decide` raises
    goes to the caller of the promotion or the copy, and no byte has moved then. What
    `ended` raises is logged: the bytes have moved.
    """

    def decide(self, work: Work) -> Answer:
        """Whether work may begin now. Each `GO` is followed by one call of `ended` with the
        same work, also if an interruption comes; one in the midst of `decide` or `ended`
        is theirs to deal with.
        """

    def ended(self, work: Work, seconds: float, error: BaseException | None) -> None:
        """Work that went is over, after so many seconds, by an error if there is one."""

    def topology(self) -> Topology:
        """The GPUs and the links between them."""

    def reserve(self, buffer: Any, offset: int, length: int, targetGpu: int) -> Reservation:
        """Claim scratch memory for a window of a buffer ahead of its promotion.

        Raises
        ------
        PromotionDenied
            The budgets have no room.
        """
