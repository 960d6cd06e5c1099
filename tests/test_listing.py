"""The listings, as plain dicts: every buffer once, its holders, its members; a damaged
row hides no other row.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

import muninn
from muninn.api import listing
from muninn.broker.candidacy import Candidacy
from muninn.broker.deathwatch import Death, DeathWatch
from muninn.broker.maintenance import Maintenance
from muninn.control import layout
from muninn.session.membership import current
from muninn.system import atomics, clock
from support import Actor, ActorError, eventually

Start = Callable[..., Actor]

#: The keys of R§15.3, and those added since.
_KEYS = {
    "bufferId",
    "windowOf",
    "hints",
    "mode",
    "gpu",
    "gpus",
    "size",
    "access",
    "tenant",
    "leaseTtlMs",
    "peerable",
    "topology",
    "name",
    "kind",
    "shape",
    "dtype",
    "state",
    "generation",
    "lifetime",
    "ageMs",
    "endsInMs",
    "reserve",
    "transport",
    "transportReason",
    "segment",
    "hugePages",
    "importers",
    "openedAs",
}


def test_describeHasTheSchemaAndIsJson(domain: str) -> None:
    buffer = muninn.share(np.zeros((2, 3), ">f4"), name="a", tenant="org/x", lifetimeMs=600_000)
    described = buffer.describe()
    assert described.keys() == _KEYS
    assert json.loads(json.dumps(described)) == described
    assert 0 < described["endsInMs"] <= 600_000 and described["ageMs"] >= 0
    expected = {
        "name": "a",
        "kind": "array",
        "mode": "bigMode",
        "gpu": None,
        "size": 24,
        "shape": [2, 3],
        "access": "readMostly",
        "tenant": "org/x",
        "state": "live",
        "generation": 0,
        "lifetime": "keep",
        "leaseTtlMs": 120_000,
        "reserve": "full",
        "transport": "segment",
        "peerable": True,
        "openedAs": "readWrite",
    }
    assert expected.items() <= described.items()
    assert os.path.exists(f"/dev/shm{described['segment']}")
    (holder,) = described["importers"]
    assert (holder["pid"], holder["lease"], holder["revoked"]) == (
        os.getpid(),
        "ok",
        None,
    ) and holder["program"]


def test_listsEveryBufferByNameAndNoLocks(domain: str, actor: Start) -> None:
    muninn.Lock("hidden")
    other = actor("held = [muninn.share(b'x', name=name) for name in ('b', 'ä', 'a')]")
    mine = muninn.shareBundle({"w": np.arange(3)}, name="c")
    listed = muninn.listBuffers()
    assert [each["name"] for each in listed] == ["a", "b", "c", "ä"]
    assert all(each.keys() == _KEYS - {"openedAs"} for each in listed)
    assert [[hold["pid"] for hold in each["importers"]] for each in listed] == [
        [other.pid],
        [other.pid],
        [os.getpid()],
        [other.pid],
    ]
    assert [each["kind"] for each in listed] == ["array", "array", "bundle", "array"]
    assert listed[2]["dtype"] is None and mine.describe()["entries"] == {
        "w": {"shape": [3], "dtype": "<i8"}
    }
    assert other.do("[each['bufferId'] for each in muninn.listBuffers()]") == [
        each["bufferId"] for each in listed
    ]


def test_aProcessThatIsTwoMembersIsOneImporter(domain: str, actor: Start) -> None:
    """A process that imports Muninn anew is a second member. Broken: its pid was listed
    twice, so two processes were three importers.
    """
    other = actor("a = muninn.share(np.arange(3), name='w')")
    other.do(
        "import sys; [sys.modules.pop(each) for each in list(sys.modules) if each.split('.')[0] == 'muninn']"
    )
    other.do("import muninn as anew; b = anew.open('w')")
    mine = muninn.open("w")
    for described in (mine.describe(), muninn.listBuffers()[0]):
        assert sorted(hold["pid"] for hold in described["importers"]) == sorted(
            [other.pid, os.getpid()]
        )
    assert [member["pid"] for member in muninn.domainInfo()["members"]].count(other.pid) == 2


def test_anEndedLifetimeIsNotListedAsLive(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: until the broker ended the lifetime, the buffer was listed as live, with
    an end in the past.
    """
    monkeypatch.setattr(Maintenance, "endLifetimes", lambda self: None)
    muninn.share(b"x", name="left", lifetimeMs=30).close()
    held = muninn.share(b"x", name="held", lifetimeMs=30)
    clock.sleep(0.05)
    assert [(each["name"], each["state"], each["endsInMs"]) for each in muninn.listBuffers()] == [
        ("held", "dying", 0)
    ]
    held.close()
    assert muninn.listBuffers() == []


