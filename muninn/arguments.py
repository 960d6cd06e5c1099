"""The checks of arguments that every package shares: keywords, functions, integers,
timeouts.

A call with a wrong keyword raises a `TypeError` that names the function which the user
called, and the nearest keyword of that function. Python itself names the function where
a function lists all its keywords, and the nearest keyword from 3.13 on.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from ctypes import ArgumentError
from typing import Any

from muninn.errors import InvalidArgument
from muninn.terms import nearest

#: A longer timeout means for ever. This is 31 years, which every clock and system call
#: can still count in nanoseconds.
LONGEST_SECONDS = 1e9
_NUMBERS = (float, int)


def unwrapped(error: ArgumentError) -> Exception:
    """The error that a call of C meant: up to Python 3.11 a call at the limit of
    recursion says that its argument is wrong.
    """
    return (
        RecursionError("maximum recursion depth exceeded in a call of Muninn's")
        if "RecursionError" in str(error)
        else error
    )


def callerOf(function: Callable[..., Any], arguments: Sequence[object] = ()) -> str:
    """The name by which a user calls `function`: of a method with the class of its object,
    of which the part that has the method is no name for users.
    """
    name = function.__qualname__.removesuffix(".__init__")
    isMethod = "." in name and "<locals>" not in name and bool(arguments)
    return f"{type(arguments[0]).__name__}.{function.__name__}" if isMethod else name


def checkKeywords(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises `TypeError` for a keyword that the function `what` does not have."""
    _checkNames(f"{what}() got an unexpected keyword argument", given, known)


def checkKeys(what: str, given: Iterable[object], known: Iterable[str]) -> None:
    """Raises `TypeError` for a key that the dict `what` can not have."""
    _checkNames(f"{what} has no key", given, known)


def _checkNames(fault: str, given: Iterable[object], known: Iterable[str]) -> None:
    names = set(known)
    for each in given:
        if each not in names:
            raise TypeError(f"{fault} {each!r:.80}{_hint(str(each), names)}") from None


@functools.cache
def keywordsOf(function: Callable[..., Any]) -> frozenset[str]:
    """The keywords that a function takes: the parameters in its signature."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    listed = frozenset(
        name for name, each in inspect.signature(function).parameters.items() if each.kind in kinds
    )
    return listed - {"self"}


def _hint(keyword: str, names: set[str]) -> str:
    meant = nearest(keyword.replace("_", ""), sorted(names))
    return (
        f": did you mean {meant!r}?"
        if meant
        else f": it takes {', '.join(sorted(names)) or 'none'}"
    )


def requireCallable(what: str, value: object) -> None:
    """Raises `TypeError` for an object that can not be called. Functions check this
    before they make anything for which they would call it.
    """
    if not callable(value):
        raise TypeError(f"{what} must be a function, not {type(value).__name__}")


def asInteger(value: Any) -> int | None:
    """The value of an integer of any kind, numpy's among them; None when `value` is no
    integer. True and False are none.
    """
    if type(value) is int:
        return value
    if isTruth(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def isTruth(value: object) -> bool:
    """Whether a value is True or False, of Python or of numpy: Python takes its own for
    numbers, and numpy takes both.
    """
    return type(value).__name__ in ("bool", "bool_")


def requireTruth(what: str, value: object) -> None:
    """Raises `TypeError` for a switch that is neither True nor False."""
    if not isTruth(value):
        raise TypeError(f"{what} must be True or False, not {type(value).__name__}")


def secondsOf(what: str, timeout: float) -> float:
    """A timeout that a user gave to the function `what`, not above `LONGEST_SECONDS`.

    Raises
    ------
    InvalidArgument
        It is negative, or not a number.
    TypeError
        It is of no kind that is a number.
    """
    if type(timeout) in _NUMBERS and 0 <= timeout <= LONGEST_SECONDS:
        return timeout  # nearly every call
    try:
        seconds = (
            float(timeout)
            if not isinstance(timeout, str | bytes | bytearray) and not isTruth(timeout)
            else None
        )
    except OverflowError:  # an integer that no float can hold
        seconds = math.inf if timeout > 0 else -math.inf
    except (TypeError, ValueError):
        seconds = None
    if seconds is None:
        raise TypeError(f"{what}: timeout must be seconds, not {type(timeout).__name__}")
    if not seconds >= 0:
        raise InvalidArgument(
            f"{what}: timeout {timeout!r} can not be waited for",
            "Use seconds from 0 up, or leave it out",
        )
    return min(seconds, LONGEST_SECONDS)


def timeoutOf(what: str, timeout: float | None) -> float | None:
    """`secondsOf` for a timeout that may be None, which means for ever, as infinity
    does.
    """
    if timeout is None:
        return None
    seconds = secondsOf(what, timeout)
    return None if seconds >= LONGEST_SECONDS else seconds
