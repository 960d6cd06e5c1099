"""The build hooks: they generate the header of the layout, compile the C primitives
into the package, name the wheel after the platform, and make the links of the README
absolute.

`muninn/control/layout.py` describes the control block, and the hook writes
`cshim/layout.h` from it before it compiles. The repository has the header too, so that
the C part compiles without Python.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

FLAGS = [
    "-std=c11",
    "-O2",
    "-g",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror",
]
NO_COMPILER = (
    "Muninn is being built from source, which needs a C compiler, and {compiler!r} can not be "
    "run ({why}). "
    "Install gcc (Debian, Ubuntu: apt install gcc; Fedora: dnf install gcc; Alpine: apk add "
    "gcc musl-dev linux-headers), "
    "name another compiler in the variable CC, or install a wheel."
)
#: Prints the header. It does not run `muninn/__init__.py`, which imports packages that
#: a build does not need.
HEADER_PROGRAM = """
import sys, types
sys.modules["muninn"] = types.ModuleType("muninn")
sys.modules["muninn"].__path__ = [sys.argv[1]]
from muninn.control import cheader
sys.stdout.write(cheader.text())
"""
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s]+)(\))")


def absolute(readme: str, source: str) -> str:
    """The page with its links to files of the checkout leading to `source`, the
    checkout's place on the web.
    """
    return _LINK.sub(lambda match: f"{match[1]}{source}/blob/main/{match[2]}{match[3]}", readme)


class CustomMetadataHook(MetadataHookInterface):
    """Runs for every wheel and source distribution."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text()
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute(text, metadata["urls"]["Source"]),
        }


def words(variable: str, usual: str) -> list[str]:
    """The words of a variable, as a shell would read them; `usual` where it is empty."""
    text = os.environ.get(variable, "")
    try:
        return shlex.split(text) or shlex.split(usual)
    except ValueError as error:
        raise SystemExit(
            f"The variable {variable} is {text!r}, which can not be read as a command: {error}."
        ) from None


def generateHeader(root: Path) -> None:
    """Write `cshim/layout.h` from `muninn/control/layout.py`, or end the build with the
    error.
    """
    try:
        run = subprocess.run(
            [sys.executable, "-IB", "-c", HEADER_PROGRAM, str(root / "muninn")],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            "Muninn's C header can not be generated: Python ended with status "
            f"{error.returncode}, see above."
        ) from None
    header = root / "cshim" / "layout.h"
    # The header stays as it is where the checkout can not be written.
    if not header.exists() or header.read_text() != run.stdout:
        try:
            replaceFile(header, run.stdout.encode(), 0o644)
        except OSError as error:
            raise SystemExit(
                f"{header} is not what muninn/control/layout.py gives, and can not be written "
                f"({error.strerror})."
            ) from None


def compiled(root: Path, target: Path) -> None:
    """Compile the library, or end the build with the error."""
    compiler = words("CC", "cc")
    sources = map(str, sorted((root / "cshim").glob("*.c")))
    try:
        subprocess.run(
            [*compiler, *FLAGS, *words("CFLAGS", ""), "-o", str(target), *sources], check=True
        )
    except OSError as error:
        raise SystemExit(
            NO_COMPILER.format(compiler=compiler[0], why=error.strerror or error)
        ) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"Muninn's C part can not be compiled: {compiler[0]} ended with status "
            f"{error.returncode}, see above."
        ) from None


def replaceFile(target: Path, content: bytes, mode: int) -> None:
    """Write a file under a name of its own, then rename it: a process that maps the old
    one keeps it whole, and several builds may run.
    """
    target.parent.mkdir(exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(fresh, mode)
        os.replace(fresh, target)
    except BaseException:
        os.unlink(fresh)
        raise


def placed(library: Path, target: Path) -> None:
    """Put the library into the checkout."""
    replaceFile(target, library.read_bytes(), library.stat().st_mode & 0o777)


class CustomBuildHook(BuildHookInterface[Any]):
    """Runs before every wheel, editable ones included.

    A wheel takes the library that was compiled for it, although other builds may run in
    the same checkout. The checkout gets a copy, which an editable install needs.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        target = Path(self.root) / "muninn" / "_shim" / "libmuninn.so"
        # kept until the wheel is complete
        self._folder = tempfile.TemporaryDirectory(prefix="muninn-build")
        library = Path(self._folder.name) / target.name
        generateHeader(Path(self.root))
        compiled(Path(self.root), library)
        try:
            placed(library, target)
        except OSError as error:
            if version == "editable":
                raise SystemExit(
                    f"{target.parent} can not be written ({error.strerror}): an editable "
                    "install has its C part there."
                ) from None
        if version != "editable":
            build_data.setdefault("force_include", {})[str(library)] = "muninn/_shim/libmuninn.so"
        build_data["pure_python"] = False
        build_data["tag"] = (
            f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        )
