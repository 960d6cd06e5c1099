"""The windows that this process has promoted, by the addresses of their scratch memory, for
callers that name a window so. It keeps none.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from muninn.api.scratch import Scratch
from muninn.arguments import asInteger
from muninn.errors import InvalidArgument

if TYPE_CHECKING:
    from muninn.api.attachment import Attachment

_windows: weakref.WeakValueDictionary[int, Scratch] = weakref.WeakValueDictionary()


def note(window: Scratch) -> None:
    """A window was promoted."""
    _windows[window.address] = window


def windowAt(base: Attachment, gpu: int, pointer: Any) -> Scratch:
    """The window of a buffer whose scratch memory is at an address."""
    address, number = asInteger(pointer), asInteger(gpu)
    found = None if address is None else _windows.get(address)
    isThere = found is not None and not found._isOver and found.gpu == number
    if found is None or not isThere or found._base._held() is not base._checked():
        raise InvalidArgument(
            f"no window of {base.name!r} is promoted to GPU {gpu} at {pointer!r}",
            "Pass what promote() returned, inside its block",
        )
    return found
