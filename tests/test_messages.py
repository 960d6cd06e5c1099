"""Packets: whole, bounded, and checked before any other code uses them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muninn.errors import DescriptorsExhausted, MuninnError, ProtocolViolation
from muninn.wire import messages, requests

Pair = tuple[socket.socket, socket.socket]
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4),
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield left, right
    left.close()
    right.close()


@given(st.dictionaries(st.text(), _values, max_size=6))
def test_unpacksWhatWasPacked(message: dict[str, object]) -> None:
    assert messages.unpacked(messages.packed(message)) == message


@given(st.binary(max_size=200))
def test_garbageIsAProtocolViolationOrAMap(raw: bytes) -> None:
    try:
        message = messages.unpacked(raw)
    except ProtocolViolation:
        return
    assert all(isinstance(key, str) for key in message)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x91" * 5000 + b"\xc0",
        msgpack.packb([1]),
        msgpack.packb({1: 2}),
        msgpack.packb({"a": 1}) + b"\x00",
        b"\xdf\xff\xff\xff\xff",
    ],
)
def test_refusesWhatIsNoMapWithTextKeys(raw: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        messages.unpacked(raw)


def test_refusesToSendMoreThanAMessageMayHave() -> None:
    with pytest.raises(ProtocolViolation):
        messages.packed({"name": "x" * messages.MAX_MESSAGE_BYTES})


def test_refusesAPacketThatIsTooLong(pair: Pair) -> None:
    pair[0].send(b"x" * (messages.MAX_MESSAGE_BYTES + 1))
    with pytest.raises(ProtocolViolation, match="longer"):
        messages.receive(pair[1])


def test_saysNoneWhenTheOtherEndIsGone(pair: Pair) -> None:
    pair[0].close()
    assert messages.receive(pair[1]) is None


def test_handsDescriptorsOver(pair: Pair) -> None:
    reading, writing = os.pipe()
    messages.send(pair[0], {"op": "x"}, (writing,))
    os.close(writing)
    received = messages.receive(pair[1])
    assert received is not None
    os.write(received[1][0], b"through")
    assert os.read(reading, 7) == b"through"
    assert not os.get_inheritable(received[1][0])
    messages.closeAll([*received[1], reading])


def test_closesDescriptorsThatCameWithGarbage(pair: Pair) -> None:
    reading, writing = os.pipe()
    socket.send_fds(pair[0], [b"\xc1 garbage"], [writing])
    os.close(writing)
    with pytest.raises(MuninnError):
        messages.receive(pair[1])
    assert os.read(reading, 1) == b"", "the last writing end must be closed"
    os.close(reading)


def test_namesTheOtherEnd(pair: Pair) -> None:
    assert messages.peerOf(pair[0]) == (os.getpid(), os.getuid())


def test_noticesThatADescriptorWasLost(pair: Pair) -> None:
    """Broken: a message whose descriptors did not fit was taken for a message without
    descriptors.
    """
    reading, writing = os.pipe()
    messages.send(pair[0], {"op": "x"}, (reading,) * 8)
    with pytest.raises(DescriptorsExhausted):
        messages.receive(pair[1], maxDescriptors=1)
    messages.closeAll([reading, writing])


@pytest.mark.parametrize("number", [{}, [], "11", 1.5, None, -1, 1 << 63])
def test_anErrorWithANumberThatNoErrorHasIsAProtocolViolation(number: object) -> None:
    with pytest.raises(ProtocolViolation):
        requests.raiseFailure({"error": number, "reason": "x", "fix": ""})


@pytest.mark.parametrize(
    ("op", "answer"),
    [
        ("create", {}),
        ("create", {"row": "0", "incarnation": 1}),
        ("create", {"row": True, "incarnation": 1}),
        ("find", {"live": True}),
        ("fetch", {}),
        ("evict", {"revoked": 1}),
    ],
)
def test_anAnswerThatLacksWhatWasAskedForIsAProtocolViolation(
    op: str, answer: dict[str, object]
) -> None:
    with pytest.raises(ProtocolViolation, match=op):
        requests.answered(op, answer)
    requests.answered("find", {})
