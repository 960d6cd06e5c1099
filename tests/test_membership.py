"""`session/membership.py`: how a process joins a domain, and how it leaves."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import muninn
from muninn.broker.broker import Broker
from muninn.control import layout
from muninn.control.creation import openOrCreate
from muninn.control.header import unlinkBlock
from muninn.control.lockfile import LockFile
from muninn.control.members import MemberKey, MemberTable
from muninn.errors import ProtocolViolation, TableFull
from muninn.session import entry, member, membership
from muninn.session.leaving import Leaving
from muninn.storage.paths import Paths
from muninn.system import atomics
from support import Actor, ActorError, Background, eventually, program


def test_goesQuietlyAlthoughItsThreadStillAsksAfterTheGoodBye(
    domain: str,
    actor: Callable[..., Actor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The background thread may have a request under way when the slot is given back:
    its refusal is no error.

    Broken: the soak saw `ProtocolViolation: member slot 4 was given back` logged by one
    of some thirty processes that ended politely.
    """
    actor().join()  # another process is the broker
    muninn.domainInfo()
    current = membership.current()
    request = current.client.request

    def slowly(op: str, *arguments: Any, **fields: Any) -> Any:
        answer = request(op, *arguments, **fields)
        if op == "leave":
            current.openBuffers.context.releases._released.append((0, 1))
            current.wake()
            time.sleep(0.3)
        return answer

    monkeypatch.setattr(current.client, "request", slowly)
    with caplog.at_level(logging.ERROR, "muninn"):
        current.leave()
    assert not caplog.records, caplog.text


def test_leavesQuietlyWhereItMayOpenNothingMore(domain: str) -> None:
    """Broken: the exit handler could not list the directory, and printed the traceback
    of an OSError.
    """
    code = "import resource, muninn; muninn.listBuffers(); resource.setrlimit(resource.RLIMIT_NOFILE, (3, 64))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_aBrokerThatIsDeposedWhileItsTermBeginsHasNotFailed(
    domain: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A successor removes the sockets of its predecessors, of which one may stand still
    while it begins its term.
    """
    muninn.listBuffers()
    current, begun, start = membership.current(), list[int](), Broker.start

    def deposed(broker: Broker) -> None:
        begun.append(broker._term.epoch)
        if len(begun) == 1:
            broker._election.replace(broker._term, None)
            raise FileNotFoundError("broker.sock")
        start(broker)

    monkeypatch.setattr(Broker, "start", deposed)
    current.election.replace(current.election.term(), None)
    current.wake()
    eventually(lambda: len(begun) > 1, "it stands again")
    assert muninn.listBuffers() == [] and current.role.candidacy._failures == 0
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_hasLoadedWhatASuccessorNeeds(domain: str, actor: Callable[..., Actor]) -> None:
    """Importing the broker takes 15 ms, which is three times what the rest of a
    takeover does.

    Broken: the background thread did not import it any more, because its code did not
    use it, and each takeover waited for the import.
    """
    actor().join()
    follower = actor("import sys").join()
    eventually(
        lambda: follower.do("'muninn.broker.broker' in sys.modules"),
        "a follower has loaded the broker",
    )


def _blockPath(domain: str) -> str:
    return f"/dev/shm{Paths(os.getuid(), domain).blockName}"


def test_noProcessStaysInABlockThatWasWithdrawnMeanwhile(
    domain: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken: a process that joined did not look again after it had its slot, and was
    alone in a block that no other process finds.
    """
    claim, withdrawn = MemberTable.claim, list[int]()

    def late(table: MemberTable, preferred: bool) -> MemberKey:
        key = claim(table, preferred)
        if not withdrawn:
            withdrawn.append(key.slot)
            atomics.exchangeSeqCst32(table._block.address + layout.VERSION_OFFSET, 0)
            unlinkBlock(table._block.paths)
        return key

    monkeypatch.setattr(MemberTable, "claim", late)
    muninn.share(b"x", name="a")
    assert (
        withdrawn
        and os.path.exists(_blockPath(domain))
        and not membership.current().block.isRetired()
    )
    assert "joins anew" not in caplog.text, "it was never a member of the block that was withdrawn"


