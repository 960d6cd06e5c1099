"""What is stated about GPUs and the links between them, on a driver; NVML by a module
with its functions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from muninn.cli import topology
from muninn.devices.cuda import CudaDevice, nvml
from muninn.devices.cuda.links import Links
from muninn.devices.cuda.nvml import Nvml
from support import Actor

FIRST, SECOND = "0000:19:00.0", "0000:3B:00.0"


class Missing(Exception):
    """NVML's error."""


class Library:
    """NVML's functions, for two GPUs.

    Attributes
    ----------
    links
        For each link of the first GPU: the address of the other end, or "switch", or
        None for a link that is down.
    """

    # pylint: disable=invalid-name  # the names are those of the bindings
    NVLINK_MAX_LINKS = 18

    def __init__(self, links: list[str | None] = [], level: int = 50) -> None:  # noqa: B006
        self.links, self.level, self.starts = links, level, 0
        self.isConnected, self.broken = True, set[str]()

    def _call(self, name: str) -> None:
        if name in self.broken:
            raise Missing(f"{name} is not supported")

    def init_v2(self) -> None:
        self.starts += 1
        self._call("init_v2")

    def device_get_handle_by_pci_bus_id_v2(self, busId: str) -> int:
        self._call("handle")
        return {FIRST: 1, SECOND: 2}[busId]

    def device_get_bar1_memory_info(self, device: int) -> Any:
        self._call("bar1")
        return SimpleNamespace(bar1_total=1 << 38, bar1_used=device << 20, bar1_free=7)

    def device_get_memory_info_v2(self, device: int) -> Any:
        self._call("memory")
        return SimpleNamespace(total=1 << 37, free=device << 30, used=7)

    def device_get_topology_common_ancestor(self, device: int, peer: int) -> int:
        assert {device, peer} == {1, 2}
        self._call("ancestor")
        return self.level

    def device_get_nvlink_state(self, device: int, link: int) -> int:
        if link >= len(self.links):
            raise Missing("there is no such link")
        return int(self.links[link] is not None)

    def device_get_nvlink_remote_pci_info_v2(self, device: int, link: int) -> Any:
        self._call("remote")
        end = self.links[link] or ""
        domain, bus, rest = ("ffff:ff:00.0" if end == "switch" else end).split(":")
        return SimpleNamespace(
            domain=int(domain, 16), bus=int(bus, 16), device_=int(rest.partition(".")[0], 16)
        )

    def device_get_nvlink_remote_device_type(self, device: int, link: int) -> int:
        self._call("remote")
        return 2 if self.links[link] == "switch" else 0

    def device_get_p2p_status(self, device: int, peer: int, index: int) -> int:
        assert index == 2
        self._call("status")
        return 0 if self.isConnected else 5


def pathOf(library: Library) -> str:
    return Nvml(lambda: library).path(FIRST, SECOND)


def test_theConstantsAreThoseOfTheBindings() -> None:
    bindings = nvml.bindings()
    assert nvml._ENABLED == bindings.EnableState.FEATURE_ENABLED
    assert nvml._SWITCH == bindings.IntNvLinkDeviceType.NVLINK_DEVICE_TYPE_SWITCH
    assert nvml._NVLINK == bindings.GpuP2PCapsIndex.P2P_CAPS_INDEX_NVLINK
    assert nvml._OK == bindings.GpuP2PStatus.P2P_STATUS_OK
    assert set(nvml._PCIE_PATHS) == {int(level) for level in bindings.GpuTopologyLevel}
    for name in dir(Library):
        assert name.startswith("_") or hasattr(bindings, name), name


def test_theCommandHasAWordForEveryPath() -> None:
    assert set(nvml._PCIE_PATHS.values()) <= topology._WORDS.keys()


@pytest.mark.parametrize(("level", "path"), sorted(nvml._PCIE_PATHS.items()))
def test_withoutNvlinkThePathIsThatOfPcie(level: int, path: str) -> None:
    assert pathOf(Library(level=level)) == path
    assert pathOf(Library([None] * 4, level=level)) == path


def test_countsTheLinksToTheOtherGpu() -> None:
    """Not those to a third one, and not those that are down."""
    third = "0000:5e:00.0"
    assert pathOf(Library([SECOND, third, None, SECOND.lower()])) == "NVLink ×2"
    library = Library([third, third])
    library.isConnected = False
    assert pathOf(library) == "PCIe, other NUMA node"


def test_countsTheLinksToSwitchesThatLeadToTheOtherGpu() -> None:
    library = Library(["switch"] * 18)
    assert pathOf(library) == "NVLink ×18"
    library.isConnected = False
    assert pathOf(library) == "PCIe, other NUMA node"


def test_linksWhoseEndsAreHiddenAreNotCounted() -> None:
    library = Library(["switch"] * 18)
    library.broken = {"remote"}
    assert pathOf(library) == "NVLink"
    library.broken = {"remote", "status"}
    assert pathOf(library) == "PCIe, other NUMA node"


