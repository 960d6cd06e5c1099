"""Which back-end a process gets, and how it tells the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

import muninn
from support import Actor, ActorError

Start = Callable[..., Actor]


def test_takesTheDriverThatIsThere(domain: str, actor: Start) -> None:
    chosen = actor(
        "from muninn.session import gpus, membership\ndevice = gpus.deviceOf(membership.current())"
    )
    backend, reason, count = chosen.do("device.backend, device.reason, device.gpuCount")
    assert backend == "cuda" and count >= 1
    assert "the driver has" in reason


def test_isForcedByTheEnvironment(domain: str, actor: Start) -> None:
    forced = actor("buffer = muninn.MuninnBuffer(4096, mode='fastMode')", MUNINN_DEVICE="host")
    assert forced.do("buffer.describe()['transport']") == "memfd"
    forced = actor("buffer = muninn.MuninnBuffer(4096, mode='fastMode')", MUNINN_DEVICE="cuda")
    assert forced.do("buffer.describe()['transport']") in ("vmm", "cudaIpc")


@pytest.mark.usefixtures("standin")
def test_withoutAGpuItIsTheHostAndSaysSo(domain: str, actor: Start) -> None:
    without = actor("", STANDIN_DEVICES="0")
    without.do(
        "from muninn.session import gpus, membership\nd = gpus.deviceOf(membership.current())"
    )
    assert without.do("d.backend") == "host"
    assert "NO_DEVICE" in without.do("d.reason")
    with pytest.raises(ActorError, match=r"NO_DEVICE") as raised:
        actor(
            "muninn.MuninnBuffer(4096, mode='fastMode')", STANDIN_DEVICES="0", MUNINN_DEVICE="cuda"
        )
    assert raised.value.kind == "DeviceUnavailable"


def test_withoutTheBindingsItIsTheHostAndSaysWhatToInstall(domain: str, actor: Start) -> None:
    without = actor("import sys; sys.modules['cuda.bindings'] = None")
    without.do(
        "from muninn.session import gpus, membership\nd = gpus.deviceOf(membership.current())"
    )
    assert without.do("d.backend") == "host"
    assert "pip install '.[cuda]'" in without.do("d.reason")


def test_importingMuninnLoadsNothingOfIt() -> None:
    code = "import sys, muninn; print([name for name in sys.modules if name.partition('.')[0] in ('cuda', 'numba')])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        == "[]\n"
    )


def test_bigModeOfTheCpuLoadsNothingOfItEither(domain: str, actor: Start) -> None:
    other = actor(
        "import sys\nbuffer = muninn.share(np.arange(10), 'a')\nbuffer.wait(None, buffer.signal())"
    )
    other.do("with buffer.write() as view: view[:] = 1\nbuffer.read(); buffer.describe()")
    assert (
        other.do("[name for name in sys.modules if name.partition('.')[0] in ('cuda', 'numba')]")
        == []
    )


def test_doctorAndDescribeSayIt(domain: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "muninn", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = json.loads(ran.stdout)
    assert any(
        "cuda" in str(finding) and "the driver has" in str(finding) for finding in found.values()
    ), ran.stdout
    with muninn.MuninnBuffer(4096, mode="fastMode") as buffer:
        assert buffer.describe()["transportReason"].partition(":")[0] in (
            "descriptorExport",
            "noDescriptorExport",
        )
