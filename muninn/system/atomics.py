"""The C functions, as Python calls: the only way to a shared word.

The names are those of the headers in `cshim/` without their prefix, and addresses are
integers. A function that returns at once is bound through `PyDLL`, which keeps the
interpreter's lock and costs 0.2 µs. A function that may sleep, copy or fault many pages
is bound through `CDLL`, which lets other threads run meanwhile. The functions are bare
ctypes objects: a Python wrapper would cost more than most of them do.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType
from typing import Any, TypeVar

from muninn.system.library import LIBRARY as LIBRARY
from muninn.system.library import Missing, loaded
from muninn.system.structures import AccessCalls, Interpreter, MappedRange, RepeatedCopy
from muninn.system.structures import AccessScope as AccessScope
from muninn.system.structures import Descriptor as Descriptor
from muninn.system.structures import Known as Known
from muninn.system.structures import OwnedRange as OwnedRange
from muninn.system.structures import Received as Received
from muninn.system.structures import closedByProgram as closedByProgram

_U32, _U64, _I32, _I64 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int, ctypes.c_int64
_ADDRESS, _SIZE = ctypes.c_void_p, ctypes.c_size_t
#: About as long as a sleep and a wake-up take; 0 on a single processor, where the
#: descriptor server could not run meanwhile.
SPIN_NS = 100_000 if len(os.sched_getaffinity(0)) > 1 else 0


_quick, _slow = loaded(ctypes.PyDLL), loaded(ctypes.CDLL)


def _prototyped(prototype: Any, name: str, named: Any = None) -> Any:
    return _quick[name] if isinstance(_quick, Missing) else prototype((name, _quick), named)


def _bound(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    # Not by an attribute, which would be one object: a function may be bound in two
    # ways.
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


_FUNCTIONS = (
    "PyObject_CallFunctionObjArgs",
    "Py_IncRef",
    "Py_DecRef",
    "PyLong_FromUnsignedLong",
    "PyLong_AsUnsignedLongMask",
    "PyErr_Fetch",
    "PyErr_Restore",
    "PyDict_GetItemWithError",
)
_python = Interpreter(
    *(ctypes.cast(getattr(ctypes.pythonapi, each), ctypes.c_void_p) for each in _FUNCTIONS),
    id(None),
    id(True),
    id(False),
)
#: The objects of which the C part has the address: they stay for as long as the process
#: lives. If `get_ident` is no function of C, a library of green threads has replaced it
#: already.
_kept: list[Any] = [
    vars(threading),
    "get_ident",
    threading.get_ident if isinstance(threading.get_ident, BuiltinFunctionType) else None,
]
_python.names, _python.identName, _python.plainIdent = (
    None if each is None else id(each) for each in _kept
)
_kept.append(_python)
# An access that the program never left ends after this module has lost its variables. A
# reference that is never given back keeps them.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))
_python.release, _python.resume = (
    ctypes.cast(getattr(ctypes.pythonapi, each), ctypes.c_void_p).value
    for each in ("PyEval_SaveThread", "PyEval_RestoreThread")
)


def callsOf(functions: Iterable[Any]) -> int:
    """The address of a `struct mnnCalls` of these functions, which are given in the
    order of its fields. None stands for a function that is never called.
    """
    functions = list(functions)
    calls = AccessCalls(
        ctypes.addressof(_python), *(None if each is None else id(each) for each in functions)
    )
    _kept.append((calls, functions))
    return ctypes.addressof(calls)


_SCOPE = ctypes.POINTER(AccessScope)
_asMethod = ctypes.pythonapi.PyInstanceMethod_New
_asMethod.restype, _asMethod.argtypes = ctypes.py_object, (ctypes.py_object,)


def _method(
    name: str,
    result: Any,
    *optional: str,
    arguments: int = 0,
    isPublic: bool = False,
    on: Any = _SCOPE,
) -> Any:
    """A C function as a method of a structure. A call of it runs no bytecode, so no signal
    handler can raise in the middle of it.

    A public method also refuses arguments that it does not take, for 0.03 µs more.
    """
    prototype = ctypes.PYFUNCTYPE(result, on, *[ctypes.py_object] * (arguments + len(optional)))
    named: Any = (
        ((1, "scope"), *((1, each, None) for each in optional)) if optional or isPublic else None
    )
    return _asMethod(_prototyped(prototype, name, named))


loadAcquire32 = _bound(_quick, "mnnLoadAcquire32", _U32, _ADDRESS)
loadAcquire64 = _bound(_quick, "mnnLoadAcquire64", _U64, _ADDRESS)
loadSeqCst32 = _bound(_quick, "mnnLoadSeqCst32", _U32, _ADDRESS)
loadSeqCst64 = _bound(_quick, "mnnLoadSeqCst64", _U64, _ADDRESS)
storeRelease32 = _bound(_quick, "mnnStoreRelease32", None, _ADDRESS, _U32)
storeRelease64 = _bound(_quick, "mnnStoreRelease64", None, _ADDRESS, _U64)
exchangeSeqCst32 = _bound(_quick, "mnnExchangeSeqCst32", _U32, _ADDRESS, _U32)
exchangeSeqCst64 = _bound(_quick, "mnnExchangeSeqCst64", _U64, _ADDRESS, _U64)
casSeqCst32 = _bound(_quick, "mnnCasSeqCst32", _U32, _ADDRESS, _U32, _U32)
casSeqCst64 = _bound(_quick, "mnnCasSeqCst64", _U64, _ADDRESS, _U64, _U64)
fetchAddAcqRel32 = _bound(_quick, "mnnFetchAddAcqRel32", _U32, _ADDRESS, _U32)
fetchAddAcqRel64 = _bound(_quick, "mnnFetchAddAcqRel64", _U64, _ADDRESS, _U64)
addThree = _bound(_quick, "mnnAddThree", None, _ADDRESS, _U64, _U64, _U64)
countTimed = _bound(_quick, "mnnCountTimed", None, _ADDRESS, _ADDRESS, _I64)
countIfEqual = _bound(
    _quick, "mnnCountIfEqual", _U32, _ADDRESS, _U64, _U64, _ADDRESS, _U64, _ADDRESS
)

# Scanning a full table takes some 10 µs. To release the interpreter's lock and get it
# back may take longer.
scan32 = _bound(_quick, "mnnScan32", _U32, _ADDRESS, _SIZE, _U32, _U32, _U32, _ADDRESS, _U32)
scan64 = _bound(_quick, "mnnScan64", _U32, _ADDRESS, _SIZE, _U32, _U64, _U64, _ADDRESS, _U32)
raiseField64 = _bound(_quick, "mnnRaiseField64", _U32, _ADDRESS, _SIZE, _U32, _U64, _U64)

unmapOnce = _bound(_slow, "mnnUnmapOnce", _I32, ctypes.POINTER(MappedRange))
OwnedRange.__del__ = _asMethod(unmapOnce)  # type: ignore[attr-defined]

_LEASES = (_ADDRESS, _U64, _U64, _U32, _U32, _U64, _U64, _ADDRESS, _U32)
scanLeases = _bound(_quick, "mnnScanLeases", _U32, *_LEASES)

monotonicNs = _bound(_quick, "mnnMonotonicNs", _I64)
sleepUntil = _bound(_slow, "mnnSleepUntil", _I32, _I64)

futexWait32 = _bound(_slow, "mnnFutexWait32", _I32, _ADDRESS, _U32, _I64)
futexWake32 = _bound(_quick, "mnnFutexWake32", _I32, _ADDRESS, ctypes.c_int32)
#: The count with which `futexWake32` wakes every sleeper.
FUTEX_ALL = 0x7FFFFFFF
watch = _bound(_slow, "mnnWatch", _I32, _ADDRESS, _ADDRESS, _U32, _ADDRESS, _U32, _U32, _I64, _I64)
wakeWatcher = _bound(_quick, "mnnWakeWatcher", None, _ADDRESS, _ADDRESS, _U32)
spinWhile64 = _bound(_slow, "mnnSpinWhile64", _U64, _ADDRESS, _U64, _I64)
awaitReadable = _bound(_slow, "mnnAwaitReadable", _I32, _I32, _I64, _I64)

ownerBind = _bound(
    _quick, "mnnOwnerBind", None, _ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, _U32, _U32
)
ownerWrites = _bound(_quick, "mnnOwnerWrites", _I32, _ADDRESS, _U64)
ownerIsBusy = _bound(_quick, "mnnOwnerIsBusy", _I32, _ADDRESS, _U64)
lockAcquire = _method("mnnLockAcquire", ctypes.py_object, "timeout")
lockRelease = _method("mnnLockRelease", ctypes.py_object, isPublic=True)
lockEnter = _method("mnnLockEnter", ctypes.py_object)
lockExit = _method("mnnLockExit", ctypes.py_object, arguments=3)
writingEnter = _method("mnnWritingEnter", ctypes.py_object)
writingExit = _method("mnnWritingExit", ctypes.py_object, arguments=3)
readingEnter = _method("mnnReadingEnter", ctypes.py_object)
readingExit = _method("mnnReadingExit", ctypes.py_object, arguments=3)
scopeDrop = _method("mnnAccessScopeDrop", None)
scopeEnd = _bound(_quick, "mnnAccessScopeEnd", None, _SCOPE)
_REPEAT = ctypes.POINTER(RepeatedCopy)
RepeatedCopy.copy = _method("mnnRepeatCopy", ctypes.py_object, on=_REPEAT)  # type: ignore[method-assign]

robustListBytes = _bound(_quick, "mnnRobustListBytes", _SIZE)
robustHold = _bound(_quick, "mnnRobustHold", _I32, _ADDRESS, _ADDRESS)
byteLock = _bound(_quick, "mnnByteLock", _I32, _I32, _I64)
byteUnlock = _bound(_quick, "mnnByteUnlock", _I32, _I32, _I64)
byteHolder = _bound(_quick, "mnnByteHolder", _I32, _I32, _I64)
rangeHolder = _bound(_quick, "mnnRangeHolder", _I32, _I32, _I64, _I64)

# ctypes makes the object of the number before the call returns, in C. mypy accepts only
# a `def` as a method, so the methods that are functions of C are put into their classes
# here.
_KNOWN = ctypes.POINTER(Known)
_owner = _prototyped(ctypes.PYFUNCTYPE(Descriptor, _I32), "mnnKnown")
known: Callable[[int | Known], Known] = _prototyped(ctypes.PYFUNCTYPE(Known, _I32), "mnnKnown")
_number = _asMethod(_bound(_quick, "mnnNumber", _I32, _KNOWN))
Known.fileno, Known.__index__ = _number, _number  # type: ignore[method-assign]
Known.isOurs = _asMethod(_bound(_quick, "mnnIsKnown", ctypes.c_bool, _KNOWN))  # type: ignore[method-assign]
Known.release = _asMethod(_bound(_quick, "mnnRelease", _I32, _KNOWN))  # type: ignore[method-assign]
_close = _asMethod(_bound(_slow, "mnnCloseKnown", None, _KNOWN))
Known.close, Descriptor.__del__ = _close, _close  # type: ignore[method-assign, attr-defined]
Received.take = _asMethod(_bound(_quick, "mnnTakeReceived", _owner, ctypes.POINTER(Received), _U32))  # type: ignore[method-assign]
Received.__del__ = _asMethod(_bound(_quick, "mnnDropReceived", None, ctypes.POINTER(Received)))  # type: ignore[attr-defined]
eventSet: Callable[[Known], None] = _bound(_quick, "mnnEventSet", None, _KNOWN)
own: Callable[[int], Descriptor] = _bound(_quick, "mnnOwn", _owner, _I32)
mark = _bound(_quick, "mnnOwn", _I32, _I32)
openFile: Callable[[bytes, int, int], Descriptor] = _bound(
    _slow, "mnnOpen", _owner, ctypes.c_char_p, _I32, _U32
)
eventfd: Callable[[], Descriptor] = _bound(_quick, "mnnEventfd", _owner)
duplicate: Callable[[int | Known], Descriptor] = _bound(_quick, "mnnDuplicate", _owner, _I32)
receive = _bound(_slow, "mnnReceive", _I64, _I32, _ADDRESS, _U64, _U32, ctypes.POINTER(Received))
pidfdOpen: Callable[[int], Descriptor] = _bound(_quick, "mnnPidfdOpen", _owner, _I32)
pidfdDead = _bound(_quick, "mnnPidfdDead", _I32, _I32)
threadId = _bound(_quick, "mnnThreadId", _U32)
blockSignals = _bound(_quick, "mnnBlockSignals", _I32)

memfdCreate: Callable[[bytes, int], Descriptor] = _bound(
    _slow, "mnnMemfdCreate", _owner, ctypes.c_char_p, _U64
)
seal = _bound(_quick, "mnnSeal", _I32, _I32, _I32)
unmap = _bound(_slow, "mnnUnmap", _I32, _ADDRESS, _U64)
protect = _bound(_slow, "mnnProtect", _I32, _ADDRESS, _U64, _I32)
advise = _bound(_slow, "mnnAdvise", _I32, _ADDRESS, _U64, _I32)
bindNode = _bound(_slow, "mnnBindNode", _I32, _ADDRESS, _U64, _I32)
exchangeNames = _bound(_slow, "mnnExchangeNames", _I32, ctypes.c_char_p, ctypes.c_char_p)
copy = _bound(_slow, "mnnCopy", None, _ADDRESS, _ADDRESS, _U64)
compareSlices = _bound(_slow, "mnnCompareSlices", None, _ADDRESS, _ADDRESS, _U64, _U64, _ADDRESS)
reserve = _bound(_slow, "mnnReserve", _I32, _ADDRESS, _U64, _U64, _ADDRESS, _U64, _U32, _I32)
seqRead = _bound(_slow, "mnnSeqRead", _I64, _ADDRESS, _ADDRESS, _ADDRESS, _U64, _U32)

# A pass over 131,072 rows takes some 20 ms: too long to keep the interpreter's lock
# from the program's threads.
_sumRows = _bound(_slow, "mnnSumRows", _I32, _ADDRESS, _U32, _ADDRESS, _ADDRESS, _U32)
findName = _bound(_slow, "mnnFindName", _I64, _ADDRESS, _U32, ctypes.c_char_p, _U32)

_descriptorServerOpen = _bound(_slow, "mnnDescriptorServerOpen", _I32, ctypes.c_char_p, _ADDRESS)
descriptorServerPut = _bound(_slow, "mnnDescriptorServerPut", _I32, _ADDRESS, _U32, _U64, _I32)
descriptorServerTake = _bound(_slow, "mnnDescriptorServerTake", None, _ADDRESS, _U32, _U64)
descriptorServerClose = _bound(_slow, "mnnDescriptorServerClose", None, _ADDRESS)
descriptorServerConnect: Callable[[bytes], Descriptor] = _bound(
    _quick, "mnnDescriptorServerConnect", _owner, ctypes.c_char_p
)
descriptorServerFetch: Callable[[int | Known, int, int, int, int], Descriptor] = _bound(
    _slow, "mnnDescriptorServerFetch", _owner, _I32, _U32, _U64, _I64, _I64
)

MAP_READ, MAP_WRITE, MAP_PRIVATE = 0, 1, 2  # enum mnnMapKind
mapFile = _bound(_slow, "mnnMap", _I32, _I32, _U64, _U64, _I32, ctypes.POINTER(MappedRange))
mapPath = _bound(
    _slow, "mnnMapPath", _I32, ctypes.c_char_p, _U32, _U64, _U64, _I32, ctypes.POINTER(MappedRange)
)
_mapWipedOnFork = _bound(_quick, "mnnMapWipedOnFork", _I32, _U64, _ADDRESS)


def checked(result: int, what: str) -> int:
    """Return the result. Raises the `OSError` that a negative result stands for."""
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


_Opened = TypeVar("_Opened", bound=Known)


def opened(made: _Opened, what: str | None = None) -> _Opened:
    """Return the opened descriptor. Raises `OSError` if the opening failed."""
    if made.number < 0:
        raise OSError(-made.number, os.strerror(-made.number), what)
    return made


def mapped(
    fd: int | Known,
    sizeBytes: int,
    writable: bool,
    alignment: int = 0,
    owner: MappedRange | None = None,
) -> int:
    """Map a file from its beginning, shared. Returns the address, which the same step
    has stored in `owner`. Raises `OSError`.
    """
    owner = MappedRange() if owner is None else owner
    checked(mapFile(fd, sizeBytes, alignment, writable, owner), "mmap")
    return owner.address or 0


def mappedWipedOnFork(sizeBytes: int) -> int:
    """Private memory that reads zero in a forked child; returns the address. Raises
    `OSError`.
    """
    address = ctypes.c_void_p()
    checked(_mapWipedOnFork(sizeBytes, ctypes.byref(address)), "madvise(MADV_WIPEONFORK)")
    return address.value or 0


def openedDescriptorServer(path: str) -> int:
    """Start a descriptor server at `path`. Returns its address, which the other
    functions of the server take. Raises `OSError`.
    """
    descriptorServer = ctypes.c_void_p()
    checked(_descriptorServerOpen(path.encode(), ctypes.byref(descriptorServer)), path)
    return descriptorServer.value or 0


def privateWord() -> tuple[Any, int]:
    """A private word of 64 bits, and its address. The address is valid for as long as
    the caller keeps the first of the two.
    """
    word = ctypes.c_uint64(0)
    return word, ctypes.addressof(word)


_threadMain = ctypes.CFUNCTYPE(_ADDRESS, _ADDRESS)
_libc = ctypes.CDLL(None)
#: The functions that threads of the C library run: they must outlive the threads.
_mains: list[Any] = []


def startThread(run: Callable[[], object]) -> None:
    """Let the C library start a thread that calls `run`. Raises `RuntimeError` if it
    can not.
    """

    def main(_: int | None) -> None:
        run()

    _mains.append(_threadMain(main))
    thread = ctypes.c_ulong()
    if _libc.pthread_create(ctypes.byref(thread), None, _mains[-1], None) != 0:
        raise RuntimeError("the C library starts no more threads")
    _libc.pthread_detach(thread)


def indexBuffer(count: int) -> Any:
    """An array for the indices that a scan finds."""
    return (ctypes.c_uint32 * max(1, count))()


def addressOf(room: Any) -> int:
    """The address of such an array, which must be kept for as long as the address is
    used.
    """
    return ctypes.addressof(room)


def addressOfBytes(room: bytearray | mmap.mmap) -> int:
    """The address of a bytearray's content, or of a mapping. It is valid while the object
    is kept and is not resized.
    """
    return ctypes.addressof(ctypes.c_char.from_buffer(room))


def summedRows(first: int, count: int) -> tuple[list[tuple[int, int]], bytearray]:
    """The sums that `rows.h` describes, each with the index of a row that belongs to
    it; and the mark of each row.
    """
    marks, room = bytearray(count), 1 << 8
    while count:
        sums = (ctypes.c_uint64 * (2 * room))()
        if (
            _sumRows(
                first,
                count,
                ctypes.byref(ctypes.c_char.from_buffer(marks)),
                ctypes.byref(sums),
                room,
            )
            >= 0
        ):
            return [
                (sums[entry] - 1, sums[entry + 1]) for entry in range(0, 2 * room, 2) if sums[entry]
            ], marks
        room *= 4
    return [], marks
