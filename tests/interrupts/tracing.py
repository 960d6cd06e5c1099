"""Come between two bytecodes of a call.

`rehearse` lists where an undisturbed call passes; `interrupt` does something at one of these places. Only frames of the package are
looked at, and those of the program's own ``with`` statement where a call has one; and only on the calling thread.

CPython runs signal handlers after some bytecodes only (calls, jumps back, beginnings of functions), but finalizers after nearly all. A
trace function can raise before each of them, which is harder than life; `ringing` lets the interpreter itself choose, as for a real Ctrl-C.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple

import muninn

_PACKAGE = muninn.__file__.rpartition("/")[0] + "/"


class Place(NamedTuple):
    """One bytecode. It is the same in all processes that were forked from one."""

    file: str
    function: str
    firstLine: int
    offset: int
    line: int

    def __str__(self) -> str:
        return f"{self.file.rpartition('/muninn/')[2]}:{self.line} {self.function} (bytecode {self.offset})"


class Bell:
    """Letting go of it sends this process SIGINT, and no bytecode that looks for signals lies between that and what is traced next."""

    __del__ = _thread.interrupt_main


class _Passes:
    """How often each place was passed: what a trace function fills."""

    def __init__(self, isLookedAt: Callable[[CodeType], bool]) -> None:
        self.count: dict[Place, int] = {}
        self._isLookedAt = isLookedAt
        self._codes: dict[CodeType, bool] = {}

    def onCall(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code not in self._codes:
            self._codes[code] = self._isLookedAt(code)
        if not self._codes[code]:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._onBytecode

    def _onBytecode(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            place = placeOf(frame)
            self.count[place] = self.count.get(place, 0) + 1
        return self._onBytecode


def placeOf(frame: FrameType) -> Place:
    code = frame.f_code
    return Place(code.co_filename, code.co_qualname, code.co_firstlineno, frame.f_lasti, frame.f_lineno or 0)


def _isOfPackage(code: CodeType) -> bool:
    return code.co_filename.startswith(_PACKAGE)


def rehearse(act: Callable[[Any], object], kit: Any, body: CodeType | None) -> dict[Place, int]:
    """How often an undisturbed call passes each place, in the order of first passes. `body` is the program's own code to look at."""
    passes = _Passes(lambda code: _isOfPackage(code) or code is body)
    with _Traced(passes.onCall):
        act(kit)
    return passes.count


class _Traced:
    """A trace function in force. Without a generator, so that nothing else is traced."""

    def __init__(self, trace: Callable[..., Any]) -> None:
        self._trace = trace

    def __enter__(self) -> None:
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for bytecodes only if some frame has asked before
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


class Outcome(NamedTuple):
    """What came of an interrupted call."""

    isDone: bool
    raised: BaseException | None
    value: Any


class _Visit:
    """A trace function that does a deed before the `hit`-th pass of a place; without a deed it rings, and again `later` bytecodes later."""

    def __init__(self, place: Place, hit: int, deed: Callable[[], object] | None, body: CodeType | None, later: int) -> None:
        self._place, self._deed, self._body = place, deed, body
        self._hit, self._later = hit, later
        self.isDone = False

    def onCall(self, frame: FrameType, event: str, argument: Any) -> Any:
        code, place = frame.f_code, self._place
        isThere = (code.co_firstlineno, code.co_qualname, code.co_filename) == (place.firstLine, place.function, place.file)
        if not (isThere or (self._later and (_isOfPackage(code) or code is self._body))):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._onPlace if isThere else self._onOther

    def _onPlace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event != "opcode":
            return self._onPlace
        if self.isDone or frame.f_lasti != self._place.offset:
            return self._onOther(frame, event, argument)
        self._hit -= 1
        if self._hit:
            return self._onPlace
        self.isDone = True
        if self._deed is not None:
            self._deed()
            return self._onPlace
        bell = Bell()
        bell = None  # noqa: F841  # it rings
        return self._onPlace

    def _onOther(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and self.isDone and self._later:
            self._later -= 1
            if not self._later:
                bell = Bell()
                bell = None  # noqa: F841  # it rings
        return frame.f_trace


def interrupt(
    act: Callable[[Any], object],
    kit: Any,
    place: Place,
    hit: int,
    deed: Callable[[], object] | None,
    body: CodeType | None = None,
    later: int = 0,
) -> Outcome:
    """Call `act(kit)`, and do something before the `hit`-th pass of `place`; without a `deed`, that is a Ctrl-C."""
    visit = _Visit(place, hit, deed, body, later)
    try:
        with _Traced(visit.onCall):
            value = act(kit)
        return Outcome(visit.isDone, None, value)
    except BaseException as error:
        error.__traceback__ = error.__context__ = error.__cause__ = None  # its frames would keep what the call had in its hands
        return Outcome(visit.isDone, error, None)
