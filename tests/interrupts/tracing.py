"""Interrupt a call between two of its bytecodes.

`rehearse` lists the places that an undisturbed call passes; `interrupt` interrupts it
at one of them. Only frames of the package are looked at, and those of the program's own
``with`` statement where a call has one; and only on the calling thread.

CPython runs finalizers after nearly any bytecode, but signal handlers after some only:
calls, jumps back, beginnings of functions. The interrupted instruction is then the one
at which the handler runs, and not the next; that decides how ``with`` and ``try`` treat
the exception. So for a Ctrl-C a real signal is sent, just before such an instruction,
and the interpreter delivers it. An exception that a trace function raises can come
between any two bytecodes, which no real signal does.
"""

from __future__ import annotations

import _thread
import dis
import signal
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple

import lockorder

import muninn

_PACKAGE = muninn.__file__.rpartition("/")[0] + "/"


class Position(NamedTuple):
    """One bytecode. It is the same in all processes that were forked from one."""

    file: str
    function: str
    firstLine: int
    offset: int
    line: int
    opcode: str

    def mayBeInterrupted(self) -> bool:
        """Whether CPython looks for signals there."""
        return (
            self.opcode.startswith(("CALL", "RESUME", "JUMP_BACKWARD"))
            and self.opcode != "JUMP_BACKWARD_NO_INTERRUPT"
        )

    def __str__(self) -> str:
        return f"{self.file.rpartition('/muninn/')[2]}:{self.line} {self.function} (bytecode {self.offset})"


class _Bell:
    """The end of this object sends SIGINT to the process, without a bytecode at which
    the interpreter would look for it.
    """

    __del__ = _thread.interrupt_main


class _Passes:
    """Counts how often each place was passed; a trace function fills it."""

    def __init__(self, isLookedAt: Callable[[CodeType], bool]) -> None:
        self.count: dict[Position, int] = {}
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


def placeOf(frame: FrameType) -> Position:
    code = frame.f_code
    opcode = dis.opname[code.co_code[frame.f_lasti]]
    return Position(
        code.co_filename,
        code.co_qualname,
        code.co_firstlineno,
        frame.f_lasti,
        frame.f_lineno or 0,
        opcode,
    )


def _isOfPackage(code: CodeType) -> bool:
    return code.co_filename.startswith(_PACKAGE)


def rehearse(act: Callable[[Any], object], kit: Any, body: CodeType | None) -> dict[Position, int]:
    """How often an undisturbed call passes each place, in the order of first passes.
    `body` is the program's own code to look at.
    """
    passes = _Passes(lambda code: _isOfPackage(code) or code is body)
    with _Traced(passes.onCall):
        act(kit)
    return passes.count


class _Traced:
    """Switches a trace function on and off, without a generator, so that no other code
    is traced.
    """

    def __init__(self, trace: Callable[..., Any]) -> None:
        self._trace = trace

    def __enter__(self) -> None:
        # Python 3.12 traces bytecodes only if some frame has asked for that before.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


class Outcome(NamedTuple):
    """The outcome of an interrupted call."""

    isDone: bool
    raised: BaseException | None
    value: Any


class _Visit:
    """A trace function that does a deed before the `hit`-th pass of a place; without
    one it sends a signal.
    """

    def __init__(self, place: Position, hit: int, deed: Callable[[], object] | None) -> None:
        self._place, self._deed, self._hit = place, deed, hit
        self.isDone = False

    def onCall(self, frame: FrameType, event: str, argument: Any) -> Any:
        code, place = frame.f_code, self._place
        if self.isDone or (code.co_firstlineno, code.co_qualname, code.co_filename) != (
            place.firstLine,
            place.function,
            place.file,
        ):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._onBytecode

    def _onBytecode(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event != "opcode" or frame.f_lasti != self._place.offset or self.isDone:
            return self._onBytecode
        self._hit -= 1
        if self._hit:
            return self._onBytecode
        self.isDone = True
        if self._deed is not None:
            self._deed()
            return None
        _untrace()
        bell = _Bell()
        bell = None  # noqa: F841  # it rings, and from here on nothing of this module looks for signals
        return None


def _untrace() -> None:
    """End the tracing, because the trace function itself would be interrupted next."""
    sys.settrace(None)
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        frame.f_trace = None
        frame = frame.f_back


class _Second:
    """A signal handler that raises KeyboardInterrupt, and sends a second signal some
    bytecodes later, while the call handles the first.
    """

    def __init__(self, later: int, body: CodeType | None) -> None:
        self._left, self._body = later, body

    def onSignal(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        while frame is not None:
            if _isOfPackage(frame.f_code) or frame.f_code is self._body:
                frame.f_trace_lines, frame.f_trace_opcodes, frame.f_trace = (
                    False,
                    True,
                    self._onBytecode,
                )
            frame = frame.f_back
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._onCall)
        raise KeyboardInterrupt

    def _onCall(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not (_isOfPackage(frame.f_code) or frame.f_code is self._body):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._onBytecode

    def _onBytecode(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event != "opcode" or self._left <= 0:
            return self._onBytecode
        self._left -= placeOf(frame).mayBeInterrupted()
        if self._left:
            return self._onBytecode
        _untrace()
        bell = _Bell()
        bell = None  # noqa: F841  # it rings
        return None


def interrupt(
    act: Callable[[Any], object],
    kit: Any,
    place: Position,
    hit: int,
    deed: Callable[[], object] | None,
    body: CodeType | None,
    later: int = 0,
) -> Outcome:
    """Call `act(kit)`, and do something before the `hit`-th pass of `place`; without a
    `deed`, that is a Ctrl-C.

    `later` is how many bytecodes that may be interrupted there are between it and
    another one; 0: there is no other.
    """
    visit = _Visit(place, hit, deed)
    if later:
        signal.signal(signal.SIGINT, _Second(later, body).onSignal)
    try:
        try:
            with _Traced(visit.onCall):
                value = act(kit)
            return Outcome(visit.isDone, None, value)
        finally:
            sys.settrace(None)
    except BaseException as error:
        # The frames would keep the objects of the call.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return Outcome(visit.isDone, error, None)
    finally:
        lockorder.forget()
        signal.signal(signal.SIGINT, signal.default_int_handler)
