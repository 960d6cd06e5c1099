"""NVML: the facts about GPUs that the CUDA driver does not tell, which are the kind of
link between two of them, the use of their BAR1, and their heat and power.

A missing fact is None or "" and never an error: no copy depends on it. The library is
missing in many containers, and virtual machines hide links from it. `reason` says what
was missing first.

The library is started at the first question, once in a process, and never shut down:
other libraries of the process use it too, and it counts its users. A forked child does
not ask it, because the library's state is a copy of the parent's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from muninn.devices.port import GpuCondition, Slowdown
from muninn.system.logs import Log

_log = Log("muninn.devices")
_Fact = TypeVar("_Fact")
#: The nearest common place of two GPUs on PCIe, by `nvmlGpuTopologyLevel_t`.
_PCIE_PATHS = {
    0: "PCIe, same board",
    10: "PCIe, same switch",
    20: "PCIe, several switches",
    30: "PCIe, same host bridge",
    40: "PCIe, same NUMA node",
    50: "PCIe, other NUMA node",
}
#: `NVML_FEATURE_ENABLED`, `NVML_NVLINK_DEVICE_TYPE_SWITCH`, `NVML_P2P_CAPS_INDEX_NVLINK`
#: and `NVML_P2P_STATUS_OK` of nvml.h.
_ENABLED, _SWITCH, _NVLINK, _OK = 1, 2, 2, 0
#: `NVML_TEMPERATURE_THRESHOLD_SLOWDOWN`, and the bits of `nvmlClocksEventReasons`.
_THRESHOLD_SLOWDOWN = 1
_SLOWDOWNS = {
    0x40: Slowdown.HARDWARE_HEAT,
    0x80: Slowdown.POWER_BRAKE,
    0x08: Slowdown.HARDWARE,
    0x20: Slowdown.DRIVER_HEAT,
    0x04: Slowdown.POWER_CAP,
}


class Bar1(NamedTuple):
    """The size and the use of a GPU's BAR1, in bytes."""

    totalBytes: int
    usedBytes: int


def bindings() -> Any:
    """The bindings of NVML. Loading them does not load the library."""
    from cuda.bindings import nvml

    return nvml


class Nvml:
    """NVML in this process. GPUs are named by their PCI address, which is also that of
    the GPU of which a MIG instance is a part.

    Parameters
    ----------
    load
        Returns the module with NVML's functions.
    """

    def __init__(self, load: Callable[[], Any] = bindings) -> None:
        self._load = load
        self._library: Any = None
        self._owner = 0
        self._reason = ""

    @property
    def reason(self) -> str:
        """Why a fact is missing, for people; "" as long as none was."""
        if self._owner not in (0, os.getpid()):
            return f"NVML was started by process {self._owner} before the fork"
        return self._reason

    def bar1(self, busId: str) -> Bar1 | None:
        """The BAR1 of a GPU."""

        def asked(library: Any) -> Bar1:
            info = library.device_get_bar1_memory_info(_handleOf(library, busId))
            return Bar1(int(info.bar1_total), int(info.bar1_used))

        return self._answer(f"the BAR1 of {busId}", asked, None)

    def condition(self, busId: str) -> GpuCondition | None:
        """The heat and the power of a GPU; None if it tells none of it. Of the facts some may
        be missing: a virtual machine has a temperature, and perhaps no power.
        """

        def asked(library: Any) -> GpuCondition:
            gpu = _handleOf(library, busId)
            heat = _orNone(lambda: int(library.device_get_temperature_v(gpu, 0)))
            most = _orNone(
                lambda: int(library.device_get_temperature_threshold(gpu, _THRESHOLD_SLOWDOWN))
            )
            power = _orNone(lambda: int(library.device_get_power_usage(gpu)) / 1e3)
            limit = _orNone(lambda: int(library.device_get_enforced_power_limit(gpu)) / 1e3)
            bits = _orNone(lambda: int(library.device_get_current_clocks_event_reasons(gpu)))
            told = tuple(word for bit, word in _SLOWDOWNS.items() if (bits or 0) & bit)
            return GpuCondition(heat, most, power, limit, told)

        found = self._answer(f"the condition of {busId}", asked, None)
        return None if found == GpuCondition() else found

    def freeBytes(self, busId: str) -> int | None:
        """The free bytes in the memory of a GPU, over all processes."""

        def asked(library: Any) -> int:
            return int(library.device_get_memory_info_v2(_handleOf(library, busId)).free)

        return self._answer(f"the free memory of {busId}", asked, None)

    def path(self, busId: str, peer: str) -> str:
        """The best link between two GPUs, for people."""

        def asked(library: Any) -> str:
            first, second = _handleOf(library, busId), _handleOf(library, peer)
            if path := _nvlinkPath(library, first, second, peer):
                return path
            level = int(library.device_get_topology_common_ancestor(first, second))
            return _PCIE_PATHS.get(level, "")

        return self._answer(f"the path from {busId} to {peer}", asked, "")

    def _answer(
        self, what: str, asked: Callable[[Any], _Fact], otherwise: _Fact | None
    ) -> _Fact | Any:
        library = self._started()
        if library is None:
            return otherwise
        try:
            return asked(library)
        except Exception as error:  # of NVML, or of bindings that lack the function
            self._miss(f"NVML does not tell {what}: {_said(error)}")
            return otherwise

    def _started(self) -> Any:
        """The library; None where it does not start, and in a forked child. Two threads
        may start it at once: it counts its users.
        """
        if self._owner == 0:
            try:
                library = self._load()
                library.init_v2()
                self._library = library
            except Exception as error:  # the bindings or the library may be missing
                self._miss(f"NVML does not start: {_said(error)}")
            self._owner = os.getpid()
        return self._library if self._owner == os.getpid() else None

    def _miss(self, reason: str) -> None:
        _log.debug("%s", reason)
        self._reason = self._reason or reason


