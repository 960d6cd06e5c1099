"""Fitting: how many columns of a terminal a text takes, and what of it fits in fewer."""

from __future__ import annotations


def widthOf(text: str) -> int:
    """Columns: East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shortened(text: str, room: int) -> str:
    """The text in so many columns, at least one. It is cut in the middle: names of one
    program begin alike, and their ends tell them apart.
    """
    if widthOf(text) <= room:
        return text
    head, tail = "", ""
    while widthOf(head + text[len(head)]) + widthOf(tail) < room:
        head += text[len(head)]
        if widthOf(head) + widthOf(text[-1 - len(tail)] + tail) >= room:
            break
        tail = text[-1 - len(tail)] + tail
    return f"{head}…{tail}"
