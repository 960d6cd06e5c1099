"""Fail points: every place where a process changes state that others can see, by name.

A point is a call: of a primitive that stores to a shared word, or of a system call that
makes, removes or announces something. Its name has the function and the call, as in
`directory.Directory._reclaim:unlink`; a second such call in a function ends in `#2`.
The source has no marks beside the calls, so no point can be forgotten and none costs
anything: `arm` puts recording stand-ins in the place of the modules through which the
calls are made, in this process and for the rest of its life. The package itself knows
nothing of it.
"""

from __future__ import annotations

import ast
import os
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import muninn
from muninn.control import block

_ROOT = Path(muninn.__file__).resolve().parent
#: These packages show a domain, or measure in domains of their own.
_OUTSIDE = ("cli", "prof")
#: The functions that change state which outlives the call or which others see, by the
#: module through which they are called.
_CHANGES: dict[str, frozenset[str]] = {
    "atomics": frozenset(
        {
            "storeRelease32",
            "storeRelease64",
            "exchangeSeqCst32",
            "exchangeSeqCst64",
            "casSeqCst32",
            "casSeqCst64",
            "fetchAddAcqRel32",
            "fetchAddAcqRel64",
            "raiseField64",
            "futexWake32",
            "robustHold",
            "byteLock",
            "byteUnlock",
            "copy",
            "exchangeNames",
        }
    ),
    "os": frozenset(
        {
            "open",
            "unlink",
            "rename",
            "link",
            "chmod",
            "ftruncate",
            "posix_fallocate",
            "pwrite",
            "mkdir",
            "fchmod",
        }
    ),
    "posix_ipc": frozenset({"SharedMemory", "unlink_shared_memory"}),
    "fcntl": frozenset({"fcntl"}),
    "descriptors": frozenset({"opened", "memfd"}),
    "messages": frozenset({"send", "receive"}),
}
_SOCKET_CHANGES = frozenset({"bind", "listen", "connect", "accept", "shutdown"})
_BLOCK_CHANGES = frozenset({"put", "allocate"})

#: Called before a point's change (True) and after it (False).
Reached = Callable[[str, bool], None]


class Point(NamedTuple):
    """One call that changes such state."""

    name: str
    file: str
    line: int
    column: int
    change: str


@cache
def allPoints() -> tuple[Point, ...]:
    """All points of the package, in the order of the source.

    A module's name is enough for the name of a point. Where two files of one name have
    the same point, the name of the package goes before it.
    """
    outside = {_ROOT / each for each in _OUTSIDE}
    files = (file for file in sorted(_ROOT.rglob("*.py")) if outside.isdisjoint(file.parents))
    found = [point for file in files for point in _pointsOf(file)]
    counts = Counter(point.name for point in found)
    return tuple(
        point
        if counts[point.name] == 1
        else point._replace(name=f"{Path(point.file).parent.name}.{point.name}")
        for point in found
    )


def _pointsOf(file: Path) -> Iterator[Point]:
    seen: Counter[str] = Counter()
    for function, call in _calls(ast.parse(file.read_text()), ()):
        change = _changeOf(call)
        if change is None:
            continue
        name = f"{file.stem}.{function}:{change}"
        seen[name] += 1
        yield Point(
            name if seen[name] == 1 else f"{name}#{seen[name]}",
            str(file),
            call.lineno,
            call.col_offset,
            change,
        )


def _calls(node: ast.AST, path: tuple[str, ...]) -> Iterator[tuple[str, ast.Call]]:
    """The calls below a node, each with the dotted name of its function."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        path = (*path, node.name)
    if isinstance(node, ast.Call):
        yield ".".join(path), node
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, path)


def _changeOf(call: ast.Call) -> str | None:
    """The name of the change that a call makes; None when it makes none."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return None
    through = function.value.id if isinstance(function.value, ast.Name) else ""
    if through in _CHANGES:
        return function.attr if function.attr in _CHANGES[through] else None
    of = ast.unparse(function.value)
    ofBlock = function.attr in _BLOCK_CHANGES and of.endswith("block")
    ofSocket = function.attr in _SOCKET_CHANGES and of.endswith(("connection", "listener"))
    return function.attr if ofBlock or ofSocket else None


def warm() -> None:
    """Read the source now, and not while something is timed."""
    _places()


def arm(reached: Reached) -> None:
    """Call `reached` around every change that this process makes from now on, on the
    thread that makes it.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("muninn."):
            _standIn(module, reached)
    for change in _BLOCK_CHANGES:
        setattr(
            block.ControlBlock,
            change,
            _recorded(getattr(block.ControlBlock, change), change, reached),
        )


def _standIn(module: types.ModuleType, reached: Reached) -> None:
    for through, changes in _CHANGES.items():
        real = vars(module).get(through)
        if isinstance(real, types.ModuleType):
            setattr(
                module,
                through,
                _Recording(
                    real,
                    {
                        change: _recorded(getattr(real, change), change, reached)
                        for change in changes
                    },
                ),
            )
    if (socket := vars(module).get("Socket")) is not None:
        methods = {
            change: _recorded(getattr(socket, change), change, reached)
            for change in _SOCKET_CHANGES
        }
        setattr(module, "Socket", type("Socket", (socket,), methods))  # noqa: B010  # for mypy


class _Recording(types.ModuleType):
    """A module, some of whose functions are recorded."""

    def __init__(self, real: types.ModuleType, recorded: dict[str, Any]) -> None:
        super().__init__(real.__name__)
        self._real = real
        vars(self).update(recorded)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _recorded(function: Callable[..., Any], change: str, reached: Reached) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        name = _nameOf(sys._getframe(1), change)
        if name is None:
            return function(*arguments, **named)
        reached(name, True)
        result = function(*arguments, **named)
        reached(name, False)
        return result

    return call


def _nameOf(frame: types.FrameType, change: str) -> str | None:
    """The name of the point that a frame is at; None outside of the package."""
    return _names(frame.f_code, frame.f_lasti).get(change)


@cache
def _names(code: types.CodeType, instruction: int) -> dict[str, str]:
    line, _, column, _ = next(islice(code.co_positions(), instruction // 2, None))
    return _places().get((os.path.realpath(code.co_filename), line, column), {})


@cache
def _places() -> dict[tuple[str, int | None, int | None], dict[str, str]]:
    paths: dict[tuple[str, int | None, int | None], dict[str, str]] = {}
    for point in allPoints():
        paths.setdefault((point.file, point.line, point.column), {})[point.change] = point.name
    return paths
