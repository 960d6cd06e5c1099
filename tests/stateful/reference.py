"""The reference: a model of a domain in plain Python. It has names, contents, holders
and rights, and no protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stateful.puppets import Puppet


@dataclass(eq=False)
class Published:
    """One buffer, from its creation until its memory is gone."""

    identity: str
    name: str
    kind: str
    count: int
    dtype: str
    token: int
    access: str
    lifetime: str
    generation: int = 0
    isFreed: bool = False
    #: A newer version has its name.
    isReplaced: bool = False
    #: A writer died half way, and no process has written since.
    isTorn: bool = False
    #: The puppet that is in the middle of a write, and the number by which it writes.
    writer: tuple[Puppet, int] | None = None
    #: The puppets that are inside a read access, and the number of each.
    readers: list[tuple[Puppet, int]] = field(default_factory=list)
    #: No process holds it any more, and the broker may not know yet.
    isLingering: bool = False

    @property
    def content(self) -> tuple[int, str, int, int]:
        """The content with which `Hands.differs` compares."""
        return self.count, self.dtype, self.token, self.generation

    @property
    def state(self) -> str:
        return "dying" if self.isFreed else "replaced" if self.isReplaced else "live"

    @property
    def sizeBytes(self) -> int:
        if self.kind == "array":
            return self.count * int(self.dtype[2])
        return -(-self.count * 8 // 256) * 256 + (self.count // 2 + 1) * 4


@dataclass(eq=False)
class Opened:
    """One number of one puppet: a buffer object, or an array taken from it."""

    puppet: Puppet
    buffer: Published
    isWritable: bool
    isArray: bool = False


@dataclass(eq=False)
class NamedLock:
    """A lock that some puppet has open."""

    attached: set[Puppet] = field(default_factory=set)
    holder: Puppet | None = None
    depth: int = 0
    #: Its holder died, and no puppet has taken it since.
    isOrphaned: bool = False


class Reference:
    """All of a domain."""

    def __init__(self) -> None:
        self.buffers: list[Published] = []
        self.opened: dict[int, Opened] = {}
        self.locks: dict[str, NamedLock] = {}

    def named(self, name: str) -> Published | None:
        """The buffer that has the name now."""
        return next(
            (
                each
                for each in self.buffers
                if each.name == name and not (each.isFreed or each.isReplaced)
            ),
            None,
        )

    def holders(self, buffer: Published) -> set[Puppet]:
        return {each.puppet for each in self.opened.values() if each.buffer is buffer}

    def add(self, key: int, puppet: Puppet, buffer: Published, isWritable: bool) -> None:
        self.buffers.append(buffer)
        self.opened[key] = Opened(puppet, buffer, isWritable)

    def attach(
        self, key: int, puppet: Puppet, buffer: Published, isWritable: bool, isArray: bool = False
    ) -> None:
        buffer.isLingering = False
        self.opened[key] = Opened(puppet, buffer, isWritable, isArray)

    def close(self, key: int) -> None:
        buffer = self.opened.pop(key).buffer
        self._letGo(buffer)

    def free(self, buffer: Published) -> None:
        """A version that was replaced has no name to be freed; its holders keep it."""
        buffer.isFreed = not buffer.isReplaced
        self._letGo(buffer)

    def replace(self, buffer: Published) -> None:
        """A newer version takes its name."""
        buffer.isReplaced = True
        self._letGo(buffer)

    def _letGo(self, buffer: Published) -> None:
        isEnding = buffer.isFreed or buffer.isReplaced or buffer.lifetime == "lastClose"
        if not self.holders(buffer) and isEnding:
            buffer.isLingering = True

    def end(self, puppet: Puppet) -> None:
        """A death, of whatever kind."""
        for buffer in self.buffers:
            if buffer.writer is not None and buffer.writer[0] is puppet:
                buffer.writer, buffer.isTorn = None, True
            buffer.readers = [each for each in buffer.readers if each[0] is not puppet]
        for key in [key for key, each in self.opened.items() if each.puppet is puppet]:
            self.close(key)
        for name in list(self.locks):
            lock = self.locks[name]
            if lock.holder is puppet:
                lock.holder, lock.depth, lock.isOrphaned = None, 0, True
            lock.attached.discard(puppet)

    def reclaimUnheld(self) -> None:
        """The broker has handled everything: buffers without a holder are gone."""
        self.buffers = [each for each in self.buffers if not each.isLingering]
        self.locks = {name: lock for name, lock in self.locks.items() if lock.attached}

    # --- the expected view -----------------------------------------------------------

    def view(self, alive: list[Puppet]) -> tuple[list[list[Any]], dict[str, int]]:
        """The buffers and members that `Hands.view` must show once the broker has
        handled everything.
        """
        buffers = sorted(
            [
                each.identity,
                each.name,
                each.kind,
                each.state,
                each.sizeBytes,
                _NAMES[each.dtype] if each.kind == "array" else None,
                each.access,
                each.lifetime,
                each.generation,
                sorted(puppet.pid for puppet in self.holders(each)),
            ]
            for each in self.buffers
            if not each.isLingering
        )
        leases = {
            str(puppet.pid): sum(puppet in self.holders(each) for each in self.buffers)
            + sum(puppet in lock.attached for lock in self.locks.values())
            for puppet in alive
        }
        return buffers, leases

    def reading(self, key: int) -> tuple[int, str, tuple[int, str, int, int]] | None:
        """The result of reading by a number, for `Hands.check`; None if it may be one
        of several.
        """
        opened, buffer = self.opened[key], self.opened[key].buffer
        if opened.isArray:
            return None if buffer.isTorn or buffer.writer is not None else (key, "", buffer.content)
        if buffer.isFreed:
            return key, "BufferFreed", buffer.content
        if buffer.writer is not None:
            return None
        return key, "WriterDied" if buffer.isTorn else "", buffer.content


_NAMES = {"<i8": "int64", "<f4": "float32", "|u1": "uint8"}
