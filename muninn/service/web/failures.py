"""Failures: the errors of Muninn as answers of HTTP.

The body is the error of R§16, with its code, reason and fix. The status says who can do
something about it: 4xx the caller, 5xx whoever runs the machine, or time.
"""

from __future__ import annotations

from typing import Any

from muninn import errors
from muninn.errors import MuninnError

#: What a status of a category is if no class below says otherwise.
_OF_CATEGORY = {"caller": 400, "retry": 503, "fatal": 500}
_OF_CLASS: dict[type[MuninnError], int] = {
    errors.InvalidConfig: 500,
    errors.LeaseExpired: 410,
    errors.TopologyNotPeerable: 409,
    errors.PermissionDenied: 403,
    errors.OwnerDied: 410,
    errors.BufferNotFound: 404,
    errors.BufferMismatch: 409,
    errors.BufferFreed: 410,
    errors.LeaseRevoked: 410,
    errors.HostMemoryFull: 507,
    errors.QuotaExceeded: 507,
    errors.TableFull: 507,
    errors.BufferExists: 409,
    errors.WritebackConflict: 409,
    errors.PlatformUnsupported: 501,
}
#: How long a client should wait where only time helps.
RETRY_SECONDS = 1


def statusOf(error: BaseException) -> int:
    """The status of an error that a handler raised."""
    if isinstance(error, TimeoutError):
        return 504
    if not isinstance(error, MuninnError):
        return 500
    named = (_OF_CLASS[kind] for kind in type(error).__mro__ if kind in _OF_CLASS)
    return next(named, _OF_CATEGORY[error.category])


def bodyOf(error: BaseException) -> dict[str, Any]:
    """The error as JSON. Of an error that is not Muninn's only its text is told."""
    isOurs = isinstance(error, MuninnError)
    return (
        {
            "error": {
                "code": error.code if isinstance(error, MuninnError) else None,
                "name": type(error).__name__,
                "reason": error.reason if isinstance(error, MuninnError) else str(error),
                "fix": error.fix if isinstance(error, MuninnError) else None,
            }
        }
        if isOurs or isinstance(error, TimeoutError)
        else problem("an error of Muninn's own")
    )


def problem(reason: str, fix: str | None = None) -> dict[str, Any]:
    """A refusal that is about the request, and not about a buffer."""
    return {"error": {"code": None, "name": None, "reason": reason, "fix": fix}}
