"""Repair: after any damage of the control block, the buffers on which journals and
segments agree are there again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lab import Lab

import muninn
from muninn.api import admin
from muninn.broker import journal, repair
from muninn.config import loadSettings
from muninn.control import creation, layout, lockfile
from muninn.control.creation import create
from muninn.control.geometry import Geometry
from muninn.control.header import unlinkBlock
from muninn.errors import (
    BrokerUnavailable,
    ControlBlockInvalid,
    DomainDraining,
    HostMemoryFull,
    WriterDied,
)
from muninn.session.membership import current
from muninn.storage import segments
from muninn.storage.paths import Paths
from support import Actor, ActorError, eventually, leftovers, program

Start = Callable[..., Actor]


def _ruin(domain: str) -> None:
    path = f"/dev/shm{Paths(os.getuid(), domain).blockName}"
    with open(path, "r+b") as file:
        file.write(b"\xff" * 4096)


def _makeAndEnd(actor: Start) -> None:
    maker = actor(
        "for n in range(3): muninn.share(np.full(1000, n), name=f'n{n}')\nmuninn.open('n1').free()\nmuninn.share(b'x', name='fast', mode='fastMode')"
    )
    maker.kill()


def test_bringsBackWhatLivedAndNothingElse(domain: str, actor: Start) -> None:
    _makeAndEnd(actor)
    _ruin(domain)
    with pytest.raises(ControlBlockInvalid):
        current()
    result = admin.repair()
    assert result["recovered"] == ["n0", "n2"]
    assert muninn.open("n2").array.tolist() == [2] * 1000
    assert sorted(each["name"] for each in muninn.listBuffers()) == ["n0", "n2"]
    muninn.share(np.arange(3), name="n1")
    assert muninn.open("n0").array.sum() == 0
    eventually(lambda: len(leftovers(domain)) == 3, "nothing else is left")


def test_aRepairThatWasKilledLeavesABlockOfAnotherVersionToTheNext(
    domain: str, actor: Start
) -> None:
    """Broken: the next process took the block for one of its own version."""
    _makeAndEnd(actor)
    path = f"/dev/shm{Paths(os.getuid(), domain).blockName}"
    with open(path, "r+b") as file:
        file.seek(layout.VERSION_OFFSET)
        file.write((layout.VERSION + 1).to_bytes(4, "little"))
    dying = actor(
        "from muninn.api import admin\nfrom muninn.broker import repair\nimport signal\nrepair.create = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    )
    dying.begin("admin.repair()")
    with contextlib.suppress(AssertionError):
        dying.result()
    dying.kill()
    with pytest.raises(ControlBlockInvalid, match=f"version {layout.VERSION + 1}"):
        current()
    assert (
        admin.repair()["recovered"] == ["n0", "n2"]
        and muninn.open("n2").array.tolist() == [2] * 1000
    )


def test_isRefusedWhileAMemberIsInTheDomain(domain: str, actor: Start) -> None:
    other = actor().join()
    with pytest.raises(BrokerUnavailable, match=str(other.pid)):
        admin.repair()
    other.stop()
    _ruin(domain)  # The block names no member, but the byte locks show one.
    with pytest.raises(BrokerUnavailable, match=str(other.pid)):
        admin.repair()


def test_isRefusedWhileAMemberLivesThatHasLostItsByte(domain: str, actor: Start) -> None:
    """A backup of `/dev/shm` reads the lock file, and closes it. Broken: repair
    believed the free byte, and a second writer began.
    """
    writer = actor(
        "held = muninn.share(np.arange(3), name='a')\nscope = held.write()\nview = scope.__enter__()"
    )
    writer.do(f"open({Paths(os.getuid(), domain).lockPath!r}).close()")
    writer.stop()  # The member takes the byte again at its next look.
    with pytest.raises(BrokerUnavailable, match=str(writer.pid)):
        admin.repair()
    with pytest.raises(TimeoutError):
        muninn.open("a", access="readWrite").write(timeout=0.2).__enter__()
    writer.resume()
    writer.do("view[:] = 7\nscope.__exit__(None, None, None)")
    assert muninn.open("a").read().tolist() == [7, 7, 7]


def test_aWithdrawnBlockNamesItsMembersToo(domain: str, actor: Start) -> None:
    """A repair had withdrawn the block, and died. Broken: the next repair could not
    read the block, and believed the free bytes.
    """
    other = actor().join()
    other.stop()
    paths = Paths(os.getuid(), domain)
    with open(paths.linkPath, "r+b") as file:
        file.seek(layout.VERSION_OFFSET)
        file.write(bytes(4))
    other.resume()
    other.do(f"open({paths.lockPath!r}).close()")
    other.stop()
    with pytest.raises(BrokerUnavailable, match=str(other.pid)):
        admin.repair()


def test_repairingTwiceIsFine(domain: str, actor: Start) -> None:
    _makeAndEnd(actor)
    _ruin(domain)
    assert admin.repair()["recovered"] == admin.repair()["recovered"]
    assert muninn.open("n0").array.size == 1000


def test_aTornJournalBringsBackTheRecordsBeforeTheTear(domain: str, actor: Start) -> None:
    _makeAndEnd(actor)
    _ruin(domain)
    for ofBlock, epoch in Paths(os.getuid(), domain).journals():
        path = ofBlock.journalPath(epoch)
        os.truncate(path, os.stat(path).st_size // 3)
    recovered = admin.repair()["recovered"]
    assert all(muninn.open(name).array.size == 1000 for name in recovered)
    assert len(leftovers(domain)) == len(recovered)


def test_aFreedBufferThatWasStillHeldIsNotBroughtBack(domain: str, actor: Start) -> None:
    """The row was DYING when all processes died. Broken: only rows that were completely
    gone counted as freed.
    """
    maker = actor(
        "held = muninn.share(b'x', name='a')\nview = held.array\nmuninn.share(b'y', name='b')\nheld.free()"
    )
    assert maker.do("bytes(view).decode()") == "x"
    maker.kill()
    _ruin(domain)
    assert admin.repair()["recovered"] == ["b"]


def test_aTruncatedSegmentIsNotBroughtBack(domain: str, actor: Start) -> None:
    """Broken: any file of the right name was taken for the buffer's segment."""
    _makeAndEnd(actor)
    _ruin(domain)
    first = leftovers(domain)[0]
    os.truncate(f"/dev/shm/{first}", 100)
    assert len(admin.repair()["recovered"]) == 1
    assert first not in leftovers(domain)


