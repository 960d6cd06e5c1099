"""Findings: the outcomes of the checks of `doctor`. A check that raises an error has a
finding too.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from muninn.errors import MuninnError


class Finding(NamedTuple):
    """The outcome of one check."""

    verdict: str
    found: str
    advice: str = ""

    def text(self) -> str:
        return f"{self.found}. {self.advice}." if self.advice else self.found


def tried(check: Callable[[], Finding]) -> Finding:
    """The check's finding. Any exception of the check becomes a finding, so that the
    other checks run.
    """
    try:
        return check()
    except MuninnError as error:
        return _of(error)
    except OSError as error:
        from muninn.system import threads
        from muninn.system.oserrors import fileError

        if error.errno == errno.EAGAIN and not error.filename:  # the kernel refused a new process
            return _of(threads.exhausted())
        if isinstance(typed := fileError(error, str(error.filename or "a check")), MuninnError):
            return _of(typed)
        return Finding(
            "fail",
            f"{error.strerror or error}",
            "The kernel, a seccomp filter or a container's policy forbids it",
        )
    except MemoryError:
        return Finding(
            "fail",
            "there is no memory for the check",
            "Raise the limits that `limits` and `control group` name",
        )
    except Exception as error:
        return Finding(
            "fail",
            f"{type(error).__name__}: {error}",
            "Report it, with the output of the other checks",
        )


def _of(error: MuninnError) -> Finding:
    return Finding("fail", f"{error.code} {error.reason}", error.fix)
