"""The one place where the back-end is chosen, and where it is said why."""

from __future__ import annotations

import ctypes
import os
from typing import Protocol

from muninn.devices.port import Device, UsedBytes
from muninn.errors import DeviceUnavailable, InvalidConfig

_DRIVER_LIBRARY = "libcuda.so.1"
_DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg")
_NOT_YET = "this version of Muninn has no CUDA back-end yet"


class DeviceSettings(Protocol):
    """The `[devices]` table of the configuration."""

    @property
    def device(self) -> str: ...

    @property
    def hostGpus(self) -> int: ...

    @property
    def hostGpuBytes(self) -> int: ...


def chooseDevice(settings: DeviceSettings, usedBytes: UsedBytes | None = None) -> Device:
    """The device that the settings ask for.

    Parameters
    ----------
    settings
        `device` is `"auto"`, `"host"` or `"cuda"`; the others are the number of pretended GPUs and the bytes of each.
    usedBytes
        Bytes that the domain holds on a GPU; see `HostDevice`.

    Raises
    ------
    DeviceUnavailable
        `"cuda"` was asked for and is not to be had.
    InvalidConfig
        `device` is something else.
    """
    if settings.device == "cuda":
        raise DeviceUnavailable(f"{_NOT_YET} ({_driverFound()})", 'Set [devices] device to "auto" or "host"')
    if settings.device == "host":
        return _host(settings, usedBytes, 'devices.device = "host"')
    if settings.device == "auto":
        driver = next((path for path in _DRIVER_FILES if os.path.exists(path)), None)
        found = f"{_DRIVER_FILES[0]} is missing" if driver is None else f"{driver} exists, but {_NOT_YET}"
        return _host(settings, usedBytes, f'devices.device = "auto": {found}')
    raise InvalidConfig(f"devices.device is {settings.device!r}", "Use `auto`, `host` or `cuda`")


def _host(settings: DeviceSettings, usedBytes: UsedBytes | None, reason: str) -> Device:
    from muninn.devices.host import HostDevice

    return HostDevice(settings.hostGpus, settings.hostGpuBytes, usedBytes=usedBytes, reason=reason)


def _driverFound() -> str:
    # Loading it is the only test that the loader's search path does not fool. Only who asks for CUDA gets here.
    try:
        ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError as error:
        return str(error)
    return f"{_DRIVER_LIBRARY} was found"
