"""`python ops/topscene.py [SECONDS]`: make the pictures of `docs/top.md`.

A scene of real processes on two emulated GPUs runs for a while beside the view: a trainer
that publishes, two that copy between GPUs, one that promotes, three that want to write
the same buffer. Then the last frames are written as SVG.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.terminal_theme import MONOKAI

ROOT = Path(__file__).parent.parent
_COLUMNS, _LINES, _WIDTH_80 = 150, 34, 80
_READY_SECONDS = 60.0


def _publish() -> None:
    import muninn

    size = np.zeros(16 << 20, "u1")
    weights = muninn.share(size, "resnet50/weights", access="readWrite", tenant="vision/train")
    kept = [
        muninn.share(np.zeros(4096 * (each + 1), "u1"), f"shards/part-{each:03}", tenant="data")
        for each in range(12)
    ]
    state = np.zeros(32 << 20, "u1")
    kept.append(
        muninn.share(state, "resnet50/optimizer", access="readWrite", tenant="vision/train")
    )
    while kept:
        with weights.write() as view:
            view[:1024] += 1
        time.sleep(0.03)


def _copy(first: int) -> None:
    import muninn

    weights = muninn.open("resnet50/weights", timeout=_READY_SECONDS)
    while True:
        with weights.copyTo(first) as here, here.copyTo(1 - first):
            time.sleep(0.05)


def _promote() -> None:
    import muninn

    state = muninn.open("resnet50/optimizer", "readWrite", _READY_SECONDS)
    while True:
        with state.promote(0, 4 << 20, 0) as scratch:
            scratch.array[:4096] = 3
            time.sleep(0.2)


def _write(seconds: float) -> None:
    import muninn

    if seconds > 1:
        array = np.zeros(1 << 20, "u1")
        table = muninn.share(array, "gradients/all-reduce", access="readWrite", tenant="vision")
    else:
        table = muninn.open("gradients/all-reduce", "readWrite", _READY_SECONDS)
    while True:
        with table.write() as view:
            view[:8] += 1
            time.sleep(seconds)


_ROLES: dict[str, Callable[[], None]] = {
    "trainer": _publish,
    "serve0": lambda: _copy(0),
    "serve1": lambda: _copy(1),
    "finetune": _promote,
    "reducer": lambda: _write(2.0),
    "worker1": lambda: _write(0.05),
    "worker2": lambda: _write(0.05),
}


def _pictures(seconds: float) -> None:
    """Look at the scene, and write what is seen last."""
    from muninn.cli.top.looking import Looking
    from muninn.cli.top.screen import frameOf
    from muninn.cli.top.view import View
    from muninn.config import loadSettings
    from muninn.storage.paths import Paths

    settings = loadSettings()
    looking = Looking(Paths(os.geteuid(), settings.control.domain), settings)
    deadline, picture = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        time.sleep(0.5)
        picture = looking.picture()
        if picture is not None:
            frameOf(picture, View(panel="processes"), _COLUMNS, _LINES, True)
    assert picture is not None, "no process came"
    buffers = picture.buffers
    awaited = buffers.names.index("gradients/all-reduce")
    chosen = buffers.one(awaited).key
    for name, view, columns, lines in (
        ("buffers", View(chosen=chosen), _COLUMNS, _LINES),
        ("processes", View(panel="processes"), _COLUMNS, _LINES - 10),
        ("narrow", View(chosen=chosen), _WIDTH_80, 24),
    ):
        console = Console(
            record=True,
            width=columns,
            file=io.StringIO(),
            color_system="truecolor",
            force_terminal=True,
        )
        for line in frameOf(picture, view, columns, lines, True).lines:
            console.print(line, no_wrap=True, overflow="ignore", crop=False)
        path = ROOT / "docs" / "pictures" / f"top-{name}.svg"
        path.parent.mkdir(exist_ok=True)
        svg = console.export_svg(title="python -m muninn top", theme=MONOKAI)
        # A page loads nothing from elsewhere: the reader's own font will do.
        path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))
        print(path)
    looking.close()


def main() -> None:
    """Start the scene, make the pictures, and end it."""
    from muninn.storage.paths import Paths

    if len(sys.argv) > 1 and sys.argv[1] in _ROLES:
        role = sys.argv[1]
        sys.argv[0] = f"{role}.py"  # the name by which others know it
        with contextlib.suppress(KeyboardInterrupt):
            _ROLES[role]()
        return
    os.environ.update(
        MUNINN_DEVICE="host",
        MUNINN_HOST_GPUS="2",
        MUNINN_HOST_GPU_BYTES="256M",
        MUNINN_DOMAIN=f"scene-{secrets.token_hex(3)}",
    )
    path, folder = Path(__file__), Path(__file__).parent
    scene = [subprocess.Popen([sys.executable, path.name, role], cwd=folder) for role in _ROLES]
    try:
        _pictures(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
    finally:
        for process in scene:
            process.send_signal(signal.SIGINT)
        for process in scene:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        # What they shared outlives them.
        paths = Paths(os.geteuid(), os.environ["MUNINN_DOMAIN"])
        shutil.rmtree(paths.directory, ignore_errors=True)
        Path(paths.blockPath).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