def test_aFreedBufferThatOnlyTheDeadHeldIsNotListed(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: until the broker had confirmed the death, the buffer was listed as dying,
    without a holder.
    """
    isConfirmed, confirm = threading.Event(), DeathWatch.confirm

    def confirmedLater(watch: DeathWatch, pidfd: int) -> Death:
        if isConfirmed.is_set():
            return confirm(watch, pidfd)
        watch._suspects[pidfd] = 1
        return Death.SUSPECTED

    monkeypatch.setattr(DeathWatch, "confirm", confirmedLater)
    mine, other = muninn.share(b"x", name="a"), actor("held = muninn.open('a')")
    mine.free()
    mine.close()
    assert [(each["state"], len(each["importers"])) for each in muninn.listBuffers()] == [
        ("dying", 1)
    ]
    other.kill()
    monkeypatch.setattr(listing, "_ANSWER_SECONDS", 0.01)
    assert [(each["state"], each["importers"]) for each in muninn.listBuffers()] == [
        ("dying", [])
    ], "a row that no broker reclaims is listed"
    monkeypatch.setattr(listing, "_ANSWER_SECONDS", 30.0)
    proving = threading.Timer(0.1, isConfirmed.set)
    proving.start()
    assert muninn.listBuffers() == []
    proving.join()


def test_aListingCostsOneScanHoweverManyRowsThereAre(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the leases of all members were scanned for each row: 10 s for 10,000
    buffers and 200 members.
    """
    other = actor("held = [muninn.share(b'x', name=f'b{number}') for number in range(30)]")
    calls = Counter[str]()

    def counted(name: str) -> Callable[..., int]:
        call = getattr(atomics, name)
        return lambda *arguments: calls.update([name]) or call(*arguments)  # type: ignore[func-returns-value]

    for name in ("scan64", "scan32", "scanLeases"):
        monkeypatch.setattr(atomics, name, counted(name))
    listed = muninn.listBuffers()
    assert len(listed) == 30 and all(
        [hold["pid"] for hold in each["importers"]] == [other.pid] for each in listed
    )
    assert sum(calls.values()) < 10, calls


def test_aFreedBufferIsListedAsDyingWhileItIsHeld(domain: str, actor: Start) -> None:
    other = actor("held = muninn.share(b'x', name='a')")
    muninn.free("a")
    assert [(each["name"], each["state"]) for each in muninn.listBuffers()] == [("a", "dying")]
    muninn.share(b"y", name="a")
    assert sorted(each["state"] for each in muninn.listBuffers()) == ["dying", "live"]
    other.do("held.close()")
    eventually(
        lambda: [each["state"] for each in muninn.listBuffers()] == ["live"],
        "the holder has closed it",
    )


def test_domainInfoNamesTheMembers(domain: str, actor: Start) -> None:
    other = actor("held = [muninn.share(b'x') for _ in range(3)]")
    info = muninn.domainInfo()
    assert json.loads(json.dumps(info)) == info
    assert (info["domain"], info["brokerPid"], info["epoch"] > 0, info["draining"]) == (
        domain,
        other.pid,
        True,
        False,
    )
    assert info["drainReason"] is None
    assert {each["pid"]: each["leases"] for each in info["members"]} == {
        other.pid: 3,
        os.getpid(): 0,
    }
    (theirs,) = (each for each in info["members"] if each["pid"] == other.pid)
    assert (
        theirs["program"] == "zygote.py" and theirs["preferred"] is False and theirs["ageMs"] >= 0
    )


def test_theDeadHoldNothing(domain: str, actor: Start) -> None:
    """Broken: until a broker had reclaimed them, the leases of a killed process were
    listed as held and ok.
    """
    broker, holder, witness = (
        actor("held = muninn.array('a', 3, 'f8')", MUNINN_TAKEOVER_MS="60000") for _ in range(3)
    )
    broker.stop()
    holder.kill()
    assert witness.do("[each['pid'] for each in muninn.listBuffers()[0]['importers']]") == [
        broker.pid,
        witness.pid,
    ]
    assert witness.do("[each['pid'] for each in held.describe()['importers']]") == [
        broker.pid,
        witness.pid,
    ]
    assert f"({holder.pid})" not in witness.do("held._repr_html_()")
    info = witness.do("muninn.domainInfo()")
    assert ([each["pid"] for each in info["members"]], info["brokerPid"]) == (
        [broker.pid, witness.pid],
        broker.pid,
    )
    broker.resume()


def test_aBrokerThatWasKilledIsNone(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the first process that came after the last member was killed was told
    that the dead member was there, and broker.
    """
    actor("held = muninn.share(b'x', name='a')").kill()
    with monkeypatch.context() as patched:
        patched.setattr(Candidacy, "stand", lambda *_: None)
        info = muninn.domainInfo()
        assert ([each["pid"] for each in info["members"]], info["brokerPid"]) == (
            [os.getpid()],
            None,
        )
        assert [each["importers"] for each in muninn.listBuffers()] == [[]]


@pytest.mark.parametrize(
    ("offset", "damage"),
    [
        (layout.ROW_DTYPE_OFFSET, b"garbage!"),
        (layout.ROW_DTYPE_OFFSET, b"\xff\xfe"),
        (layout.ROW_MODE_OFFSET, b"\x09"),
        (layout.ROW_ACCESS_OFFSET, b"\xff"),
        (layout.ROW_LIFETIME_OFFSET, b"\x05"),
        (layout.ROW_TRANSPORT_OFFSET, b"\x77"),
        (layout.ROW_NDIM_OFFSET, b"\x09"),
        (layout.ROW_SIZE_OFFSET, b"\xff" * 8),
        (layout.ROW_SEGMENT_BYTES_OFFSET, b"\xff" * 8),
        (layout.ROW_SEGMENT_BYTES_OFFSET, (1 << 30).to_bytes(8, "little")),
        (layout.ROW_META_OFFSET_OFFSET, b"\xff" * 8),
        (layout.ROW_META_BYTES_OFFSET, b"\x00\x10\x00\x00"),
        (layout.ROW_TENANT_OFFSET, b"\xff\xfe"),
        (layout.ROW_SHAPE_OFFSET, b"\x07"),
        (layout.ROW_SHAPE_OFFSET, b"\xff" * 8),
    ],
)
def test_aDamagedRowIsATypedErrorAndHidesNoOther(
    domain: str, actor: Start, offset: int, damage: bytes
) -> None:
    """The row is overwritten from outside, as by a stray pointer; other processes open,
    list, share and free as before.
    """
    muninn.share(np.arange(10), name="hurt").close()
    muninn.share(np.arange(10), name="well").close()
    row = int(
        next(each["bufferId"] for each in muninn.listBuffers() if each["name"] == "hurt").partition(
            "."
        )[0]
    )
    with open(f"/dev/shm{current().paths.blockName}", "r+b") as file:
        file.seek(current().block.geometry.rowsOffset + row * layout.ROW_BYTES + offset)
        file.write(damage)
    other = actor()
    for run in (other.do, lambda code: eval(code, {"muninn": muninn})):
        assert "well" in run("[each['name'] for each in muninn.listBuffers()]")
        assert run("int(muninn.open('well').array.sum())") == 45
    with pytest.raises(ActorError, match="MNN-0019"):
        other.do("muninn.open('hurt').array")
    muninn.share(b"x", name="next").free()
    muninn.free("hurt")
    muninn.share(b"x", name="hurt").free()
    assert other.do("[each['name'] for each in muninn.listBuffers()]") == ["well"]


def test_showsItselfInNotebooksWithoutTrustingNames(domain: str) -> None:
    name, tenant = "<script>alert('a&b')</script>", "<b>"
    buffer = muninn.share(np.zeros(3, "i4,f8"), name=name, tenant=tenant)
    html = buffer._repr_html_()
    assert (
        "<script>" not in html and "&lt;script&gt;alert(&#x27;a&amp;b&#x27;)&lt;/script&gt;" in html
    )
    assert f"({os.getpid()})" in html and "read-write here, shared readMostly" in html
    assert "read-only here" in muninn.open(name)._repr_html_()
    muninn.free(name)
    assert "&lt;script" in html


def test_representsItselfInOneLine(domain: str) -> None:
    buffer = muninn.share(np.zeros((2, 3), "f4"), name="a")
    assert repr(buffer) == "<MuninnBuffer 'a' <f4[2, 3] 24 B bigMode>"
    muninn.free("a")
    assert repr(buffer) == "<MuninnBuffer 'a' <f4[2, 3] 24 B bigMode>", "as the buffer was"
    buffer.close()
    assert repr(buffer) == "<MuninnBuffer closed>"
