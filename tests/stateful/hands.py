"""The operations of a puppet: the public API, one method an operation. It runs in the
forked processes, and is imported before they are forked.

Buffers are kept under numbers that the test gives, and contents are patterns that
follow from one number, so that only numbers cross the socket.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import numpy as np

import muninn
from muninn.errors import WriterDied

_MAX_BYTES = 1 << 20
#: A content that is all zeros: what `muninn.array` creates.
ZEROS = -1


def pattern(count: int, dtype: str, token: int) -> np.ndarray[Any, Any]:
    """The content of the number `token`."""
    if token == ZEROS:
        return np.zeros(count, dtype)
    return ((np.arange(count) * 3 + token) % 251).astype(dtype)


def parts(count: int, token: int) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a bundle."""
    return {"x": pattern(count, "<i8", token), "y": pattern(count // 2 + 1, "<f4", token + 1)}


def serve() -> None:
    """Perform the operations that come from the socket that is the standard input: one
    packet of JSON in, one out. At its end, leave politely.
    """
    connection, hands = socket.socket(fileno=0), Hands()
    while raw := connection.recv(_MAX_BYTES):
        op, arguments = json.loads(raw)
        try:
            answer = {"value": getattr(hands, op)(*arguments)}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        connection.send(json.dumps(answer).encode())
    hands.kept.clear()


class Hands:
    """One process's buffers, arrays and locks."""

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}
        self.writing: dict[int, Any] = {}
        self.reading: dict[int, Any] = {}
        self.locks: dict[str, muninn.Lock] = {}

    def join(self) -> int:
        return int(muninn.domainInfo()["epoch"])

    # --- making ----------------------------------------------------------------------

    def _keep(self, key: int, made: Any) -> dict[str, Any]:
        self.kept[key] = made
        buffer = made.buffer if isinstance(made, muninn.Bundle) else made
        described = buffer.describe()
        return {
            "name": buffer.name,
            "identity": described["bufferId"],
            "generation": buffer.generation,
            "handle": buffer.handle.hex(),
            "writable": buffer.writable,
        }

    def share(
        self,
        key: int,
        name: str | None,
        count: int,
        dtype: str,
        token: int,
        keywords: dict[str, Any],
    ) -> dict[str, Any]:
        return self._keep(key, muninn.share(pattern(count, dtype, token), name, **keywords))

    def load(
        self, key: int, name: str | None, count: int, dtype: str, token: int, isBroken: bool
    ) -> dict[str, Any]:
        def fill(array: np.ndarray[Any, Any]) -> None:
            array[: count // 2] = 7
            if isBroken:
                raise ArithmeticError("the loader gives up")
            array[:] = pattern(count, dtype, token)

        return self._keep(key, muninn.loadArray(count, dtype, fill, name))

    def array(self, key: int, name: str, count: int, dtype: str) -> dict[str, Any]:
        return self._keep(key, muninn.array(name, count, dtype))

    def once(self, key: int, name: str, count: int, dtype: str, token: int) -> dict[str, Any]:
        loads = []

        def loader() -> np.ndarray[Any, Any]:
            loads.append(1)
            return pattern(count, dtype, token)

        return {**self._keep(key, muninn.shareOnce(name, loader)), "loads": len(loads)}

    def bundle(
        self, key: int, name: str | None, count: int, token: int, keywords: dict[str, Any]
    ) -> dict[str, Any]:
        return self._keep(key, muninn.shareBundle(parts(count, token), name, **keywords))

    def publish(
        self,
        key: int,
        name: str,
        count: int,
        dtype: str,
        token: int,
        keywords: dict[str, Any],
        asBundle: bool,
    ) -> dict[str, Any]:
        source = parts(count, token) if asBundle else pattern(count, dtype, token)
        return self._keep(key, muninn.publish(name, source, **keywords))

    # --- finding ---------------------------------------------------------------------

    def waitNewer(self, key: int) -> bool:
        """Returns whether the buffer is current; it never is."""
        self._buffer(key).waitNewer(timeout=0.01)
        return self._buffer(key).isCurrent

    def open(self, key: int, name: str, access: str) -> dict[str, Any]:
        return self._keep(
            key, muninn.open(bytes.fromhex(name[1:]) if name.startswith("#") else name, access)
        )

    def openBundle(self, key: int, name: str, access: str) -> dict[str, Any]:
        return self._keep(
            key,
            muninn.openBundle(bytes.fromhex(name[1:]) if name.startswith("#") else name, access),
        )

    def handle(self, key: int) -> str:
        return str(self._buffer(key).handle.hex())

    def _buffer(self, key: int) -> muninn.MuninnBuffer:
        made = self.kept[key]
        return made.buffer if isinstance(made, muninn.Bundle) else made

    # --- contents --------------------------------------------------------------------

    def differs(self, key: int, count: int, dtype: str, token: int, generation: int) -> str:
        """The difference between the buffer and its content; empty if there is none."""
        made = self.kept[key]
        if isinstance(made, np.ndarray):
            return (
                ""
                if np.array_equal(made, pattern(count, dtype, token))
                else f"a kept array has {made[:5]}..., not those of {token}"
            )
        buffer = self._buffer(key)
        read = buffer.read(timeout=5.0)
        if buffer.generation != generation:
            return f"generation {buffer.generation}, not {generation}"
        if isinstance(made, muninn.Bundle):
            return "".join(
                f"{part} has {made[part][:5]}..."
                for part, content in parts(count, token).items()
                if not np.array_equal(made[part], content)
            )
        return (
            ""
            if np.array_equal(read, pattern(count, dtype, token))
            else f"it has {read[:5]}..., not those of {token}"
        )

    def check(self, expectations: list[tuple[int, str, Any]]) -> list[str]:
        """Check each (number, the error that reading must raise or nothing, the content
        that it must return otherwise).
        """
        wrong = []
        for key, error, content in expectations:
            try:
                said = self.differs(key, *content)
            except muninn.MuninnError as caught:
                said = "" if type(caught).__name__ == error else f"{caught}"
            else:
                said = f"no {error}" if error else said
            if said:
                wrong.append(f"{key}: {said}")
        return wrong

    def checkNamed(self, expectations: list[tuple[str, bool, Any]]) -> list[str]:
        """Open each by its name, read it, and close it again."""
        wrong = []
        for name, isBundle, content in expectations:
            self.kept[-1] = muninn.openBundle(name) if isBundle else muninn.open(name)
            if said := self.differs(-1, *content):
                wrong.append(f"{name}: {said}")
            self.kept.pop(-1).close()
        return wrong

    def write(self, key: int, count: int, dtype: str, token: int, timeout: float) -> int:
        made = self.kept[key]
        with self._buffer(key).write(timeout) as view:
            if isinstance(made, muninn.Bundle):
                for part, content in parts(count, token).items():
                    made[part][:] = content
            else:
                view[:] = pattern(count, dtype, token)
        return self._buffer(key).generation

    def beginWriting(self, key: int, timeout: float) -> int:
        """Half a write; `endWriting`, or a death, ends it."""
        writing = self._buffer(key).write(timeout)
        view = writing.__enter__()
        self.writing[key] = writing, view
        view[: len(view) // 2] = 99
        return self._buffer(key).generation

    def endWriting(self, key: int, count: int, dtype: str, token: int) -> None:
        writing, view = self.writing.pop(key)
        view[:] = pattern(count, dtype, token)
        writing.__exit__(None, None, None)

    def beginReading(self, key: int, timeout: float) -> None:
        """Be inside a read access for kernels; `endReading`, or a death, ends it."""
        reading = self._buffer(key).read(timeout=timeout, stream=None)
        reading.__enter__()
        self.reading[key] = reading

    def endReading(self, key: int) -> None:
        self.reading.pop(key).__exit__(None, None, None)

    def tryRead(self, key: int) -> str:
        """The error of a reader while a writer is inside."""
        try:
            self._buffer(key).read(timeout=0.01)
        except TimeoutError:
            return "TimeoutError"
        return "read"

    def waitNext(self, key: int, after: int) -> int:
        return self._buffer(key).waitNext(timeout=50.0, after=after)

    # --- ending ----------------------------------------------------------------------

    def keepArray(self, key: int, of: int) -> None:
        self.kept[key] = self.kept[of].array

    def close(self, key: int) -> None:
        made = self.kept.pop(key)
        if not isinstance(made, np.ndarray):
            made.close()
            made.close()

    def free(self, key: int) -> None:
        self.kept.pop(key).free()

    def freeName(self, name: str) -> None:
        muninn.free(name)

    # --- locks -----------------------------------------------------------------------

    def acquire(self, name: str) -> bool:
        """Take the lock with a short wait; returns whether its holder had died."""
        if name not in self.locks:
            self.locks[name] = muninn.Lock(name)
        self.locks[name].acquire(timeout=0.02)
        return self.locks[name].recovered

    def release(self, name: str) -> None:
        self.locks[name].release()

    def forget(self, name: str) -> None:
        del self.locks[name]

    # --- looking ---------------------------------------------------------------------

    def probe(self) -> str:
        """A request that needs a broker, from beginning to end."""
        with muninn.share(b"probe") as buffer:
            assert bytes(buffer.array) == b"probe"
            return buffer.name

    def view(self) -> dict[str, Any]:
        """The state of the domain, without the values that differ from run to run."""
        listed = [
            [
                each["bufferId"],
                each["name"],
                each["kind"],
                each["state"],
                each["size"],
                each["dtype"],
                each["access"],
                each["lifetime"],
                each["generation"],
                sorted(holder["pid"] for holder in each["importers"]),
            ]
            for each in muninn.listBuffers()
        ]
        info = muninn.domainInfo()
        members = {str(member["pid"]): member["leases"] for member in info["members"]}
        return {"buffers": sorted(listed), "members": members, "broker": info["brokerPid"]}

    def openRead(self, name: str) -> str:
        """Open and read the buffer of that name, whatever its content; for damaged
        domains.
        """
        with muninn.open(name) as buffer:
            buffer.describe()
            return str(buffer.read(timeout=0.2).dtype)

    def writeNamed(self, name: str) -> int:
        with muninn.open(name, "readWrite") as buffer:
            with buffer.write(timeout=0.2) as view:
                view[:] = 1
            return buffer.generation

    def describes(self, key: int) -> list[Any]:
        described = self._buffer(key).describe()
        return [
            described["bufferId"],
            described["name"],
            described["state"],
            described["generation"],
            self._buffer(key).isCurrent,
        ]

    def sleep(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()


__all__ = ["ZEROS", "Hands", "WriterDied", "parts", "pattern"]
