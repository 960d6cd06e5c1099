"""A file of the domain is its user's alone: put right where others could only read, refused where they could write."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from test_folders import asStranger, needsRoot, strange

import muninn
from muninn.cli.doctor import _modes
from muninn.control import layout
from muninn.control.block import openOrCreate
from muninn.control.layout import Geometry
from muninn.control.lockfile import LockFile
from muninn.control.places import Places
from muninn.errors import ControlBlockInvalid, WriterDied
from support import Actor

__all__ = ["strange"]
Start = Callable[..., Actor]
_STRANGER = 65534


def files(domain: str) -> list[Path]:
    """The regular files of the domain."""
    folder = Path(Places(os.getuid(), domain).directory)
    return [path for path in (*folder.iterdir(), Path(f"/dev/shm/muninn-{os.getuid()}-{domain}")) if path.is_file()]


def test_whatOthersCouldOnlyReadIsPutRight(domain: str, actor: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Broken: no newcomer could join, and was told after ten seconds that the block was removed."""
    maker = actor("held = muninn.share(np.arange(3), name='a')")
    paths = files(domain)
    assert len(paths) >= 5, "block, by both names, lock, segment, journal"
    for path in paths:
        path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert muninn.open("a").array.tolist() == [0, 1, 2]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths if not path.name.startswith("journal")}
    assert set(modes.values()) == {0o600}, modes
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and all("had mode 0644" in text for text in said), said  # block, lock, segment
    assert maker.do("len(muninn.domainInfo()['members'])") == 2


def test_whatAWriterLeftHalfWrittenIsNotGivenOutAsWholeAfterAChmod(domain: str, actor: Start) -> None:
    """Broken: a new block was made, for which the torn buffer was of generation 0."""
    maker = actor("a = muninn.share(np.arange(3), name='a', lifetime='keep')\nturn = a.write(); turn.__enter__()[:] = 7")
    for path in files(domain):
        path.chmod(0o444)
    maker.kill()
    with pytest.raises(WriterDied):
        muninn.open("a").read()


@pytest.mark.parametrize("which", ["block", "lock", "segment", "journal"])
def test_whatOthersCouldHaveWrittenIsRefusedAtOnce(domain: str, actor: Start, which: str) -> None:
    maker = actor("held = muninn.share(np.arange(3), name='a', lifetime='keep')")
    path = next(path for path in files(domain) if path.name.startswith(which))
    path.chmod(0o622)
    if which == "journal":
        maker.kill()
        os.unlink(Places(os.getuid(), domain).linkPath)  # so that it is adopted from
        os.unlink(f"/dev/shm/muninn-{os.getuid()}-{domain}")
    with pytest.raises(ControlBlockInvalid, match=f"{path} has mode 0622: others may have written") as caught:
        muninn.open("a")
    finding = _modes()
    assert finding.verdict == "fail" and str(path) in finding.found
    for advice in (caught.value.fix, finding.advice):
        assert f"`chmod -R go= {path.parent}`" in advice
    subprocess.run(["chmod", "-R", "go=", str(path.parent)], check=True)
    assert _modes().verdict == "ok"
    assert muninn.open("a").array.tolist() == [0, 1, 2]


def test_anOwnFileOfThePublicNameKeepsItsMode(domain: str) -> None:
    """It is no block of Muninn's: nobody asked for its mode to be changed."""
    path = Path(f"/dev/shm/muninn-{os.getuid()}-{domain}")
    path.write_bytes(bytes(1 << 16))
    path.chmod(0o644)
    assert muninn.share(b"x", name="a").name == "a"
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (bytes(1 << 16), 0o644)


# --- as another user, whom modes concern ------------------------------------------------------------------------------------------------


def blockOf(places: Places) -> int:
    """The identity of the domain's block, made if there is none, as whoever calls."""
    lockFile = LockFile(places)
    try:
        block = openOrCreate(lockFile.places, lockFile, Geometry.of(4, 64, 4))
        try:
            return block.identity
        finally:
            block.close()
    finally:
        lockFile.close()


@needsRoot
@pytest.mark.parametrize("mode", [0, 0o400, 0o044])
def test_aFileThatItsUserMayNotOpenIsPutRight(strange: Places, mode: int) -> None:
    """Broken: MNN-0019, which said to remove the block once its owner was known."""
    identity = asStranger(lambda: blockOf(strange))()
    assert isinstance(identity, int)
    for path in (strange.linkPath, strange.lockPath):
        os.chmod(path, mode)
    assert asStranger(lambda: blockOf(strange))() == identity


@needsRoot
def test_anotherUsersBlockInTheDirectoryIsReplaced(strange: Places) -> None:
    """Broken: nobody could join any more, until somebody removed it."""
    assert isinstance(asStranger(lambda: blockOf(strange))(), int)
    os.unlink(strange.linkPath)
    os.unlink(strange.blockPath)
    Path(strange.linkPath).write_bytes(bytes(layout.ELECTION_OFFSET))
    os.chmod(strange.linkPath, 0o600)
    assert isinstance(asStranger(lambda: blockOf(strange))(), int)
    assert os.stat(strange.linkPath).st_uid == _STRANGER


@needsRoot
def test_anotherUsersLockFileInTheDirectoryIsNamed(strange: Places) -> None:
    """Broken: a bare PermissionError, for ever."""
    asStranger(lambda: blockOf(strange))()
    os.chown(strange.lockPath, 0, 0)
    said = str(asStranger(lambda: blockOf(strange))())
    assert "ControlBlockInvalid" in said and f"{strange.lockPath} is uid 0's" in said and "Remove it" in said
    os.unlink(strange.lockPath)
    assert isinstance(asStranger(lambda: blockOf(strange))(), int)
