"""The control block: it is whole and of this version, or a typed error is raised; it is
created once, even if several processes arrive at the same time.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from lab import Lab

import muninn
from muninn.broker.journal import Journal
from muninn.control import creation, header, layout, lockfile
from muninn.control.block import ControlBlock
from muninn.control.creation import create, openOrCreate
from muninn.control.geometry import Geometry
from muninn.control.lockfile import LockFile
from muninn.control.withdrawal import Withdrawal
from muninn.errors import (
    BrokerUnavailable,
    ControlBlockInvalid,
    DomainChanged,
    HostMemoryFull,
    TableFull,
)
from muninn.storage.paths import Paths
from muninn.system import descriptors
from support import Actor, ActorError, Background, eventually, program

Start = Callable[..., Actor]


def damage(lab: Lab, offset: int, raw: bytes) -> None:
    lab.block.bytes[offset : offset + len(raw)] = raw


def openAgain(lab: Lab) -> None:
    openOrCreate(lab.paths, lab.lockFile, lab.block.geometry).close()


@pytest.mark.parametrize(
    ("offset", "raw"),
    [
        (layout.MAGIC_OFFSET, b"X"),
        (layout.VERSION_OFFSET, struct.pack("<I", layout.VERSION + 1)),
        (layout.TOTAL_BYTES_OFFSET, struct.pack("<Q", 4096)),
        (layout.MAX_MEMBERS_OFFSET, struct.pack("<I", 0)),
        (layout.MAX_MEMBERS_OFFSET, struct.pack("<I", 1 << 31)),
        (layout.MAX_BUFFERS_OFFSET, struct.pack("<I", 257)),
        (layout.INDEX_SLOTS_OFFSET, struct.pack("<I", 3)),
    ],
)
def test_aDamagedHeaderIsATypedError(lab: Lab, offset: int, raw: bytes) -> None:
    damage(lab, offset, raw)
    with pytest.raises(ControlBlockInvalid):
        openAgain(lab)


def test_aTruncatedBlockIsNotMapped(lab: Lab) -> None:
    os.truncate(f"/dev/shm{lab.paths.blockName}", 8192)
    with pytest.raises(ControlBlockInvalid):
        openAgain(lab)


def test_aBlockThatNeverHadAnIdentityIsReplaced(lab: Lab) -> None:
    damage(lab, layout.VERSION_OFFSET, bytes(4))
    damage(lab, layout.IDENTITY_OFFSET, bytes(8))
    before = os.stat(lab.paths.blockPath).st_ino
    openAgain(lab)
    assert os.stat(lab.paths.blockPath).st_ino != before


def test_aWithdrawnBlockIsGivenBack(lab: Lab) -> None:
    """A process died while it withdrew the block. Broken: unless a slot was locked, a
    new block replaced it, and all buffers were lost.
    """
    before = os.stat(lab.paths.blockPath).st_ino
    damage(lab, layout.VERSION_OFFSET, bytes(4))
    openAgain(lab)
    assert os.stat(lab.paths.blockPath).st_ino == before and not lab.block.isRetired()


@pytest.mark.parametrize("identity", [None, bytes(8)])
def test_aWithdrawnBlockOfAnotherVersionIsRefused(lab: Lab, identity: bytes | None) -> None:
    """A process of another version was killed while it repaired or left its block.
    Broken: the block got this program's version, and its words were believed.
    """
    damage(lab, layout.VERSION_OFFSET, struct.pack("<I", layout.VERSION + 1))
    if identity is not None:
        damage(lab, layout.IDENTITY_OFFSET, identity)
    Withdrawal(lab.paths, lab.lockFile).close()
    before = os.stat(lab.paths.blockPath).st_ino
    for _ in range(2):
        with pytest.raises(ControlBlockInvalid, match=f"version {layout.VERSION + 1}"):
            openAgain(lab)
    assert os.stat(lab.paths.blockPath).st_ino == before and lab.block.isRetired()


def test_aBlockKnowsItsVersionWhileItIsWithdrawn(lab: Lab) -> None:
    """A program of another version makes the block, and dies while it withdraws it."""
    assert lab.block.bytes[
        layout.LAYOUT_VERSION_OFFSET : layout.LAYOUT_VERSION_OFFSET + 4
    ] == struct.pack("<I", layout.VERSION)
    damage(lab, layout.LAYOUT_VERSION_OFFSET, struct.pack("<I", layout.VERSION + 7))
    damage(lab, layout.VERSION_OFFSET, bytes(4))
    with pytest.raises(ControlBlockInvalid, match=f"version {layout.VERSION + 7}"):
        openAgain(lab)


def test_aNewBlockRemovesTheCopiesOfTheDead(lab: Lab) -> None:
    """Brokers died while they copied their journals. Broken: no process could join when
    a copy had the space that the new block needs.
    """
    left = f"{lab.paths.journalPath(3)}.new"
    with open(left, "wb") as file:
        file.write(b"x")
    os.unlink(lab.paths.blockPath)
    os.unlink(lab.paths.linkPath)
    openAgain(lab)
    assert not os.path.exists(left)


def test_bothNamesLeadToOneBlock(lab: Lab) -> None:
    assert os.path.samefile(lab.paths.blockPath, lab.paths.linkPath)
    for path in (lab.paths.blockPath, lab.paths.linkPath):
        os.unlink(path)
        assert lab.block.hasName()
        openAgain(lab)
        assert lab.block.restoreNames() and os.path.samefile(
            lab.paths.blockPath, lab.paths.linkPath
        )
    os.unlink(lab.paths.blockPath)
    os.unlink(lab.paths.linkPath)
    assert not lab.block.hasName() and not lab.block.restoreNames()


def test_aBlockOfAnotherLockFileIsNotJoined(lab: Lab) -> None:
    """The slot bytes of the block are in a file that is gone. Broken: a process that
    joined took the slots of living members for free.
    """
    os.rename(lab.paths.directory, f"{lab.paths.directory}.old")
    other = LockFile(lab.paths)
    block = openOrCreate(lab.paths, other, lab.block.geometry)
    assert block.identity != lab.block.identity
    block.close()
    other.close()


def test_aFailedCreationLeavesWhatWasThere(lab: Lab) -> None:
    def adopt(_: ControlBlock) -> Callable[[], None]:
        raise KeyboardInterrupt

    before = os.stat(lab.paths.linkPath).st_ino
    with pytest.raises(KeyboardInterrupt):
        create(lab.paths, lab.lockFile, lab.block.geometry, adopt)
    assert os.stat(lab.paths.linkPath).st_ino == before
    openAgain(lab)


@pytest.mark.parametrize("step", ["adoption", "rename", "link"])
def test_aFailedCreationTakesWithItWhatItMade(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """`/dev/shm` is full. Broken: each attempt left an unpublished block and a journal,
    in the space that the next attempt needed.
    """
    Journal(lab.paths, 1).close()
    made: list[Paths] = []

    def adopt(block: ControlBlock) -> Callable[[], None]:
        made.append(block.paths)
        Journal(block.paths, 7).close()
        return fail() if step == "adoption" else lambda: None

    def fail(*_: object, **__: object) -> NoReturn:
        raise HostMemoryFull("as on a full /dev/shm")

    os.unlink(lab.paths.blockPath)
    before = sorted(os.listdir(lab.paths.directory))
    if step != "adoption":
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(HostMemoryFull):
        create(lab.paths, lab.lockFile, lab.block.geometry, adopt)
    if step != "link":
        assert sorted(os.listdir(lab.paths.directory)) == before
    else:  # the block has one of its names by now, which is enough
        assert made[0].epochsOf("journal") == [7] and not lab.block.hasName()


@pytest.mark.parametrize("hasEnded", [False, True])
def test_aCreatorThatLostCreateGivesNothingTheDomainsName(
    lab: Lab, actor: Start, hasEnded: bool
) -> None:
    """The creator reads the lock file, which drops its lock. Broken: the half filled
    block of the next creator got the name.
    """
    other = actor(
        "from muninn.control.creation import create\nfrom muninn.control.lockfile import LockFile\nfrom muninn.storage.paths import Paths\n"
        f"file = LockFile(Paths(os.getuid(), {lab.paths.domain!r}))\nfrom muninn.control.geometry import Geometry\n"
        "def make(): made = create(file.paths, file, Geometry.of(8, 512, 256), None); made.close(); return made.identity"
    )
    identity = 0

    def adopt(_: ControlBlock) -> Callable[[], None]:
        nonlocal identity
        with open(lab.lockFile.paths.lockPath):
            pass
        if hasEnded:
            identity = other.do("with file.creating(): made = make()\nmade")
        else:
            other.do("inside = file.creating(); inside.__enter__()\n1")
        return lambda: None

    before = os.stat(lab.paths.linkPath).st_ino
    with pytest.raises(DomainChanged), lab.lockFile.creating():
        create(lab.paths, lab.lockFile, lab.block.geometry, adopt)
    if hasEnded:
        again = openOrCreate(lab.paths, lab.lockFile, lab.block.geometry)
        assert again.identity == identity != 0
        again.close()
    else:
        assert os.stat(lab.paths.linkPath).st_ino == before


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_aBlockNameThatAnotherUserTookIsAvoided(domain: str, actor: Start, mode: int) -> None:
    """Broken: the process joined the other user's block and wrote to it, and the other
    user truncated it.
    """
    path = f"/dev/shm/muninn-{os.getuid()}-{domain}"
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    os.chown(path, 65534, 65534)
    os.chmod(path, mode)
    maker = actor("held = muninn.share(np.arange(3), name='a')")
    assert muninn.open("a").array.tolist() == [0, 1, 2]
    with open(path, "rb") as file:
        assert file.read() == bytes(1 << 20)
    maker.kill()


def test_aFirstProcessWithAHardUmaskLeavesADomainForAll(domain: str, actor: Start) -> None:
    """Broken: the files had mode 0, and no other process of the user could open them;
    root can, so the test looks at the modes.
    """
    first = actor(
        "os.umask(0o777)\nmuninn.share(np.arange(3), name='a')\nmuninn.share(np.arange(3), name='b', mode='fastMode')"
    )
    directory = Paths(os.getuid(), domain).directory
    modes = {entry.name: oct(entry.stat().st_mode & 0o777) for entry in os.scandir(directory)}
    assert set(modes.values()) == {"0o600"} and len(modes) >= 6, modes
    first.kill()
    assert muninn.open("a").array.tolist() == [0, 1, 2]


def test_aBlockOfAnotherBootGoesWithAllThatItNamed(lab: Lab) -> None:
    lab.make(lab.directory(1), lab.member())
    from muninn.storage import segments

    os.close(segments.create(lab.paths, 0, 1, 4096))
    damage(lab, layout.BOOT_ID_OFFSET, b"another boot id!")
    openAgain(lab)
    assert lab.paths.segments() == [] and lab.paths.epochsOf("journal") == []


def test_aBlockThatAMemberStillUsesIsNotReplaced(domain: str, actor: Start) -> None:
    """The last member but one was killed while it withdrew the block: the version reads
    0, and one member still uses the block.
    """
    member = actor("buffer = muninn.share(b'x', name='a')")
    member.do(
        "from muninn.session.membership import current\nfrom muninn.system import atomics; from muninn.control import layout\natomics.exchangeSeqCst32(current().block.address + layout.VERSION_OFFSET, 0)"
    )
    assert bytes(muninn.open("a").array) == b"x"


def test_aCreatorLooksAgainOnceItHasTheLock(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process made the block after this one had looked. Broken: the second
    creator replaced it.
    """
    look, answers = creation.openExisting, [None]
    monkeypatch.setattr(
        creation, "openExisting", lambda *given: answers.pop() if answers else look(*given)
    )
    found = openOrCreate(lab.paths, lab.lockFile, lab.block.geometry)
    assert not answers and found.paths.identity == lab.block.paths.identity
    found.close()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