def test_theNextTermComesAfterAllThatTheJournalsRemember(domain: str, actor: Start) -> None:
    """Broken: the new block began with epoch 1, and the rows in it had a later epoch."""
    _makeAndEnd(actor)
    actor().join().kill()
    last = max(epoch for _, epoch in Paths(os.getuid(), domain).journals())
    _ruin(domain)
    admin.repair()
    assert current().election.epoch() > last


def _lose(domain: str, *names: str) -> None:
    paths = Paths(os.getuid(), domain)
    for name in names or ("blockPath", "linkPath"):
        os.unlink(getattr(paths, name))


def test_aProcessThatJoinsAfterTheLossOfTheBlockAdoptsFirst(domain: str, actor: Start) -> None:
    """Broken: the new block's first broker collected the segments as orphans, and
    dropped the journals that vouched for them.
    """
    _makeAndEnd(actor)
    _lose(domain)
    other = actor("names = sorted(each['name'] for each in muninn.listBuffers())")
    assert other.do("names") == ["n0", "n2"]
    other.kill()
    assert muninn.open("n2").array.tolist() == [2] * 1000
    again = actor("muninn.share(np.arange(3), name='n3')")
    again.kill()
    assert len(leftovers(domain)) == 3


def test_anAdoptedBufferIsAdoptedAgain(domain: str, actor: Start) -> None:
    """The buffer's segment has the name that an earlier block gave it."""
    _makeAndEnd(actor)
    for _ in range(3):
        _lose(domain)
        actor("muninn.open('n0', access='readWrite').array[0] += 1").kill()
    assert muninn.open("n0").array[0] == 3
    muninn.free("n0")
    eventually(lambda: len(leftovers(domain)) == 1, "the adopted segment went with its buffer")


