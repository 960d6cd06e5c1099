"""A file of the domain belongs to its user alone: its mode is corrected if others could
only read it, and it is refused if they could write it.
"""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from test_folders import asStranger, needsRoot, strange

import muninn
from muninn.broker.descriptorstore import DescriptorStore
from muninn.broker.journal import Journal
from muninn.cli.domainchecks import modes
from muninn.control import layout
from muninn.control.creation import openOrCreate
from muninn.control.geometry import Geometry
from muninn.control.header import unlinkFile
from muninn.control.lockfile import LockFile
from muninn.errors import ControlBlockInvalid, DomainChanged, WriterDied
from muninn.session import lateimports
from muninn.storage import segments
from muninn.storage.paths import Paths
from muninn.system import descriptors
from support import Actor, eventually, program

__all__ = ["strange"]
Start = Callable[..., Actor]
_STRANGER = 65534


def files(domain: str) -> list[Path]:
    """The regular files of the domain, once the first snapshot of the journal is one of
    them.
    """
    folder = Path(Paths(os.getuid(), domain).directory)

    def found() -> list[Path]:
        block = Path(f"/dev/shm/muninn-{os.getuid()}-{domain}")
        return [path for path in (*folder.iterdir(), block) if path.is_file()]

    def hasSnapshot() -> bool:
        journals = [each.name for each in found() if each.name.startswith("journal")]
        return bool(journals) and not any(each.endswith(".new") for each in journals)

    eventually(hasSnapshot, "the broker has made a snapshot")
    return found()


