"""Compile the C primitives into the package, and say in the wheel's name for which platform that was."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ["-std=c11", "-O2", "-g", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]


class CustomBuildHook(BuildHookInterface[Any]):
    """Runs before every wheel, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        target = root / "muninn" / "_shim" / "libmuninn.so"
        target.parent.mkdir(exist_ok=True)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        # Built beside it and renamed: a process that has the old one mapped keeps it whole.
        fresh = target.with_suffix(".new")
        subprocess.run(
            [
                *compiler,
                *FLAGS,
                *shlex.split(os.environ.get("CFLAGS", "")),
                "-o",
                str(fresh),
                *map(str, sorted((root / "cshim").glob("*.c"))),
            ],
            check=True,
        )
        fresh.replace(target)
        build_data["artifacts"].append("/muninn/_shim/libmuninn.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