def test_aBlockNameThatAnotherUserTakesWhileItIsOpenedIsAvoided(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other user's file comes after the look at the name, and is a block's copy."""
    os.unlink(lab.paths.linkPath)
    os.unlink(lab.paths.blockPath)
    Path(lab.paths.blockPath).write_bytes(bytes(lab.block.bytes[: layout.HEADER_BYTES]))
    os.chown(lab.paths.blockPath, 65534, 65534)
    monkeypatch.setattr(
        header, "_openedName", lambda paths: descriptors.opened(paths.blockPath, os.O_RDWR)
    )
    assert header.openNamed(lab.paths, lab.lockFile) is None


def test_manyProcessesThatComeAtOnceMakeOneBlock(domain: str, actor: Start) -> None:
    parent = actor()
    parent.do(program("manyJoinAtOnce"))
    assert parent.do("[os.waitpid(child, 0)[1] for child in children]") == [0] * 12
    assert len(muninn.listBuffers()) == 12


def test_theCreatorsLimitsHold(domain: str, actor: Start) -> None:
    limits = {"MUNINN_MAX_MEMBERS": "2"}
    first, second = actor(**limits).join(), actor(**limits).join()
    with pytest.raises(ActorError) as caught:
        actor(**limits).join()
    assert caught.value.kind == TableFull.__name__
    second.kill()
    third = actor(**limits)
    eventually(lambda: _joins(third), "a slot is free again")
    assert first.do("len(muninn.domainInfo()['members'])") == 2


def _joins(other: Actor) -> bool:
    try:
        other.join()
    except ActorError as error:
        assert error.kind == TableFull.__name__
        return False
    return True


def test_aDirectoryThatIsNotOursIsRefused(domain: str) -> None:
    paths = Paths(os.getuid(), domain)
    os.mkdir(paths.directory, 0o777)
    os.chmod(paths.directory, 0o777)
    with pytest.raises(ControlBlockInvalid):
        LockFile(paths)


@pytest.mark.parametrize("limits", [(1, 1, 1), (4094, 1 << 20, 1), (7, 300, 65536)])
def test_aGeometryHasRoomForEachOfItsParts(limits: tuple[int, int, int]) -> None:
    if limits[1] > layout.MAX_BUFFERS_LIMIT:
        with pytest.raises(ControlBlockInvalid):
            Geometry.of(*limits)
        return
    geometry = Geometry.of(*limits)
    ends = (
        layout.HEADER_BYTES,
        geometry.indexOffset,
        geometry.rowsOffset,
        geometry.areasOffset,
        geometry.totalBytes,
    )
    assert list(ends) == sorted(ends) and all(end % layout.HEADER_BYTES == 0 for end in ends)
    assert geometry.indexSlots >= 2 * geometry.maxBuffers >= 2 * limits[1]


def test_theBlockIsMadeUnderItsLockAndTheWaitForItIsBounded(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: `openOrCreate` made a block without the CREATE byte; `creating` waited
    without a bound.
    """
    paths = Paths(os.getuid(), domain)
    lockFile = LockFile(paths)
    holder = actor(
        f"from muninn.system import atomics\nfile = __import__('builtins').open({paths.lockPath!r}, 'r+b')\natomics.byteLock(file.fileno(), 0)"
    )
    assert holder.do("atomics.byteLock(file.fileno(), 0)") == 0
    monkeypatch.setattr(lockfile, "_CREATE_BOUND_SECONDS", 0.2)
    made = Background(lambda: openOrCreate(paths, lockFile, Geometry.of(8, 256, 16)))
    assert isinstance(made.ended(), BrokerUnavailable)
    holder.kill()
    openOrCreate(paths, lockFile, Geometry.of(8, 256, 16)).close()
    lockFile.close()


def test_aCreatorThatDiesHalfWayLeavesNoBlock(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the creator wrote the header with its version before it wrote the secret."""

    class Died(BaseException):
        pass

    def die(size: int) -> bytes:
        raise Died

    paths = Paths(os.getuid(), domain)
    lockFile = LockFile(paths)
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(os, "urandom", die)
        openOrCreate(paths, lockFile, Geometry.of(8, 256, 16))
    block = openOrCreate(paths, lockFile, Geometry.of(8, 256, 16))
    assert any(block.secret)
    block.close()
    lockFile.close()