def test_theBlocksPublicNameAloneIsNotNeeded(domain: str, actor: Start) -> None:
    """`rm /dev/shm/muninn-*` while processes live. Broken: a second block got the name,
    and its broker collected segments in use.
    """
    first = actor("held = muninn.share(np.arange(3), name='a', access='readWrite')")
    _lose(domain, "blockPath")
    second = actor(
        "held = muninn.open('a', access='readWrite')\nheld.array[0] = 7\nmuninn.share(np.arange(2), name='b')"
    )
    assert first.do("held.array.tolist()") == [7, 1, 2] and first.do(
        "muninn.open('b').array.tolist()"
    ) == [0, 1]
    assert second.do("muninn.domainInfo()['brokerPid']") == first.pid
    eventually(
        lambda: os.path.exists(Paths(os.getuid(), domain).blockPath), "the broker restores the name"
    )


def test_twoLivingBlocksOfOneNameDoNotMix(domain: str, actor: Start) -> None:
    """Everything of the domain was removed while processes live (logind's RemoveIPC,
    `rm -r /dev/shm/*`).
    """
    first, second = (
        actor("held = muninn.share(np.arange(3), name='a')"),
        actor("held = muninn.open('a')"),
    )
    kept = first.do("view = held.array\nview.tolist()")
    paths = Paths(os.getuid(), domain)
    os.unlink(paths.blockPath)
    shutil.rmtree(paths.directory, ignore_errors=True)
    newcomer = actor("mine = muninn.share(np.full(3, 100), name='a')")
    assert first.do("muninn.share(np.arange(3), name='again').array.tolist()") == [0, 1, 2], (
        "a member that creates finds out, and joins anew"
    )
    assert first.do("muninn.open('a').array.tolist()") == [100] * 3
    assert first.do("view.tolist()") == kept
    with pytest.raises(ActorError, match="DomainChanged"):
        first.do("held.array")
    first.do("muninn.share(np.full(2, 5), name='x')")
    assert second.do("muninn.open('x').array.tolist()") == [5, 5], (
        "so does a member that asks for a name"
    )
    assert newcomer.do(
        "(muninn.open('x').array.tolist(), mine.array.tolist(), len(muninn.domainInfo()['members']))"
    ) == [
        [5, 5],
        [100] * 3,
        3,
    ]


@pytest.mark.parametrize("removed", ["directory", "lockPath"])
def test_aBlockWhoseDirectoryOrLockFileIsRemovedIsLost(
    domain: str, actor: Start, removed: str
) -> None:
    """Its public name is still there. Broken: its broker resigned again and again,
    because there was no directory for a journal.
    """
    first = actor("held = muninn.share(np.arange(3), name='a')")
    epoch = "muninn.session.membership.current().election.epoch()"
    paths, before = Paths(os.getuid(), domain), first.do(epoch)
    shutil.rmtree(paths.directory, ignore_errors=True) if removed == "directory" else os.unlink(
        paths.lockPath
    )
    assert first.do("muninn.share(np.arange(2), name='b').array.tolist()") == [0, 1]
    newcomer = actor("muninn.open('b').array.tolist()")
    assert first.do("len(muninn.domainInfo()['members'])") == 2 and newcomer.do(epoch) < before + 20


