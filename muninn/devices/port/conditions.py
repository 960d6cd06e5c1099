"""Conditions: what a driver tells about the heat and the power of a GPU now."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Slowdown(enum.StrEnum):
    """Why a GPU's clocks are lower than they could be. Idle GPUs and clocks that somebody
    has set are none.
    """

    #: The hardware has cut them, by half or more, because it is too hot.
    HARDWARE_HEAT = "hardwareHeat"
    #: The hardware has cut them because the power supply asked for it.
    POWER_BRAKE = "powerBrake"
    #: The hardware has cut them, for one of these two or for another reason.
    HARDWARE = "hardware"
    #: The driver has cut them, because of heat.
    DRIVER_HEAT = "driverHeat"
    #: The driver keeps the power below its cap. Usual for a GPU at work.
    POWER_CAP = "powerCap"


class GpuCondition(NamedTuple):
    """The condition of one GPU.

    Attributes
    ----------
    temperatureC, slowdownC
        Its temperature, and the one at which the hardware cuts its clocks; None where
        nothing tells.
    powerW, limitW
        What it draws, and what it may draw at most; None where nothing tells.
    slowdowns
        Why its clocks are low, in the order of `Slowdown`.
    """

    temperatureC: int | None = None
    slowdownC: int | None = None
    powerW: float | None = None
    limitW: float | None = None
    slowdowns: tuple[Slowdown, ...] = ()

    def __str__(self) -> str:
        """The figures, for people; "" if there is none."""
        parts = []
        if self.temperatureC is not None:
            at = "" if self.slowdownC is None else f" of {self.slowdownC}"
            parts.append(f"{self.temperatureC}{at} °C")
        if self.powerW is not None:
            at = "" if self.limitW is None else f" of {self.limitW:.0f}"
            parts.append(f"{self.powerW:.0f}{at} W")
        if self.slowdowns:
            parts.append(f"clocks cut: {', '.join(self.slowdowns)}")
        return ", ".join(parts)
