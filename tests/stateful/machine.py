"""The state machine: steps that Hypothesis chooses, done by puppets and by the
reference, and compared after each.

After a step that ends a process, the next step may meet a domain that no broker has
tidied up yet. All other steps are followed by a comparison of every row with its
holders, every member with its count of leases, every segment in `/dev/shm`, and the
contents by every way that leads to them.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from stateful.hands import ZEROS
from stateful.puppets import Difference, Outcome, Puppet
from stateful.reference import NamedLock, Published, Reference
from support import BOUND_SECONDS, leftovers, removeDomain

MAX_PUPPETS = 4
_ENVIRONMENT = {
    "MUNINN_TAKEOVER_MS": "100",
    "MUNINN_MAX_MEMBERS": "12",
    "MUNINN_MAX_BUFFERS": "256",
    "MUNINN_MAX_LEASES": "128",
}

_picks = st.integers(0, 1 << 16)
_names = st.sampled_from(["a", "b", "c", "ä d"])
_tokens = st.integers(0, 250)
_counts = st.sampled_from([1, 5, 700, 70_000])
_dtypes = st.sampled_from(["<i8", "<f4", "|u1"])
_lifetimes = st.sampled_from([None, "keep", "lastClose"])
_accesses = st.sampled_from([None, "readOnly", "readWrite"])
_lockNames = st.sampled_from(["l", "m"])


class DomainMachine(RuleBasedStateMachine):
    """A domain of its own, three processes, and their steps."""

    #: Steps that were done, over all machines: for the report.
    steps = 0
    #: The steps of the present machine.
    trace: list[str] = []

    def __init__(self) -> None:
        super().__init__()
        self.domain = f"test-{secrets.token_hex(6)}"
        self.reference = Reference()
        self.puppets: list[Puppet] = []
        #: (buffer, handle, whether it allows writing) of every buffer object that there
        #: was.
        self.handles: list[tuple[Published, str, bool]] = []
        self.trace = DomainMachine.trace = []
        self._keys = 0
        self._born = 0
        self._scope = 0

    @initialize()
    def begin(self) -> None:
        for _ in range(3):
            self._bear()
        self._compare()

    # --- the processes and numbers of a step -----------------------------------------

    @property
    def running(self) -> list[Puppet]:
        return [each for each in self.puppets if not each.isStopped]

    def _bear(self) -> Puppet:
        self._born += 1
        puppet = Puppet(f"p{self._born}", MUNINN_DOMAIN=self.domain, **_ENVIRONMENT)
        self.puppets.append(puppet)
        self._do(puppet, "join")
        return puppet

    def _puppet(self, pick: int) -> Puppet:
        return self.running[pick % len(self.running)]

    def _key(self) -> int:
        self._keys += 1
        return self._keys

    def _owned(self, pick: int, suits: Callable[[Any], bool] = lambda opened: True) -> int | None:
        """A number of a running puppet."""
        keys = [
            key
            for key, each in self.reference.opened.items()
            if not each.puppet.isStopped and suits(each)
        ]
        return keys[pick % len(keys)] if keys else None

    def _isWriting(self, key: int) -> bool:
        opened = self.reference.opened[key]
        return opened.buffer.writer == (opened.puppet, key)

    def _isReading(self, key: int) -> bool:
        opened = self.reference.opened[key]
        return (opened.puppet, key) in opened.buffer.readers

    # --- doing and expecting ---------------------------------------------------------

    def _do(self, puppet: Puppet, op: str, *arguments: Any, error: str = "") -> Any:
        """Perform an operation; it must raise `error` (or one of several, by commas),
        or return a value, which this returns.
        """
        return self._expect(f"{puppet}.{op}{arguments}", puppet.do(op, *arguments), error)

    def _expect(self, what: str, outcome: Outcome, error: str = "") -> Any:
        self.trace.append(f"{what} -> {outcome.error} {outcome.value}")
        self._require(
            outcome.error in error.split(","),
            f"{what} came to {outcome.error or 'success'} ({outcome.value}), not to {error or 'success'}",
        )
        return outcome.value

    def _require(self, condition: object, what: str) -> None:
        if not condition:
            raise Difference(what)

    # --- making ----------------------------------------------------------------------

    def _make(self, puppet: Puppet, key: int, made: dict[str, Any], **what: Any) -> Published:
        buffer = Published(identity=made["identity"], name=made["name"], **what)
        self._require(
            made["generation"] == 0, f"a new buffer has the generation {made['generation']}"
        )
        lingering = self.reference.named(buffer.name)
        if lingering is not None:
            self.reference.buffers.remove(lingering)
        self.reference.add(key, puppet, buffer, made["writable"])
        self.handles.append((buffer, made["handle"], made["writable"]))
        return buffer

    def _taken(self, name: str | None) -> str:
        """The errors that a creation under this name must raise."""
        there = None if name is None else self.reference.named(name)
        if there is None:
            return ""
        return ",BufferExists" if there.isLingering else "BufferExists"

    @precondition(lambda self: self.running)
    @rule(
        pick=_picks,
        name=_names | st.none(),
        count=_counts,
        dtype=_dtypes,
        token=_tokens,
        lifetime=_lifetimes,
        access=_accesses,
    )
    def share(
        self,
        pick: int,
        name: str | None,
        count: int,
        dtype: str,
        token: int,
        lifetime: str | None,
        access: str | None,
    ) -> None:
        puppet, key = self._puppet(pick), self._key()
        keywords = {
            key: value
            for key, value in (("lifetime", lifetime), ("access", access))
            if value is not None
        }
        made = self._do(
            puppet, "share", key, name, count, dtype, token, keywords, error=self._taken(name)
        )
        if isinstance(made, dict):
            lasting = lifetime or ("lastClose" if name is None else "keep")
            self._make(
                puppet,
                key,
                made,
                kind="array",
                count=count,
                dtype=dtype,
                token=token,
                access=access or "readMostly",
                lifetime=lasting,
            )
        self._compare()

    @precondition(lambda self: self.running)
    @rule(
        pick=_picks,
        name=_names,
        count=_counts,
        dtype=_dtypes,
        token=_tokens,
        isBroken=st.booleans(),
    )
    def load(
        self, pick: int, name: str, count: int, dtype: str, token: int, isBroken: bool
    ) -> None:
        puppet, key, taken = self._puppet(pick), self._key(), self._taken(name)
        done = "ArithmeticError" if isBroken else ""
        made = self._do(
            puppet,
            "load",
            key,
            name,
            count,
            dtype,
            token,
            isBroken,
            error=done + taken if taken.startswith(",") else taken or done,
        )
        if isinstance(made, dict):
            self._make(
                puppet,
                key,
                made,
                kind="array",
                count=count,
                dtype=dtype,
                token=token,
                access="readMostly",
                lifetime="keep",
            )
        self._compare()

    @precondition(lambda self: self.running)
    @rule(pick=_picks, name=_names | st.none(), count=_counts, token=_tokens, lifetime=_lifetimes)
    def shareBundle(
        self, pick: int, name: str | None, count: int, token: int, lifetime: str | None
    ) -> None:
        puppet, key = self._puppet(pick), self._key()
        keywords = {} if lifetime is None else {"lifetime": lifetime}
        made = self._do(
            puppet, "bundle", key, name, count, token, keywords, error=self._taken(name)
        )
        if isinstance(made, dict):
            lasting = lifetime or ("lastClose" if name is None else "keep")
            self._make(
                puppet,
                key,
                made,
                kind="bundle",
                count=count,
                dtype="|u1",
                token=token,
                access="readMostly",
                lifetime=lasting,
            )
        self._compare()

    @precondition(lambda self: self.running)
    @rule(pick=_picks, name=_names, count=_counts, dtype=_dtypes)
    def attachOrCreate(self, pick: int, name: str, count: int, dtype: str) -> None:
        puppet, key, there = self._puppet(pick), self._key(), self.reference.named(name)
        mayWrite = there is None or there.access != "readOnly"
        fits = there is not None and (there.kind, there.count, there.dtype) == (
            "array",
            count,
            dtype,
        )
        error = (
            ""
            if there is None or (fits and mayWrite)
            else "PermissionDenied"
            if fits
            else "BufferMismatch"
        )
        if there is not None and there.isLingering:
            error = f",{error}"
        made = self._do(puppet, "array", key, name, count, dtype, error=error)
        if isinstance(made, dict):
            if there is not None and made["identity"] == there.identity:
                self._attached(puppet, key, made, there)
            else:
                self._make(
                    puppet,
                    key,
                    made,
                    kind="array",
                    count=count,
                    dtype=dtype,
                    token=ZEROS,
                    access="readWrite",
                    lifetime="keep",
                )
        self._compare()

    @precondition(lambda self: self.running)
    @rule(pick=_picks, name=_names, count=_counts, dtype=_dtypes, token=_tokens)
    def shareOnce(self, pick: int, name: str, count: int, dtype: str, token: int) -> None:
        puppet, key, there = self._puppet(pick), self._key(), self.reference.named(name)
        error = "BufferMismatch" if there is not None and there.kind == "bundle" else ""
        if there is not None and there.isLingering:
            error = f",{error}"
        made = self._do(puppet, "once", key, name, count, dtype, token, error=error)
        if isinstance(made, dict):
            if there is not None and made["identity"] == there.identity:
                self._attached(puppet, key, made, there)
                self._require(made["loads"] == 0, "shareOnce loaded what was there")
            else:
                self._require(made["loads"] == 1, "shareOnce made a buffer without its loader")
                self._make(
                    puppet,
                    key,
                    made,
                    kind="array",
                    count=count,
                    dtype=dtype,
                    token=token,
                    access="readMostly",
                    lifetime="keep",
                )
        self._compare()

    # --- versions --------------------------------------------------------------------

    def _publishing(self, name: str, asBundle: bool) -> str:
        """The errors that a publication under this name must raise."""
        there = self.reference.named(name)
        if there is None or (there.kind == "bundle") == asBundle:
            return ""
        return ",BufferMismatch" if there.isLingering else "BufferMismatch"

    def _version(self, puppet: Puppet, key: int, made: dict[str, Any], **what: Any) -> None:
        there = self.reference.named(made["name"])
        if there is not None:
            self.reference.replace(there)
        self._make(puppet, key, made, access="readMostly", **what)

    @precondition(lambda self: self.running)
    @rule(
        pick=_picks,
        name=_names,
        count=_counts,
        dtype=_dtypes,
        token=_tokens,
        lifetime=_lifetimes,
        asBundle=st.sampled_from([False, False, True]),
    )
    def publish(
        self,
        pick: int,
        name: str,
        count: int,
        dtype: str,
        token: int,
        lifetime: str | None,
        asBundle: bool,
    ) -> None:
        puppet, key = self._puppet(pick), self._key()
        keywords = {} if lifetime is None else {"lifetime": lifetime}
        error = self._publishing(name, asBundle)
        given = (key, name, count, dtype, token, keywords, asBundle)
        made = self._do(puppet, "publish", *given, error=error)
        if isinstance(made, dict):
            self._version(
                puppet,
                key,
                made,
                kind="bundle" if asBundle else "array",
                count=count,
                dtype="|u1" if asBundle else dtype,
                token=token,
                lifetime=lifetime or "keep",
            )
        self._compare()

    @precondition(lambda self: self._owned(0) is not None)
    @rule(pick=_picks)
    def waitNewer(self, pick: int) -> None:
        """Only a newer version that can be opened ends the wait."""
        key = self._owned(pick, lambda each: not each.isArray)
        if key is None:
            return
        opened, buffer = self.reference.opened[key], self.reference.opened[key].buffer
        newest = self.reference.named(buffer.name)
        isComing = buffer.isReplaced and newest is not None
        error = "" if isComing else "TimeoutError" if buffer is newest else "BufferFreed"
        if isComing and newest is not None and newest.isLingering:
            error = ",BufferFreed"
        said = self._do(opened.puppet, "waitNewer", key, error=error)
        self._require(said is not True, "a newer version is there, and this one is current")

    @precondition(lambda self: len(self.running) > 1)
    @rule(pick=_picks, name=_names, count=_counts, token=_tokens, pause=st.floats(0, 0.01))
    def killAPublisher(self, pick: int, name: str, count: int, token: int, pause: float) -> None:
        """The name has the version before or the new one, whole."""
        puppet, key, there = self._puppet(pick), self._key(), self.reference.named(name)
        if there is not None and (there.kind == "bundle" or there.lifetime == "lastClose"):
            return
        puppet.begin("publish", key, name, count, "<i8", token, {}, False)
        time.sleep(pause)
        self._kill(puppet)
        observer = self._puppet(pick)
        self._awaitView(observer, lambda view: str(puppet.pid) not in view["members"])
        made = self._do(
            observer,
            "open",
            key,
            name,
            "readOnly",
            error="" if there is not None else ",BufferNotFound",
        )
        if isinstance(made, dict) and there is not None and made["identity"] == there.identity:
            self._attached(observer, key, made, there)
        elif isinstance(made, dict):
            what = {"kind": "array", "count": count, "dtype": "<i8", "token": token}
            self._version(observer, key, made, lifetime="keep", **what)
        self._compare()

    # --- finding ---------------------------------------------------------------------

    def _attached(self, puppet: Puppet, key: int, made: dict[str, Any], buffer: Published) -> None:
        self._require(
            made["identity"] == buffer.identity, f"opened {made['identity']}, not {buffer.identity}"
        )
        self._require(
            made["generation"] == buffer.generation,
            f"opened generation {made['generation']}, not {buffer.generation}",
        )
        self.reference.attach(key, puppet, buffer, made["writable"])
        self.handles.append((buffer, made["handle"], made["writable"]))

    def _opening(
        self,
        buffer: Published | None,
        access: str,
        asBundle: bool,
        missing: str,
        mayWrite: bool = True,
    ) -> str:
        if buffer is None:
            return missing
        error = (
            "PermissionDenied"
            if access == "readWrite" and (buffer.access == "readOnly" or not mayWrite)
            else ""
        )
        error = error or "BufferMismatch" * ((buffer.kind == "bundle") != asBundle)
        return f"{error},{missing}" if buffer.isLingering else error

    @precondition(lambda self: self.running)
    @rule(
        pick=_picks,
        name=_names,
        access=st.sampled_from(["readOnly", "readWrite"]),
        asBundle=st.sampled_from([False, False, True]),
    )
    def openNamed(self, pick: int, name: str, access: str, asBundle: bool) -> None:
        puppet, key, there = self._puppet(pick), self._key(), self.reference.named(name)
        made = self._do(
            puppet,
            "openBundle" if asBundle else "open",
            key,
            name,
            access,
            error=self._opening(there, access, asBundle, "BufferNotFound"),
        )
        if isinstance(made, dict) and there is not None:
            self._attached(puppet, key, made, there)
        self._compare()

    @precondition(lambda self: self.running and self.handles)
    @rule(pick=_picks, which=_picks, access=st.sampled_from(["readOnly", "readWrite"]))
    def openHandle(self, pick: int, which: int, access: str) -> None:
        puppet, key = self._puppet(pick), self._key()
        buffer, handle, mayWrite = self.handles[which % len(self.handles)]
        there = buffer if buffer is self.reference.named(buffer.name) else None
        # After the last member has left an empty domain, the next member's domain has
        # another secret.
        error = self._opening(
            there, access, buffer.kind == "bundle", "BufferNotFound,HandleInvalid", mayWrite
        )
        made = self._do(
            puppet,
            "openBundle" if buffer.kind == "bundle" else "open",
            key,
            f"#{handle}",
            access,
            error=error,
        )
        if isinstance(made, dict):
            self._attached(puppet, key, made, buffer)
        self._compare()

    @precondition(lambda self: self._owned(0) is not None)
    @rule(pick=_picks)
    def describe(self, pick: int) -> None:
        key = self._owned(pick, lambda each: not each.isArray)
        if key is None:
            return
        opened, buffer = self.reference.opened[key], self.reference.opened[key].buffer
        described = self._do(opened.puppet, "describes", key, error="BufferFreed" * buffer.isFreed)
        self._require(
            buffer.isFreed
            or described
            == [
                buffer.identity,
                buffer.name,
                buffer.state,
                buffer.generation,
                not buffer.isReplaced,
            ],
            f"it describes itself as {described}",
        )

    # --- writing and reading ---------------------------------------------------------

    def _writing(self, key: int) -> str:
        opened = self.reference.opened[key]
        if not opened.isWritable:
            return "PermissionDenied"
        if opened.buffer.isFreed:
            return "BufferFreed"
        if any(puppet is opened.puppet for puppet, _ in opened.buffer.readers):
            return "RuntimeError"  # the process would wait for itself
        return "TimeoutError" if opened.buffer.writer is not None or opened.buffer.readers else ""

    @precondition(lambda self: self._owned(0) is not None)
    @rule(pick=_picks, token=_tokens)
    def write(self, pick: int, token: int) -> None:
        key = self._owned(
            pick,
            lambda each: (
                not each.isArray
                and (each.buffer.writer is None or each.buffer.writer[0] is not each.puppet)
            ),
        )
        if key is None:
            return
        opened, buffer = self.reference.opened[key], self.reference.opened[key].buffer
        error = self._writing(key)
        generation = self._do(
            opened.puppet,
            "write",
            key,
            buffer.count,
            buffer.dtype,
            token,
            20.0 if not error else 0.02,
            error=error,
        )
        if not error:
            buffer.generation += 1 if buffer.isTorn else 2
            buffer.isTorn, buffer.token = False, token
            self._require(
                generation == buffer.generation,
                f"published generation {generation}, not {buffer.generation}",
            )
        self._compare()

    @precondition(
        lambda self: (
            self._owned(0, lambda each: each.isWritable and not each.buffer.isFreed) is not None
        )
    )
    @rule(pick=_picks)
    def beginWriting(self, pick: int) -> None:
        key = self._owned(
            pick,
            lambda each: (
                each.isWritable
                and not each.isArray
                and each.buffer.kind == "array"
                and not each.buffer.isFreed
            ),
        )
        if (
            key is None
            or self.reference.opened[key].buffer.writer is not None
            or self.reference.opened[key].buffer.readers
        ):
            return
        opened, buffer = self.reference.opened[key], self.reference.opened[key].buffer
        self._do(opened.puppet, "beginWriting", key, 20.0)
        buffer.generation += 0 if buffer.isTorn else 1
        buffer.isTorn, buffer.writer = False, (opened.puppet, key)
        self._compare()

    @precondition(
        lambda self: self._owned(0, lambda each: each.buffer.writer is not None) is not None
    )
    @rule(pick=_picks, token=_tokens)
    def endWriting(self, pick: int, token: int) -> None:
        key = next(
            (
                key
                for key in self.reference.opened
                if self._isWriting(key) and not self.reference.opened[key].puppet.isStopped
            ),
            None,
        )
        if key is None:
            return
        opened, buffer = self.reference.opened[key], self.reference.opened[key].buffer
        self._do(
            opened.puppet, "endWriting", key, buffer.count, buffer.dtype, token
        )  # also of a buffer that was freed meanwhile, which goes with its holders
        buffer.writer = None
        buffer.generation += 1
        buffer.token = token
        self._compare()

    @precondition(lambda self: self._owned(0, lambda each: not each.buffer.isFreed) is not None)
    @rule(pick=_picks)
    def beginReading(self, pick: int) -> None:
        """An access for kernels keeps writers out, and a living writer keeps it out."""
        key = self._owned(
            pick,
            lambda each: (
                not each.isArray and each.buffer.kind == "array" and not each.buffer.isFreed
            ),
        )
        if key is None or self._isReading(key):
            return
        opened, buffer = self.reference.opened[key], self.reference.opened[key].buffer
        if buffer.writer is not None and buffer.writer[0] is opened.puppet:
            error = "RuntimeError"
        else:
            error = (
                "TimeoutError"
                if buffer.writer is not None
                else "WriterDied"
                if buffer.isTorn
                else ""
            )
        self._do(
            opened.puppet,
            "beginReading",
            key,
            0.02 if error == "TimeoutError" else 20.0,
            error=error,
        )
        if not error:
            buffer.readers.append((opened.puppet, key))
        self._compare()

    @precondition(
        lambda self: any(
            not puppet.isStopped for each in self.reference.buffers for puppet, _ in each.readers
        )
    )
    @rule(pick=_picks)
    def endReading(self, pick: int) -> None:
        key = self._owned(
            pick, lambda each: any(puppet is each.puppet for puppet, _ in each.buffer.readers)
        )
        if key is None or not self._isReading(key):
            return
        opened = self.reference.opened[key]
        self._do(opened.puppet, "endReading", key)  # also of a buffer that was freed meanwhile
        opened.buffer.readers.remove((opened.puppet, key))
        self._compare()

    @precondition(lambda self: any(each.writer is not None for each in self.reference.buffers))
    @rule(pick=_picks)
    def readWhileWritten(self, pick: int) -> None:
        key = self._owned(
            pick,
            lambda each: (
                each.buffer.writer is not None and not each.isArray and not each.buffer.isFreed
            ),
        )
        if key is not None:
            said = self._do(self.reference.opened[key].puppet, "tryRead", key)
            self._require(said == "TimeoutError", "a reader got what is half written")

    @precondition(lambda self: self._owned(0) is not None)
    @rule(pick=_picks, by=_picks, token=_tokens)
    def waitForAnother(self, pick: int, by: int, token: int) -> None:
        """One process waits for the next generation, and another publishes it."""

        def quiet(each: Any) -> bool:
            buffer = each.buffer
            return not (
                each.isArray or buffer.isFreed or buffer.isTorn or buffer.writer or buffer.readers
            )

        reader = self._owned(pick, quiet)
        if reader is None:
            return
        waiting, buffer = self.reference.opened[reader].puppet, self.reference.opened[reader].buffer
        writer = self._owned(
            by,
            lambda each: (
                each.buffer is buffer
                and each.isWritable
                and not each.isArray
                and each.puppet is not waiting
            ),
        )
        if writer is None:
            return
        waiting.begin("waitNext", reader, buffer.generation)
        self._do(
            self.reference.opened[writer].puppet,
            "write",
            writer,
            buffer.count,
            buffer.dtype,
            token,
            20.0,
        )
        buffer.generation, buffer.token = buffer.generation + 2, token
        seen = self._expect(f"{waiting}.waitNext", waiting.result())
        self._require(seen == buffer.generation, f"waited for {buffer.generation}, got {seen}")
        self._compare()

    # --- ending ----------------------------------------------------------------------

    @precondition(lambda self: self._owned(0) is not None)
    @rule(pick=_picks)
    def keepArray(self, pick: int) -> None:
        key, new = (
            self._owned(
                pick,
                lambda each: (
                    not each.isArray and each.buffer.kind == "array" and not each.buffer.isFreed
                ),
            ),
            self._key(),
        )
        if key is not None:
            opened = self.reference.opened[key]
            self._do(opened.puppet, "keepArray", new, key)
            self.reference.attach(
                new, opened.puppet, opened.buffer, opened.isWritable, isArray=True
            )
            self._compare()

    @precondition(lambda self: self._owned(0) is not None)
    @rule(pick=_picks)
    def close(self, pick: int) -> None:
        key = self._owned(pick)
        if key is not None and not self._isWriting(key) and not self._isReading(key):
            self._do(self.reference.opened[key].puppet, "close", key)
            self.reference.close(key)
            self._compare()

    @precondition(lambda self: self._owned(0) is not None)
    @rule(pick=_picks)
    def free(self, pick: int) -> None:
        key = self._owned(pick, lambda each: not each.isArray)
        if key is not None and not self._isWriting(key) and not self._isReading(key):
            opened = self.reference.opened[key]
            self._do(opened.puppet, "free", key)
            self.reference.close(key)
            self.reference.free(opened.buffer)
            self._compare()

    @precondition(lambda self: self.running)
    @rule(pick=_picks, name=_names)
    def freeNamed(self, pick: int, name: str) -> None:
        there = self.reference.named(name)
        error = (
            "BufferNotFound" if there is None else ",BufferNotFound" if there.isLingering else ""
        )
        self._do(self._puppet(pick), "freeName", name, error=error)
        if there is not None:
            self.reference.free(there)
        self._compare()

    # --- locks -----------------------------------------------------------------------

    @precondition(lambda self: self.running)
    @rule(pick=_picks, name=_lockNames)
    def acquire(self, pick: int, name: str) -> None:
        puppet = self._puppet(pick)
        lock = self.reference.locks.get(name)
        isFree = lock is None or lock.holder in (None, puppet)
        mayBeNew = lock is None or not lock.attached
        recovered = self._do(puppet, "acquire", name, error="" if isFree else "TimeoutError")
        lock = self.reference.locks.setdefault(name, NamedLock())
        lock.attached.add(puppet)
        if isFree:
            self._require(
                mayBeNew or lock.depth or recovered == lock.isOrphaned, f"recovered is {recovered}"
            )
            lock.holder, lock.depth, lock.isOrphaned = puppet, lock.depth + 1, False
        self._compare()

    @precondition(lambda self: self.running)
    @rule(pick=_picks, name=_lockNames)
    def release(self, pick: int, name: str) -> None:
        lock = self.reference.locks.get(name)
        attached = [each for each in self.running if lock is not None and each in lock.attached]
        if lock is None or not attached:
            return
        puppet = attached[pick % len(attached)]
        self._do(puppet, "release", name, error="" if lock.holder is puppet else "RuntimeError")
        if lock.holder is puppet:
            lock.depth -= 1
            lock.holder = puppet if lock.depth else None
        self._compare()

    @precondition(lambda self: self.running)
    @rule(pick=_picks, name=_lockNames)
    def forgetLock(self, pick: int, name: str) -> None:
        """A process drops its lock object. A held lock stays held without its object,
        so only a free one is dropped.
        """
        lock = self.reference.locks.get(name)
        attached = [
            each
            for each in self.running
            if lock is not None and each in lock.attached and lock.holder is not each
        ]
        if lock is not None and attached:
            self._do(attached[pick % len(attached)], "forget", name)
            lock.attached.discard(attached[pick % len(attached)])
            self._compare()

    # --- processes -------------------------------------------------------------------

    @precondition(lambda self: len(self.puppets) < MAX_PUPPETS)
    @rule()
    def start(self) -> None:
        self._bear()
        self._compare()

    @precondition(lambda self: self.puppets)
    @rule(pick=_picks, tidy=st.booleans())
    def kill(self, pick: int, tidy: bool) -> None:
        self._kill(self.puppets[pick % len(self.puppets)])
        if tidy:
            self._compare()

    @precondition(lambda self: self.running)
    @rule(tidy=st.booleans())
    def killTheBroker(self, tidy: bool) -> None:
        broker = self._broker()
        if broker is not None:
            self._kill(broker)
            if tidy:
                self._compare()

    @precondition(lambda self: len(self.running) > 1)
    @rule(pick=_picks, name=_names, count=_counts, token=_tokens)
    def killTheBrokerWhileAnotherCreates(
        self, pick: int, name: str, count: int, token: int
    ) -> None:
        """The request meets a dying broker; its result must be the same as with a
        living one.
        """
        broker = self._broker()
        others = [each for each in self.running if each is not broker]
        if broker is None or not others:
            return
        taken = self._taken(name)
        holders = {
            each.puppet
            for each in self.reference.opened.values()
            if each.buffer is self.reference.named(name)
        }
        if (
            taken
            and holders <= {broker}
            and getattr(self.reference.named(name), "lifetime", "") == "lastClose"
        ):
            taken = ",BufferExists"
        puppet, key = others[pick % len(others)], self._key()
        puppet.begin("share", key, name, count, "<i8", token, {})
        self._kill(broker)
        made = self._expect(f"{puppet}.share({key}, {name!r})", puppet.result(), taken)
        if isinstance(made, dict):
            self._make(
                puppet,
                key,
                made,
                kind="array",
                count=count,
                dtype="<i8",
                token=token,
                access="readMostly",
                lifetime="keep",
            )
        self._compare()

    @precondition(lambda self: len(self.running) > 1)
    @rule(pick=_picks, name=_names, count=_counts, token=_tokens)
    def killTheCreator(self, pick: int, name: str, count: int, token: int) -> None:
        """The buffer may exist or not, but never half of it."""
        puppet, key = self._puppet(pick), self._key()
        if self.reference.named(name) is not None:
            return
        puppet.begin("share", key, name, count, "<i8", token, {})
        time.sleep(pick % 7 / 2000)
        self._kill(puppet)
        observer = self._puppet(0)
        there = self._awaitView(observer, lambda view: len(view["members"]) == len(self.puppets))
        row = next(
            (each for each in there["buffers"] if each[1] == name and each[3] == "live"), None
        )
        if row is not None:
            made = self._do(observer, "open", key, name, "readOnly")
            self._make(
                observer,
                key,
                made,
                kind="array",
                count=count,
                dtype="<i8",
                token=token,
                access="readMostly",
                lifetime="keep",
            )
        self._compare()

    @precondition(lambda self: len(self.running) > 1)
    @rule(pick=_picks, name=_names, count=_counts, tokens=st.tuples(_tokens, _tokens))
    def raceForAName(self, pick: int, name: str, count: int, tokens: tuple[int, int]) -> None:
        """Two processes create the same name at once: one wins, and the other gets an
        error.
        """
        if self.reference.named(name) is not None:
            return
        pair = [self._puppet(pick), self._puppet(pick + 1)]
        keys = [self._key(), self._key()]
        for puppet, key, token in zip(pair, keys, tokens):
            puppet.begin("share", key, name, count, "<i8", token, {})
        outcomes = [puppet.result() for puppet in pair]
        self.trace.append(f"{pair} race for {name!r} -> {outcomes}")
        self._require(
            sorted(each.error for each in outcomes) == ["", "BufferExists"],
            f"a race for {name!r} came to {outcomes}",
        )
        for puppet, key, token, outcome in zip(pair, keys, tokens, outcomes):
            if not outcome.error:
                self._make(
                    puppet,
                    key,
                    outcome.value,
                    kind="array",
                    count=count,
                    dtype="<i8",
                    token=token,
                    access="readMostly",
                    lifetime="keep",
                )
        self._compare()

    @precondition(lambda self: len(self.running) > 1)
    @rule(pick=_picks, name=_names, count=_counts, tokens=st.tuples(_tokens, _tokens))
    def raceToShareOnce(self, pick: int, name: str, count: int, tokens: tuple[int, int]) -> None:
        """Two processes call `shareOnce` with the same name at once: one loads, and
        both have the buffer.
        """
        if self.reference.named(name) is not None:
            return
        pair = [self._puppet(pick), self._puppet(pick + 1)]
        keys = [self._key(), self._key()]
        for puppet, key, token in zip(pair, keys, tokens):
            puppet.begin("once", key, name, count, "<i8", token)
        made = [self._expect(f"{puppet}.once({name!r})", puppet.result()) for puppet in pair]
        self._require(
            sorted(each["loads"] for each in made) == [0, 1],
            f"the loads were {[each['loads'] for each in made]}",
        )
        first = 0 if made[0]["loads"] else 1
        buffer = self._make(
            pair[first],
            keys[first],
            made[first],
            kind="array",
            count=count,
            dtype="<i8",
            token=tokens[first],
            access="readMostly",
            lifetime="keep",
        )
        self._attached(pair[1 - first], keys[1 - first], made[1 - first], buffer)
        self._compare()

    @precondition(lambda self: len(self.running) > 1)
    @rule()
    def stopTheBroker(self) -> None:
        """The next request deposes the broker; it goes on later, as an ordinary member."""
        broker = self._broker()
        if broker is not None and len(self.running) > 1:
            broker.stop()
            self.trace.append(f"{broker} is stopped")
            self._compare()
            self._require(self._broker() is not broker, "a broker that was stopped is broker still")

    @precondition(lambda self: any(each.isStopped for each in self.puppets))
    @rule(pick=_picks)
    def resume(self, pick: int) -> None:
        stopped = [each for each in self.puppets if each.isStopped]
        stopped[pick % len(stopped)].resume()
        self.trace.append(f"{stopped[pick % len(stopped)]} goes on")
        self._do(stopped[pick % len(stopped)], "probe")
        self._compare()

    @precondition(lambda self: self.running)
    @rule(pick=_picks)
    def leave(self, pick: int) -> None:
        puppet = self._puppet(pick)
        if any(
            self._isWriting(key) or self._isReading(key)
            for key, each in self.reference.opened.items()
            if each.puppet is puppet
        ):
            return  # A program does not end inside a with statement without leaving it.
        puppet.leave()
        self.trace.append(f"{puppet} left")
        self._forget(puppet)
        self._compare()

    def _broker(self) -> Puppet | None:
        """The broker, if it is one of the running puppets."""
        pid = self._do(self._puppet(0), "view")["broker"]
        return next((each for each in self.running if each.pid == pid), None)

    def _kill(self, puppet: Puppet) -> None:
        puppet.kill()
        self.trace.append(f"{puppet} was killed")
        self._forget(puppet)

    def _forget(self, puppet: Puppet) -> None:
        self.puppets.remove(puppet)
        self.reference.end(puppet)

    # --- comparing -------------------------------------------------------------------

    def _awaitView(
        self, observer: Puppet, isSo: Callable[[dict[str, Any]], object]
    ) -> dict[str, Any]:
        """Wait until the view is so. Each round sends a request, because only a request
        deposes a stopped broker.
        """
        deadline = time.monotonic() + BOUND_SECONDS
        while True:
            view: dict[str, Any] = self._expect("view", observer.do("view"))
            self.trace.pop()
            if isSo(view):
                return view
            self._require(
                time.monotonic() < deadline,
                f"it never looked as it should, but so: {view}; in /dev/shm: {leftovers(self.domain)}",
            )
            outcome = observer.do("probe")
            self._require(not outcome.error, f"{observer}.probe came to {outcome}")
            time.sleep(0.002)

    def _compare(self) -> None:
        """Everything is soon as the reference says; the maintenance of a broker takes
        its time.
        """
        DomainMachine.steps += 1
        if not self.running:
            return  # The next process compares, at the latest in `teardown`.
        self._scope += 1
        observer = self._puppet(self._scope)
        self._require(
            not (outcome := observer.do("probe")).error, f"{observer}.probe came to {outcome}"
        )
        self._expectedView(observer)
        self.reference.reclaimUnheld()
        named = [
            (each.name, each.kind == "bundle", each.content)
            for each in self.reference.buffers
            if not (each.state != "live" or each.isTorn or each.writer is not None)
        ]
        wrong = self._do(observer, "checkNamed", named)
        self._require(not wrong, f"{observer} finds that {wrong}")
        for puppet in self.running:
            own = [
                reading
                for key, each in self.reference.opened.items()
                if each.puppet is puppet and (reading := self.reference.reading(key)) is not None
            ]
            wrong = self._do(puppet, "check", own)
            self._require(not wrong, f"{puppet} finds that {wrong}")
        del self.trace[-1 - len(self.running) :]

    def _expectedView(self, observer: Puppet) -> None:
        buffers, members = self.reference.view(self.puppets)
        segments = sorted(f"muninn-{os.getuid()}-{self.domain}.{each[0]}" for each in buffers)

        def isSo(view: dict[str, Any]) -> bool:
            return (
                view["buffers"] == buffers
                and view["members"] == members
                and leftovers(self.domain) == segments
            )

        self.trace.append(f"expecting {buffers}, {members}")
        self._awaitView(observer, isSo)
        self.trace.pop()

    def teardown(self) -> None:
        try:
            # After a difference there is nothing more to learn, and much to wait for.
            if not isinstance(sys.exception(), Difference):
                self._endAll()
        finally:
            for puppet in list(self.puppets):
                puppet.kill()
            removeDomain(self.domain)

    def _endAll(self) -> None:
        """Let all puppets go on, then kill all. A newcomer then finds the named
        buffers, frees them, and leaves nothing.
        """
        for puppet in self.puppets:
            if puppet.isStopped:
                puppet.resume()
        self._compare()
        for puppet in list(self.puppets):
            self._kill(puppet)
        last = self._bear()
        self._compare()
        for buffer in list(self.reference.buffers):
            self._do(last, "freeName", buffer.name)
            self.reference.free(buffer)
        self._compare()
        self._require(
            not self.reference.buffers and not leftovers(self.domain), "something is left"
        )
        self.puppets.remove(last)
        last.leave()
        self._require(
            not os.path.exists(f"/dev/shm/muninn-{os.getuid()}-{self.domain}"),
            "the last to leave an empty domain leaves its control block",
        )