def test_nothingIsAdoptedWhileAMemberLivesInTheLostBlock(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process can not leave; its buffers must not be in two blocks."""
    first = actor("held = muninn.share(np.arange(3), name='a')")
    first.stop()
    _lose(domain)
    with monkeypatch.context() as patched, pytest.raises(BrokerUnavailable, match=str(first.pid)):
        patched.setattr(creation, "_LEAVING_SECONDS", 1.0)
        muninn.listBuffers()
    first.kill()
    assert muninn.open("a").array.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "removed", [("blockPath", "linkPath"), ("lockPath",), ("blockPath", "linkPath", "lockPath")]
)
def test_anIdleMemberLeavesALostBlockByItself(
    domain: str, actor: Start, removed: tuple[str, ...]
) -> None:
    """Broken: members that sent no request stayed in it, and kept every newcomer out
    for ever; its broker waited for a newcomer's CREATE.
    """
    first, second = (
        actor("held = muninn.share(np.arange(3), name='a')"),
        actor("held = muninn.open('a')"),
    )
    _lose(domain, *removed)
    assert muninn.open("a").array.tolist() == [0, 1, 2]
    for each in (first, second):
        with pytest.raises(ActorError, match="DomainChanged"):
            each.do("held.read()")
        assert each.do("muninn.open('a').read().tolist()") == [0, 1, 2]
    assert len(muninn.domainInfo()["members"]) == 3


@pytest.mark.parametrize(
    "removed", [("blockPath", "linkPath"), ("lockPath",), ("blockPath", "linkPath", "lockPath")]
)
def test_anAccessInALostBlockIsOverBeforeAnotherBegins(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch, removed: tuple[str, ...]
) -> None:
    """Broken: without the lock file no process could see that the block had a member,
    and two processes wrote one segment at once.
    """
    actor("held = muninn.share(np.arange(3), name='a', access='readWrite')")
    writer = actor(
        "held = muninn.open('a', access='readWrite')\nscope = held.write()\nview = scope.__enter__()"
    )
    _lose(domain, *removed)
    monkeypatch.setattr(creation, "_LEAVING_SECONDS", 5.0)
    writer.do("from muninn.session import leaving\nleaving.LEAVE_BOUND_SECONDS = 0.5")
    with pytest.raises(BrokerUnavailable, match=str(writer.pid)):
        muninn.open("a")
    with pytest.raises(ActorError, match="BrokerUnavailable"):
        writer.do("muninn.listBuffers()")
    writer.do("view[:] = 7\nscope.__exit__(None, None, None)")
    with muninn.open("a", access="readWrite").write(timeout=5) as view:
        assert view.tolist() == [7, 7, 7]


@pytest.mark.parametrize("saysKernel", [True, False])
def test_aLockInALostBlockIsReleasedBeforeAnotherHasIt(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch, saysKernel: bool
) -> None:
    """Everything was removed. Broken: where there was no segment, a newcomer did not
    look for members of the block, and two processes had one lock.
    """
    holder = actor("lock = muninn.Lock('l')\nlock.acquire()")
    paths = Paths(os.getuid(), domain)
    os.unlink(paths.blockPath)
    shutil.rmtree(paths.directory, ignore_errors=True)
    with monkeypatch.context() as patched:
        patched.setattr(creation, "_LEAVING_SECONDS", 0.5)
        if not saysKernel:
            patched.setattr(lockfile, "openFile", _refuse)
        with pytest.raises(BrokerUnavailable, match=str(holder.pid)):
            muninn.Lock("l").acquire()
    holder.do("lock.release()")
    with muninn.Lock("l").held(timeout=5), pytest.raises(ActorError, match="TimeoutError"):
        holder.do("muninn.Lock('l').acquire(timeout=0.2)")


def test_oneProcessIsAskedForEachLockFile(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a first join looked at every descriptor of every member of every domain."""
    pids = {f"/proc/{actor().join().pid}/fd" for _ in range(3)}
    listdir, asked = os.listdir, list[str]()
    monkeypatch.setattr(os, "listdir", lambda path: (asked.append(path), listdir(path))[1])
    assert lockfile.removedFileHolder("/dev/shm/nothing", 60.0, amongAll=False) == 0
    assert len(pids.intersection(asked)) == 1


def _refuse(*_: object) -> None:
    raise FileNotFoundError


def test_aBrokerWhoseBlockWasLostEndsNothingOfTheNextOnes(lab: Lab) -> None:
    """The broker does not know of the loss yet. Broken: it took another block's files
    for older ones, dropped the journals, and collected the segments.
    """
    broker = lab.broker(lab.member())
    lab.block.put(layout.ADOPTED_OFFSET, (1).to_bytes(4, "little"))
    unlinkBlock(lab.paths)
    later = create(lab.paths, lab.lockFile, lab.block.geometry, None)
    journal.Journal(later.paths, 1).close()
    os.close(segments.create(later.paths, 0, 1, 4096))
    broker._maintenance._collectOrphans()
    broker._maintenance.snapshot.want()
    while broker._maintenance.snapshot.isDue():
        broker._maintenance.snapshot.workOnce()
    assert later.paths.segments() == [(0, 1)] and later.paths.epochsOf("journal")
    later.close()


def test_anAdoptionThatFailsLeavesNothingOfItsOwn(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails in the middle, as when `/dev/shm` is full. Broken: each attempt left the
    files that it had written.
    """
    _makeAndEnd(actor)
    _lose(domain)
    paths = Paths(os.getuid(), domain)
    # Nothing depends on the sockets of the dead, and a creator removes them first.
    before = sorted(each for each in os.listdir(paths.directory) if not each.endswith(".sock"))
    inserted = list[object]()

    def insert(*_: object) -> None:
        if inserted:
            raise HostMemoryFull("as on a full /dev/shm")
        inserted.append(_)

    with monkeypatch.context() as patched:
        patched.setattr(repair.NameIndex, "insert", insert)
        with pytest.raises(HostMemoryFull):
            muninn.listBuffers()
        inserted.clear()
        with pytest.raises(HostMemoryFull):
            admin.repair()
    assert sorted(os.listdir(paths.directory)) == before
    assert sorted(each["name"] for each in muninn.listBuffers()) == ["n0", "n2"]


def test_repairKeepsAProcessThatJoinsMeanwhileOut(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: repair looked for members first, and a process that joined after that
    lived in a block without a name.
    """
    _makeAndEnd(actor)
    installing, joiner = repair.Adoption._install, list[Actor]()

    def slowly(*arguments: Any) -> Any:
        joiner.append(actor())
        joiner[0].begin(
            "muninn.share(b'mine', name='mine')\nsorted(each['name'] for each in muninn.listBuffers())"
        )
        time.sleep(0.3)
        assert joiner[0].isBusy()
        return installing(*arguments)

    monkeypatch.setattr(repair.Adoption, "_install", slowly)
    assert admin.repair()["recovered"] == ["n0", "n2"]
    assert joiner[0].result() == ["mine", "n0", "n2"]


@pytest.mark.parametrize("step", ["unlink", "rename", "link", "storeRelease32", "pwrite"])
@pytest.mark.parametrize("ruined", [True, False])
def test_aRepairThatIsKilledLosesNothing(
    domain: str, actor: Start, step: str, ruined: bool
) -> None:
    """The kill comes before and after each of its calls of one kind. Broken: the next
    program dropped the buffers that were not installed yet.
    """
    _makeAndEnd(actor)
    for number in range(1, 40):
        if ruined:
            _ruinLink(domain)
        repairing = actor(program("killedRepair", STEP=step, NUMBER=str(number)))
        repairing.begin("admin.repair()")
        with contextlib.suppress(AssertionError):
            repairing.result()
            break
    else:
        raise AssertionError("it never came to its end")
    if number == 1:
        assert step == "storeRelease32"
    assert sorted(each["name"] for each in muninn.listBuffers()) == ["n0", "n2"]
    assert muninn.open("n2").array.tolist() == [2] * 1000


def _ruinLink(domain: str) -> None:
    with (
        contextlib.suppress(FileNotFoundError),
        open(Paths(os.getuid(), domain).linkPath, "r+b") as file,
    ):
        file.write(b"\xff" * 4096)


def test_aJournalOfAnotherVersionIsKeptWithItsSegments(domain: str, actor: Start) -> None:
    """The journal is of another version of Muninn. Broken: its segments were collected
    as orphans.
    """
    _makeAndEnd(actor)
    paths = Paths(os.getuid(), domain)
    of, epoch = paths.journals()[0]
    os.unlink(of.journalPath(epoch))
    written = journal.Journal(of, epoch)
    for key in paths.segmentKeys():
        written.append(
            "live", row=key.row, incarnation=key.incarnation, description=b"of another version"
        )
    written.close()
    before = leftovers(domain)
    _ruin(domain)
    result = admin.repair()
    assert result["recovered"] == result["discarded"] == [] and len(result["kept"]) == len(before)
    muninn.share(b"x", name="mine")
    current().leave()
    actor().join().kill()
    assert set(before) < set(leftovers(domain)) and len(paths.journals()) > 1


def test_aBufferThatASoundBlockCallsLiveIsKept(domain: str, actor: Start) -> None:
    """Its journals were removed. Broken: repair removed all segments, because no
    journal named them.
    """
    _makeAndEnd(actor)
    for ofBlock, epoch in Paths(os.getuid(), domain).journals():
        os.unlink(ofBlock.journalPath(epoch))
    result = admin.repair()
    assert (result["recovered"], len(result["discarded"])) == (["n0", "n2"], 0)
    assert muninn.open("n2").array.tolist() == [2] * 1000


def test_aRowThatASoundBlockCallsLiveAndNoVersionReadsIsKept(domain: str, actor: Start) -> None:
    _makeAndEnd(actor)
    paths = Paths(os.getuid(), domain)
    for ofBlock, epoch in paths.journals():
        os.unlink(ofBlock.journalPath(epoch))
    with open(paths.linkPath, "r+b") as file:
        geometry = Geometry.of(*_limits())
        file.seek(geometry.rowsOffset + layout.ROW_MODE_OFFSET)
        file.write(b"\xff")  # the state of the first row
    result = admin.repair()
    assert (result["recovered"], len(result["kept"]), len(result["discarded"])) == (["n2"], 1, 0)


def test_aBufferThatAJournalEndedDoesNotLiveByTheOldBlock(domain: str, actor: Start) -> None:
    """The broker died between the record and the change of the row."""
    _makeAndEnd(actor)
    paths = Paths(os.getuid(), domain)
    key = paths.segmentKeys()[0]
    ofBlock, epoch = paths.journals()[-1]
    with open(ofBlock.journalPath(epoch), "ab") as file:
        file.write(journal._framed("free", {"row": key.row, "incarnation": key.incarnation}))
    result = admin.repair()
    assert (len(result["recovered"]), len(result["discarded"])) == (1, 1)


def _limits() -> tuple[int, int, int]:
    control = loadSettings().control
    return control.maxMembers, control.maxBuffers, control.maxLeases


def test_aDomainWhoseEpochsAreHalfUsedUpBeginsAnew(domain: str, actor: Start) -> None:
    """Broken: at 2^24 the epoch ran over into the incarnation, and no buffer could be
    created or freed any more.
    """
    _makeAndEnd(actor)
    actor(
        "from muninn.storage.paths import Paths\nfrom muninn.control.lockfile import LockFile\nfrom muninn.control.creation import openOrCreate\n"
        "from muninn.control.election import Election\nfrom muninn.control.geometry import Geometry\nfrom muninn.control.rowstate import MAX_EPOCH\n"
        "paths = Paths(os.getuid(), os.environ['MUNINN_DOMAIN'])\n"
        "Election(openOrCreate(paths, LockFile(paths), Geometry.of(256, 16384, 2048))).startAt(MAX_EPOCH - 3)"
    ).kill()
    for number in range(4):
        fresh = actor(f"muninn.share(np.arange(3) + {number}, name='k{number}')")
        assert (
            fresh.do("current = muninn.session.membership.current()\ncurrent.election.epoch()")
            < 1000
        )
        assert fresh.do(
            f"[int(muninn.open(f'k{{n}}').array[0]) for n in range({number + 1})]"
        ) == list(range(number + 1))
        fresh.kill()
    assert muninn.open("n2").array.tolist() == [2] * 1000
    muninn.free("n0")


def test_aDrainIsTakenOverByTheNextBlock(domain: str, actor: Start) -> None:
    actor("from muninn.api import admin; admin.drain(reason='disk change')").leave()
    assert admin.repair()["recovered"] == []
    assert (info := muninn.domainInfo())["draining"] and info["drainReason"] == "disk change"
    with pytest.raises(DomainDraining, match="disk change"):
        muninn.share(b"x")
    admin.drain(on=False)
    muninn.share(b"x")


def test_aWriterThatDiedIsRememberedWhenADomainBeginsAnew(domain: str, actor: Start) -> None:
    actor(
        "held = muninn.share(np.arange(3), name='a', access='readWrite')\nheld.write().__enter__()[0] = 9"
    ).kill()
    admin.repair()
    with pytest.raises(WriterDied):
        muninn.open("a").read()


@pytest.mark.parametrize("isRuined", [False, True])
def test_whatMayBeWrittenInPlaceStaysSo(domain: str, actor: Start, isRuined: bool) -> None:
    """It is assumed where the old block can not be read."""
    actor(
        "a, b = (muninn.share(np.arange(3), name=n, access='readWrite') for n in 'ab'); a.array"
    ).kill()
    if isRuined:
        _ruin(domain)
    assert admin.repair()["recovered"] == ["a", "b"]
    found = [muninn.open(name)._checked().isWrittenInPlace() for name in "ab"]
    assert found == [True, isRuined]
