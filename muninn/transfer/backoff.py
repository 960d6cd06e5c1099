"""Backoff: whether work waits for a GPU that is too hot, or has too little power.

A function of the work and of what the driver tells; nothing here asks a device. NVML
reports a slowdown of the hardware only while it lasts, so the work that waits for its
end does so for seconds, and not for ever.
"""

from __future__ import annotations

import math

from muninn.devices.port import GpuCondition, Slowdown
from muninn.transfer.execution import GO, Answer, Kind, Verdict, Work

#: How near to the temperature of the hardware's slowdown a GPU is left alone.
MARGIN_C = 3
#: For how long a copy waits, and for which part of its timeout at most: it is not
#: refused, as no heat makes its result wrong, and it needs time for its bytes.
COPY_SECONDS = 1.0
_COPY_PART = 0.5
#: How soon the GPU is looked at again: conditions are kept for a second.
_PAUSE_SECONDS = 0.25
_HARDWARE = frozenset({Slowdown.HARDWARE_HEAT, Slowdown.POWER_BRAKE, Slowdown.HARDWARE})


def isCut(condition: GpuCondition) -> bool:
    """Whether the hardware has cut the clocks."""
    return bool(_HARDWARE.intersection(condition.slowdowns))


def isNear(condition: GpuCondition) -> bool:
    """Whether it may do so soon, so that nothing is begun that nobody waits for."""
    heat, most = condition.temperatureC, condition.slowdownC
    isHot = heat is not None and most is not None and heat > most - MARGIN_C
    return isHot or Slowdown.DRIVER_HEAT in condition.slowdowns


def trouble(gpu: int, condition: GpuCondition | None) -> str:
    """Why work waits for a GPU, with the figures; "" if none does."""
    if condition is None or not (isCut(condition) or isNear(condition)):
        return ""
    why = "its hardware has cut its clocks" if isCut(condition) else "it is close to its limit"
    return f"GPU {gpu} is left alone, as {why}: {condition}"


def decided(work: Work, conditions: dict[int, GpuCondition | None]) -> Answer:
    """Whether work may begin, by the conditions of its GPUs."""
    for gpu in work.gpus:
        condition = conditions.get(gpu)
        if condition is None:
            continue
        isWaiting = isCut(condition) or (work.kind is Kind.PREFETCH and isNear(condition))
        pauseSeconds = min(_PAUSE_SECONDS, _rest(work))
        if isWaiting and pauseSeconds > 0:
            return Answer(Verdict.LATER, trouble(gpu, condition), pauseSeconds)
    return GO


def _rest(work: Work) -> float:
    """For how much longer work waits for a GPU, in seconds; 0 or less: it goes."""
    if work.kind is not Kind.COPY:
        return math.inf
    timeout = math.inf if work.timeoutSeconds is None else work.timeoutSeconds
    return min(COPY_SECONDS, timeout * _COPY_PART) - work.waitedSeconds
