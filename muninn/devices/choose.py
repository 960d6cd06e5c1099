"""The choice of the back-end, in one place, with the reason for it."""

from __future__ import annotations

import ctypes
from typing import Protocol

from muninn.devices.port import Device, UsedBytes
from muninn.errors import DeviceUnavailable, InvalidConfig

_DRIVER_LIBRARY = "libcuda.so.1"


class DeviceSettings(Protocol):
    """The `[devices]` table of the configuration."""

    @property
    def device(self) -> str: ...

    @property
    def hostGpus(self) -> int: ...

    @property
    def hostGpuBytes(self) -> int: ...

    @property
    def hostLinks(self) -> str: ...

    @property
    def mappedWindowBytes(self) -> int: ...


def chooseDevice(settings: DeviceSettings, usedBytes: UsedBytes | None = None) -> Device:
    """The device that the settings ask for.

    Parameters
    ----------
    settings
        `device` is `"auto"`, `"host"` or `"cuda"`; the others are the number of
        emulated GPUs and the bytes of each, and the bytes of host memory that may be
        mapped for real ones.
    usedBytes
        Returns the bytes that the domain has on a GPU; see `HostDevice`.

    Raises
    ------
    DeviceUnavailable
        The settings ask for `"cuda"`, and there is no CUDA device.
    ForkedAfterCuda
        A parent of this process initialised CUDA before the fork, and `device` is not
        `"host"`.
    InvalidConfig
        `device` is something else.
    """
    if settings.device == "host":
        return _host(settings, usedBytes, 'devices.device = "host"')
    if settings.device in ("auto", "cuda"):
        count, missing = _realGpus()
        if count:
            from muninn.devices.cuda import CudaDevice

            why = (
                f'devices.device = "{settings.device}": the driver has {count} '
                f"GPU{'s' if count > 1 else ''}"
            )
            return CudaDevice(why, settings.mappedWindowBytes)
        if settings.device == "cuda":
            raise DeviceUnavailable(
                f"there is no CUDA device: {missing}", 'Set [devices] device to "auto" or "host"'
            )
        return _host(settings, usedBytes, f'devices.device = "auto": {missing}')
    raise InvalidConfig(f"devices.device is {settings.device!r}", "Use `auto`, `host` or `cuda`")


def _host(settings: DeviceSettings, usedBytes: UsedBytes | None, reason: str) -> Device:
    from muninn.devices.host.device import HostDevice

    return HostDevice(
        settings.hostGpus,
        settings.hostGpuBytes,
        usedBytes=usedBytes,
        reason=reason,
        links=settings.hostLinks,
    )


def _realGpus() -> tuple[int, str]:
    """How many GPUs a driver shows, and the missing part if there are none."""
    if missing := importBackEnd():
        return 0, missing
    from muninn.devices.cuda.device import findGpus

    return findGpus()


def importBackEnd() -> str:
    """Import the CUDA back-end if there is a driver; asks the driver nothing. Returns
    what is missing, or "". The cheapest check comes first.
    """
    try:
        # Only a load tells whether the library is on the loader's search path.
        ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError as error:
        return str(error)
    try:
        import muninn.devices.cuda.device  # noqa: F401  # for `_realGpus`, and all that is on a GPU
    except ImportError as error:
        return (
            f"{_DRIVER_LIBRARY} is there, but the bindings are not ({error}): in Muninn's "
            "source, pip install '.[cuda]'"
        )
    return ""
