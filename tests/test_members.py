"""Member slots: claimed by one process, distinguished by their generation, and given
back once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Lab

from muninn.control import layout
from muninn.control.members import MemberKey, MemberTable
from muninn.errors import DomainChanged, TableFull
from muninn.session.membership import current
from muninn.system import atomics
from muninn.system.processes import ownPidNamespace, pidOf, processIsGone, programName, startTimeOf
from support import Actor, eventually, program


def test_aMemberSaysWhoItIs(lab: Lab) -> None:
    member = lab.member()
    identity = lab.members.identity(member.key.slot)
    assert (identity.pid, identity.uid, identity.startTime) == (
        os.getpid(),
        os.getuid(),
        startTimeOf(os.getpid()),
    )
    assert identity.pidNamespace == ownPidNamespace() and identity.nonce != 0
    assert lab.members.program(member.key.slot) == programName()
    assert lab.members.live() == [member.key]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["/a/train.py"], "train.py"),
        ([b"/a/x\xff"], "x\ufffd"),
        (["/a/\ud800"], "?"),
        (("/a/pkg/__main__.py",), "pkg"),
        ([], "python"),
        ([None], "python"),
        (None, "python"),
        ("missing", "python"),
    ],
)
def test_aProgramMayHaveAnythingForItsName(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, arguments: object, shown: str
) -> None:
    """Broken: the first call of the program raised a bare AttributeError or TypeError."""
    monkeypatch.setattr(sys, "executable", "/usr/bin/python")
    monkeypatch.delattr(sys, "argv") if arguments == "missing" else monkeypatch.setattr(
        sys, "argv", arguments
    )
    assert lab.members.program(lab.member().key.slot) == shown


def test_eachClaimGetsASlotOfItsOwnUntilTheTableIsFull(lab: Lab) -> None:
    members = [lab.member() for _ in range(lab.members.count)]
    assert (
        [each.key.slot for each in members]
        == list(range(lab.members.count))
        == lab.members.occupied()
    )
    with pytest.raises(TableFull):
        lab.member()


def test_aSlotIsUsedAgainUnderTheNextGeneration(lab: Lab) -> None:
    first = lab.member()
    assert lab.members.markDead(first.key)
    assert not lab.members.isCurrent(first.key)
    lab.members.release(first.key, layout.MEMBER_DEAD)
    second = lab.member()
    assert second.key == MemberKey(first.key.slot, first.key.generation + 1)
    assert lab.members.isConfirmedDead(first.key) and not lab.members.isConfirmedDead(second.key)


def test_aMemberIsMarkedDeadOnceAndNeverUnderAnotherGeneration(lab: Lab) -> None:
    member = lab.member()
    assert not lab.members.markDead(member.key._replace(generation=9))
    assert lab.members.markDead(member.key) and lab.members.markDead(member.key)
    assert lab.members.state(member.key.slot)[0] == layout.MEMBER_DEAD


def test_aClaimThatFailsLeavesTheSlotFree(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(type(lab.block), "allocate", full)
    with pytest.raises(OSError, match="no room"):
        MemberTable(lab.block).claim(preferred=False)
    assert lab.members.occupied() == []


def test_aSlotThatIsAnothersByNowIsSuspectedDead(lab: Lab) -> None:
    """Its robust word is held, but by another process. Broken: the earlier member of
    the slot was taken for alive because the next one was.
    """
    member = lab.member()
    assert not lab.members.isSuspectedDead(member.key)
    assert lab.members.isSuspectedDead(member.key._replace(generation=member.key.generation - 1))
    lab.members.markDead(member.key)
    lab.members.release(member.key, layout.MEMBER_DEAD)
    assert lab.members.isSuspectedDead(member.key)


def test_aSlotWithoutARobustWordIsSuspectedDead(lab: Lab) -> None:
    member = lab.member()
    atomics.storeRelease32(lab.members.robustAddress(member.key.slot), 0)
    assert lab.members.isSuspectedDead(member.key), "no thread holds it"
    atomics.storeRelease32(lab.members.robustAddress(member.key.slot), 4242)
    assert not lab.members.isSuspectedDead(member.key)
    atomics.storeRelease32(lab.members.robustAddress(member.key.slot), 4242 | 0x40000000)
    assert lab.members.isSuspectedDead(member.key)


def test_leaseHighIsNeverBelievedAboveTheTable(lab: Lab) -> None:
    member = lab.member()
    atomics.storeRelease32(
        lab.block.memberAddress(member.key.slot) + layout.MEMBER_LEASE_HIGH_OFFSET, 1 << 31
    )
    assert lab.members.leaseHigh(member.key.slot) == lab.block.geometry.maxLeases


def test_knowsItsOwnPidfdFromOtherDescriptors(lab: Lab) -> None:
    member = lab.member()
    pidfd, null = os.pidfd_open(os.getpid()), os.open("/dev/null", os.O_RDONLY)
    parent = os.pidfd_open(os.getppid())
    assert lab.members.isPidOf(os.getpid(), member.key) and not lab.members.isPidOf(
        os.getppid(), member.key
    )
    assert [pidOf(each) for each in (pidfd, null, parent)] == [os.getpid(), None, os.getppid()]
    for descriptor in (pidfd, null, parent):
        os.close(descriptor)


def test_aPidWithoutAProcessIsGone() -> None:
    assert startTimeOf((1 << 22) - 3) == 0
    assert processIsGone((1 << 22) - 3, 5)


def test_noProcessProvesItselfDead(lab: Lab) -> None:
    """A process does not see its own byte lock, so half way through a claim its slot
    looks deserted to it. Broken: the nonce was not compared.
    """
    table = MemberTable(lab.block)
    key = table.claim(preferred=False)
    assert not table.isConfirmedDead(key)
    assert MemberTable(lab.block).isConfirmedDead(key)


def test_aPidOfAnotherNamespaceProvesNothing(lab: Lab) -> None:
    """Broken: the pid was looked up in this namespace, where no process has it."""
    member = lab.member()
    start = layout.MEMBERS_OFFSET + member.key.slot * layout.MEMBER_BYTES
    for offset, size, value in (
        (layout.MEMBER_PID_OFFSET, 4, 1 << 21),
        (layout.MEMBER_PID_NAMESPACE_OFFSET, 8, 1),
    ):
        lab.block.bytes[start + offset : start + offset + size] = value.to_bytes(size, "little")
    assert not lab.members.isConfirmedDead(member.key)
    member.die()
    assert lab.members.isConfirmedDead(member.key)


def test_theByteOfASlotIsItsMembersOnly(domain: str, actor: Callable[..., Actor]) -> None:
    """Broken: `lockSlot` returned True although another process had the byte: two
    processes were in one slot.
    """
    other = actor().join()
    member = current()
    (key,) = (
        key for key in member.members.live() if member.members.identity(key.slot).pid == other.pid
    )
    assert not member.block.lockFile.lockSlot(key.slot) and member.block.lockFile.slotIsLocked(
        key.slot
    )


def test_aByteThatIsLostByAReadIsTakenAgain(domain: str, actor: Callable[..., Actor]) -> None:
    """Closing any descriptor of the file drops POSIX locks. Broken: the member noticed
    only that its own descriptor was closed.
    """
    other = actor("here = muninn.session.membership.current()").join()
    path = current().paths.lockPath
    (key,) = (
        key
        for key in current().members.live()
        if current().members.identity(key.slot).pid == other.pid
    )
    isLocked = current().block.lockFile.slotIsLocked
    other.do(f"open({path!r}).close()")
    assert not isLocked(key.slot) or other.do("here.block.lockFile._retakeAt") > 0
    other.do("here.wake()")
    eventually(lambda: isLocked(key.slot), "its byte is locked again")


def test_aMemberWhoseByteAnotherProcessHasHasLeftItsSlot(
    lab: Lab, actor: Callable[..., Actor]
) -> None:
    """Broken: the process took itself for the member of the slot."""
    assert lab.lockFile.lockSlot(3)
    lab.lockFile.restore()
    with open(lab.lockFile.paths.lockPath):
        pass
    other = actor(
        "from muninn.control.lockfile import LockFile\nfrom muninn.storage.paths import Paths\n"
        f"file = LockFile(Paths(os.getuid(), {lab.paths.domain!r}))"
    )
    assert other.do("file.lockSlot(3)")
    lab.lockFile._retakeAt = 0.0
    with pytest.raises(DomainChanged, match="slot 3"):
        lab.lockFile.restore()


def test_aClaimThatWasTakenBackIsNotEntered(lab: Lab) -> None:
    """The claim lost its byte before the slot was LIVE. Broken: the process took itself
    for a member, in a slot that was free.
    """
    table = MemberTable(lab.block)
    key = table.claim(preferred=False)
    lab.members.release(key, layout.MEMBER_CLAIMING)
    with pytest.raises(DomainChanged):
        table.enter(key)
    assert lab.members.state(key.slot)[0] == layout.MEMBER_FREE


def test_aSlotThatChangedSinceItWasReadIsNotClaimed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the claim did not check whether its CAS had succeeded."""
    lockSlot = lab.lockFile.lockSlot

    def late(slot: int) -> bool:
        if slot == 0:
            atomics.exchangeSeqCst64(lab.block.memberAddress(0), 7 << 32 | layout.MEMBER_LIVE)
        return lockSlot(slot)

    monkeypatch.setattr(lab.lockFile, "lockSlot", late)
    assert lab.member().key.slot == 1
    assert lab.members.state(0) == (layout.MEMBER_LIVE, 7)


