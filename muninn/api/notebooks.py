"""The table that a notebook shows for a buffer."""

from __future__ import annotations

from typing import Any

from muninn.config.sizes import asText

#: Not `html.escape`: every process would load its module (1.5 ms) for the table of a
#: notebook, and an ending interpreter can load none.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


#: From how a buffer object was opened to the words for it.
_RIGHTS = {"readOnly": "read-only", "readWrite": "read-write", "copyOnWrite": "copy-on-write"}


def htmlOf(described: dict[str, Any] | None) -> str:
    """A small table for notebooks, from the dict of `MuninnBuffer.describe`; None for a
    buffer that is closed.
    """
    if described is None:
        return "<pre>MuninnBuffer (closed)</pre>"
    holders = ", ".join(
        f"{holder['program']} ({holder['pid']})" for holder in described["importers"]
    )
    where = (
        described["mode"]
        if not described["gpus"]
        else f"{described['mode']} on GPU {', '.join(map(str, described['gpus']))}"
    )
    rows = {
        "name": described["name"],
        "array": f"{described['dtype'] or described['kind']} {tuple(described['shape'])}",
        "size": f"{asText(described['size'])} in {where}",
        "access": f"{_RIGHTS[described['openedAs']]} here, shared {described['access']}",
        "generation": described["generation"],
        "held by": holders,
    }
    cells = "".join(
        f'<tr><th style="text-align:left">{_escaped(key)}</th><td '
        f'style="text-align:left">{_escaped(str(value))}</td></tr>'
        for key, value in rows.items()
    )
    return (
        '<table style="border-left:3px solid #4a6fa5"><caption '
        f'style="text-align:left"><b>MuninnBuffer</b></caption>{cells}</table>'
    )