def test_noProcessJoinsABlockThatIsBeingWithdrawn(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair has looked for members already, and the block still has its names.
    Broken: a process that joined then stayed in the block that was replaced.
    """
    claim, claimed = MemberTable.claim, list[int]()

    def late(table: MemberTable, preferred: bool) -> MemberKey:
        key = claim(table, preferred)
        claimed.append(key.slot)
        if len(claimed) == 1:
            atomics.exchangeSeqCst32(table._block.address + layout.VERSION_OFFSET, 0)
        return key

    monkeypatch.setattr(MemberTable, "claim", late)
    muninn.domainInfo()
    assert len(claimed) == 2, "it gave its slot back, and opened the block anew under CREATE"


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_aLeaverDoesNotMakeAWithdrawnBlockValidAgain(
    domain: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Two members leave at once, and a third process has begun to claim a slot: one
    leaver withdraws the block, the other finds the claim (found by the model).

    Broken: the second leaver gave the block, which had no name any more, its version
    back, and the third process stayed in it, alone for ever.
    """
    muninn.domainInfo()
    leaving = membership.current()
    # its own: a process that finds its block gone closes this object
    lockFile = LockFile(leaving.paths)
    creating = LockFile.creating

    def withdraw() -> None:
        with creating(lockFile):
            atomics.exchangeSeqCst32(leaving.block.address + layout.VERSION_OFFSET, 0)
            unlinkBlock(leaving.paths)

    @contextlib.contextmanager
    def late(self: LockFile, boundSeconds: float = 10.0) -> Iterator[None]:
        """The other leaver was first."""
        if self is leaving.block.lockFile and not leaving.block.isRetired():
            withdraw()
        with creating(self, boundSeconds):
            yield

    claiming = leaving.block.memberAddress(leaving.key.slot + 1)
    atomics.storeRelease64(claiming, 1 << 32 | layout.MEMBER_CLAIMING)
    with monkeypatch.context() as patched:
        if when == "before":
            withdraw()
        else:
            looks = iter([False, True])  # the third process comes between the two
            patched.setattr(LockFile, "creating", late)
            patched.setattr(entry, "_isWanted", lambda *_: next(looks))
        leaving.leaving.retire()
    assert leaving.block.isRetired()
    atomics.storeRelease64(claiming, 1 << 32 | layout.MEMBER_FREE)
    later = openOrCreate(leaving.paths, lockFile, leaving.block.geometry)
    leaving.leaving.retire()
    assert later.hasName(), "the name leads to another block now"
    later.close()


def test_aLeaverWithdrawsTheBlockBeforeItLooksForMembers(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: both sides changed or read the slots first and the version second, so
    that neither saw the other.
    """
    muninn.domainInfo()
    current = membership.current()
    occupied, seen = current.members.occupied, list[bool]()

    def looking() -> list[int]:
        seen.append(current.block.isRetired())
        return occupied()

    monkeypatch.setattr(current.members, "occupied", looking)
    current.leave()
    assert seen[-1] and not os.path.exists(_blockPath(domain))


@pytest.mark.parametrize("mode", ["bigMode", "fastMode"])
def test_aBlockWithBuffersStaysAndIsValid(domain: str, mode: str) -> None:
    """Broken: only segments kept the block, and the version was not restored."""
    muninn.share(b"x", name="a", mode=mode)
    membership.current().leave()
    assert os.path.exists(_blockPath(domain))
    if mode == "bigMode":
        assert bytes(muninn.open("a").array) == b"x"
    else:
        muninn.share(b"y", name="a", mode=mode)


def test_aBlockThatOthersAreInStays(domain: str, actor: Callable[..., Actor]) -> None:
    """Broken: each member that left withdrew the block when nothing was shared."""
    other = actor().join()
    muninn.domainInfo()
    inode = os.stat(_blockPath(domain)).st_ino
    membership.current().leave()
    assert os.stat(_blockPath(domain)).st_ino == inode
    other.do("muninn.share(b'x', name='a')")
    assert bytes(muninn.open("a").array) == b"x"


def test_theRobustWordOfTheSlotsLastMemberIsForgotten(
    domain: str, actor: Callable[..., Actor]
) -> None:
    """Broken: a word that still named a thread made the slot useless: no process could
    join in it.
    """
    muninn.domainInfo()
    atomics.exchangeSeqCst32(membership.current().members.robustAddress(1), 4242)
    assert actor().do("muninn.domainInfo()['members'][1]['slot']") == 1


def test_anOwnerLockOfTheSlotsLastMemberIsADeadOnes(
    domain: str, actor: Callable[..., Actor]
) -> None:
    """Broken: the generation in the owner lock was not compared, and the dead kept
    their locks until the slot's next member died.
    """
    other = actor().join()
    muninn.domainInfo()
    current = membership.current()
    (key,) = (
        key for key in current.members.live() if current.members.identity(key.slot).pid == other.pid
    )
    assert not current.tables.isDead(key.slot, key.generation & 0x7FFFF)
    assert current.tables.isDead(key.slot, key.generation - 1 & 0x7FFFF)
    assert not current.tables.isDead(current.key.slot, current.key.generation & 0x7FFFF)


def test_aNewTermCallsThreadsAwayFromAnEarlierBroker(
    domain: str, actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the background thread did not tell the client about the new term."""
    monkeypatch.setenv("MUNINN_TAKEOVER_MS", "60000")  # nobody takes a slow broker for stuck
    broker = actor().join()
    muninn.domainInfo()
    current = membership.current()
    told: list[int] = []
    monkeypatch.setattr(current.client, "disconnect", told.append)
    epoch = current.election.epoch()
    broker.kill()
    eventually(lambda: any(each > epoch for each in told), "the client was told")


def test_aRequestUnderWayAtTheGoodByeIsNoError(
    domain: str,
    actor: Callable[..., Actor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The thread was waiting for its answer when the slot was given back. Broken: it
    logged the refusal as an error.
    """
    actor().join()
    muninn.domainInfo()
    current = membership.current()
    tryReclaimReleased, asking = (
        current.openBuffers.context.releases.tryReclaimReleased,
        threading.Event(),
    )

    def underWay() -> bool:
        if threading.current_thread() is not current.worker.thread:
            return tryReclaimReleased()
        asking.set()
        eventually(lambda: current.standing.isLeaving, "the good-bye")
        raise ProtocolViolation("member slot 1 was given back")

    monkeypatch.setattr(current.openBuffers.context.releases, "tryReclaimReleased", underWay)
    current.wake()
    assert asking.wait(20)
    with caplog.at_level(logging.ERROR, "muninn"):
        current.leave()
    assert not caplog.records, caplog.text


def test_aTableThatIsFullOfTheDeadIsWaitedFor(
    domain: str, actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills in quick succession fill the slots faster than they are taken back (found
    by the fail points). Broken: `TableFull` at once.
    """
    monkeypatch.setenv("MUNINN_MAX_MEMBERS", "3")
    broker = actor().join()
    doomed = [actor().join() for _ in range(2)]
    with pytest.raises(TableFull):
        muninn.domainInfo()  # No member has died, so the error comes at once.
    broker.stop()
    for each in doomed:
        each.kill()
    threading.Timer(0.2, broker.resume).start()
    assert broker.pid in {member["pid"] for member in muninn.domainInfo()["members"]}


INSIDE = """
import threading
from muninn.session import membership
b, lock, inside, semaphore = muninn.open("a", access="readWrite"), muninn.Lock("l"), threading.Event(), threading.Event()
def work():
    with lock if what == "lock" else b.write() as view:
        inside.set()
        semaphore.wait(60)
thread = threading.Thread(target=work, daemon=True)
thread.start()
inside.wait(60)
"""


@pytest.mark.parametrize("what", ["lock", "access"])
def test_aThreadThatIsInsideKeepsTheSlot(
    domain: str, actor: Callable[..., Actor], what: str
) -> None:
    """A process ends while one of its daemon threads is at work. Broken: it gave the
    slot back, and the next waiter got the access.
    """
    buffer = muninn.share(bytes(4), name="a", access="readWrite")
    ending = actor(f"what = {what!r}" + INSIDE)
    ending.do("membership._leaveAtExit()")

    def enter() -> None:
        with muninn.Lock("l").held(0.3) if what == "lock" else buffer.write(timeout=0.3):
            pass

    with pytest.raises(TimeoutError):
        enter()
    ending.do("semaphore.set(); thread.join(60)")
    enter()
    assert buffer.generation == (0 if what == "lock" else 4)
    ending.do("membership._leaveAtExit()")
    assert [member["pid"] for member in muninn.domainInfo()["members"]] == [os.getpid()]


@pytest.mark.parametrize("end", [Leaving.leave, Leaving.moveOut])
@pytest.mark.parametrize("what", ["lock", "access", "create", "open"])
def test_anAccessThatBeginsWhileTheProcessLeavesHasASlotOfItsOwn(
    domain: str, monkeypatch: pytest.MonkeyPatch, what: str, end: Callable[[Leaving], None]
) -> None:
    """Broken: the access began under the slot that was given back a moment later. A
    membership of another uid ended under a lock that was taken meanwhile.
    """
    buffer, lock = muninn.share(bytes(4), name="a", access="readWrite"), muninn.Lock("l")
    muninn.share(b"x", name="other").close()
    old = membership.current()
    isInside, begun = old.openBuffers.isInside, list[Background]()

    def work() -> MemberKey:
        if what == "lock":
            lock.acquire()
            return lock._openBuffer.tables.key
        if what == "access":
            with buffer.write():
                return buffer._checked().tables.key
        return (
            (muninn.share(b"y", name="b") if what == "create" else muninn.open("other"))
            ._checked()
            .tables.key
        )

    def looking() -> bool:
        if not begun:
            begun.append(Background(work))
            if what != "open":
                begun[0].asleep()
        return isInside()

    monkeypatch.setattr(old.openBuffers, "isInside", looking)
    end(old.leaving)
    key = begun[0].ended()
    if what != "open":
        assert membership.current() is not old and key == membership.current().key
    assert bytes(muninn.open("a").array) == bytes(4)


def test_aLeaseThatIsGivenBackLateIsNotTheNextMembers(domain: str) -> None:
    """Memory is unmapped with its last array, perhaps when another member has the slot
    already. Broken: the lease of that member was cleared.
    """
    buffer = muninn.share(b"x", name="a")
    table, index = membership.current().tables.leases, buffer._checked().memory.leaseIndex
    address = table.held(index, 0, 1)[0]
    word = atomics.loadAcquire64(address)
    atomics.exchangeSeqCst64(address, word ^ 1 << 28)  # as if it were one of the next generation
    table.giveBack(index)
    assert atomics.loadAcquire64(address) == word ^ 1 << 28
    atomics.exchangeSeqCst64(address, word)


#: While the process joins, a signal reaches its main thread.
_SIGNALLED = """
import signal, threading
from muninn.session import worker
awaitEntry = worker.Worker.awaitEntry
def signalled(self):
    signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
    time.sleep(0.05)
    awaitEntry(self)
worker.Worker.awaitEntry = signalled
def mine():
    return sum(member["pid"] == os.getpid() for member in muninn.domainInfo()["members"])
"""


def test_aJoinThatIsInterruptedIsTheOnlyOne(domain: str, actor: Callable[..., Actor]) -> None:
    """Broken: the unfinished membership was taken apart under its thread, which died of
    SIGSEGV or was a second member.
    """
    other = actor().join()
    hit = actor(
        f"{_SIGNALLED}\ndef stop(*_): raise KeyboardInterrupt\nsignal.signal(signal.SIGALRM, stop)"
    )
    with pytest.raises(ActorError, match="KeyboardInterrupt"):
        hit.do("muninn.listBuffers()")
    hit.do(
        "signal.signal(signal.SIGALRM, signal.SIG_IGN); muninn.share(np.arange(3), name='after').close()"
    )
    assert hit.do("mine()") == 1 and other.do("int(muninn.open('after').array.sum())") == 3
    assert hit.leave() == 0


def test_aHandlerMayCallWhileItsProcessJoins(domain: str, actor: Callable[..., Actor]) -> None:
    """Broken: the handler waited for the lock of the join that it had interrupted."""
    hit = actor(
        f"{_SIGNALLED}\ndef share(*_): muninn.share(np.arange(3), name='handled')\nsignal.signal(signal.SIGALRM, share)"
    )
    hit.do("muninn.share(np.arange(4), name='main')")
    assert hit.do("int(muninn.open('handled').array.sum()), mine()") == [3, 1]


def test_aBlockThatIsWantedKeepsItsVersionWhileTheLastLeaves(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the block had no version while the last process checked whether it was
    wanted, and a death or Ctrl-C there lost every named buffer.
    """
    muninn.share(b"x", name="a")
    current = membership.current()
    version, stored = current.block.address + layout.VERSION_OFFSET, list[int]()
    exchange = atomics.exchangeSeqCst32

    def recording(address: int, value: int) -> int:
        if address == version:
            stored.append(value)
        return int(exchange(address, value))

    monkeypatch.setattr(atomics, "exchangeSeqCst32", recording)
    current.leave()
    assert stored == [] and bytes(muninn.open("a").array) == b"x"


@pytest.mark.parametrize("dies", ["exchangeSeqCst32", "unlink"])
def test_aDeathWhileTheBlockIsWithdrawnLosesNothing(
    domain: str, actor: Callable[..., Actor], dies: str
) -> None:
    """Another process has shared meanwhile, or none has. Broken: the next process made
    a new block beside the journals of the old one.
    """
    for number in range(1, 6):
        leaving = actor(program("diesInACall", CALL=dies, NUMBER=str(number)))
        # Its background thread may be the first to get there, in the middle of this.
        leaving.begin(f"setattr(owner, '{dies}', dying)\ncurrent.leaving.retire()")
        with contextlib.suppress(AssertionError):
            leaving.result()
        leaving.kill()
        other = actor(f"held = muninn.share(b'x', name='n{number}')")
        assert other.do("[each['name'] for each in muninn.listBuffers()]") == [f"n{number}"]
        assert other.do(f"bytes(muninn.open('n{number}').array).decode()") == "x"
        other.do(f"muninn.free('n{number}')")
        assert other.leave() == 0


def test_theBlockIsUnmappedAfterItsFenceWords() -> None:
    """Broken: other memory came to its addresses while GPUs had them mapped, and could not be
    pinned.
    """
    ended, waiting = list[str](), list[Callable[[], object]]()
    block: Any = SimpleNamespace(close=lambda: ended.append("block"))
    words: Any = {number: SimpleNamespace(closeThen=waiting.append) for number in (0, 256)}
    member._letGo(block, words, lambda: False)
    assert len(waiting) == 2 and not ended
    waiting.pop()()
    assert not ended
    waiting.pop()()
    assert ended == ["block"]
    member._letGo(block, words, lambda: True)
    assert ended == ["block", "block"] and not waiting, "a child leaves its parent's alone"
    member._letGo(block, {}, lambda: False)
    assert ended == ["block"] * 3