def test_anotherBrokerMayGoOnWithAMemberThatIsMarkedDead(lab: Lab) -> None:
    """Broken: `markDead` refused a slot that is DEAD already, so no broker finished the
    work that the first one had left.
    """
    member = lab.member()
    assert lab.members.markDead(member.key) and lab.members.markDead(member.key)
    lab.members.release(member.key, layout.MEMBER_DEAD)
    assert not lab.members.markDead(member.key)


LEADERLESS = program("firstThreadGone")


@pytest.mark.parametrize("joined", ["", "before"])
def test_aProcessWhoseFirstThreadHasEndedIsAMemberAndServes(domain: str, joined: str) -> None:
    """Its /proc/self is empty. Broken: as broker it refused every hello, and it could
    not join a new domain.
    """

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LEADERLESS, *arguments, joined]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with start("w", "") as broker:
        assert broker.stdout is not None and broker.stdout.readline() == "6.0 True\n"
        with start("v", "opens") as member:
            assert member.communicate("\n", timeout=60) == ("6.0 False\n", "")
        assert broker.communicate("\n", timeout=60) == ("", "")


@pytest.mark.parametrize("name", [b"caf\xe9.py", "жук.py".encode() * 20, b"\xff" * 200])
def test_aProgramMayHaveANameThatIsNoText(domain: str, tmp_path: Path, name: bytes) -> None:
    """Broken: `UnicodeEncodeError` at the first call."""
    script = os.fsencode(tmp_path) + b"/" + name
    Path(os.fsdecode(script)).write_text(
        "import muninn\nprint([each['program'] for each in muninn.domainInfo()['members']] != [])\n"
    )
    done = subprocess.run(
        [os.fsencode(sys.executable), script], capture_output=True, timeout=60, check=False
    )
    assert done.stdout == b"True\n", done.stderr[-1000:]
