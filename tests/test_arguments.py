"""Arguments that do not fit: the error names the function that the user called and the
right word.
"""

from __future__ import annotations

import ctypes
import inspect
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.arguments import asInteger
from muninn.errors import InvalidArgument, InvalidDtype
from muninn.system import atomics
from support import Actor

A = np.arange(3)
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "share": (lambda: muninn.share(A, nmae="x"), "share.*'nmae': did you mean 'name'"),  # type: ignore[call-arg]
    "shareCase": (
        lambda: muninn.share(A, lifetime_ms=5),
        "share.*'lifetime_ms': did you mean 'lifetimeMs'",
    ),  # type: ignore[call-arg]
    "shareOther": (
        lambda: muninn.share(A, gpu=0),
        "share.*'gpu': it takes access, array,.*preferredGpu",
    ),  # type: ignore[call-arg]
    "array": (lambda: muninn.array("n", 3, mod="fastMode"), "array.*'mod': did you mean 'mode'"),
    "arrayInside": (lambda: muninn.array("n", 3, kind=3), "array.*'kind': it takes"),
    "shareOnce": (
        lambda: muninn.shareOnce("n", lambda: pytest.fail("loaded"), mod="bigMode"),
        "shareOnce.*'mod': did you mean 'mode'",
    ),
    "loadArray": (
        lambda: muninn.loadArray(3, "f4", lambda _: None, progres=1),
        "loadArray.*'progres': did you mean 'progress'",
    ),
    "open": (lambda: muninn.open("n", acess="readOnly"), "open.*'acess': did you mean 'access'"),  # type: ignore[arg-type]
    "openBundle": (
        lambda: muninn.openBundle("n", tenat="x"),
        "openBundle.*'tenat': did you mean 'tenant'",
    ),  # type: ignore[call-arg]
    "followBundle": (
        lambda: muninn.followBundle("n", ahea=True),
        "followBundle.*'ahea': did you mean 'ahead'",
    ),  # type: ignore[call-arg]
    "shareBundle": (
        lambda: muninn.shareBundle({"a": A}, mod="x"),
        "shareBundle.*'mod': did you mean 'mode'",
    ),
    "MuninnBuffer": (
        lambda: muninn.MuninnBuffer(3, nam="x"),
        "MuninnBuffer.*'nam': did you mean 'name'",
    ),  # type: ignore[call-arg]
    "Lock": (lambda: muninn.Lock(nam="x"), "Lock.*'nam': did you mean 'name'"),  # type: ignore[call-arg]
    "createStream": (lambda: muninn.createStream(gp=0), "createStream.*'gp': did you mean 'gpu'"),  # type: ignore[call-arg]
    "acquire": (
        lambda: muninn.Lock("n").acquire(tmeout=1),
        "Lock.acquire.*'tmeout': did you mean 'timeout'",
    ),  # type: ignore[call-arg]
    "held": (
        lambda: muninn.Lock("n").held(timout=1),
        "Lock.held.*'timout': did you mean 'timeout'",
    ),  # type: ignore[call-arg]
    "release": (lambda: muninn.Lock("n").release(foo=1), "takes exactly 1 argument"),  # type: ignore[call-arg]
    "lockHasNoSelf": (lambda: muninn.Lock("n", tmo=1), "Lock.*'tmo': it takes name$"),  # type: ignore[call-arg]
    "listBuffers": (lambda: muninn.listBuffers(mod="bigMode"), "listBuffers.*'mod': it takes none"),  # type: ignore[call-arg]
    "missing": (lambda: muninn.share(), "share.*missing.*'array'"),  # type: ignore[call-arg]
    "inside": (lambda: muninn.share([1, 2]), "can not share a list"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_aKeywordThatIsNoneIsNamedWithTheNearest(domain: str, name: str) -> None:
    """Broken: Python named the inner function, raised after the loader had run, and
    never gave the nearest keyword.
    """
    call, said = WRONG[name]
    with pytest.raises(TypeError, match=said):
        call()
    assert muninn.listBuffers() == []


def test_aMethodIsNamedWithTheClassThatUsersKnow(domain: str) -> None:
    """Broken: it was named with the part of the class that has it."""
    buffer = muninn.share(A)
    with pytest.raises(TypeError, match="^MuninnBuffer.copyFrom.*'rout': did you mean 'route'"):
        buffer.copyFrom(buffer, rout="p2p")  # type: ignore[call-arg]


def test_aLockIsNotWaitedForASecondBecauseItIsTrue(
    domain: str, actor: Callable[..., Actor]
) -> None:
    """Python's own locks take a boolean as their first argument. Broken: True meant one
    second, and False no time.
    """
    actor("lock = muninn.Lock('lock'); lock.acquire()")
    lock: Any = muninn.Lock("lock")
    for arguments in (
        (True,),
        (False,),
        (np.True_,),
        (np.False_,),
        (False, 1),
        (True, -1),
        (None, True),
        (None, False),
    ):
        with pytest.raises(
            TypeError, match=r"Lock.acquire.*leave it out to wait, or pass timeout=0"
        ):
            lock.acquire(*arguments)
    with pytest.raises(ValueError, match="-1 can not be waited for"):
        lock.acquire(-1)
    with pytest.raises(TimeoutError):
        lock.acquire(timeout=0)
    for call in (
        lambda: muninn.open("none", timeout=True),
        lambda: muninn.open("none", timeout=np.True_),  # type: ignore[arg-type]
        lambda: lock.held(True),
        lambda: lock.held(np.False_),
    ):
        with pytest.raises(TypeError, match="must be seconds, not bool"):
            call()


#: Call → the text of the error: which argument it is, and which value came.
KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "list": (
        lambda: muninn.shareBundle([A]),
        "shareBundle: arrays must be a mapping by key, such as a dict, not list",
    ),  # type: ignore[arg-type]
    "generator": (
        lambda: muninn.shareBundle(each for each in [("a", A)]),
        "arrays must be a mapping.*not generator",
    ),  # type: ignore[arg-type]
    "array": (lambda: muninn.shareBundle(A), "arrays must be a mapping.*not ndarray"),  # type: ignore[arg-type]
    "specs": (
        lambda: muninn.loadBundle([("a", 3)], print),
        "loadBundle: specs must be a mapping.*not list",
    ),  # type: ignore[arg-type]
    "spec": (
        lambda: muninn.loadBundle({"a": 3}, print),
        r"specs\['a'\] must be a pair of shape and dtype, not 3",
    ),  # type: ignore[dict-item]
    "three": (
        lambda: muninn.loadBundle({"a": (3, "f4", 1)}, print),
        "must be a pair of shape and dtype",
    ),  # type: ignore[dict-item]
    "fillBundle": (
        lambda: muninn.loadBundle({"a": (3, "f4")}, None),
        "loadBundle: fill must be a function, not NoneType",
    ),  # type: ignore[arg-type]
    "fill": (
        lambda: muninn.loadArray(3, "f4", A),
        "loadArray: fill must be a function, not ndarray",
    ),  # type: ignore[arg-type]
    "loader": (
        lambda: muninn.shareOnce("n", A),
        "shareOnce: loader must be a function, not ndarray",
    ),  # type: ignore[arg-type]
    "progress": (
        lambda: muninn.share(A, name="n", progress=3),
        "progress must be a function, not int",
    ),  # type: ignore[arg-type]
    "progressFast": (
        lambda: muninn.array("n", 3, mode="fastMode", progress=3),
        "progress must be a function",
    ),  # type: ignore[arg-type]
    "copy": (
        lambda: muninn.share(A, name="n", copy="no"),
        "share: copy must be True or False, not str",
    ),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_anArgumentOfAnotherKindIsNamed(domain: str, name: str) -> None:
    """Broken: the error was `'list' object has no attribute 'items'` or `'int' object
    is not callable`, or the argument was accepted.
    """
    call, said = KINDS[name]
    with pytest.raises(TypeError, match=said):
        call()
    assert muninn.listBuffers() == []


def test_aNameThatIsNoUnicodeIsRefusedEverywhere(domain: str) -> None:
    """Broken: a creation raised a bare UnicodeEncodeError half way."""
    with pytest.raises(InvalidDtype, match="not valid Unicode"):
        muninn.array("n", 3, [("\ud800", "i4")])
    for call in (
        lambda: muninn.shareBundle({"\ud800": A}),
        lambda: muninn.loadBundle({"\ud800": (3, "f4")}, print),
    ):
        with pytest.raises(InvalidArgument, match="not valid Unicode"):
            call()
    assert muninn.listBuffers() == []


@pytest.mark.parametrize("name", ["read", "open", "share", "acquire", "list"])
def test_aCallAtTheLimitOfRecursionSaysSo(domain: str, name: str) -> None:
    """Broken, up to Python 3.11: the call raised a bare ctypes.ArgumentError, which a
    handler of RecursionError does not catch.
    """
    buffer, lock = muninn.share(A, name="a"), muninn.Lock("lock")

    def acquire() -> None:
        lock.acquire()
        lock.release()

    calls = {
        "read": buffer.read,
        "open": lambda: muninn.open("a"),
        "share": lambda: muninn.share(A),
        "acquire": acquire,
        "list": muninn.listBuffers,
    }

    def deep(depth: int) -> None:
        deep(depth - 1) if depth else calls[name]()

    limit, raised, used = sys.getrecursionlimit(), set[type[BaseException]](), len(inspect.stack(0))
    calls[name]()
    sys.setrecursionlimit(used + 120)
    try:
        for depth in range(40, 116):
            try:
                deep(depth)
            except (RecursionError, ctypes.ArgumentError) as error:
                raised.add(type(error))
                # The interruption may have come between the lock and the return.
                atomics.lockRelease(lock) if lock._openBuffer.hasScopes() else None
    finally:
        sys.setrecursionlimit(limit)
    assert raised == {RecursionError}


def test_integersOfNumpyAreIntegers(domain: str) -> None:
    one, zero = np.int64(60_000), np.uint8(0)
    buffer = muninn.share(A, name="a", mode="fastMode", preferredGpu=zero, lifetimeMs=one)  # type: ignore[arg-type]
    assert buffer.gpu == 0 and buffer.deviceArray(zero) is not None
    assert (
        asInteger(one) == 60_000
        and [asInteger(each) for each in (True, np.True_, 1.0, "1", None)] == [None] * 5
    )
    with pytest.raises(TypeError, match="preferredGpu must be an int, not bool"):
        muninn.share(A, mode="fastMode", preferredGpu=True)


def test_aKeywordOfAMethodIsNamedWithTheNearest(domain: str) -> None:
    """Broken: Python 3.12 and older name the method, but not the nearest keyword."""
    buffer: Any = muninn.share(A, name="a")
    for call, said in (
        (lambda: buffer.write(strem=1), "write.*'strem': did you mean 'stream'"),
        (lambda: buffer.read(timout=1), "read.*'timout': did you mean 'timeout'"),
        (lambda: buffer.waitNext(aftr=1), "waitNext.*'aftr': did you mean 'after'"),
        (lambda: buffer.signal(strm=1), "signal.*'strm': did you mean 'stream'"),
        (lambda: buffer.deviceArray(GPU=1), "deviceArray.*'GPU': did you mean 'gpu'"),
    ):
        with pytest.raises(TypeError, match=said):
            call()


@pytest.mark.parametrize("after", ["2", 1.5, True])
def test_aGenerationIsAnInteger(domain: str, after: object) -> None:
    """Broken: the error was `'<=' not supported`, and True counted as generation 1."""
    with pytest.raises(TypeError, match="after must be a generation"):
        muninn.share(A, name="a").waitNext(after=after, timeout=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: muninn.array("a", mode="fastMode"), "missing.*'shape'"),  # type: ignore[call-arg]
        (
            lambda: muninn.array("a", 3, name="a", mode="fastMode"),
            "multiple values for argument 'name'",
        ),  # type: ignore[misc]
        (lambda: muninn.shareOnce("x", mode="fastMode"), "missing.*'loader'"),  # type: ignore[call-arg]
        (lambda: muninn.loadArray((2,), "f8", mode="fastMode"), "missing.*'fill'"),  # type: ignore[call-arg]
        (lambda: muninn.loadBundle({}, tenant="t"), "missing.*'fill'"),  # type: ignore[call-arg]
        (lambda: muninn.shareBundle(access="readOnly"), "missing.*'arrays'"),  # type: ignore[call-arg]
        (lambda: muninn.array("a", shpe=3), "'shpe': did you mean 'shape'"),  # type: ignore[call-arg]
        (
            lambda: muninn.shareBundle({"a": A}, fill=3),
            "shareBundle.*'fill': it takes access, arrays",
        ),
    ],
)
def test_aKeywordThatIsRightIsNotBlamedForAnotherArgument(
    domain: str, call: Callable[[], Any], said: str
) -> None:
    """Broken: when an argument was missing or given twice, the error called the
    keywords unexpected that the function passes on.
    """
    with pytest.raises(TypeError, match=said):
        call()
    assert muninn.listBuffers() == []


@pytest.mark.parametrize("name", ["می\u200cخواهم", "👨\u200d👩\u200d👧"])
def test_aNameMayHaveWhatItsScriptNeeds(
    domain: str, actor: Callable[..., Actor], name: str
) -> None:
    muninn.share(A, name=name)
    assert actor().do(f"muninn.open({name!r}).array.tolist()") == [0, 1, 2]
    with pytest.raises(ValueError, match="control characters"):
        muninn.share(A, name="a\u200bb")


def test_aTimeoutMayBeInfinite(domain: str) -> None:
    began = time.monotonic()
    assert muninn.share(A, name="a").read(timeout=float("inf")).tolist() == [0, 1, 2]
    assert muninn.Lock("lock").acquire(float("inf")) and time.monotonic() - began >= 0
