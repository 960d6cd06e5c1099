"""Requests: the broker answers a malformed request with an error, and it harms no other
member.
"""

from __future__ import annotations

import contextlib
import os

import msgpack
import pytest
from lab import Lab, Member
from peers import Peer, createOf

from muninn.broker.broker import Broker
from muninn.errors import ProtocolViolation
from muninn.wire import messages, requests


def _deep(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize(
    "raw",
    [
        b"\xc1",
        b"\xff" * 100,
        msgpack.packb({}),
        msgpack.packb({"op": []}),
        msgpack.packb({"op": {}}),
        msgpack.packb({"op": 7}),
        msgpack.packb({"op": "nonsense"}),
        msgpack.packb({"op": "free", "row": 1}),
        msgpack.packb({"op": "free", "row": "1", "incarnation": 1}),
        msgpack.packb({"op": "free", "row": True, "incarnation": 1}),
        msgpack.packb({"op": "free", "row": 1 << 63, "incarnation": -1}),
        msgpack.packb({"op": "free", "row": 0, "incarnation": 0}),
        b"\x82\xa2op\xa4find\xa4name" + _deep(500),
        b"\x82\xa2op" + _deep(500) + b"\xa4name\xa1x",
        msgpack.packb(
            {"op": "hello", "slot": 1 << 40, "generation": 1, "nonce": 1, "allocations": []}
        ),
        msgpack.packb({"op": "bring", "allocations": [[1 << 63, 1 << 63]]}),
        b"x" * messages.MAX_MESSAGE_BYTES,
    ],
)
def test_nonsenseIsAnsweredWithAnErrorAndHarmsNoMember(
    served: tuple[Lab, Broker, Member], raw: bytes
) -> None:
    lab, broker, _ = served
    good = Peer(lab, broker)
    peer = Peer(lab, broker)
    answer = peer.ask(raw)
    assert answer is not None and answer["error"] in (13, 20), answer
    assert good.ask(msgpack.packb({"op": "ping"})) == {"epoch": 1}
    assert not broker.isDeposed()


def test_namesThatNoRowCanHoldAreRefused(served: tuple[Lab, Broker, Member]) -> None:
    _, broker, _ = served
    fields = createOf(op="create", tenant="t")
    for name in ("", "x" * 60000, "ä" * 100):
        assert broker.execute({**fields, "name": name}, [])[0]["error"] == 26
    assert broker.execute({**fields, "name": "ok", "tenant": "x" * 100}, [])[0]["error"] == 26


def test_unexpectedDescriptorsAreClosed(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: only the handlers closed the descriptors of a request, and `bring` kept
    the memory of rows that are not there.
    """
    _, broker, _ = served
    for message in (
        {"op": "ping"},
        {"op": "find", "name": "a"},
        {"op": "nonsense"},
        {"op": "bring", "allocations": [[3, 1]]},
        {"op": "bring", "allocations": [[1 << 30, 1]]},
        {"op": "bring", "allocations": []},
    ):
        reading, writing = os.pipe()
        with contextlib.suppress(ProtocolViolation):
            broker.execute(message, [writing])
        assert os.read(reading, 1) == b"", message
        os.close(reading)


@pytest.mark.parametrize("row", [-1, 5, 1 << 20, 1 << 40])
def test_rowsBeyondTheTableAreNotTouched(served: tuple[Lab, Broker, Member], row: int) -> None:
    """Broken: the broker read a row before it had checked the row's number."""
    _, broker, _ = served
    for op in ("commit", "abandon", "fetch", "free", "tryReclaim"):
        fields = {"replaces": False} if op == "commit" else {}
        message = {"op": op, "row": row, "incarnation": 1, **fields}
        assert broker.execute(message, [])[0]["error"] == 13


@pytest.mark.parametrize("value", [-2, 1 << 64, True, 1.5, "1", None])
def test_numbersOfARequestAreNumbersInRange(value: object) -> None:
    """Broken: `checked` did not check the range, or took truth values for numbers."""
    with pytest.raises(ProtocolViolation):
        requests.checked({"op": "free", "row": value, "incarnation": 1})


def test_eachAllocationComesWithItsDescriptor() -> None:
    """Broken: the broker did not compare how many there were of both, and took a
    descriptor that was not there.
    """
    assert requests.allocationsOf({"allocations": [[1, 2]]}, [7]) == [(1, 2)]
    for allocations, descriptors in (
        ([[1, 2]], []),
        ([], [7]),
        ([[1, 2, 3]], [7]),
        ([[1, "2"]], [7]),
        ([7], [7]),
    ):
        with pytest.raises(ProtocolViolation):
            requests.allocationsOf({"allocations": allocations}, descriptors)


@pytest.mark.parametrize("fields", [{}, {"row": 1}, {"row": 1, "incarnation": 1, "more": 1}])
def test_aRequestHasItsFieldsAndNoOthers(fields: dict[str, int]) -> None:
    """Broken: `checked` did not look at the keys, and a missing field was a `KeyError`
    of the broker's.
    """
    with pytest.raises(ProtocolViolation):
        requests.checked({"op": "free", **fields})
