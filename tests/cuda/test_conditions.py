"""The heat and the power of GPUs, as NVML tells them: by a module with its functions, and
by a library that stands in for NVML's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muninn.devices.cuda import nvml
from muninn.devices.cuda.nvml import Nvml
from muninn.devices.port import GpuCondition, Slowdown
from support import Actor, ActorError

Start = Callable[..., Actor]
BUS = "0000:19:00.0"
STANDIN = Path(__file__).parent.parent.parent / "build" / "standin"


class Missing(Exception):
    """NVML's error."""


class Library:
    """NVML's functions about heat and power."""

    # pylint: disable=invalid-name  # the names are those of the bindings

    def __init__(self, **told: Any) -> None:
        self._told = told

    def _tell(self, name: str) -> Any:
        if name not in self._told:
            raise Missing("Not Supported")
        return self._told[name]

    def init_v2(self) -> None:
        """It starts."""

    def device_get_handle_by_pci_bus_id_v2(self, busId: str) -> int:
        assert busId == BUS
        return 1

    def device_get_temperature_v(self, device: int, sensor: int) -> int:
        assert (device, sensor) == (1, 0)
        return int(self._tell("heat"))

    def device_get_temperature_threshold(self, device: int, kind: int) -> int:
        assert (device, kind) == (1, 1)
        return int(self._tell("most"))

    def device_get_power_usage(self, device: int) -> int:
        return int(self._tell("power"))

    def device_get_enforced_power_limit(self, device: int) -> int:
        return int(self._tell("limit"))

    def device_get_current_clocks_event_reasons(self, device: int) -> int:
        return int(self._tell("bits"))


def conditionOf(**told: Any) -> GpuCondition | None:
    return Nvml(lambda: Library(**told)).condition(BUS)


def test_theConstantsAreThoseOfTheBindings() -> None:
    bindings = nvml.bindings()
    reasons = bindings.ClocksEventReasons
    assert {
        reasons.THROTTLE_REASON_HW_THERMAL_SLOWDOWN: Slowdown.HARDWARE_HEAT,
        reasons.THROTTLE_REASON_HW_POWER_BRAKE_SLOWDOWN: Slowdown.POWER_BRAKE,
        reasons.THROTTLE_REASON_HW_SLOWDOWN: Slowdown.HARDWARE,
        reasons.EVENT_REASON_SW_THERMAL_SLOWDOWN: Slowdown.DRIVER_HEAT,
        reasons.EVENT_REASON_SW_POWER_CAP: Slowdown.POWER_CAP,
    } == nvml._SLOWDOWNS
    thresholds = bindings.TemperatureThresholds
    assert nvml._THRESHOLD_SLOWDOWN == thresholds.TEMPERATURE_THRESHOLD_SLOWDOWN
    assert bindings.TemperatureSensors.TEMPERATURE_GPU == 0
    for name in dir(Library):
        assert name.startswith("_") or hasattr(bindings, name), name


def test_allThatIsToldIsThere() -> None:
    found = conditionOf(heat=92, most=90, power=412_345, limit=700_000, bits=0x01 | 0x08 | 0x40)
    words = (Slowdown.HARDWARE_HEAT, Slowdown.HARDWARE)
    assert found == GpuCondition(92, 90, 412.345, 700.0, words)
    assert str(found) == "92 of 90 °C, 412 of 700 W, clocks cut: hardwareHeat, hardware"


def test_whatIsMissingIsNone() -> None:
    assert conditionOf(heat=40) == GpuCondition(40)
    assert str(GpuCondition(40)) == "40 °C"
    # An idle GPU, or one whose clocks were set, is in no trouble.
    assert conditionOf(bits=0x01 | 0x02 | 0x10 | 0x100, heat=30) == GpuCondition(30)


def test_whatTellsNothingHasNoCondition() -> None:
    assert conditionOf() is None

    def missing() -> Any:
        raise ImportError("no bindings")

    broken = Nvml(missing)
    assert broken.condition(BUS) is None
    assert "no bindings" in broken.reason


def test_aForkedChildDoesNotAsk(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Nvml(lambda: Library(heat=40))
    assert asked.condition(BUS) == GpuCondition(40)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert asked.condition(BUS) is None


# --- on the stand-in -----------------------------------------------------------------------

PROGRAM = """
from muninn import plans
a = np.zeros(1 << 20, np.uint8)
b = muninn.share(a, 'data', access='readOnly', hints={'hotRanges': [(0, 65536)]})
"""


@pytest.fixture
def hot(standin: None, domain: str, actor: Start, tmp_path: Path) -> tuple[Actor, Path]:
    """A process whose NVML tells what the file says."""
    file = tmp_path / "heat"
    file.write_text("0 40 90 100000 700000 0\n")
    folders = f"{STANDIN / 'nvml'}:{os.environ['LD_LIBRARY_PATH']}"
    started = actor(
        PROGRAM, ("env", f"LD_LIBRARY_PATH={folders}", f"STANDIN_HEAT={file}"), MUNINN_DEVICE="cuda"
    )
    return started, file


def test_aHotGpuIsLeftAloneUntilItIsCool(hot: tuple[Actor, Path]) -> None:
    process, file = hot
    told = "str(plans.executor().topology().gpus[0].condition)"
    assert process.do(told) == "40 of 90 °C, 100 of 700 W"
    file.write_text("0 93 90 400000 700000 0x48\n")
    with pytest.raises(ActorError, match="93 of 90 °C, 400 of 700 W, clocks cut: hardwareHeat"):
        # What was told a moment ago may hold for a second.
        process.do("time.sleep(1.1); b.promote(0, 4096, 0, timeout=0.1)")
    assert process.do("b.copyTo(0).transfer.route") == "upload"
    process.begin("s = b.promote(0, 4096, 0, timeout=60); s.close(); 1")
    file.write_text("0 60 90 400000 700000 0\n")
    assert process.result() == 1


def test_aGpuAtItsPowerCapIsAtWork(hot: tuple[Actor, Path]) -> None:
    process, file = hot
    file.write_text("0 80 90 700000 700000 0x4\n")
    assert process.do("b.prefetch(0, timeout=0).result()") == 65536


def test_aGpuThatTellsNothingIsUsed(hot: tuple[Actor, Path]) -> None:
    process, file = hot
    file.write_text("0 - - - - -\n")
    assert process.do("plans.executor().topology().gpus[0].condition") is None
    assert process.do("b.prefetch(0, timeout=0).result()") == 65536
