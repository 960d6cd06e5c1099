"""Read-only memory: how a library of this process learns that the buffer which it
takes is open for reading.

DLPack says so by a flag of its versioned capsules. JAX asks for a capsule without a
version, and is refused. PyTorch asks for a versioned one and ignores the flag: all its
tensors can be written, and a write to this memory is a fault. So the program is warned,
at the line where it calls PyTorch.

When PyTorch takes a plain numpy array there is no warning: numpy itself exports its
arrays, and a subclass of them that warned would come back from each operation and each
slice.
"""

from __future__ import annotations

import functools
import itertools
import sys
import types
import warnings
from types import FrameType
from typing import TYPE_CHECKING, Any

from muninn.interop import capsules

if TYPE_CHECKING:
    import dis

#: PyTorch's functions that take memory by DLPack: functions that copy all of it, and
#: functions that do not.
_COPYING = {"tensor", "new_tensor"}
_SHARING = {"from_dlpack", "as_tensor", "asarray"}


def tellBorrower(name: str, mayBeWritten: bool, mayBePrivate: bool, asked: dict[str, Any]) -> None:
    """Refuse, warn or let pass a library that asks for memory which is open for
    reading. `__dlpack__` calls this, and the frame that called `__dlpack__` is looked
    at.

    Parameters
    ----------
    name
        The buffer's name.
    mayBeWritten
        Whether the buffer can be opened for writing at all.
    mayBePrivate
        Whether it can be opened copyOnWrite.
    asked
        The keywords of `__dlpack__`.

    Raises
    ------
    BufferError
        The capsule that is asked for can not say that its memory is read-only.
    """
    if asked.get("copy"):
        return
    if not capsules.wantsVersioned(asked.get("max_version")):
        access = "copyOnWrite" if mayBePrivate else "readWrite"
        opened = (
            f'muninn.open(name, access="{access}"), also where a library only reads, as '
            "JAX does; or give it"
        )
        isOpened = mayBePrivate or mayBeWritten
        raise BufferError(
            f"{name!r} is open for reading, which a DLPack capsule without a "
            "version can not say, and none with one was "
            f"asked for. Fix: {opened if isOpened else 'Give it'} a copy, buffer.read()"
        )
    borrower = sys._getframe(1).f_back
    if borrower is not None and _isPyTorch(borrower) and not _isCopied(borrower, asked):
        fixes = ["tensor.clone()"]
        if mayBePrivate:
            fixes.insert(0, 'muninn.open(name, access="copyOnWrite") to change it here only')
        if mayBeWritten:
            fixes.insert(0, 'muninn.open(name, access="readWrite") to change what is shared')
        warnings.warn(
            "PyTorch has no read-only tensors, and this memory is open for reading: an "
            "in-place operation on a tensor that shares it ends "
            f"the process by SIGSEGV. Fix: {', or '.join(fixes)}",
            UserWarning,
            stacklevel=3 + _depth(borrower),
        )


def _isPyTorch(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"


def _depth(frame: FrameType) -> int:
    """How many of PyTorch's frames there are from this one on, up to the program's."""
    outer: FrameType | None = frame
    depth = 0
    while outer is not None and _isPyTorch(outer):
        outer, depth = outer.f_back, depth + 1
    return depth


def _isCopied(borrower: FrameType, asked: dict[str, Any]) -> bool:
    """Whether PyTorch will keep only a copy, as far as the frame of its `from_dlpack`
    and the call that led to it tell.
    """
    # PyTorch does not pass a device on when it is another one than the memory's.
    if borrower.f_locals.get("device") is not None and "dl_device" not in asked:
        return True
    # `torch.tensor` and its like are C, which has no frame.
    program = borrower.f_back
    if program is None or _isPyTorch(program):
        return False
    names = _namesInCall(program)
    return bool(names & _COPYING) and not names & _SHARING


def _namesInCall(frame: FrameType) -> set[str]:
    """The names in the expression that a frame is at: its attributes, and its
    functions by the names with which they were defined.
    """
    names = set()
    for name in _namesAt(frame.f_code, frame.f_lasti):
        value = frame.f_locals.get(name, frame.f_globals.get(name))
        names.add(
            value.__name__
            if isinstance(value, (types.FunctionType, types.BuiltinFunctionType))
            else name
        )
    return names


# Reading the bytecode takes longer than the rest of `__dlpack__`, and a loop asks again
# for the same place.
@functools.lru_cache(maxsize=64)
def _namesAt(code: types.CodeType, offset: int) -> frozenset[str]:
    """The names in the expression of the instruction at an offset."""
    import dis

    # There is one position for each two bytes of code.
    whole = dis.Positions(*next(itertools.islice(code.co_positions(), offset // 2, None)))
    parts = [
        each
        for each in dis.get_instructions(code)
        if each.opname.startswith("LOAD_") and _isWithin(each.positions, whole)
    ]
    named = [part.argval if isinstance(part.argval, tuple) else (part.argval,) for part in parts]
    return frozenset(name for names in named for name in names if isinstance(name, str))


def _isWithin(part: dis.Positions | None, whole: dis.Positions | None) -> bool:
    """Whether one range of source is within another. Only lines are compared where
    Python was told to keep no columns (`-X no_debug_ranges`).
    """
    if part is None or whole is None or part.lineno is None or whole.lineno is None:
        return False
    if None in part or None in whole:
        return part.lineno == whole.lineno
    return bool(
        (whole[0], whole[2]) <= (part[0], part[2]) and (part[1], part[3]) <= (whole[1], whole[3])
    )
