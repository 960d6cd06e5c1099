"""The public calls that are interrupted, and the calls that a signal handler or a
finalizer makes in the middle of them.

A call has a *kit*, prepared before, and names of its own, which begin with ``mine-``.
All processes use `precious`, `written`, `pack` and the lock `common`, which stay.
"""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

import muninn
from interrupts import copies
from interrupts.call import BOUND_SECONDS, OWN, WORDS, Call, values
from muninn.errors import BufferExists, BufferFreed, BufferNotFound
from muninn.system import atomics

STANDING = ("pack", "precious", "written")
#: Of several chunks, once `prepareProcess` has made them small: it is reserved by
#: threads.
LARGE_BYTES = 64 << 10


def _fill(view: Any) -> None:
    view[:] = 7


def _written() -> muninn.MuninnBuffer:
    return muninn.open("written", access="readWrite")


def _lock() -> muninn.Lock:
    return muninn.Lock("common")


def _precious() -> muninn.MuninnBuffer:
    return muninn.open("precious")


def _own() -> muninn.MuninnBuffer:
    return muninn.share(values(), name=OWN + "kit")


def _reopen(kit: muninn.MuninnBuffer) -> None:
    assert muninn.open("precious").array[3] == 7


def _openByHandle(kit: bytes) -> None:
    assert muninn.open(kit).array[3] == 7


def _open(_: None) -> None:
    assert muninn.open("precious").array[3] == 7


def _openForWriting(_: None) -> None:
    assert muninn.open("written", access="readWrite", timeout=BOUND_SECONDS).writable


def _private() -> muninn.MuninnBuffer:
    return muninn.open("precious", access="copyOnWrite")


def _openPrivate(_: None) -> None:
    array = _private().array
    array[3] += 1
    assert array[3] == 8


def _share(_: None) -> None:
    assert muninn.share(values(), name=OWN + "share").array[3] == 7


def _shareNameless(_: None) -> None:
    assert muninn.share(values()).array[3] == 7


def _shareLarge(_: None) -> None:
    assert muninn.share(np.full(LARGE_BYTES, 7, np.uint8)).array[LARGE_BYTES - 1] == 7


def _shareFast(_: None) -> None:
    assert muninn.share(values(), name=OWN + "fast", mode="fastMode").read()[3] == 7


def _shareOnce(_: None) -> None:
    assert muninn.shareOnce(OWN + "once", values).array[3] == 7


def _publish(_: None) -> None:
    assert muninn.publish(OWN + "first", values()).array[3] == 7


def _publishNext(kit: muninn.MuninnBuffer) -> None:
    assert muninn.publish(kit.name, values()).array[3] == kit.array[3] == 7


def _version() -> muninn.MuninnBuffer:
    return muninn.publish(OWN + "version", values())


def _publishLastClose(kit: list[muninn.MuninnBuffer]) -> None:
    kit.append(muninn.publish(kit[0].name, values(), lifetime="lastClose"))


def _publishLastCloseFast(kit: list[muninn.MuninnBuffer]) -> None:
    kit.append(muninn.publish(kit[0].name, values(), lifetime="lastClose", mode="fastMode"))


def _nameOfVersions(kit: list[muninn.MuninnBuffer]) -> str:
    return kit[0].name


def _array(_: None) -> None:
    assert muninn.array(OWN + "array", (WORDS,)).array[3] == 0


def _attach(_: None) -> None:
    assert muninn.array("precious", (WORDS,), access="readOnly").array[3] == 7


def _loadArray(_: None) -> None:
    assert muninn.loadArray((WORDS,), "f8", _fill, name=OWN + "load").array[3] == 7


def _load(_: None) -> None:
    assert muninn.load(_file(), OWN + "file")["a"][3] == 7  # type: ignore[index]


def _file() -> str:
    """A file of `values`, which no call writes again."""
    path = os.path.join(tempfile.gettempdir(), f"muninn-interrupts-{os.getuid()}.npz")
    if not os.path.exists(path):
        made = f"{path}.{os.getpid()}.npz"
        np.savez(made, a=values())
        os.replace(made, path)
    return path


def _shareSpread(_: None) -> None:
    places = {"a": 0, "b": 1}
    made = muninn.shareBundle({key: values() for key in "ab"}, OWN + "spread", preferredGpu=places)
    assert made["b"][3] == 7