def test_anUnknownLevelIsNoPath() -> None:
    asked = Nvml(lambda: Library(level=35))
    assert asked.path(FIRST, SECOND) == "" and asked.reason == ""


@pytest.mark.parametrize("broken", ["init_v2", "handle", "ancestor"])
def test_whateverNvmlRaisesIsAMissingFactWithAReason(broken: str) -> None:
    library = Library()
    library.broken = {broken, "bar1"}
    asked = Nvml(lambda: library)
    assert asked.path(FIRST, SECOND) == "" and f"{broken} is not supported" in asked.reason
    assert asked.bar1(FIRST) is None and f"{broken} is not supported" in asked.reason
    assert library.starts == 1, "it is not tried again"


def test_bindingsThatAreMissingOrOldAreAMissingFact() -> None:
    def absent() -> Any:
        raise ModuleNotFoundError("No module named 'cuda.bindings.nvml'")

    assert Nvml(absent).path(FIRST, SECOND) == ""
    old = Nvml(lambda: SimpleNamespace(init_v2=bool))
    assert old.bar1(FIRST) is None and "device_get_bar1_memory_info" in old.reason


def test_nvmlStartsOnceAtTheFirstQuestion() -> None:
    library = Library()
    asked = Nvml(lambda: library)
    assert library.starts == 0 and asked.reason == ""
    for _ in range(3):
        assert asked.bar1(SECOND) == (1 << 38, 2 << 20)
    assert library.starts == 1 and asked.reason == ""


def test_freeMemoryIsToldWithoutAContext() -> None:
    library = Library()
    assert Nvml(lambda: library).freeBytes(SECOND) == 2 << 30
    library.broken = {"memory"}
    asked = Nvml(lambda: library)
    assert asked.freeBytes(SECOND) is None and "memory is not supported" in asked.reason


def test_aForkedChildDoesNotAskNvml() -> None:
    library = Library()
    asked = Nvml(lambda: library)
    assert asked.bar1(FIRST) is not None

    if (child := os.fork()) == 0:
        isMissing = asked.bar1(FIRST) is None
        os._exit(isMissing and f"process {os.getppid()} before the fork" in asked.reason)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert asked.bar1(FIRST) is not None and asked.reason == ""


# --- on the driver -------------------------------------------------------------------


@pytest.fixture(scope="module")
def device() -> CudaDevice:
    return CudaDevice()


def test_statesWhatTheDriverStates(device: CudaDevice) -> None:
    if device.gpuCount < 2:
        pytest.skip("there is one GPU only")
    link = device.link(0, 1)
    assert link.canAccess == device.canAccessPeer(0, 1)
    assert (link.performanceRank is not None) == link.canAccess
    sites = [device.site(gpu) for gpu in range(device.gpuCount)]
    assert len({site.busId for site in sites}) == len(sites)
    assert device.driverText().startswith("CUDA 1")


def test_theKernelTellsTheNumaNode(device: CudaDevice, request: pytest.FixtureRequest) -> None:
    system: Path = request.getfixturevalue("tmp_path")
    gpu = device._gpus[0]
    links = Links(Nvml(lambda: Library()), system)
    file = system / "bus" / "pci" / "devices" / gpu.busId.lower() / "numa_node"
    assert links.siteOf(gpu).numaNode is None
    file.parent.mkdir(parents=True)
    for text, node in (("1\n", 1), ("0\n", 0), ("-1\n", None), ("", None), ("²", None)):
        file.write_text(text)
        assert links.siteOf(gpu).numaNode == node


def test_theDriversTextHasTheVersionOfItsModule(request: pytest.FixtureRequest) -> None:
    system: Path = request.getfixturevalue("tmp_path")
    links = Links(Nvml(lambda: Library()), system)
    without = links.driverText()
    (system / "module" / "nvidia").mkdir(parents=True)
    (system / "module" / "nvidia" / "version").write_text("580.159.04\n")
    assert links.driverText() == f"{without} 580.159.04"


def test_theFactsOfNvmlAreInTheSite(
    device: CudaDevice, standin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(["switch"] * 18)
    monkeypatch.setattr(
        library, "device_get_handle_by_pci_bus_id_v2", lambda busId: int(busId[5:7])
    )
    links = Links(Nvml(lambda: library))
    first, second = device._gpus[:2]
    assert links.siteOf(second) == ("0000:02:00.0", None, 1 << 38, 2 << 20)
    assert links.between(first, second).path == "NVLink ×18"


def test_aPairWithoutAPathHasNoRank(standin: None, actor: Callable[..., Actor]) -> None:
    other = actor(
        "from muninn.devices.cuda import CudaDevice\nd = CudaDevice()", STANDIN_P2P="none"
    )
    assert other.do("d.link(0, 1)[:3]") == [False, None, False]


def test_theCommandShowsTheGpusOfTheDriver(
    standin: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from muninn.cli.main import main

    assert main(["topology"]) == 0
    printed = capsys.readouterr().out
    assert "0000:02:00.0" in printed and "0->1" in printed
    assert "NVML does not start" in " ".join(printed.split())
