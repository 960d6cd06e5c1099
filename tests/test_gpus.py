"""fastMode on emulated GPUs: processes share VRAM of limited size, and the death of one
process takes the memory from no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.errors import (
    BufferExists,
    DeviceUnavailable,
    HolderSilent,
    PermissionDenied,
    QuotaExceeded,
)
from support import Actor, ActorError, eventually, leftovers

Start = Callable[..., Actor]


def broker() -> int | None:
    pid: int | None = muninn.domainInfo()["brokerPid"]
    return pid


def test_vramIsSharedBetweenProcesses(domain: str, actor: Start) -> None:
    buffer = muninn.share(np.arange(1000), name="a", mode="fastMode")
    other = actor("theirs = muninn.open('a', access='readWrite')")
    assert other.do("int(theirs.array.sum()), theirs.mode, theirs.gpu") == [499500, "fastMode", 0]
    other.do("theirs.array[0] = 500")
    assert buffer.array[0] == 500
    other.begin("theirs.waitNext(60, after=0)")
    with buffer.write() as view:
        view[:] = 1
    assert other.result() == 2
    assert other.do("int(theirs.read().sum())") == 1000
    assert leftovers(domain) == [], "VRAM has no name"


def test_saysHowAndWhere(domain: str, actor: Start) -> None:
    other = actor(
        "b = muninn.MuninnBuffer('1M', mode='fastMode', preferredGpu=2, name='a')",
        MUNINN_HOST_GPUS="3",
    )
    described = other.do("b.describe()")
    assert {
        "mode": "fastMode",
        "gpu": 2,
        "size": 1 << 20,
        "transport": "memfd",
        "segment": None,
        "peerable": True,
    }.items() <= described.items()
    assert "descriptor" in described["transportReason"] and described["hugePages"] is None
    assert described["topology"] == {"p2p": ["0-1", "0-2", "1-2"], "staged": []}
    (listed,) = other.do("muninn.listBuffers()")
    assert {key: listed[key] for key in ("bufferId", "transport", "gpu")} == {
        key: described[key] for key in ("bufferId", "transport", "gpu")
    }
    assert "fastMode gpu=2" in other.do("repr(b)") and "GPU 2" in other.do("b._repr_html_()")


APART = """
import numpy as np
b = muninn.share(np.arange(10), 'a', mode='fastMode')
from muninn.session import gpus, membership
gpus.deviceOf(membership.current()).canAccessPeer = lambda gpu, peer: gpu == peer
near, far = muninn.createStream(0), muninn.createStream(1)
def enter(scope):
    with scope as view: return view.shape
