"""The panels above the table: the domain, the tiers, the routes, and what happened."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.text import Text

from muninn.cli.output import counted, printable
from muninn.cli.top.graphs import bar, spark
from muninn.cli.top.picture import Picture, Tier
from muninn.cli.top.rates import Flow
from muninn.cli.top.texts import padded, perSecond, shortened, throughput
from muninn.config.sizes import asText

_BAR_STYLES = ("green", "yellow", "dim")
_LEAST_BAR, _MOST_BAR = 8, 40
_GRAPH, _WIDE = 20, 120


def domainLine(picture: Picture, isPaused: bool, width: int) -> Text:
    """The domain, its members and its broker."""
    broker = picture.broker()
    line = Text()
    line.append("muninn top", "bold")
    owner = "" if picture.uid == os.geteuid() else f" of uid {picture.uid}"
    line.append(f"  domain {printable(picture.domain)!r}{owner}")
    line.append(f", {counted(len(picture.reading.members), 'member')}")
    line.append(", broker ")
    if broker is None:
        line.append("none", "bold red")
    else:
        line.append(broker.title, "magenta")
    line.append(f", epoch {picture.reading.epoch}")
    if picture.drainReason is not None:
        why = f" ({printable(picture.drainReason)})" if picture.drainReason else ""
        line.append(f", draining{why}", "bold yellow")
    clock = f"  {'PAUSED ' * isPaused}{picture.time}"
    room = width - len(clock)
    if line.cell_len > room:
        line.truncate(max(0, room), overflow="ellipsis")
    line.append(" " * max(0, room - line.cell_len))
    line.append(clock, "bold yellow" if isPaused else "dim")
    return line


def tierLines(picture: Picture, width: int, isUnicode: bool) -> list[Text]:
    """A line for each tier: its bar, its bytes, and how many there were before."""
    return [_tierLine(tier, picture, width, isUnicode) for tier in picture.tiers]


def _tierLine(tier: Tier, picture: Picture, width: int, isUnicode: bool) -> Text:
    left = tier.emptyBytes
    empty = "?" if left is None else asText(left)
    texts = [
        f"active {asText(tier.activeBytes)}",
        f"idle {asText(tier.idleBytes)}",
        f"empty {empty}",
    ]
    line = Text.assemble((padded(tier.name, 6) + " ", "bold"))
    isWide = width >= 60
    numbers = [padded(text, 13 if isWide else 0) if isWide else text for text in texts]
    room = width - 7 - sum(len(text) + 1 for text in numbers) - 2
    length = min(_MOST_BAR, room)
    if length >= _LEAST_BAR and left is None:
        line.append(" " * (length + 3))  # of what the bytes are a part is not known
    elif length >= _LEAST_BAR and left is not None:
        parts = bar((tier.activeBytes, tier.idleBytes, left), length, isUnicode)
        line.append("[")
        for part, style in zip(parts, _BAR_STYLES, strict=True):
            line.append(part, style)
        line.append("] ")
    for text, style in zip(numbers, _BAR_STYLES, strict=True):
        line.append(f"{text} ", style)
    if room - length >= _GRAPH + 1:
        past = picture.history.series.get(f"tier/{tier.name}", ())
        line.append(spark([*past], _GRAPH, isUnicode), "green")
    line.truncate(width)
    return line


def routeLines(picture: Picture, width: int, isUnicode: bool) -> list[Text]:
    """The bytes that were moved, by route, as many routes in a line as it has room for."""
    series, entries = picture.history.series, list[Text]()
    graph = _GRAPH if width >= _WIDE else 8
    for route, flow in picture.rates.routes.items():
        entry = Text.assemble((f"{route} ", "bold"))
        if width >= _WIDE:
            entry.append(f"{padded(asText(flow.totalBytes), 6, isRight=True)} at ")
        speed = throughput(flow.bytesPerSecond) if flow.bytesPerSecond > 0 else "0 B/s"
        entry.append(padded(speed, 10, isRight=True), "green")
        entry.append(f" {padded(_often(flow.perSecond), 7, isRight=True)}")
        entry.append(" " + spark([*series.get(f"route/{route}", ())], graph, isUnicode), "green")
        entries.append(entry)
    if not entries:
        entries = [Text("no transfer yet", "dim")]
    return _flowing("ROUTES", entries, width)


def eventLines(picture: Picture, width: int, isUnicode: bool) -> list[Text]:
    """What happened: in a second, and ever since the domain began."""
    events, reasons = picture.rates.events, picture.rates.reasons
    published = float(picture.rates.publications.sum())
    graph = spark([*picture.history.series.get("publications", ())], 8, isUnicode)
    entries = [
        Text(f"publications {_often(published)} {graph}"),
        _event("promotions", events["promotions"], isSized=True),
        _event("failed", events["promotionFailures"], style="red"),
        _event("writebacks", events["writebacks"], isSized=True),
        _event("revocations", events["revocations"], reasons["revocations"], style="red"),
        _event("errors", events["errors"], reasons["errors"], style="red"),
        _event("opens", events["opens"]),
        _event("deaths", events["deaths"], style="red"),
    ]
    return _flowing("EVENTS", entries, width)


def _often(value: float) -> str:
    return f"{perSecond(value) if value > 0 else 0}/s"


def _event(
    name: str,
    flow: Flow,
    reasons: dict[str, int] | None = None,
    isSized: bool = False,
    style: str = "",
) -> Text:
    entry = Text(f"{name} ")
    entry.append(str(flow.times), style if flow.times else "dim")
    most = sorted((reasons or {}).items(), key=lambda each: -each[1])[:2]
    if most:
        entry.append(f" ({', '.join(f'{reason} {times}' for reason, times in most)})", "dim")
    if flow.perSecond > 0:
        size = f" {throughput(flow.bytesPerSecond)}" if isSized else ""
        entry.append(f" at {_often(flow.perSecond)}{size}", style or "green")
    return entry


def _flowing(heading: str, entries: Sequence[Text], width: int) -> list[Text]:
    """Entries one after the other, in as many lines as they need."""
    indent = 7
    lines = [Text.assemble((padded(heading, indent), "dim"))]
    for entry in entries:
        isFirst = lines[-1].cell_len == indent
        if not isFirst and lines[-1].cell_len + 3 + entry.cell_len > width:
            lines.append(Text(" " * indent))
            isFirst = True
        if not isFirst:
            lines[-1].append("   ")
        lines[-1].append_text(entry)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def nobodyLine(domain: str, width: int) -> Text:
    """What is shown while no process is in the domain."""
    text = f"no process is in domain {printable(domain)!r}; the first one will be shown"
    return Text(shortened(text, width), "yellow")
