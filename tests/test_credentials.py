"""A process that changes its uid in place: each call works or raises a typed error,
another member becomes the broker, and the process ends without a message.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import muninn
from support import Actor, ActorError, eventually, removeDomain

Start = Callable[..., Actor]
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
_STRANGER = 65534
_CHANGES = {
    "setuid": f"os.setgid({_STRANGER}); os.setuid({_STRANGER})",
    "seteuid": f"os.seteuid({_STRANGER})",
    "setresuid": f"os.setresuid({_STRANGER}, {_STRANGER}, {_STRANGER})",
}
_WHERE = "muninn.session.membership.current().paths.stem"


@pytest.fixture(autouse=True)
def strange(domain: str) -> Iterator[None]:
    yield
    removeDomain(domain, _STRANGER)


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
def test_aProcessThatChangesItsUidJoinsTheNewUsersDomain(
    domain: str, actor: Start, change: str
) -> None:
    """Broken: the broker's thread printed a traceback, calls raised PermissionErrors,
    and a log said that the control block was removed.
    """
    changing = actor("held = muninn.share(np.arange(3), name='a'); lock = muninn.Lock('l')")
    other = actor("held = muninn.open('a')")
    changing.do(change)
    assert changing.do("muninn.share(np.arange(2), name='b').array.tolist()") == [0, 1]
    assert changing.do(_WHERE) == f"muninn-{_STRANGER}-{domain}"
    for call in (
        "held.array",
        "held.read()",
        "held.generation",
        "held.waitNext(timeout=0)",
        "held.free()",
        "lock.acquire()",
    ):
        with pytest.raises(ActorError) as caught:
            changing.do(call + "; 0")
        assert caught.value.kind == "DomainChanged", call
    assert changing.do("held.close(); muninn.open('b').array.tolist()") == [0, 1], (
        "its buffer in the same row of the other block is untouched"
    )
    assert other.do("held.array.tolist(), muninn.share(np.ones(1), name='c').name") == [
        [0, 1, 2],
        "c",
    ]
    eventually(
        lambda: len(muninn.domainInfo()["members"]) == 2,
        "the slot of the old uid was taken back while the process lives",
    )
    assert changing.leave() == 0


def test_aBrokerOfAnotherUidHandsOverBeforeItIsAsked(actor: Start) -> None:
    """A process whose uid comes back finds its buffers as they were."""
    changing = actor("held = muninn.share(np.arange(3), name='a')")
    other = actor().join()
    changing.do(f"os.seteuid({_STRANGER})")
    eventually(lambda: other.do("muninn.domainInfo()['brokerPid']") == other.pid, "another serves")
    changing.do("os.seteuid(0)")
    assert changing.do("held.array.tolist(), muninn.share(np.ones(1), name='b').name") == [
        [0, 1, 2],
        "b",
    ]
    assert other.do("muninn.open('a').array.tolist()") == [0, 1, 2]


def test_aThreadThatChangesItsUidAloneIsToldSo(actor: Start) -> None:
    changing = actor(
        "import ctypes, threading; held = muninn.share(np.arange(3), name='a'); said = []"
    )
    changing.do(
        f"""
def run():
    ctypes.CDLL(None).syscall({117 if os.uname().machine == "x86_64" else 147}, {_STRANGER}, {_STRANGER}, {_STRANGER})
    try:
        muninn.share(np.ones(1), name='b')
    except muninn.MuninnError as error:
        said.append(error.reason)
thread = threading.Thread(target=run); thread.start(); thread.join()
"""
    )
    assert f"this thread alone is uid {_STRANGER} now" in changing.do("said[0]")
    assert changing.do("held.array.tolist(), muninn.share(np.ones(1), name='b').name") == [
        [0, 1, 2],
        "b",
    ]


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
def test_theEndOfAProcessWithAnotherUidIsQuiet(domain: str, change: str) -> None:
    code = f"import os, time, muninn, numpy; held = muninn.share(numpy.arange(3), name='a'); {change}; time.sleep(0.3)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