"""


def test_anAccessOfAStreamWhoseGpuDoesNotReachTheMemoryIsRefused(domain: str, actor: Start) -> None:
    """Broken: the access returned an array that no kernel of that stream could use."""
    apart = actor(APART, MUNINN_HOST_GPUS="2")
    for scope in ("write", "read"):
        with pytest.raises(
            ActorError, match="GPU 1 .* does not reach the memory of GPU 0"
        ) as raised:
            apart.do(f"enter(b.{scope}(stream=far))")
        assert raised.value.kind == "TopologyNotPeerable"
        assert apart.do(
            f"enter(b.{scope}(timeout=9, stream=near)), enter(b.{scope}(timeout=9, stream=None))"
        ) == [[10], [10]]
    assert apart.do("enter(muninn.share(np.arange(10), 'big').write(stream=far))") == [10], (
        "all GPUs reach host memory"
    )
    assert apart.do("b.generation") == 4


def test_openedTwiceIsOneMemory(domain: str, actor: Start) -> None:
    first = muninn.share(np.arange(10), name="a", mode="fastMode")
    assert muninn.open("a").open() == muninn.open(first.handle).open() == first.open()
    other = actor("one = muninn.open('a'); two = muninn.open('a', access='readWrite')")
    assert other.do(
        "one.open() == two.open(), one.array.flags.writeable, two.array.flags.writeable"
    ) == [True, False, True]


def test_readOnlyVramIsReadOnly(domain: str, actor: Start) -> None:
    buffer = muninn.share(np.arange(10), name="a", mode="fastMode", access="readOnly")
    with pytest.raises(PermissionDenied):
        buffer.write()
    other = actor("theirs = muninn.open('a')")
    assert other.do("theirs.array.flags.writeable") is False
    with pytest.raises(ActorError, match="PermissionDenied"):
        other.do("muninn.open('a', access='readWrite')")


@pytest.mark.parametrize("brokerToo", [False, True], ids=["ownerOnly", "ownerIsBroker"])
def test_vramSurvivesItsOwner(domain: str, actor: Start, brokerToo: bool) -> None:
    if not brokerToo:
        muninn.domainInfo()
    owner = actor("mine = muninn.share(np.arange(6), name='a', mode='fastMode')")
    holder = actor("theirs = muninn.open('a')")
    assert (broker() == owner.pid) == brokerToo
    owner.kill()
    assert holder.do("int(theirs.array.sum())") == 15
    late = actor()
    assert late.do("int(muninn.open('a', timeout=60).array.sum())") == 15
    assert muninn.open("a").array.sum() == 15


def test_vramSurvivesEveryBroker(domain: str, actor: Start) -> None:
    """Each broker is killed in its term; a process that still holds the buffer sends
    the descriptor to the successor.
    """
    first = actor("mine = muninn.share(np.arange(6), name='a', mode='fastMode')").join()
    holder = actor("theirs = muninn.open('a')")
    second = actor().join()
    assert broker() == first.pid
    for _ in range(2):
        pid = eventually(broker, "a broker")
        dying = next((each for each in (first, second) if each.pid == pid), None)
        if dying is None:
            break
        dying.kill()
        assert actor().do("int(muninn.open('a', timeout=60).array.sum())") == 15
    assert holder.do("int(theirs.array.sum())") == 15


def test_memoryThatAStoppedProcessHasIsNotLost(domain: str, actor: Start) -> None:
    """The broker is killed, and the other holder is stopped. Broken: the error was
    fatal and named no process, and its fix was to make the buffer anew, which failed.
    """
    owner = actor("mine = muninn.share(np.arange(6), name='a', mode='fastMode')")
    holder = actor("theirs = muninn.open('a')")
    holder.stop()
    owner.kill()
    for call, kind in (
        (lambda: muninn.open("a"), HolderSilent),
        (lambda: muninn.array("a", 6, "i8", mode="fastMode"), HolderSilent),
        (lambda: muninn.share(np.arange(6), name="a", mode="fastMode"), BufferExists),
        (lambda: muninn.shareOnce("a", lambda: np.arange(6), mode="fastMode"), HolderSilent),
    ):
        with pytest.raises(
            muninn.MuninnError,
            match=rf"'a' has not come to the new broker: process {holder.pid} \([^)]*\) may have it",
        ) as caught:
            call()
        assert type(caught.value) is kind and f"kill -CONT {holder.pid}" in caught.value.fix
    assert HolderSilent.category == "retry"
    began = time.monotonic()
    with pytest.raises(HolderSilent):
        muninn.open("a", timeout=3)
    assert time.monotonic() - began >= 3
    waiting = actor()
    waiting.begin("int(muninn.open('a', timeout=60).array.sum())")
    with pytest.raises(HolderSilent):
        muninn.open("a", timeout=1)
    holder.resume()
    assert waiting.result() == 15
    assert muninn.open("a").array.sum() == 15


def test_lostVramIsAnErrorAndThenANameThatIsFree(domain: str, actor: Start) -> None:
    """The only holder of the buffer is killed together with the broker."""
    owner = actor("mine = muninn.share(np.arange(6), name='a', mode='fastMode')")
    assert broker() == owner.pid
    owner.kill()
    with pytest.raises(muninn.MuninnError) as caught:
        muninn.open("a")
    assert caught.value.code in ("MNN-0010", "MNN-0011"), caught.value
    eventually(lambda: muninn.listBuffers() == [], "the row is collected")
    assert muninn.share(np.arange(3), name="a", mode="fastMode").array.sum() == 3


def test_aGpuHasAnEndThatAllProcessesShare(domain: str, actor: Start) -> None:
    size = {"MUNINN_HOST_GPU_BYTES": "4M"}
    one, two = (
        actor("a = muninn.MuninnBuffer('3M', mode='fastMode', name='a')", **size),
        actor(**size),
    )
    for attempt in (
        "muninn.MuninnBuffer('2M', mode='fastMode')",
        "muninn.share(np.zeros(2 << 20, 'u1'), mode='fastMode')",
    ):
        with pytest.raises(ActorError, match=r"MNN-0016 QuotaExceeded.*hostGpuBytes"):
            two.do(attempt)
    two.do("b = muninn.MuninnBuffer('1M', mode='fastMode')")
    one.do("a.free()")
    two.do("c = muninn.MuninnBuffer('3M', mode='fastMode')")
    one.kill()
    two.do("c.close(); c = muninn.MuninnBuffer('3M', mode='fastMode')")


def test_theMemoryOfADeadProcessIsFreeAgain(domain: str, actor: Start) -> None:
    muninn.domainInfo()
    size = {"MUNINN_HOST_GPU_BYTES": "4M"}
    dying, other = actor("a = muninn.MuninnBuffer('4M', mode='fastMode')", **size), actor(**size)
    dying.kill()
    eventually(lambda: muninn.listBuffers() == [], "it is reclaimed")
    assert other.do("muninn.MuninnBuffer('4M', mode='fastMode').nbytes") == 4 << 20


@pytest.mark.parametrize(
    ("environment", "keywords", "error"),
    [
        ({}, {"preferredGpu": 7}, DeviceUnavailable),
        ({"MUNINN_HOST_GPUS": "0"}, {}, DeviceUnavailable),
        ({"MUNINN_DEVICE": "cuda"}, {}, DeviceUnavailable),
        ({"MUNINN_FAST_MODE_MAX_BYTES": "1M"}, {}, QuotaExceeded),
        ({"MUNINN_DEFAULT_VRAM_QUOTA": "1M"}, {}, QuotaExceeded),
        ({}, {"size": "2G"}, QuotaExceeded),
    ],
)
def test_anImpossibleAllocationIsRefusedAndLeavesNothing(
    domain: str,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    keywords: dict[str, Any],
    error: type[muninn.MuninnError],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error) as caught:
        muninn.MuninnBuffer(keywords.pop("size", "2M"), mode="fastMode", name="a", **keywords)
    assert caught.value.reason and caught.value.fix
    assert muninn.listBuffers() == []
    muninn.share(b"x", name="a")


def test_attachesAndLoadsOnceInVramToo(domain: str, actor: Start) -> None:
    actors = [actor().join() for _ in range(3)]
    for each in actors:
        each.begin(
            "b = muninn.array('a', 8, 'i8', mode='fastMode'); b.describe()['bufferId'], b.mode, int(b.array.sum())"
        )
    assert len({str(each.result()) for each in actors}) == 1
    for each in actors:
        each.begin(
            "c = muninn.shareOnce('once', lambda: np.full(5, os.getpid()), mode='fastMode'); int(c.array[0])"
        )
    assert len({each.result() for each in actors}) == 1
    bundle = muninn.shareBundle({"w": np.arange(5)}, name="bundle", mode="fastMode")
    assert actors[0].do("int(muninn.openBundle('bundle')['w'].sum())") == 10
    assert bundle.buffer.mode == "fastMode"
