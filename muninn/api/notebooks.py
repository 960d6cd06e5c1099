"""What a notebook shows for buffers, bundles, windows, and lists of buffers and members."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from muninn.config.sizes import asText
from muninn.errors import MuninnError
from muninn.system import markup

if TYPE_CHECKING:
    from muninn.api.views import Region
    from muninn.transfer.handle import Report

#: From how a buffer object was opened to the words for it.
_RIGHTS = {"readOnly": "read-only", "readWrite": "read-write", "copyOnWrite": "copy-on-write"}


def htmlOf(described: dict[str, Any] | None) -> str:
    """A small table for notebooks, from the dict of `MuninnBuffer.describe`; None for a
    buffer that is closed.
    """
    if described is None:
        return markup.refusal("MuninnBuffer", "closed")
    shape = tuple(described["shape"])
    facts = _facts(described, {"array": f"{described['dtype'] or described['kind']} {shape}"})
    return markup.card("MuninnBuffer", facts)


def bundleHtml(
    kind: str,
    described: dict[str, Any],
    entries: Mapping[str, Region],
    more: Mapping[str, object],
) -> str:
    """The table of a bundle, or of an object that has one, and below it one of its
    arrays.
    """
    facts = _facts(described, {"arrays": len(entries), **more})
    return markup.card(kind, facts, entriesHtml(entries))


def entriesHtml(entries: Mapping[str, Region]) -> str:
    """A table of the arrays of a bundle."""
    rows = [
        (key, region.element, region.shape, asText(region.sizeBytes))
        for key, region in entries.items()
    ]
    return markup.grid("", ("key", "dtype", "shape", "size"), rows)


class Window(Protocol):
    """What is shown of a promoted window."""

    offset: int
    sizeBytes: int
    gpu: int
    isShared: bool
    isHot: bool
    transfer: Report | None


def windowHtml(window: Window, name: str, array: str, isWritten: bool, isOver: bool) -> str:
    """The table of a promoted window of the buffer `name`, whose elements are `array`."""
    end = window.offset + window.sizeBytes
    facts = {
        "window of": name,
        "bytes": f"{window.offset} to {end} ({asText(window.sizeBytes)})",
        "array": array,
        "on": f"GPU {window.gpu}",
        "use": "read and written" if isWritten else "read",
        "shared": "with other processes" if window.isShared else None,
        "hot": "a hot range is in it" if window.isHot else None,
        "came by": "nothing was copied" if window.transfer is None else window.transfer.route,
        "state": "closed" if isOver else "open",
    }
    return markup.card("Scratch", facts)


def shownOr(kind: str, shown: Callable[[], str]) -> str:
    """The HTML of an object. One that is closed, or was taken away, says so: an error
    would stand in the place of what the cell has done.
    """
    try:
        return shown()
    except MuninnError as error:
        return markup.refusal(kind, error.reason)


def _facts(described: dict[str, Any], first: dict[str, object]) -> dict[str, object]:
    state = described["state"]
    return {
        "name": described["name"],
        **first,
        "size": f"{asText(described['size'])} in {_where(described)}",
        "access": f"{_RIGHTS[described['openedAs']]} here, shared {described['access']}",
        "tenant": described["tenant"],
        "generation": described["generation"],
        "state": None if state == "live" else state,
        "held by": holders(described),
    }


def _where(described: dict[str, Any]) -> str:
    mode, gpus = described["mode"], ", ".join(map(str, described.get("gpus", ())))
    return f"{mode} on GPU {gpus}" if gpus else mode


def holders(described: dict[str, Any]) -> str:
    """The programs that have a buffer open."""
    return ", ".join(_program(holder) for holder in described["importers"]) or "nobody"


def _program(holder: Mapping[str, Any]) -> str:
    return f"{holder['program']} ({holder['pid']})"


class BufferList(list[dict[str, Any]]):
    """A list of buffers, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        columns = ("name", "array", "size", "where", "state", "generation", "held by")
        kind = "1 buffer" if len(self) == 1 else f"{len(self)} buffers"
        return markup.grid(kind, columns, [_row(each) for each in self])


def _row(described: dict[str, Any]) -> Iterable[object]:
    window = described.get("windowOf")
    name = described["name"]
    if window:
        ofWhat = window["name"] or "a buffer that is gone"
        name = f"window of {ofWhat}, {asText(window['size'])} from {asText(window['offset'])} on"
    return (
        name,
        f"{described['dtype'] or described['kind']} {tuple(described['shape'])}"
        if described["kind"] == "array"
        else described["kind"],
        asText(described["size"]),
        _where(described),
        described["state"],
        described["generation"],
        holders(described),
    )


class DomainDict(dict[str, Any]):
    """What is known of a domain, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        members, broker = self["members"], self["brokerPid"]
        rows = [
            (
                _program(each),
                "broker" if each["pid"] == broker else "",
                each["leases"],
                f"{each['ageMs'] / 1000:.0f} s",
            )
            for each in members
        ]
        return markup.card(
            "Domain",
            {
                "domain": self["domain"],
                "broker": "none yet" if broker is None else broker,
                "epoch": self["epoch"],
                "draining": self["drainReason"] if self["draining"] else None,
                "copies": _counted(self["transfers"]),
                "promotions": _counted(self["promotions"]),
            },
            markup.grid("", ("member", "", "leases", "here for"), rows),
        )


def _counted(happened: Mapping[str, Mapping[str, int]]) -> str | None:
    return (
        ", ".join(
            f"{label}: {sums['times']} × ({asText(sums['bytes'])})"
            for label, sums in happened.items()
        )
        or None
    )
