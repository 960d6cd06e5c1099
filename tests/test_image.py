"""`control/image.py`: an exec ends the member that the process was, and a new program
under the same pid is not taken for that member.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from lab import Lab

import muninn
from muninn.control.members import MemberKey, MemberTable
from muninn.session.membership import current
from muninn.system import atomics, image
from support import Actor, eventually

Start = Callable[..., Actor]
_OWNER_DIED = 0x40000000
_SLEEP = "os.execv('/bin/sleep', ['sleep', '60'])"


def _keyOf(pid: int) -> MemberKey:
    members = current().members
    return next(key for key in members.live() if members.identity(key.slot).pid == pid)


def _pids() -> list[int]:
    return sorted(member["pid"] for member in muninn.domainInfo()["members"])


def test_tellsOneProgramOfAProcessFromTheNext(domain: str, actor: Start) -> None:
    muninn.domainInfo()
    other = actor().join()
    members = current().members
    nonce = members.identity(_keyOf(other.pid).slot).nonce
    assert not image.isReplaced(other.pid, nonce)
    assert image.isReplaced(other.pid, nonce + 1), "this is the nonce of another claim"
    other.begin(_SLEEP)
    eventually(lambda: image.isReplaced(other.pid, nonce), "it runs another program")
    other.kill()
    assert not image.isReplaced(other.pid, nonce), "a process that is gone was not replaced"


@pytest.mark.parametrize(
    "child",
    ["", "pid = os.fork()\nif not pid: time.sleep(60); os._exit(0)\n"],
    ids=["alone", "withAChild"],
)
def test_anExecGivesBackLeasesAndLocks(domain: str, actor: Start, child: str) -> None:
    """A child that keeps the parent's connection hides the exec from the broker's
    socket. Broken: pid and start time had not changed.
    """
    buffer = muninn.share(bytes(4), name="a", access="readWrite")
    other = actor(
        "b = muninn.open('a', access='readWrite')\ngone = muninn.share(b'x', name='gone', lifetime='lastClose')\n"
        "lock = muninn.Lock('l')\nlock.acquire()\nscope = b.write()\nscope.__enter__()\n" + child
    )
    pid = other.do("pid") if child else 0
    other.begin(_SLEEP)
    lock = muninn.Lock("l")
    assert lock.acquire(timeout=30) and lock.recovered
    with buffer.write(timeout=30) as view:
        view[:] = 7
    assert bytes(buffer.read()) == bytes([7] * 4)
    eventually(lambda: _pids() == [os.getpid()], "its slot was given back")
    # The child still maps the memory, but has no lease.
    eventually(
        lambda: (
            [each["name"] for each in muninn.listBuffers() if each["state"] != "freed"] == ["a"]
        ),
        "a buffer ends with its last user",
    )
    lock.release()
    if pid:
        os.kill(pid, 9)


def test_anExecIsFoundThoughNoMemberWaits(domain: str, actor: Start) -> None:
    """A child that Python does not know keeps the connection, the pidfd does not tell
    of an exec, and no member asks: the broker looks all the same.
    """
    muninn.share(bytes(4), name="a")
    other = actor(
        "import ctypes\ngone = muninn.share(b'x', name='gone', lifetime='lastClose')\nlibc = ctypes.CDLL(None)\npid = libc.fork()\n"
        "if not pid: libc.pause()\n"
    )
    child = other.do("pid")
    other.begin(_SLEEP)
    eventually(lambda: _pids() == [os.getpid()], "its slot was given back")
    eventually(
        lambda: (
            [each["name"] for each in muninn.listBuffers() if each["state"] != "freed"] == ["a"]
        ),
        "a buffer ends with its last user",
    )
    os.kill(child, 9)


def test_aBrokerThatExecsIsReplaced(domain: str, actor: Start) -> None:
    broker = actor().join()
    muninn.domainInfo()
    broker.begin(_SLEEP)
    eventually(
        lambda: _pids() == [os.getpid()], "the broker is another, and has taken its slot back"
    )


def test_aProgramThatReplacesItselfFindsNothingOfItsPast(domain: str, actor: Start) -> None:
    """An auto-reloader does this. Broken: each program was one more member, with its
    buffers, until the last program ended.
    """
    code = (
        "import os, sys, muninn\nn = int(sys.argv[1])\nb = muninn.share(bytes(8), name='a', lifetime='lastClose')\n"
        "lock = muninn.Lock('l')\nlock.acquire(timeout=30)\n"
        "if n: os.execv(sys.executable, [sys.executable, '-c', sys.argv[2], str(n - 1), sys.argv[2]])\n"
        "print(len(muninn.domainInfo()['members']), [each['name'] for each in muninn.listBuffers()], lock.recovered)"
    )
    caller = actor("import subprocess, sys")
    done = caller.do(
        f"subprocess.run([sys.executable, '-c', {code!r}, '3', {code!r}], capture_output=True, text=True, timeout=60).stdout"
    )
    assert done == "1 ['a'] True\n"


@pytest.mark.parametrize(
    "how",
    [
        "pid = os.fork()\nif not pid: os.execv('/bin/true', ['true'])\nos.waitpid(pid, 0)",
        "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)",
        "import subprocess; subprocess.run(['/bin/true'], preexec_fn=lambda: muninn.domainInfo())",
        "import subprocess; subprocess.run(['/bin/true'])",
    ],
    ids=["fork", "spawn", "preexec", "subprocess"],
)
def test_anExecOfAChildIsNotItsParents(domain: str, actor: Start, how: str) -> None:
    muninn.domainInfo()
    other = actor("lock = muninn.Lock('l')\nlock.acquire()")
    other.do(how)
    with pytest.raises(TimeoutError):
        muninn.Lock("l").acquire(timeout=0.2)
    assert not current().members.isMarked(_keyOf(other.pid).slot)
    eventually(lambda: _pids() == sorted([os.getpid(), other.pid]), "no other member stays")


def test_aThreadThatEndedByItselfIsNoProof(domain: str, actor: Start) -> None:
    """At the interpreter's end, daemon threads end before other threads have stopped
    writing. Broken: the robust word alone was believed.
    """
    muninn.domainInfo()
    other = actor().join()
    members, key = current().members, _keyOf(other.pid)
    word = atomics.exchangeSeqCst32(members.robustAddress(key.slot), _OWNER_DIED)
    assert not members.isConfirmedDead(key)
    atomics.exchangeSeqCst32(members.robustAddress(key.slot), word)


def test_aByteThatWasLostIsNoProofWhileTheProgramRuns(lab: Lab) -> None:
    """A program may close descriptors that are not its own. Broken: a marked word and a
    free byte sufficed as a proof.
    """
    member = lab.member()
    asking = MemberTable(lab.block)  # in the same process, which does not see its own lock
    atomics.exchangeSeqCst32(asking.robustAddress(member.key.slot), _OWNER_DIED)
    assert not asking.isConfirmedDead(member.key)
    member.table._nonce, nonce = 0, member.table._nonce
    assert not image.isReplaced(os.getpid(), nonce)


@pytest.mark.parametrize("isByPidfd", [False, True])
def test_aByteThatWasLostIsNoProofOfAnythingElse(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, isByPidfd: bool
) -> None:
    """The process runs, and so does the thread that owns the member's robust word, even
    if the process may not be inspected.
    """
    member = lab.member()
    asking = MemberTable(lab.block)  # in the same process, which does not see its own lock
    pidfd = os.pidfd_open(os.getpid()) if isByPidfd else None
    monkeypatch.setattr(image, "isReplaced", lambda pid, nonce: True)
    try:
        assert not asking.isConfirmedDead(member.key, pidfd)
        member.die()
        assert asking.isConfirmedDead(member.key, pidfd), "the member has ended, by an exec"
    finally:
        if pidfd is not None:
            os.close(pidfd)
