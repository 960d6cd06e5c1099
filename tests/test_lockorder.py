"""The lock-order checker finds planted inversions, and its list is complete."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lockorder
import pytest

ROOT = Path(__file__).parents[1]
SOURCE = """
import _thread
from muninn.system.forks import Guard
from muninn.system.green import Condition
outer = _thread.RLock()
middle = Guard()
inner = Condition()
class Unlisted(_thread.RLock):
    pass
"""
_Names = dict[str, Any]


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], _Names]:
    """Create the locks of a planted module of Muninn, and report to a file of the test."""
    names = [f"planted.{name}" for name in ("outer", "middle", "inner")]
    monkeypatch.setattr(lockorder, "ranks", {name: rank for rank, name in enumerate(names)})
    monkeypatch.setattr(lockorder, "reportPath", str(tmp_path / "reports"))

    def make(source: str = SOURCE) -> _Names:
        path = tmp_path / "planted.py"
        path.write_text(source)
        made: _Names = {"__name__": "muninn.planted"}
        exec(compile(source, str(path), "exec"), made)
        return made

    return make


def reports(tmp_path: Path) -> list[str]:
    path = tmp_path / "reports"
    return (
        [line.split(", at ")[0] for line in path.read_text().splitlines()] if path.exists() else []
    )


def test_locksInOrderAreNotReported(planted: Callable[..., _Names], tmp_path: Path) -> None:
    names = planted()
    with names["outer"], names["middle"].lock, names["inner"].lock, names["outer"]:
        pass  # the outer lock is entered again, which never waits
    with names["inner"].lock:
        pass  # a lock that was left does not count
    assert reports(tmp_path) == []


@pytest.mark.parametrize(
    ("first", "second"), [("inner", "outer"), ("inner", "middle"), ("middle", "outer")]
)
def test_aPlantedInversionIsFound(
    planted: Callable[..., _Names], tmp_path: Path, first: str, second: str
) -> None:
    names = planted()
    outer, inner = (getattr(names[name], "lock", names[name]) for name in (first, second))
    with outer, inner:
        pass
    assert reports(tmp_path) == [f"planted.{second} is taken by a thread that has planted.{first}"]


def test_aLockThatWasTriedCountsAsOwned(planted: Callable[..., _Names], tmp_path: Path) -> None:
    names, again = planted(), planted()
    assert again["outer"].acquire(blocking=False)
    with names["outer"]:  # another lock of the same name: no order between the two
        pass
    again["outer"].release()
    assert reports(tmp_path) == ["planted.outer is taken by a thread that has planted.outer"]


def test_anUnlistedLockIsFound(planted: Callable[..., _Names], tmp_path: Path) -> None:
    with planted("import _thread\nforgotten = _thread.RLock()\n")["forgotten"]:
        pass
    assert reports(tmp_path) == ["planted.forgotten is not in the order of locks"]


def test_aLockThatIsInheritedFromIsLeftAlone(planted: Callable[..., _Names]) -> None:
    assert not hasattr(planted()["Unlisted"](), "name")


def created(folder: Path) -> list[str]:
    """Each place below a folder that creates a lock, by module and attribute."""
    makers = re.compile(
        r"(?<!class )(?<!muninn\.)\b(?:_thread\.RLock|allocate_lock|Lock|Guard|Condition)\(\w*=?\w*\)"
    )
    found = []
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        if module in ("system.forks", "system.green"):  # these make locks for other modules
            continue
        for line in path.read_text().split("\n"):
            if makers.search(line) and not line.startswith("class "):
                name = lockorder.CREATION.search(line)
                found.append(f"{module}.{name[1] if name else line.strip()}")
    return found


def test_everyLockOfThePackageIsListed() -> None:
    assert set(created(ROOT / "muninn")) == set(lockorder.ORDER)


def test_aLockOfAnotherKindIsFound(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text("import threading\nlock = threading.Lock()\n")
    assert created(tmp_path) == ["planted.lock = threading.Lock()"]


def test_theDocumentHasTheSameOrder() -> None:
    text = (ROOT / "docs/design/0016-lock-order.md").read_text()
    assert re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE) == lockorder.ORDER
