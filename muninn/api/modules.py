"""Modules of PyTorch as bundles of their parameters and buffers, for each function that
takes a module. PyTorch is not imported.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from muninn.api.bundle import Bundle, sharedBundle
from muninn.interop.tensors import moduleState
from muninn.terms import Access

if TYPE_CHECKING:
    from muninn.api.options import BufferOptions


def sharedModule(caller: str, module: Any, options: BufferOptions) -> Bundle:
    """A bundle of a module's tensors, for processes that compute with them: it is
    readOnly, unless the user said otherwise. The user called the function `caller`.
    """
    state = moduleState(module)
    if options.access is None:
        options = replace(options, access=Access.READ_ONLY.value)
    return sharedBundle(caller, state, options)
