"""`system/cleanups.py`: the cleanup of a block runs however the block ends, even if the
program keeps the frames of the block.
"""

from __future__ import annotations

from muninn.system.cleanups import Cleanup, Cleanups


class _Deed:
    """An action that can be undone."""

    def __init__(self) -> None:
        self.undone, self.mayBeUndone = 0, True

    def undo(self) -> bool:
        self.undone += self.mayBeUndone
        return self.mayBeUndone


def _cutShort(cleanups: Cleanups, deed: _Deed) -> BaseException:
    """Begin the action and interrupt it, also while it is undone; returns the
    exception, which keeps the frames.
    """
    try:
        with cleanups.begin(deed):
            try:
                raise KeyboardInterrupt
            finally:
                raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        return error


def test_anActionThatEndedIsNotUndone() -> None:
    woken, deed = list[int](), _Deed()
    cleanups = Cleanups(lambda: woken.append(1))
    with cleanups.begin(deed):
        assert cleanups.isUnderWay(deed)
        cleanups.end(deed)
    assert cleanups.run() and not deed.undone and not woken and not cleanups.isUnderWay(deed)


def test_anInterruptedActionIsUndoneWhileItsFramesAreKept() -> None:
    woken, deed = list[int](), _Deed()
    cleanups = Cleanups(lambda: woken.append(1))
    kept = _cutShort(cleanups, deed)
    assert kept.__traceback__ is not None and woken and not cleanups.isUnderWay(deed)
    assert not cleanups.awaitDone(0.01)
    assert cleanups.run() and cleanups.run() and deed.undone == 1
    assert cleanups.awaitDone(0) and not cleanups._open


def test_anActionThatCanNotBeUndoneYetDelaysNoOther() -> None:
    cleanups, stuck, other = Cleanups(lambda: None), _Deed(), _Deed()
    stuck.mayBeUndone = False
    _cutShort(cleanups, stuck)
    _cutShort(cleanups, other)
    assert not cleanups.run() and other.undone == 1
    stuck.mayBeUndone = True
    assert cleanups.run() and (stuck.undone, other.undone) == (1, 1)


def test_aCleanupIsEnteredAndLeftInC() -> None:
    """Broken: an `__exit__` in Python that is interrupted at its first bytecode would
    leave a frame that keeps the object.
    """
    assert not {"__enter__", "__exit__"} & set(vars(Cleanup))