def _handleOf(library: Any, busId: str) -> int:
    return int(library.device_get_handle_by_pci_bus_id_v2(busId))


def _said(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def _nvlinkPath(library: Any, first: int, second: int, peer: str) -> str:
    """Such as "NVLink ×18"; "" if no NVLink connects the two.

    A link leads to the other GPU, or to a switch. Whether a switch leads on to the
    other GPU is only in the status of the pair.
    """
    active = [link for link in range(int(library.NVLINK_MAX_LINKS)) if _isUp(library, first, link)]
    if direct := sum(_leadsTo(library, first, link, peer) for link in active):
        return f"NVLink ×{direct}"
    if not active or not _isConnected(library, first, second):
        return ""
    switched = sum(_leadsToSwitch(library, first, link) for link in active)
    # A virtual machine may hide where the links lead to.
    return f"NVLink ×{switched}" if switched else "NVLink"


def _isUp(library: Any, gpu: int, link: int) -> bool:
    # A GPU answers an error for a link that it does not have.
    return _orElse(lambda: int(library.device_get_nvlink_state(gpu, link)) == _ENABLED)


def _leadsTo(library: Any, gpu: int, link: int, peer: str) -> bool:
    def asked() -> bool:
        remote = library.device_get_nvlink_remote_pci_info_v2(gpu, link)
        domain, bus, device = (int(part, 16) for part in peer.partition(".")[0].split(":"))
        return (int(remote.domain), int(remote.bus), int(remote.device_)) == (domain, bus, device)

    return _orElse(asked)


def _leadsToSwitch(library: Any, gpu: int, link: int) -> bool:
    return _orElse(lambda: int(library.device_get_nvlink_remote_device_type(gpu, link)) == _SWITCH)


def _isConnected(library: Any, first: int, second: int) -> bool:
    return _orElse(lambda: int(library.device_get_p2p_status(first, second, _NVLINK)) == _OK)


def _orNone(asked: Callable[[], _Fact]) -> _Fact | None:
    """The answer; None where NVML has none."""
    try:
        return asked()
    except Exception as error:
        _log.debug("NVML has no answer about a GPU: %s", _said(error))
        return None


def _orElse(asked: Callable[[], bool]) -> bool:
    """The answer; False where NVML has none."""
    try:
        return asked()
    except Exception as error:
        _log.debug("NVML has no answer about a link: %s", _said(error))
        return False
