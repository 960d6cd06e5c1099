"""`system/cleanups.py`: the end of a block is noticed, whatever ends it and whoever keeps its frames."""

from __future__ import annotations

from muninn.system.cleanups import Undertaking, Undertakings


class _Deed:
    """Something that is undone when it can be."""

    def __init__(self) -> None:
        self.undone, self.mayBeUndone = 0, True

    def undo(self) -> bool:
        self.undone += self.mayBeUndone
        return self.mayBeUndone


def _cutShort(undertakings: Undertakings, deed: _Deed) -> BaseException:
    """Begin it, and be interrupted, also in what undoes it; returns what keeps the frames."""
    try:
        with undertakings.begin(deed):
            try:
                raise KeyboardInterrupt
            finally:
                raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        return error


def test_whatIsBroughtToItsEndIsNotUndone() -> None:
    woken, deed = list[int](), _Deed()
    undertakings = Undertakings(lambda: woken.append(1))
    with undertakings.begin(deed):
        assert undertakings.isUnderWay(deed)
        undertakings.end(deed)
    assert undertakings.settle() and not deed.undone and not woken and not undertakings.isUnderWay(deed)


def test_whatIsCutShortIsUndoneWhileItsFramesAreKept() -> None:
    woken, deed = list[int](), _Deed()
    undertakings = Undertakings(lambda: woken.append(1))
    kept = _cutShort(undertakings, deed)
    assert kept.__traceback__ is not None and woken and not undertakings.isUnderWay(deed)
    assert not undertakings.awaitSettled(0.01)
    assert undertakings.settle() and undertakings.settle() and deed.undone == 1
    assert undertakings.awaitSettled(0) and not undertakings._open


def test_whatCanNotBeUndoneYetKeepsNobodyElse() -> None:
    undertakings, stuck, other = Undertakings(lambda: None), _Deed(), _Deed()
    stuck.mayBeUndone = False
    _cutShort(undertakings, stuck)
    _cutShort(undertakings, other)
    assert not undertakings.settle() and other.undone == 1
    stuck.mayBeUndone = True
    assert undertakings.settle() and (stuck.undone, other.undone) == (1, 1)


def test_anUndertakingIsEnteredAndLeftInC() -> None:
    """Broken: with an `__exit__` of Python's, an interruption at its first bytecode would leave a frame that keeps it."""
    assert not {"__enter__", "__exit__"} & set(vars(Undertaking))
