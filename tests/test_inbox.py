"""`broker/inbox.py`: requests of the broker's own process to its background thread."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator

import pytest

import muninn
from muninn.broker.inbox import Asked, Inbox
from muninn.control.rows import Deposed
from muninn.errors import BrokerUnavailable, BufferNotFound
from muninn.session.membership import current
from support import Background, eventually


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    wakeFd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield Inbox(wakeFd)
    os.close(wakeFd)


def _isOpen(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _next(inbox: Inbox) -> Asked:
    eventually(lambda: not inbox.isEmpty(), "a question")
    asked = inbox.take()
    assert asked is not None
    return asked


def test_aThreadThatAsksGetsItsAnswer(inbox: Inbox) -> None:
    asking = Background(lambda: inbox.ask({"op": "ping"}, [], 60))
    asked = _next(inbox)
    assert asked.message == {"op": "ping"} and asking.isRunning()
    asked.answer({"epoch": 1}, [5])
    assert asking.ended() == ({"epoch": 1}, [5]) and inbox.take() is None


def test_aMissingNameIsToldWithoutTheThreadThatServes(domain: str) -> None:
    """A read changes nothing, so it may be interrupted. Broken: each look for a missing
    name took two switches of threads.
    """
    membership = current()
    eventually(lambda: membership.role.broker is not None, "its own broker")
    broker = membership.role.broker
    assert broker is not None
    eventually(lambda: broker.lacks("missing"), "it knows the names of its rows")
    with broker._lock:  # the broker serves no request now
        assert membership.client.request("find", name="missing") == ({}, [])
        with pytest.raises(BufferNotFound):
            muninn.free("missing")
        asking = Background(lambda: muninn.share(b"x", name="new"))
        assert asking.isRunning()
    asking.ended().free()


def test_aQuestionWithoutAWaiterIsNotServed(inbox: Inbox) -> None:
    descriptor = os.memfd_create("asked")
    with pytest.raises(BrokerUnavailable):
        inbox.ask({"op": "ping"}, [descriptor], 0.01)
    assert inbox.take() is None and not _isOpen(descriptor)


def test_anAnswerWithoutAWaiterIsClosed(inbox: Inbox) -> None:
    """The asking thread gave up while the question was being served."""
    asking = Background(lambda: inbox.ask({"op": "fetch"}, [], 0.2))
    asked = _next(inbox)
    assert isinstance(asking.ended(), BrokerUnavailable)
    descriptor = os.memfd_create("answer")
    asked.answer({"found": True}, [descriptor])
    assert not _isOpen(descriptor)


def test_theEndOfATermIsToldToAllWaiters(inbox: Inbox) -> None:
    asking = [Background(lambda: inbox.ask({"op": "ping"}, [], 60)) for _ in range(2)]
    served = _next(inbox)
    eventually(lambda: not inbox.isEmpty(), "the other question")
    inbox.shut()
    assert all(isinstance(each.ended(), Deposed) for each in asking)
    served.answer({"epoch": 1}, [])  # too late, and without effect
    with pytest.raises(Deposed):
        inbox.ask({"op": "ping"}, [], 60)


def test_anErrorThatWasRaisedKeepsNothingOfItsAsker(inbox: Inbox) -> None:
    """Broken: the question kept its error, and the error kept the frames of the asking
    thread; so the objects of these frames stayed until the collector ran.
    """

    class Open: ...

    def ask() -> weakref.ref[Open]:
        held = Open()
        try:
            inbox.ask({"op": "ping"}, [], 1.0)
        except Deposed:
            return weakref.ref(held)
        raise AssertionError("it was answered")

    inbox.shut()
    gc.disable()
    try:
        assert ask()() is None
    finally:
        gc.enable()
