"""The calls about plans. What they need is imported at the first use: most processes apply
none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from muninn.observe.calls import named
from muninn.system.threads import refuseImports

if TYPE_CHECKING:
    from muninn.plans.applying import AppliedPlan
    from muninn.plans.decisions import Decisions

_BOUND_SECONDS = 10.0


@named
def checkPlan(plan: Mapping[str, Any] | str | os.PathLike[str]) -> Decisions:
    """Say what `applyPlan` would do now, and do nothing.

    Parameters
    ----------
    plan
        As for `applyPlan`.

    Returns
    -------
    Decisions
        The ``steps``, each with its ``action``, its ``path`` in the plan and ``why``; and
        the ``refusals``. The same plan and the same facts give the same decisions.

    Raises
    ------
    InvalidArgument, InvalidConfig
        As `applyPlan`.
    """
    refuseImports("this process has applied no plan yet")
    from muninn.plans.applying import decided

    return decided(plan)


@named
def applyPlan(
    plan: Mapping[str, Any] | str | os.PathLike[str], *, timeout: float | None = _BOUND_SECONDS
) -> AppliedPlan:
    """Make what a plan wants: its buffers with their hints, its promoted windows, its
    prefetched ranges.

    Nothing is done before all of it was checked and decided (`muninn.plans.checkPlan`). A
    buffer that is there as the plan wants it is kept, and one that differs is refused and
    not touched, so the same plan may be applied again and again. If a step fails, those
    before it are undone.

    Parameters
    ----------
    plan
        A dict, or the path of a file that ends in ``.json`` or ``.toml``: ``buffers``,
        ``promotions`` and ``prefetches`` (`muninn.plans.PLAN_SCHEMA`).
    timeout
        Seconds to wait for another application in this domain, and for the room of each
        window; None waits as long as it takes.

    Returns
    -------
    AppliedPlan
        Holds the buffers and the windows: ``with muninn.applyPlan(plan) as applied:``.

    Raises
    ------
    InvalidArgument
        A value of the plan can not be; the text begins with its path.
    InvalidConfig
        The file can not be read, or a value in it can not be.
    BufferMismatch, QuotaExceeded, DeviceUnavailable, BufferNotFound, DomainDraining
        What the plan wants can not be; the text begins with the path.
    PromotionDenied, HostMemoryFull
        A step failed, and the text says what still stands, if anything does.
    TimeoutError
        Another application in this domain took longer.
    """
    refuseImports("this process has applied no plan yet")
    from muninn.plans.applying import applied

    return applied(plan, timeout)
