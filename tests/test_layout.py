"""`layout.py` is the only description: the C header is generated from it, and the
compiled library has its numbers.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import pytest

from muninn.control import cheader, layout
from muninn.control.bits import BitField
from muninn.control.geometry import Geometry
from muninn.errors import ControlBlockInvalid
from muninn.system import atomics
from muninn.system.pages import PAGE_BYTES

ROOT = Path(__file__).parent.parent
HEADER = ROOT / "cshim" / "layout.h"


class _Number(ctypes.Structure):
    """`struct mnnNumber` of `cshim/layout.c`."""

    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_uint64))


def numbersOfLibrary() -> dict[str, int]:
    """The table of the compiled library, up to its end."""
    address = ctypes.addressof(_Number.in_dll(ctypes.CDLL(str(atomics.LIBRARY)), "mnnNumbers"))
    found: dict[str, int] = {}
    while (
        number := _Number.from_address(address + len(found) * ctypes.sizeof(_Number))
    ).name is not None:
        found[number.name.decode()] = number.value
    return found


def areDisjoint(*fields: BitField) -> bool:
    """Whether the fields are in words of one size, end within them, and share no bit."""
    seen = 0
    for field in fields:
        if (
            field.wordBits != fields[0].wordBits
            or field.shift + field.bits > field.wordBits
            or seen & field.mask
        ):
            return False
        seen |= field.mask
    return True


def test_theHeaderIsWhatTheLayoutGives() -> None:
    assert HEADER.read_text() == cheader.text(), (
        "run: python -m muninn.control.cheader > cshim/layout.h"
    )


def test_theLibraryWasCompiledWithTheNumbersOfTheLayout() -> None:
    assert numbersOfLibrary() == cheader.numbers()


def test_everyNumberAndEveryFieldIsInTheHeader() -> None:
    numbers, fields = (
        {name for name, value in vars(layout).items() if isinstance(value, kind) and name.isupper()}
        for kind in (int, BitField)
    )
    lines = re.findall(r"^#define MNN_(\w+) ([\w()]+)$", HEADER.read_text(), re.MULTILINE)
    assert numbers
    assert fields
    assert {name for name, _ in lines} == numbers | {
        f"{name}_{part}" for name in fields for part in ("SHIFT", "MASK")
    }


def test_headerAndModuleSayTheSameMagic() -> None:
    quoted = re.search(r'MNN_MAGIC "(.*)"', HEADER.read_text())
    assert quoted is not None
    assert quoted[1].encode().decode("unicode_escape").encode("latin1") == layout.MAGIC


def test_theBuildHookMakesTheHeaderWithoutWhatMuninnNeeds() -> None:
    program = re.search(
        r'^HEADER_PROGRAM = """(.*?)"""',
        (ROOT / "hatch_build.py").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert program is not None
    # Generate it as the hook does, and without site-packages: a build has neither numpy
    # nor posix_ipc.
    run = subprocess.run(
        [sys.executable, "-ISB", "-c", program[1], str(ROOT / "muninn")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == cheader.text()


def test_aFieldSaysWhatItsBitsAre() -> None:
    field = BitField(4, 12)
    assert (field.top, field.mask) == (0xFFF, 0xFFF0)
    assert field.of(0xABCDE) == 0xBCD
    assert field.put(0x123, 0xABCDE) == 0xA123E
    assert field.put(1) == 0x10
    for value in (-1, 0x1000):
        with pytest.raises(ValueError, match="12 bits"):
            field.put(value)


def test_fieldsThatOverlapOrEndBeyondTheirWordAreNotDisjoint() -> None:
    assert areDisjoint(BitField(0, 4), BitField(4, 60))
    assert not areDisjoint(BitField(0, 4), BitField(3, 4))
    assert not areDisjoint(BitField(0, 4, 32), BitField(4, 29, 32))
    assert not areDisjoint(BitField(0, 4), BitField(4, 4, 32))


@pytest.mark.parametrize(
    "fields",
    [
        (layout.ELECTION_SLOT, layout.ELECTION_EPOCH),
        (layout.ROWS_READY_COUNT, layout.ROWS_READY_EPOCH),
        (layout.DRAIN_TEXT, layout.DRAIN_EPOCH),
        (layout.NAME_WAKE_INDEXED, layout.NAME_WAKE_NOT_INDEXED),
        (layout.REPLACEMENT_OLD, layout.REPLACEMENT_NEW, layout.REPLACEMENT_EPOCH),
        (layout.MEMBER_STATE, layout.MEMBER_GENERATION),
        (layout.ROBUST_TID, layout.ROBUST_OWNER_DIED, layout.ROBUST_WAITERS),
        (layout.INDEX_ROW, layout.INDEX_INCARNATION, layout.INDEX_HASH),
        (layout.INDEX_ROW, layout.INDEX_TOMBSTONE_EPOCH),
        (layout.ROW_STATE, layout.ROW_CREATOR, layout.ROW_EPOCH, layout.ROW_INCARNATION),
        (layout.HEAD_ROW, layout.HEAD_NUMBER, layout.HEAD_INCARNATION),
        (layout.OWNER_SLOT, layout.OWNER_GENERATION, layout.OWNER_CONTENDED),
        (layout.TICKET_STATUS, layout.TICKET_SLOT, layout.TICKET_GENERATION, layout.TICKET_NUMBER),
        (layout.HINT_PRIORITY, layout.HINT_UNTIL),
        (layout.HOT_FIRST, layout.HOT_PAGES),
        (layout.LEASE_ROW, layout.LEASE_REASON, layout.LEASE_GENERATION, layout.LEASE_INCARNATION),
        (layout.LEASE_EXPIRY, layout.LEASE_READING),
    ],
)
def test_theFieldsOfAWordDoNotOverlap(fields: tuple[BitField, ...]) -> None:
    assert areDisjoint(*fields)


@pytest.mark.parametrize("limits", [(1, 1, 1), (256, 16384, 2048), (4094, 100_000, 65_536)])
def test_partsFollowEachOtherWithoutOverlap(limits: tuple[int, int, int]) -> None:
    geometry = Geometry.of(*limits)
    ends = [
        (layout.MEMBERS_OFFSET, layout.MEMBERS_OFFSET + geometry.maxMembers * layout.MEMBER_BYTES),
        (
            geometry.indexOffset,
            geometry.indexOffset + geometry.indexSlots * layout.INDEX_ENTRY_BYTES,
        ),
        (geometry.rowsOffset, geometry.rowsOffset + geometry.maxBuffers * layout.ROW_BYTES),
        (geometry.fencesOffset, geometry.fencesOffset + geometry.maxBuffers * layout.FENCE_BYTES),
        (geometry.areasOffset, geometry.areasOffset + geometry.maxMembers * geometry.areaBytes),
    ]
    starts = [start for start, _ in ends] + [geometry.totalBytes]
    assert all(end <= following for (_, end), following in zip(ends, starts[1:], strict=True))
    assert all(start % PAGE_BYTES == 0 for start, _ in ends)
    assert geometry.indexSlots >= 2 * geometry.maxBuffers


@pytest.mark.parametrize(
    "sizes",
    [
        (0, 256, 1, 512),
        (5000, 256, 1, 512),
        (1, 255, 1, 512),
        (1, 256, 0, 512),
        (1, 256, 1, 500),
        (1, 256, 1, 1 << 40),
    ],
)
def test_refusesImpossibleSizes(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ControlBlockInvalid):
        Geometry(*sizes).checked()