def test_aFileThatOthersCouldOnlyReadIsCorrected(
    domain: str, actor: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken: no newcomer could join; after ten seconds it got the error that the block
    was removed.
    """
    maker = actor("held = muninn.share(np.arange(3), name='a')")
    paths = files(domain)
    assert len(paths) >= 5, "block, by both names, lock, segment, journal"
    for path in paths:
        path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert muninn.open("a").array.tolist() == [0, 1, 2]
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in paths
        if not path.name.startswith("journal")
    }
    assert set(modes.values()) == {0o600}, modes
    # A thread of an earlier test may have something to say, too.
    said = [text for record in caplog.records if domain in (text := record.getMessage())]
    # the block, the lock file, a segment
    assert len(said) == 3 and all("had mode 0644" in text for text in said), said
    assert maker.do("len(muninn.domainInfo()['members'])") == 2


def test_aHalfWrittenBufferIsNotGivenOutAsWholeAfterAChmod(domain: str, actor: Start) -> None:
    """Broken: the newcomer made a new block, in which the torn buffer had generation 0."""
    maker = actor(
        "a = muninn.share(np.arange(3), name='a', lifetime='keep')\nscope = a.write(); scope.__enter__()[:] = 7"
    )
    for path in files(domain):
        path.chmod(0o444)
    maker.kill()
    with pytest.raises(WriterDied):
        muninn.open("a").read()


@pytest.mark.parametrize("which", ["block", "lock", "segment", "journal"])
def test_aFileThatOthersCouldHaveWrittenIsRefusedAtOnce(
    domain: str, actor: Start, which: str
) -> None:
    maker = actor("held = muninn.share(np.arange(3), name='a', lifetime='keep')")
    path = next(path for path in files(domain) if path.name.startswith(which))
    path.chmod(0o622)
    if which == "journal":
        maker.kill()
        os.unlink(Paths(os.getuid(), domain).linkPath)  # so that the new block adopts from it
        os.unlink(f"/dev/shm/muninn-{os.getuid()}-{domain}")
    with pytest.raises(
        ControlBlockInvalid, match=f"{path} has mode 0622: others may have written"
    ) as caught:
        muninn.open("a")
    finding = modes()
    assert finding.verdict == "fail" and str(path) in finding.found
    for advice in (caught.value.fix, finding.advice):
        assert f"`chmod -R go= {path.parent}`" in advice
    subprocess.run(["chmod", "-R", "go=", str(path.parent)], check=True)
    assert modes().verdict == "ok"
    assert muninn.open("a").array.tolist() == [0, 1, 2]


def test_anOwnFileOfThePublicNameKeepsItsMode(domain: str) -> None:
    """It is no block of Muninn's, so Muninn must not change its mode."""
    path = Path(f"/dev/shm/muninn-{os.getuid()}-{domain}")
    path.write_bytes(bytes(1 << 16))
    path.chmod(0o644)
    assert muninn.share(b"x", name="a").name == "a"
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (bytes(1 << 16), 0o644)


# --- as another user, to whom modes apply -------------------------------------------


def blockOf(paths: Paths) -> int:
    """The identity of the domain's block, which the calling user makes if there is
    none.
    """
    lockFile = LockFile(paths)
    try:
        block = openOrCreate(lockFile.paths, lockFile, Geometry.of(4, 64, 4))
        try:
            return block.identity
        finally:
            block.close()
    finally:
        lockFile.close()


@needsRoot
@pytest.mark.parametrize("mode", [0, 0o400, 0o044])
def test_aFileThatItsUserMayNotOpenIsPutRight(strange: Paths, mode: int) -> None:
    """Broken: MNN-0019, whose fix was to remove the block."""
    identity = asStranger(lambda: blockOf(strange))()
    assert isinstance(identity, int)
    for path in (strange.linkPath, strange.lockPath):
        os.chmod(path, mode)
    assert asStranger(lambda: blockOf(strange))() == identity


@needsRoot
def test_anotherUsersBlockInTheDirectoryIsReplaced(strange: Paths) -> None:
    """Broken: no process could join any more until a person removed it."""
    assert isinstance(asStranger(lambda: blockOf(strange))(), int)
    os.unlink(strange.linkPath)
    os.unlink(strange.blockPath)
    Path(strange.linkPath).write_bytes(bytes(layout.ELECTION_OFFSET))
    os.chmod(strange.linkPath, 0o600)
    assert isinstance(asStranger(lambda: blockOf(strange))(), int)
    assert os.stat(strange.linkPath).st_uid == _STRANGER


@needsRoot
def test_anotherUsersLockFileInTheDirectoryIsNamed(strange: Paths) -> None:
    """Broken: a bare PermissionError, for ever."""
    asStranger(lambda: blockOf(strange))()
    os.chown(strange.lockPath, 0, 0)
    said = str(asStranger(lambda: blockOf(strange))())
    assert (
        "ControlBlockInvalid" in said
        and f"{strange.lockPath} is uid 0's" in said
        and "Remove it" in said
    )
    os.unlink(strange.lockPath)
    assert isinstance(asStranger(lambda: blockOf(strange))(), int)


# --- a uid that changes in the middle -----------------------------------------------

_MAKERS: dict[str, Callable[[Paths], object]] = {
    "directory": lambda paths: paths.makeDirectory(),
    "lock": lambda paths: LockFile(paths),
    "block": blockOf,
    "segment": lambda paths: segments.create(paths, 0, 1, 4096),
    "journal": lambda paths: Journal(paths, 1),
    "copy": lambda paths: descriptors.opened(
        f"{paths.directory}/x", os.O_CREAT | os.O_RDWR, maker=paths.uid
    ),
    "descriptorServer": lambda paths: DescriptorStore().open(
        paths.descriptorServerPath(1), paths.uid
    ),
}


def foreign(paths: Paths) -> list[str]:
    """The files of other users under the names of the domain."""
    roots = [path for path in Path("/dev/shm").iterdir() if path.name.startswith(paths.stem)]
    return [
        str(path)
        for root in roots
        for path in (root, *root.rglob("*"))
        if path.lstat().st_uid != paths.uid
    ]


@needsRoot
@pytest.mark.parametrize("what", _MAKERS)
def test_aFileThatAnotherUidHasMadeIsRemovedAgain(strange: Paths, what: str) -> None:
    """Broken: root's files stayed in the directory of a user, who could not use his
    domain any more. The uid has changed to root's.
    """
    if what == "lock":
        os.mkdir(f"/dev/shm/{strange.stem}.d", 0o700)
        os.chown(f"/dev/shm/{strange.stem}.d", _STRANGER, _STRANGER)
    elif what == "block":
        asStranger(lambda: LockFile(strange).inode)()
    elif what != "directory":
        asStranger(lambda: blockOf(strange))()
    with pytest.raises(DomainChanged, match="has changed its uid meanwhile") as caught:
        _MAKERS[what](strange)
    assert caught.value.fix == "Ask again"
    assert foreign(strange) == []
    assert isinstance(asStranger(lambda: blockOf(strange))(), int)


@needsRoot
@pytest.mark.parametrize(
    "call",
    [
        lambda paths: blockOf(paths),
        lambda paths: segments.create(paths, 0, 1, 4096),
        lambda paths: segments.open_(paths, 0, 1, 4096),
        lambda paths: segments.unlink(paths, 0, 1),
        lambda paths: paths.segmentKeys(),
        lambda paths: Journal(paths, 1),
        lambda paths: unlinkFile(paths.linkPath),
    ],
    ids=["block", "create", "open", "unlink", "list", "journal", "remove"],
)
def test_aRefusalOfTheSystemIsATypedError(domain: str, call: Callable[[Paths], object]) -> None:
    """Broken: bare PermissionErrors. The uid has changed to the stranger's."""
    paths = Paths(0, domain)
    blockOf(paths)
    os.close(segments.create(paths, 0, 1, 4096).release())
    said = str(asStranger(lambda: call(paths))())
    assert "DomainChanged" in said and "has changed its uid meanwhile, which was 0" in said


@needsRoot
def test_aRefusalWithoutAChangeOfTheUidSaysWhatToDo(strange: Paths) -> None:
    asStranger(lambda: blockOf(strange))()
    path = f"{strange.directory}/segment-{1:016x}-0-1"
    Path(path).touch(0o600)
    said = str(asStranger(lambda: segments.open_(strange._replace(identity=1), 0, 1, 0))())
    assert "PermissionDenied" in said and path in said and f"Let uid {_STRANGER} use it" in said


@needsRoot
def test_aBrokerWhoseUidChangesInTheMiddleOfARequestGivesItsTermUp(actor: Start) -> None:
    """Broken: the client that had asked got a PermissionError that concerned the
    broker's process.
    """
    broker = actor("held = muninn.share(np.arange(3), name='a')")
    other = actor().join()
    broker.do(
        f"""
from muninn.storage import segments
from muninn.broker import directory
unlink = segments.unlink
def changing(*arguments):
    os.seteuid({_STRANGER})
    try:
        unlink(*arguments)
    finally:
        os.seteuid(0)
segments.unlink = changing
"""
    )
    broker.do("held.close()")
    assert other.do("muninn.free('a')") is None
    assert other.do("muninn.domainInfo()['brokerPid']") == other.pid
    eventually(
        lambda: not segmentsOf(other), "the successor removes what its predecessor could not"
    )


def segmentsOf(member: Actor) -> object:
    return member.do("muninn.session.membership.current().paths.segments()")


def test_anImportIsTriedAgainWhileTheLibrariesMayBeOutOfReach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: a uid that changed often could find nothing twice, and the second time
    the call failed.
    """
    missing = ImportError("not there")
    assert lateimports.patiently(Mock(side_effect=[missing, missing, "module"])) == "module"
    monkeypatch.setattr(lateimports, "_BOUND_SECONDS", 0.0)
    with pytest.raises(ImportError, match="not there"):
        lateimports.patiently(Mock(side_effect=missing))


_TOGGLING = program("togglingUids")


@needsRoot
def test_aThreadAtWorkWhileTheUidChangesSeesTypedErrorsOnly(strange: Paths) -> None:
    """Broken: the thread saw PermissionErrors, and root's lock file and block lay in
    the directory of the other uid.
    """
    done = subprocess.run(
        [sys.executable, "-c", _TOGGLING], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "True 0", done.stdout + done.stderr
    assert [
        path
        for path in foreign(strange)
        if path.count("/") > 3 or not path.startswith(f"/dev/shm/{strange.stem}.d")
    ] == []
    assert isinstance(asStranger(lambda: blockOf(strange))(), int)
