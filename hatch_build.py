"""Compile the C primitives into the package, say in the wheel's name for which platform that was, and make the README's links absolute."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

FLAGS = ["-std=c11", "-O2", "-g", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
NO_COMPILER = (
    "Muninn is being built from source, which needs a C compiler, and {compiler!r} can not be run ({why}). "
    "Install gcc (Debian, Ubuntu: apt install gcc; Fedora: dnf install gcc; Alpine: apk add gcc musl-dev linux-headers), "
    "name another compiler in the variable CC, or install a wheel."
)
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s]+)(\))")


def absolute(readme: str, source: str) -> str:
    """The page with its links to files of the checkout leading to `source`, the checkout's place on the web."""
    return _LINK.sub(lambda match: f"{match[1]}{source}/blob/main/{match[2]}{match[3]}", readme)


class CustomMetadataHook(MetadataHookInterface):
    """Runs for every wheel and source distribution."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text()
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, metadata["urls"]["Source"])}


class CustomBuildHook(BuildHookInterface[Any]):
    """Runs before every wheel, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        target = root / "muninn" / "_shim" / "libmuninn.so"
        target.parent.mkdir(exist_ok=True)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        # Built beside it and renamed: a process that has the old one mapped keeps it whole.
        fresh = target.with_suffix(".new")
        sources = map(str, sorted((root / "cshim").glob("*.c")))
        try:
            subprocess.run([*compiler, *FLAGS, *shlex.split(os.environ.get("CFLAGS", "")), "-o", str(fresh), *sources], check=True)
        except OSError as error:
            raise SystemExit(NO_COMPILER.format(compiler=compiler[0], why=error.strerror or error)) from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                f"Muninn's C part can not be compiled: {compiler[0]} ended with status {error.returncode}, see above."
            ) from None
        fresh.replace(target)
        build_data["artifacts"].append("/muninn/_shim/libmuninn.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
