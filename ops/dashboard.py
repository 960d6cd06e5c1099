"""The Grafana dashboard of Muninn: ``python ops/dashboard.py > ops/grafana/muninn.json``.

The three views of the specification (R§7) are three rows: Capacity, Hot Path, Health.
`ops/grafana/panels.toml` has the panels, and this program their places.
`tests/test_dashboard.py` holds that the file is what this program prints, that it fits
Grafana's schema, and that each query names metrics that there are.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS, _HEIGHT = 24, 8
#: The domains that are chosen above the panels.
_HERE = 'job=~"$job", instance=~"$instance"'


class Panel(NamedTuple):
    """One panel, as `panels.toml` has it. Its queries are expressions and their legends;
    `unit` and `kind` are words of Grafana's.
    """

    view: str
    title: str
    text: str
    queries: list[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    isStacked: bool = False
    limit: float | None = None


def _panels() -> list[Panel]:
    tables = tomllib.loads((Path(__file__).parent / "grafana" / "panels.toml").read_text())
    return [Panel(**table) for table in tables["panel"]]


def _filled(expression: str) -> str:
    return expression.replace("HERE", _HERE).replace("WINDOW", "$__rate_interval")


def _field(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.kind == "timeseries":
        custom: dict[str, Any] = {"drawStyle": "line", "fillOpacity": 10, "showPoints": "never"}
        custom["stacking"] = {"mode": "normal" if panel.isStacked else "none", "group": "A"}
        custom["thresholdsStyle"] = {"mode": "off" if panel.limit is None else "line"}
        defaults["custom"] = custom
    return {"defaults": defaults, "overrides": []}


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    isStill = panel.kind != "timeseries"
    height = 4 if panel.kind == "stat" else _HEIGHT
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": height},
        "fieldConfig": _field(panel),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": _filled(expression),
                "legendFormat": legend,
                "instant": isStill,
                "range": not isStill,
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _placed() -> list[dict[str, Any]]:
    """The rows and their panels, from left to right and from top to bottom."""
    found: list[dict[str, Any]] = []
    y, every = 0, _panels()
    for title in dict.fromkeys(panel.view for panel in every):
        place = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
        row = {"id": len(found) + 1, "type": "row", "title": title, "gridPos": place}
        found.append({**row, "collapsed": False, "panels": []})
        x, y, height = 0, y + 1, 0
        for panel in (each for each in every if each.view == title):
            if x + panel.width > _COLUMNS:
                x, y, height = 0, y + height, 0
            found.append(_panel(panel, len(found) + 1, x, y))
            x, height = x + panel.width, found[-1]["gridPos"]["h"]
        y += height
    return found


def _chosen(name: str, label: str) -> dict[str, Any]:
    """A variable: the values of a label, all of them by default."""
    query = f"label_values(muninn_members, {name})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "refresh": 2,
        "sort": 1,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    source = {"type": "datasource", "name": "datasource", "label": "Prometheus"}
    return {
        "uid": "muninn",
        "title": "Muninn",
        "description": "Memory that processes and GPUs of one host share.",
        "tags": ["muninn"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {**source, "query": "prometheus", "refresh": 1},
                _chosen("job", "Job"),
                _chosen("instance", "Domain"),
            ]
        },
        "annotations": {"list": []},
        "links": [],
        "panels": _placed(),
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1, ensure_ascii=False))
