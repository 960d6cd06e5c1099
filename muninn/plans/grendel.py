"""The executor of this process, for its users: see it, and set one's own.

`muninn/transfer/execution.py` has the contract.
"""

from __future__ import annotations

from muninn.api.executing import executorOf, process
from muninn.errors import InvalidArgument
from muninn.observe.calls import named
from muninn.session.membership import current
from muninn.transfer.execution import Executor

_METHODS = ("decide", "ended", "topology", "reserve")


@named
def executor() -> Executor:
    """The executor that is asked before bytes move: the one that was set, or the default,
    which lets work wait for a GPU that is too hot or has too little power.

    Its ``topology()`` says which GPUs there are, how warm they are and what is between
    them. Its ``reserve(buffer, offset, length, targetGpu)`` claims scratch memory.
    """
    return executorOf(current().openBuffers.context)


@named
def setExecutor(own: Executor | None) -> Executor | None:
    """Let an executor of the program decide when promotions, prefetches and copies of
    this process begin, in place of the default.

    Parameters
    ----------
    own
        An object with the methods of `Executor`; None: the default again. Work that has
        begun goes on.

    Returns
    -------
    Executor or None
        The one that was set before.

    Raises
    ------
    InvalidArgument
        It lacks a method.
    """
    missing = [each for each in _METHODS if not callable(getattr(own, each, None))]
    if own is not None and missing:
        raise InvalidArgument(
            f"setExecutor: {type(own).__name__} has no method {', '.join(missing)}",
            "Derive it from muninn.plans.Rehearsal, or write all methods of muninn.plans.Executor",
        )
    return process.use(own)
