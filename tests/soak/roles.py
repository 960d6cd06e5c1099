"""The roles of the soak's workers, one class each. Each role checks its results: a
`Violation` says that Muninn has broken a promise.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

import numpy as np

import muninn
from muninn.api.admin import evict
from muninn.errors import (
    BufferExists,
    BufferNotFound,
    HolderSilent,
    LeaseExpired,
    LeaseRevoked,
    OwnerDied,
    WriterDied,
)
from tests.soak.role import (
    CHANNEL_WORDS,
    GONE,
    Interrupted,
    Role,
    require,
    uniform,
)

_LOCKS = 3
_BOUND_SECONDS = 30.0


class Reader(Role):
    """Snapshots are never torn, and their generation is between those read before and
    after.
    """

    expected = (*GONE, WriterDied)

    def step(self) -> int:
        buffer = self.channel("readOnly")
        try:
            if self.chance.random() < 0.2:
                self._waitNext(buffer)
            before = buffer.generation
            stamp = uniform(buffer.read(), f"a snapshot of {buffer.name}")
            after = buffer.generation
        except self.expected:
            self.forget(buffer)
            raise
        require(
            before <= stamp <= after and stamp % 2 == 0,
            f"{buffer.name} reads {stamp}, of {before} to {after}",
        )
        return 1

    def _waitNext(self, buffer: Any) -> None:
        known = buffer.generation & ~1
        try:
            value = buffer.waitNext(timeout=0.5)
        except TimeoutError:
            return
        require(
            value > known and value % 2 == 0,
            f"waitNext of {buffer.name} gave {value} after {known}",
        )


class Writer(Role):
    """There is one writer at a time, over all processes; some die half way, some give
    up.
    """

    expected = (*GONE, Interrupted)

    def step(self) -> int:
        buffer = self.channel("readWrite")
        try:
            with buffer.write(timeout=_BOUND_SECONDS) as view:
                stamp = buffer.generation + 1
                view[: view.size // 2] = stamp
                if self.chance.random() < 0.2:
                    time.sleep(0.002)
                if self.chance.random() < 0.02:
                    raise Interrupted
                view[view.size // 2 :] = stamp
                require(
                    uniform(view, f"the content that a writer of {buffer.name} wrote") == stamp,
                    "another wrote too",
                )
        except GONE:
            self.forget(buffer)
            raise
        return 1


class Churner(Role):
    """Create, open, hand on, evict and free: named, unnamed, bundles."""

    expected = (*GONE, BufferExists)

    def step(self) -> int:
        deeds = (
            self.named,
            self.named,
            self.opened,
            self.opened,
            self.unnamed,
            self.bundle,
            self.byHandle,
            self.freed,
            self.evicted,
            self.listed,
        )
        return self.chance.choice(deeds)()

    def _name(self) -> str:
        return f"churn-{self.chance.randrange(12)}"

    def _array(self) -> np.ndarray[Any, Any]:
        return np.full(
            self.chance.choice((1, 100, 5000, 30000)), self.chance.randrange(1 << 40), np.int64
        )

    def named(self) -> int:
        content, reserve = self._array(), self.chance.choice(("full", "lazy"))
        buffer = muninn.share(
            content,
            self._name(),
            lifetime=self.chance.choice(("keep", "lastClose", None)),
            reserve=reserve,
        )
        require((buffer.array == content).all(), "what was shared reads otherwise")
        if self.chance.random() < 0.3:
            old = self.held.pop(buffer.name, None)
            if old is not None:
                old.close()
            self.held[buffer.name] = buffer  # stays open for a while
        elif self.chance.random() < 0.6:
            buffer.free()
        else:
            buffer.close()
        return 2

    def opened(self) -> int:
        with muninn.open(self._name(), timeout=self.chance.choice((None, 0.05))) as buffer:
            array = buffer.array
            uniform(array, buffer.name)
        uniform(array, "an array that outlived its buffer object")
        return 2

    def unnamed(self) -> int:
        content = self._array()
        with muninn.share(content) as buffer:
            require((buffer.array == content).all(), "what was shared reads otherwise")
        return 2

    def bundle(self) -> int:
        name, stamp = f"bundle-{self.chance.randrange(3)}", self.chance.randrange(1 << 40)
        try:
            muninn.shareBundle(
                {"a": np.full(100, stamp), "b": np.full((7, 9), stamp)}, name
            ).close()
        except BufferExists:
            with muninn.openBundle(name) as found:
                require(
                    uniform(found["a"], "a bundle") == uniform(found["b"], "a bundle"),
                    "a bundle is of two makers",
                )
                found.free()
        return 2

    def byHandle(self) -> int:
        with muninn.open(self._name()) as buffer:
            stamp, handle = uniform(buffer.array, buffer.name), buffer.handle
        with muninn.open(handle) as again:
            require(
                uniform(again.array, "the buffer that a handle opened") == stamp,
                "a handle opened something else",
            )
        return 2

    def freed(self) -> int:
        channels = self.chance.random() < 0.05
        muninn.free(
            f"channel-{self.chance.randrange(len(CHANNEL_WORDS))}" if channels else self._name()
        )
        return 1

    def evicted(self) -> int:
        channels = self.chance.random() < 0.1
        evict(f"channel-{self.chance.randrange(len(CHANNEL_WORDS))}" if channels else self._name())
        return 1

    def listed(self) -> int:
        for described in muninn.listBuffers():
            require(described["size"] > 0, f"a buffer without bytes is listed: {described}")
        self.close()
        return 1


class Locker(Role):
    """A lock has no two holders at a time. A holder writes its number into the cells;
    if it finds another number there, and the lock is not recovered, there are two
    holders.
    """

    expected = ()

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self._locks: dict[int, muninn.Lock] = {}

    def step(self) -> int:
        index = self.chance.randrange(_LOCKS)
        lock = self._locks.pop(index, None) or muninn.Lock(f"lock-{index}")
        self._locks[index] = lock
        cells, me = self._cells(), os.getpid()
        with lock.held(_BOUND_SECONDS):
            holder = int(cells[index, 0])
            require(holder == 0 or lock.recovered, f"{lock} was free while {holder} held it")
            cells[index, 0] = me
            count = int(cells[index, 1])
            for _ in range(self.chance.randrange(50)):
                require(
                    cells[index, 0] == me and cells[index, 1] == count,
                    f"{lock} has two holders: {me} and {int(cells[index, 0])}",
                )
            if self.chance.random() < 0.1:
                time.sleep(0.002)
            cells[index, 1] = count + 1
            require(
                cells[index, 0] == me and cells[index, 1] == count + 1,
                f"{lock} has two holders: {me} and {int(cells[index, 0])}",
            )
            cells[index, 0] = 0
        if self.chance.random() < 0.05:
            self._locks.pop(index)
        return 1

    def _cells(self) -> np.ndarray[Any, Any]:
        cells = self.held.get("cells")
        if cells is None:
            cells = self.held["cells"] = muninn.array("cells", (_LOCKS, 2), np.int64)
        array: np.ndarray[Any, Any] = cells.array
        return array

    def close(self) -> None:
        super().close()
        self._locks.clear()


class Lessee(Role):
    """Strict leases: in time their use is allowed, and too late it is refused."""

    expected = (*GONE, WriterDied)

    def step(self) -> int:
        ttl = int(os.environ["MUNINN_LEASE_TTL_MS"]) / 1000
        buffer = self.channel("readOnly", renew="onUse")
        try:
            buffer.read()
        except LeaseExpired:
            self.forget(buffer)  # kept since another step
            return 1
        except self.expected:
            self.forget(buffer)
            raise
        used = time.monotonic()
        time.sleep(self.chance.choice((ttl / 4, ttl * 1.2)))
        try:
            before = time.monotonic()
            uniform(buffer.read(), f"a snapshot of {buffer.name}")
            require(
                before - used < ttl + 0.001, f"a lease of {ttl} s was good for {before - used} s"
            )
        except LeaseExpired as error:
            self.forget(buffer)
            require(
                time.monotonic() - used >= ttl - 0.002,
                f"a lease of {ttl} s ended after {time.monotonic() - used} s: {error}",
            )
        except self.expected:
            self.forget(buffer)
            raise
        return 2


class Loader(Role):
    """shareOnce: one loader runs at a time, and every process gets its complete result."""

    expected = GONE

    def step(self) -> int:
        index = self.chance.randrange(3)
        stamp = self.chance.randrange(1 << 40)
        with muninn.shareOnce(
            f"once-{index}", lambda: self._load(index, stamp), timeout=_BOUND_SECONDS
        ) as buffer:
            uniform(buffer.array, buffer.name)
        if self.chance.random() < 0.3:
            muninn.free(f"once-{index}")
        return 1

    def _load(self, index: int, stamp: int) -> np.ndarray[Any, Any]:
        with muninn.array("loaders", 3, np.int64) as loaders:
            cells = loaders.array
            other = int(cells[index])
            require(
                other in (0, os.getpid()) or not _isRunning(other) or cells[index] != other,
                f"once-{index} is loaded by {other} too",
            )
            try:
                cells[index] = os.getpid()
                time.sleep(0.005)
                require(cells[index] == os.getpid(), f"once-{index} is loaded twice")
            finally:
                cells[index] = 0  # An interrupted process lives on, and does not load any more.
        return np.full(3000, stamp, np.int64)


class Publisher(Role):
    """publish: from its first version on, a name always has one, whole, whoever is
    killed; an older version stays with its holders.
    """

    expected = (LeaseRevoked,)

    def step(self) -> int:
        name = f"version-{self.chance.randrange(3)}"
        if self.chance.random() < 0.3:
            self._publish(name)
            return 1
        older = self.held.get(name)
        try:
            if older is not None:
                uniform(older.read(), f"an older version of {name}")
            with muninn.open(name) as buffer:
                stamp = uniform(buffer.array, name)
        except BufferNotFound as error:
            require(older is None, f"{name} had a version, and has none: {error}")
            self._publish(name)
            return 1
        except LeaseRevoked:
            self.held.pop(name).close()
            raise
        if older is not None:
            if older.isCurrent:
                known = int(older.array[0])
                require(known == stamp, f"{name} opened as {stamp}, and {known} is current")
                return 2
            if self.chance.random() < 0.5:
                return 2
            older.waitNewer(timeout=0)
            self.held.pop(name).close()
        self.held[name] = muninn.open(name)
        return 3

    def _publish(self, name: str) -> None:
        content = np.full(self.chance.choice((10, 9000)), time.monotonic_ns(), np.int64)
        with muninn.publish(name, content, timeout=_BOUND_SECONDS) as buffer:
            require((buffer.array == content).all(), "what was published reads otherwise")


class Gamer(Role):
    """fastMode: memory without a name lives as long as a process holds it, also when
    the broker changes. And its fences.
    """

    expected = (*GONE, BufferExists, OwnerDied, HolderSilent)

    def step(self) -> int:
        name = f"fast-{self.chance.randrange(4)}"
        if self.chance.random() < 0.4:
            content = np.full(
                self.chance.choice((10, 9000)), self.chance.randrange(1 << 40), np.int64
            )
            buffer = muninn.share(
                content,
                name,
                mode="fastMode",
                access="readWrite",
                lifetime=self.chance.choice(("keep", "lastClose")),
            )
        else:
            buffer = muninn.open(name)
        with buffer:
            uniform(buffer.array, name)
            ticket = buffer.signal()
            buffer.wait(ticket=ticket, timeout=_BOUND_SECONDS)
            if self.chance.random() < 0.2:
                buffer.free()
        return 3


def _isRunning(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def releaseAll() -> list[str]:
    """Free every buffer of the domain; returns their names."""
    names = [described["name"] for described in muninn.listBuffers()]
    for name in names:
        muninn.free(name)
    return names


ROLES: dict[str, type[Role]] = {
    "reader": Reader,
    "writer": Writer,
    "churner": Churner,
    "locker": Locker,
    "lessee": Lessee,
    "loader": Loader,
    "publisher": Publisher,
    "gamer": Gamer,
}
