"""`api/membership.py`: one process in its domain, and how it goes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import muninn
from muninn.api import membership
from muninn.control import atomics, layout
from muninn.control.block import unlinkQuietly
from muninn.control.members import MemberKey, MemberTable
from muninn.control.places import Places
from muninn.errors import ProtocolViolation, TableFull
from support import Actor, eventually


def test_goesQuietlyAlthoughItsThreadStillAsksAfterTheGoodBye(
    domain: str, actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The background thread may have a request under way when the slot is given back: that it is refused is no error.

    Broken: the soak saw `ProtocolViolation: member slot 4 was given back` logged by one of some thirty processes that ended politely.
    """
    actor().join()  # the broker is another
    muninn.domainInfo()
    current = membership.current()
    request = current.client.request

    def slowly(op: str, *arguments: Any, **fields: Any) -> Any:
        answer = request(op, *arguments, **fields)
        if op == "leave":
            current.holdings._released.append((0, 1))
            current.kick()
            time.sleep(0.3)
        return answer

    monkeypatch.setattr(current.client, "request", slowly)
    with caplog.at_level(logging.ERROR, "muninn"):
        current.leave()
    assert not caplog.records, caplog.text


def test_hasLoadedWhatASuccessorNeeds(domain: str, actor: Callable[..., Actor]) -> None:
    """Importing the broker takes 15 ms, which is three times what the rest of a takeover does.

    Broken: the import had gone from the background thread, as one that nobody used, and each takeover waited for it.
    """
    actor().join()
    follower = actor("import sys").join()
    eventually(lambda: follower.do("'muninn.broker.broker' in sys.modules"), "a follower has loaded the broker")


def _blockPath(domain: str) -> str:
    return f"/dev/shm{Places(os.getuid(), domain).blockName}"


def test_nobodyStaysInABlockThatWasWithdrawnMeanwhile(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: who joined did not look again after it had its slot, and was alone in a block that nobody finds."""
    claim, withdrawn = MemberTable.claim, list[int]()

    def late(table: MemberTable, preferred: bool) -> MemberKey:
        key = claim(table, preferred)
        if not withdrawn:
            withdrawn.append(key.slot)
            atomics.exchangeSeqCst32(table._block.address + layout.VERSION_OFFSET, 0)
            os.unlink(_blockPath(domain))
        return key

    monkeypatch.setattr(MemberTable, "claim", late)
    muninn.share(b"x", name="a")
    assert withdrawn and os.path.exists(_blockPath(domain)) and not membership.current().block.isRetired()


def test_whoLeavesABlockThatWasWithdrawnDoesNotMakeItValidAgain(domain: str) -> None:
    """Two leave at once, and a third has begun to claim a slot: one withdraws the block, the other finds the claim (found by the model).

    Broken: the other gave the block, which had no name any more, its version back: the third stayed in it, alone for ever.
    """
    muninn.domainInfo()
    leaving = membership.current()
    version = leaving.block.address + layout.VERSION_OFFSET
    with leaving._lockFile.creating():
        atomics.exchangeSeqCst32(version, 0)
        unlinkQuietly(leaving.places.blockName)
    claiming = leaving.block.memberAddress(leaving.key.slot + 1)
    atomics.storeRelease64(claiming, 1 << 32 | layout.MEMBER_CLAIMING)
    leaving._retire()
    assert leaving.block.isRetired()
    atomics.storeRelease64(claiming, 1 << 32 | layout.MEMBER_FREE)


def test_whoWithdrawsTheBlockSaysSoBeforeItLooks(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: slots first and version second on both sides, so that neither saw the other."""
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
    """Broken: only segments kept the block; the version was not put back."""
    muninn.share(b"x", name="a", mode=mode)
    membership.current().leave()
    assert os.path.exists(_blockPath(domain))
    if mode == "bigMode":
        assert bytes(muninn.open("a").array) == b"x"
    else:
        muninn.share(b"y", name="a", mode=mode)


def test_aBlockThatOthersAreInStays(domain: str, actor: Callable[..., Actor]) -> None:
    """Broken: whoever left withdrew the block when nothing was shared."""
    other = actor().join()
    muninn.domainInfo()
    inode = os.stat(_blockPath(domain)).st_ino
    membership.current().leave()
    assert os.stat(_blockPath(domain)).st_ino == inode
    other.do("muninn.share(b'x', name='a')")
    assert bytes(muninn.open("a").array) == b"x"


def test_whateverTheSlotsLastMemberLeftInTheRobustWordIsForgotten(domain: str, actor: Callable[..., Actor]) -> None:
    """Broken: a word that still named a thread made the slot useless: nobody could join in it."""
    muninn.domainInfo()
    atomics.exchangeSeqCst32(membership.current().members.robustAddress(1), 4242)
    assert actor().do("muninn.domainInfo()['members'][1]['slot']") == 1


def test_aClaimOfTheSlotsLastMemberIsADeadOnes(domain: str, actor: Callable[..., Actor]) -> None:
    """Broken: the generation in the claim was not compared, and the dead kept their locks until the slot's next member died."""
    other = actor().join()
    muninn.domainInfo()
    current = membership.current()
    (key,) = (key for key in current.members.live() if current.members.identity(key.slot).pid == other.pid)
    assert not current.isDead(key.slot, key.generation & 0x7FFFF)
    assert current.isDead(key.slot, key.generation - 1 & 0x7FFFF)
    assert not current.isDead(current.key.slot, current.key.generation & 0x7FFFF)


def test_aNewTermCallsAwayWhoAsksAnEarlierBroker(domain: str, actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the background thread did not tell the client of the new term."""
    broker = actor().join()
    muninn.domainInfo()
    current = membership.current()
    told: list[int] = []
    monkeypatch.setattr(current.client, "forsake", told.append)
    epoch = current.election.epoch()
    broker.kill()
    eventually(lambda: any(each > epoch for each in told), "the client was told")


def test_whatWasUnderWayAtTheGoodByeIsNoError(
    domain: str, actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread was waiting for its answer when the slot was given back. Broken: the refusal was logged as an error."""
    actor().join()
    muninn.domainInfo()
    current = membership.current()
    settleReleased, asking = current.holdings.settleReleased, threading.Event()

    def underWay() -> bool:
        if threading.current_thread() is not current._thread:
            return settleReleased()
        asking.set()
        eventually(lambda: current._leaving, "the good-bye")
        raise ProtocolViolation("member slot 1 was given back")

    monkeypatch.setattr(current.holdings, "settleReleased", underWay)
    current.kick()
    assert asking.wait(20)
    with caplog.at_level(logging.ERROR, "muninn"):
        current.leave()
    assert not caplog.records, caplog.text


def test_aTableThatIsFullOfTheDeadIsWaitedFor(domain: str, actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills in quick succession fill the slots faster than they are taken back (found by the fail points). Broken: `TableFull` at once."""
    monkeypatch.setenv("MUNINN_MAX_MEMBERS", "3")
    broker = actor().join()
    doomed = [actor().join() for _ in range(2)]
    with pytest.raises(TableFull):
        muninn.domainInfo()  # nobody has died: that is said at once
    broker.stop()
    for each in doomed:
        each.kill()
    threading.Timer(0.2, broker.resume).start()
    assert broker.pid in {member["pid"] for member in muninn.domainInfo()["members"]}
