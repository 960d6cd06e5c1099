"""A run: how much is measured, on which ground, and on which GPUs."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import NamedTuple

from muninn.config import loadSettings
from muninn.config.checks import CHECKS
from muninn.devices.choose import chooseDevice
from muninn.prof.ground import Ground
from muninn.prof.rows import AS_FITS, DEATH, RowSpec
from muninn.prof.timing import Sample, Samples, repeated, sampled
from muninn.system.oserrors import SHM_ROOT

EMULATED = "emulated GPU"
#: What a measurement must not do beside the user's other processes: serve their metrics,
#: and keep verdicts on links that may be emulated.
_QUIET = {"cachePath": "-", "metricsPort": "0"}
FULL_BYTES, _QUICK_BYTES, _LEAST_BYTES, _PART_OF_FREE = 64 << 20, 16 << 20, 1 << 20, 8
_FULL_ROUNDS, _QUICK_ROUNDS, _QUICK_PART = 7, 3, 0.12
_FULL_KILLS, _QUICK_KILLS, _KILL_SECONDS = 20, 4, 0.8
#: What a row takes besides its samples: a domain, processes, the first calls.
_SET_UP_SECONDS = 0.8
_FEWEST_EMULATED = 2


class Gpus(NamedTuple):
    """The GPUs that are measured: their name, and how many there are."""

    name: str
    number: int
    isEmulated: bool


def gpusHere() -> Gpus:
    """The GPUs that the settings give this process; emulated ones if these are none."""
    devices = loadSettings().devices
    device = chooseDevice(devices)
    if device.gpuCount and not device.runsKernelsOnHost:
        return Gpus(device.gpuName(0), device.gpuCount, isEmulated=False)
    return Gpus(EMULATED, max(devices.hostGpus, _FEWEST_EMULATED), isEmulated=True)


def machineText() -> str:
    """This machine, for people."""
    return (
        f"{platform.machine()}, {os.cpu_count()} processors, Linux "
        f"{platform.release()}, Python {platform.python_version()}"
    )


class Run:
    """One run; ``with run.ground`` around all that it measures.

    Attributes
    ----------
    bigBytes
        The size of the rows that move many bytes: less where /dev/shm is small.
    smallBytes
        The same where it is less, else 0.
    kept
        Samples of a row that were taken with those of another one.
    """

    def __init__(self, gpus: Gpus, isQuick: bool) -> None:
        known = {key for keys in CHECKS.values() for key in keys}
        settings = {key: value for key, value in _QUIET.items() if key in known}
        if gpus.isEmulated:
            settings |= {"device": "host", "hostGpus": str(gpus.number)}
        self.ground = Ground(settings)
        self.gpus, self.isQuick = gpus, isQuick
        wanted = _QUICK_BYTES if isQuick else FULL_BYTES
        self.bigBytes = fitting(wanted, _freeBytes())
        self.smallBytes = self.bigBytes if self.bigBytes < wanted else 0
        self.rounds = _QUICK_ROUNDS if isQuick else _FULL_ROUNDS
        self.kills = _QUICK_KILLS if isQuick else _FULL_KILLS
        self.kept: dict[str, Samples] = {}

    def sizeOf(self, row: RowSpec) -> int:
        """How many bytes the buffers of a row have."""
        return self.bigBytes if row.sizeBytes == AS_FITS else row.sizeBytes

    def secondsOf(self, row: RowSpec) -> float:
        """How long the row takes, about."""
        if row.group == DEATH:  # both rows are measured at once
            return self.kills * _KILL_SECONDS / 2
        return _SET_UP_SECONDS + self._budgetOf(row)

    def sampled(self, row: RowSpec, ours: Sample, limit: Sample) -> Samples:
        """Samples of an operation and of its limit, for the time that the row has."""
        return sampled(ours, limit, self._budgetOf(row), self.rounds)

    def paired(self, row: RowSpec, both: Callable[[], tuple[float, float]]) -> Samples:
        """The same where one call gives both."""
        share, taken = self._budgetOf(row) / self.rounds, Samples([], [])
        both()
        for _ in range(self.rounds):
            pairs = repeated(both, share)
            taken.ours.append([mine for mine, _ in pairs])
            taken.limit.append([other for _, other in pairs])
        return taken

    def _budgetOf(self, row: RowSpec) -> float:
        return row.budgetSeconds * (_QUICK_PART if self.isQuick else 1)


def fitting(wantedBytes: int, freeBytes: int) -> int:
    """The size to measure with: half as much again and again until several buffers of it
    fit into what is free; not less than 1 MiB.
    """
    sizeBytes = wantedBytes
    while sizeBytes > _LEAST_BYTES and sizeBytes * _PART_OF_FREE > freeBytes:
        sizeBytes //= 2
    return sizeBytes


def _freeBytes() -> int:
    status = os.statvfs(SHM_ROOT)
    # A tmpfs without a limit tells of no blocks.
    return status.f_bavail * status.f_frsize if status.f_blocks else FULL_BYTES * _PART_OF_FREE


def isBusy() -> str:
    """Why the figures of a run that begins now would be worse than this machine's, or ""."""
    load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load < processors / 2:
        return ""
    return f"other programs are at work (load {load:.1f} on {processors} processors)"