def _spread() -> muninn.Bundle:
    places = {"a": 0, "b": 1}
    return muninn.publish(OWN + "model", {key: values() for key in "ab"}, preferredGpu=places)


def _publishSpread(kit: muninn.Bundle) -> None:
    assert _spread()["b"][3] == kit["b"][3] == 7


def _shareBundle(_: None) -> None:
    assert muninn.shareBundle({"a": values(), "b": values()}, name=OWN + "bundle")["b"][3] == 7


def _openBundle(_: None) -> None:
    assert muninn.openBundle("pack")["a"][3] == 7


def _class(_: None) -> None:
    assert muninn.MuninnBuffer(4096, name=OWN + "class").nbytes == 4096


def _makeLock(_: None) -> None:
    assert muninn.Lock(OWN + "lock").name == OWN + "lock"


def _attachLock(_: None) -> None:
    assert muninn.Lock("common").name == "common"


def _listBuffers(_: None) -> None:
    assert {each["name"] for each in muninn.listBuffers()} >= set(STANDING)


def _domainInfo(_: None) -> None:
    assert muninn.domainInfo()["members"]


def _createStream(_: None) -> None:
    muninn.createStream(0)


def _acquire(kit: muninn.Lock) -> None:
    try:
        kit.acquire(BOUND_SECONDS)
        kit.release()
    finally:
        # If the interruption came between the two, the caller must release it.
        if atomics.ownerIsBusy(kit._owner, 0):
            atomics.lockRelease(kit)


def _withLock(kit: muninn.Lock) -> None:
    with kit:
        pass


def _heldLock(kit: muninn.Lock) -> None:
    with kit.held(BOUND_SECONDS):
        pass


def _write(kit: muninn.MuninnBuffer) -> None:
    with kit.write(BOUND_SECONDS) as view:
        view[:] = view[0] + 1


def _read(kit: muninn.MuninnBuffer) -> None:
    assert len(set(kit.read().tolist())) == 1


def _waitNext(kit: muninn.MuninnBuffer) -> None:
    assert kit.waitNext(BOUND_SECONDS, after=0) > 0


def _waitInVain(kit: muninn.MuninnBuffer) -> None:
    with contextlib.suppress(TimeoutError):
        kit.waitNext(0.001)


def _signal(kit: muninn.MuninnBuffer) -> None:
    assert kit.signal() > 0


def _wait(kit: muninn.MuninnBuffer) -> None:
    kit.wait(timeout=BOUND_SECONDS)


def _describe(kit: muninn.MuninnBuffer) -> None:
    assert kit.describe()["name"] == "precious"


def _close(kit: muninn.MuninnBuffer) -> None:
    kit.close()


def _free(kit: muninn.MuninnBuffer) -> None:
    kit.free()


def _freeByName(_: Any) -> None:
    muninn.free(OWN + "kit")


CALLS: dict[str, Call] = {
    "share": Call(_share),
    "share nameless": Call(_shareNameless),
    "share large": Call(_shareLarge),
    "share fastMode": Call(_shareFast),
    "open": Call(_open),
    "open readWrite": Call(_openForWriting),
    "open copyOnWrite": Call(_openPrivate),
    "open what is open": Call(_reopen, _precious),
    "open by handle": Call(_openByHandle, lambda: _precious().handle),
    "array": Call(_array),
    "array attached": Call(_attach),
    "shareOnce": Call(_shareOnce),
    "publish": Call(_publish),
    "publish the next": Call(_publishNext, _version),
    "publish lastClose": Call(_publishLastClose, lambda: [_version()], stays=_nameOfVersions),
    "publish fastMode": Call(_publishLastCloseFast, lambda: [_version()], stays=_nameOfVersions),
    "loadArray": Call(_loadArray),
    "load": Call(_load),
    "shareBundle": Call(_shareBundle),
    "shareBundle on GPUs": Call(_shareSpread),
    "publish on GPUs": Call(_publishSpread, _spread),
    "openBundle": Call(_openBundle),
    "MuninnBuffer": Call(_class),
    "Lock": Call(_makeLock),
    "Lock attached": Call(_attachLock),
    "acquire, release": Call(_acquire, _lock),
    "with lock": Call(_withLock, _lock, isWhole=True),
    "with held": Call(_heldLock, _lock, isWhole=True),
    "write": Call(_write, _written, isWhole=True),
    "read": Call(_read, _written),
    "waitNext": Call(_waitNext, _written),
    "waitNext in vain": Call(_waitInVain, _written),
    "signal": Call(_signal, _written),
    "wait": Call(_wait, _written),
    "describe": Call(_describe, _precious),
    "close": Call(_close, _precious, ends=True),
    "close copyOnWrite": Call(_close, _private, ends=True),
    "close nameless": Call(_close, lambda: muninn.share(values()), ends=True),
    "free": Call(_free, _own, ends=True),
    "free by name": Call(_freeByName, _own, ends=True),
    "listBuffers": Call(_listBuffers),
    "domainInfo": Call(_domainInfo),
    "createStream": Call(_createStream),
    **copies.CALLS,
}


