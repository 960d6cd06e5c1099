"""`system/cgroups.py`: the limits of a container, a batch system or systemd."""

from __future__ import annotations

from pathlib import Path

import pytest

from muninn.system import cgroups, threads


def test_theLimitOfTasksIsTheLeastOfTheGroupAndItsAncestors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the error named `pids.max`, but not its value."""
    (tmp_path / "pids" / "a" / "b").mkdir(parents=True)
    for path, text in (
        ("pids/a/pids.max", "40\n"),
        ("pids/a/b/pids.max", "60\n"),
        ("pids/pids.max", "100\n"),
    ):
        (tmp_path / path).write_text(text)
    found = list(cgroups.directories("pids", "8:pids:/a/b\n4:memory:/x\n", str(tmp_path)))
    assert found == [
        (1, f"{tmp_path}/pids/a/b"),
        (1, f"{tmp_path}/pids/a"),
        (1, f"{tmp_path}/pids"),
    ]
    monkeypatch.setattr(
        cgroups, "directories", lambda controller: found if controller == "pids" else []
    )
    assert cgroups.mostTasks() == 40
    assert "tasks of the control group 40 (`pids.max`)" in threads.exhausted().reason
    (tmp_path / "pids/a/pids.max").unlink()
    assert cgroups.mostTasks() == 60
    (tmp_path / "pids/a/b/pids.max").write_text("max\n")
    assert cgroups.mostTasks() == 100


@pytest.mark.parametrize("text", ["max\n", str((1 << 63) - 4096), "", "-1"])
def test_aTextThatIsNoLimitIsNone(tmp_path: Path, text: str) -> None:
    (tmp_path / "limit").write_text(text)
    assert cgroups.limitIn(str(tmp_path / "limit")) is None
    assert cgroups.limitIn(str(tmp_path / "missing")) is None
