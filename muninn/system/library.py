"""The compiled library of the C part: its path, and its replacement if it can not be
loaded.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from muninn.errors import PlatformUnsupported

LIBRARY = Path(__file__).resolve().parent.parent / "_shim" / "libmuninn.so"


class Missing:
    """Stands for a library that can not be loaded. The import of Muninn goes on, so
    that `doctor` can report the problem, and each call raises with the reason.
    """

    def __init__(self, why: OSError) -> None:
        self._why = str(why)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        def refuse(*_: object, **__: object) -> Any:
            raise PlatformUnsupported(
                f"the C primitives can not be loaded: {self._why}", _howToLoad()
            )

        return refuse


def _howToLoad() -> str:
    if getattr(sys, "frozen", False):
        return (
            "Let the program that packs yours take all of Muninn, its C library too: "
            "`pyinstaller --collect-all muninn …`"
        )
    if not LIBRARY.parent.parent.is_dir():
        return (
            "Install Muninn, or unpack it: no library is loaded from within a zip file, "
            f"as {LIBRARY.parents[2]} may be one"
        )
    return "Install Muninn where a C compiler is: `make setup`, or `pip install .`"


def loaded(kind: type[ctypes.CDLL]) -> Any:
    try:
        return kind(str(LIBRARY))
    except OSError as error:
        return Missing(error)