# --- calls between two bytecodes ----------------------------------------------------


def _closeThat(kit: Any) -> None:
    """Close the same buffer, or another one."""
    with kit if isinstance(kit, muninn.MuninnBuffer) else muninn.open("precious"):
        pass


def _freeAnother(_: Any) -> None:
    with muninn.share(values(), name=OWN + "side") as side:
        assert muninn.open(side.handle).array[3] == 7
    muninn.free(OWN + "side")


def _openAnother(_: Any) -> None:
    assert muninn.open("precious").read().sum() == 7 * WORDS


def _lockAnother(_: Any) -> None:
    with muninn.Lock("common").held(BOUND_SECONDS):
        pass


def _writeAnother(_: Any) -> None:
    with _written().write(BOUND_SECONDS) as view:
        view += 1


def _collect(_: Any) -> None:
    muninn.share(values())
    gc.collect()


def _list(_: Any) -> None:
    assert {each["name"] for each in muninn.listBuffers()} >= set(STANDING)
    assert muninn.domainInfo()["members"]


#: The trials take them in this order.
REENTRIES: tuple[Callable[[Any], None], ...] = (
    _freeAnother,
    _openAnother,
    _list,
    _lockAnother,
    _closeThat,
    _writeAnother,
    _collect,
)


def prepareStanding() -> None:
    """Make the buffers that all processes use."""
    muninn.share(values(), name="precious")
    muninn.shareBundle({"a": values(), "b": values()}, name="pack")
    with muninn.share(values(), name="written").write() as view:
        view[:] = 1


def tidy() -> None:
    """Free the names that the calls and the interrupting calls have made, and what this
    process keeps of copies.
    """
    for each in muninn.listBuffers():
        if each["name"].startswith(OWN):
            with contextlib.suppress(BufferNotFound):  # the buffer went with its last holder
                muninn.free(each["name"])
    copies.tidy()


def missing(name: str, kit: Any) -> list[str]:
    """The name that the call has left without a buffer, although it must not."""
    stays = CALLS[name].stays
    if stays is None:
        return []
    try:
        with muninn.open(stays(kit)) as buffer:
            assert buffer.read()[3] == 7
    except BufferNotFound as error:
        return [str(error)]
    return []


def again(name: str, kit: Any, mayBeEnded: bool) -> None:
    """Make the same call once more, with the same kit and then with a new one: both
    work as if nothing had happened.

    `mayBeEnded` says that the kit may be closed or freed by now.
    """
    call = CALLS[name]
    try:
        if call.mend is not None:
            call.mend(kit)
        call.act(kit)
    except BufferExists:
        tidy()
        call.act(kit)
    except (BufferFreed, BufferNotFound):
        if not mayBeEnded:
            raise
    tidy()
    call.act(call.prepare() if call.prepare else None)
    tidy()


def elsewhere(name: str) -> None:
    """Another process uses everything, and makes the call itself."""
    with muninn.Lock("common").held(BOUND_SECONDS):
        pass
    with _written() as written:
        with written.write(BOUND_SECONDS) as view:
            view[:] = view[0] + 1
        assert len(set(written.read(timeout=BOUND_SECONDS).tolist())) == 1
    call = CALLS[name]
    again(name, call.prepare() if call.prepare else None, call.ends)
