"""Public calls: the errors that leave Muninn through one are counted, and a wrong keyword
is named.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from ctypes import ArgumentError
from typing import ParamSpec, TypeVar

from muninn.arguments import callerOf, checkKeywords, keywordsOf, unwrapped
from muninn.errors import MuninnError
from muninn.observe import events
from muninn.observe.counters import count
from muninn.system.oserrors import fileError, lacksDescriptors

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def countError(error: MuninnError) -> None:
    """Count an error that a program gets, once, through however many calls it goes."""
    if not error.isCounted:
        error.isCounted = True
        count("errors", error.code)
        events.say("error", errorCode=error.code, error=error.reason)


def named(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Wrap a public function. The error for a keyword which it does not have names its
    nearest keyword, and its errors are counted.
    """

    @functools.wraps(function)
    def call(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        try:
            return function(*arguments, **keywords)
        except MuninnError as error:
            countError(error)
            raise
        except ArgumentError as error:
            raise unwrapped(error) from None
        except OSError as error:
            if not lacksDescriptors(error):
                raise
            # Also of an import, at the first use of a feature.
            typed = fileError(error, str(error.filename or "a file"))
            assert isinstance(typed, MuninnError)
            countError(typed)
            raise typed from error
        except TypeError as error:
            # The traceback ends here, so `function` was never entered.
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                checkKeywords(callerOf(function, arguments), keywords, keywordsOf(function))
            raise

    return call
