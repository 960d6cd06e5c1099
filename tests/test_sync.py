"""Each release, CAS, wake-up and sleep says with which function it pairs, and that
function says so too.
"""

from __future__ import annotations

import re
from pathlib import Path

from syncsites import functions, functionsOfC, functionsOfPython, unpaired

_ROOT = Path(__file__).parent.parent
#: The changes that have no peer, and why.
_EXEMPT = {
    "_primitives": "words of one's own: doctor sees whether the library works",
    "futex": "likewise",
    "sleepOn": "each caller says with what its sleep pairs",
    "cas32": "the CAS itself: each caller says with what it pairs",
    "wakeAll": "likewise",
    "HostSemaphore.__init__": "no stream knows the word yet",
}
#: The primitives themselves, whose order is in the name.
_PRIMITIVE = re.compile(r"mnn(StoreRelease|Exchange|Cas|FetchAdd|RaiseField|Futex)\w*\d")
_PYTHON = '''
class Word:
    def set(self):
        # SYNC word: pairs with Word.get; what was
        # done comes before.
        atomics.storeRelease64(self.address, 1)

    def get(self):
        """SYNC word: pairs with Word.set."""
        return atomics.loadAcquire64(self.address)
'''
_C = """
/* SYNC word: pairs with get. */
static void set(struct word *word)
{
	__atomic_store_n(&word->value, 1, __ATOMIC_RELEASE);
}

static int get(const struct word *word)
{
	/* SYNC word: pairs
	with set. */
	return __atomic_load_n(&word->value, __ATOMIC_ACQUIRE);
}
"""


def test_everyChangeOfASharedWordSaysWithWhatItPairs() -> None:
    found = functions(_ROOT)
    assert sum(len(function.changes) for function in found) > 80, "the search finds them"
    primitives = {function.name for function in found if _PRIMITIVE.fullmatch(function.name)}
    wrong = unpaired(found, set(_EXEMPT) | primitives)
    assert not wrong, "\n".join(wrong)
    assert set(_EXEMPT) <= {function.name for function in found if function.changes}, (
        "an exemption that nothing needs"
    )


def test_aPairedChangeIsNotReported() -> None:
    assert unpaired(list(functionsOfPython("word.py", _PYTHON)), set()) == []
    assert unpaired(list(functionsOfC("word.c", _C)), set()) == []


def test_aChangeWithoutACommentIsFound() -> None:
    for change in (
        "casSeqCst32(address, 0, 1)",
        "futexWake32(address, 1)",
        "exchangeSeqCst64(address, 1)",
        "fetchAddAcqRel32(address, 1)",
    ):
        planted = (
            _PYTHON + f"    def planted(self):\n        # a comment\n        atomics.{change}\n"
        )
        assert unpaired(list(functionsOfPython("word.py", planted)), set()) == [
            "word.py:13: Word.planted does not say with what it pairs"
        ]
    for change in (
        "__atomic_store_n(word, 1, __ATOMIC_RELEASE)",
        "mnnCasSeqCst32(word, 0, 1)",
        "syscall(SYS_futex, word)",
    ):
        planted = _C + f"static void planted(int *word)\n{{\n\t{change};\n}}\n"
        assert unpaired(list(functionsOfC("word.c", planted)), set()) == [
            "word.c:16: planted does not say with what it pairs"
        ]


def test_aPeerThatDoesNotExistIsFound() -> None:
    planted = _PYTHON.replace("pairs with Word.get", "pairs with Word.get and Word.gone")
    assert unpaired(list(functionsOfPython("word.py", planted)), set()) == [
        "word.py: Word.set: SYNC word pairs with Word.gone, which does not exist"
    ]
    planted = _C.replace("pairs with get", "pairs with gone")
    assert unpaired(list(functionsOfC("word.c", planted)), set()) == [
        "word.c: set: SYNC word pairs with gone, which does not exist"
    ]


def test_aNameThatStandsAtOneEndOnlyIsFound() -> None:
    planted = _PYTHON.replace("SYNC word: pairs with Word.set", "SYNC other: pairs with Word.set")
    assert unpaired(list(functionsOfPython("word.py", planted)), set()) == [
        "word.py: Word.set: SYNC word pairs with Word.get, which does not say so",
        "word.py: Word.get: SYNC other pairs with Word.set, which does not say so",
    ]
