"""The lock-order checker: which of Muninn's locks a thread may take while it has
others.

`ORDER` states the order of `docs/design/0016-lock-order.md` as data. `install`, called
before `muninn` is imported, replaces `_thread.RLock` by a factory. A lock that a module
of Muninn creates is then an `_Ordered` lock, named by the module and the attribute; any
other lock stays as it is.

When a thread enters an ordered lock, the checker compares the lock with the locks that
the thread owns already. It appends a line to a file when `ORDER` does not have them in
this sequence, or does not have the lock at all. A fixture of `conftest.py` reads the
file after each test; the actors that a test starts write to the same file.

The checker adds no bytecode between taking a lock and being inside its block. It runs
in the getter of `__enter__`, before the lock is taken; the method that the getter
returns is the one in C. A signal handler that raises in the getter finds nothing taken.
The checker asks the locks themselves which of them the thread owns, so it need not
watch a thread leave a lock.
"""

from __future__ import annotations

import _thread
import contextlib
import glob
import os
import re
import sys
from types import FrameType
from typing import Any

#: The environment variable that tells the actors of a test where to report.
VARIABLE = "TEST_LOCK_ORDER"

#: Outermost first: a thread that owns a lock may take the locks that stand below it.
ORDER = [
    "torch.following._changed",
    "session.leaving.changing",
    "session.gpus._companying",
    "devices.topology.links._verifying",
    "kernels.numbacuda._entering",
    "interop.dlpack._taking",
    "session.openbuffer.fencing",
    "session.tables.leaseLock",
    "session.gpus._lock",
    "broker.broker._lock",
    "session.reservation._changing",
    "session.crew._changed",
    "control.lockfile._reopening",
    "session.mappings._mapping",
    "storage.segments._protecting",
    "wire.descriptorserver._using",
    "devices.cuda.streamtable._making",
    "devices.cuda.copies._making",
    "devices.cuda.streams._submitting",
    "devices.cuda.deferredfree._starting",
    "devices.cuda.semaphores._changed",
    "devices.worker._changed",
    "devices.cuda.ipc._changing",
    "devices.cuda.pinned._changing",
    "devices.cuda.pieces._changing",
    "devices.cuda.budget._changing",
    "devices.cuda.seams._changing",
    "devices.cuda.gpu._retaining",
    "session.releases._reclaiming",
    "devices.host.memory._closing",
    "devices.host.device._changing",
    "transfer.steps._changing",
    "transfer.handle._changed",
    "service.sockets._having",
    "service.web.held._changing",
]
#: The tests of this module replace it.
ranks = {name: rank for rank, name in enumerate(ORDER)}  # pylint: disable=invalid-name
reportPath = os.devnull  # pylint: disable=invalid-name

_PREFIX = "muninn."
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "muninn")
#: These modules create locks for other modules; a lock is named after its user.
_CREATORS = {"muninn.system.forks", "muninn.system.green"}
#: The line that creates a lock: an assignment, or a keyword of a call.
CREATION = re.compile(r"(\w+)(?:: [^=]+)? ?= ?(?:_thread\.RLock|Guard|Condition)\(")
_FRAMES = 12
_Plain: Any = _thread.RLock
_own: Any = _thread._local()
_names: dict[tuple[str, int], str] = {}


class _Entering:
    """`__enter__` of a lock that is compared with the order. An `ExitStack` takes it
    from the class and gets the method in C, which compares nothing.
    """

    def __get__(self, lock: Any, kind: type[Any]) -> Any:
        if lock is None:
            return _Plain.__enter__
        if not lock._is_owned():
            _compare(lock.name, _follow(lock))
        return _Plain.__enter__.__get__(lock)


class _Ordered(_Plain):  # type: ignore[misc]
    """A lock that is compared with the order when it is entered."""

    __slots__ = ("name",)
    name: str
    __enter__ = _Entering()


class _Tried(_Ordered):
    """A lock that is also acquired without a wait, which needs no order; afterwards it
    counts as owned. The lock of a `Guard` is not of this class: a fork acquires it, and
    must not run any Python code there.
    """

    __slots__ = ()

    @property
    def acquire(self) -> Any:
        _follow(self)
        return super().acquire


class _Factory:
    """The replacement of `_thread.RLock`."""

    def __call__(self) -> Any:
        frame, isOfGuard = sys._getframe(1), False
        while (module := frame.f_globals["__name__"]) in _CREATORS:
            isOfGuard = isOfGuard or module.endswith(".forks")
            if frame.f_back is None:
                return _Plain()
            frame = frame.f_back
        if not module.startswith(_PREFIX):
            return _Plain()
        lock = (_Ordered if isOfGuard else _Tried)()
        attribute = _nameAt(frame.f_code.co_filename, frame.f_lineno)
        lock.name = f"{module.removeprefix(_PREFIX)}.{attribute}"
        return lock

    def __mro_entries__(self, _: object) -> tuple[Any]:
        return (_Plain,)  # `cleanups.Cleanup`'s lock: only its own thread enters it


def install(path: str) -> None:
    """Check the locks that are created from now on, and report to the file `path`."""
    global reportPath
    reportPath = path
    # Read now: a test may leave no free descriptor when a lock is created, and may take
    # so long that the file is edited meanwhile.
    for source in glob.iglob(f"{_PACKAGE}/**/*.py", recursive=True):
        _read(source)
    _thread.RLock = _Factory()  # type: ignore[misc, assignment]


def forget() -> None:
    """Treat the calling thread as one that has no lock. A test that plants an
    interruption at every bytecode may raise between the end of a block and the call
    that leaves the lock. No real signal handler runs there: CPython calls handlers at
    the end of a call.
    """
    _own.stack = []


def _follow(lock: _Ordered) -> list[str]:
    """The names of the other locks that the calling thread owns when it is about to
    take `lock`.
    """
    held = [each for each in getattr(_own, "stack", ()) if each is not lock and each._is_owned()]
    _own.stack = [*held, lock]
    return [each.name for each in held]


def _compare(name: str, held: list[str]) -> None:
    rank = ranks.get(name)
    if rank is None:
        _report(f"{name} is not in the order of locks")
        return
    for each in held:
        if ranks.get(each, -1) >= rank:
            _report(f"{name} is taken by a thread that has {each}")


def _report(finding: str) -> None:
    frame: FrameType | None = sys._getframe(3)
    path: list[str] = []
    while frame is not None and len(path) < _FRAMES:
        path.append(f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}")
        frame = frame.f_back
    # Use the system calls: a thread may take a lock when the builtins are gone.
    with contextlib.suppress(OSError):
        fd = os.open(reportPath, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, f"{finding}, at {' < '.join(path)}\n".encode())
        os.close(fd)


def _nameAt(path: str, line: int) -> str:
    """The name to which the statement in that line assigns."""
    if (path, line) not in _names:
        _read(path)
    return _names.get((path, line), f"line {line}")


def _read(path: str) -> None:
    with open(path) as file:
        text = file.read()
    if any(maker in text for maker in ("RLock(", "Guard(", "Condition(")):
        for line, statement in enumerate(text.split("\n"), 1):
            if found := CREATION.search(statement):
                _names[path, line] = found[1]
