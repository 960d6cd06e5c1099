"""The dashboard: Grafana can import it, and each of its queries shows something that a
scrape has.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from prometheus import RULES, Prometheus, needsPrometheus
from test_endpoint import fetched, freePort, isServed

from support import Actor, eventually

Start = Callable[..., Actor]
ROOT = Path(__file__).parents[1]
FILE = ROOT / "ops" / "grafana" / "muninn.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS: list[dict[str, Any]] = [each for each in DASHBOARD["panels"] if each["type"] != "row"]
#: What Grafana puts in the places of its variables.
_VARIABLES = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*"}


def expressions() -> dict[str, list[str]]:
    """The queries of each panel, as Prometheus gets them."""
    found: dict[str, list[str]] = {}
    for panel in PANELS:
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in _VARIABLES.items():
                text = text.replace(name, value)
            assert "$" not in text, f"{panel['title']} has a variable that there is not: {text}"
            found.setdefault(panel["title"], []).append(text)
    return found


def unlike(ours: Any, read: Any, where: str = "") -> list[str]:
    """Where a value differs from what Grafana's own types have kept of it."""
    if isinstance(ours, dict):
        kept = read if isinstance(read, dict) else {}
        return [
            found
            for key, value in ours.items()
            for found in unlike(value, kept.get(key), f"{where}.{key}")
        ]
    if isinstance(ours, list):
        if not isinstance(read, list) or len(read) != len(ours):
            return [where]
        pairs = enumerate(zip(ours, read, strict=True))
        return [found for number, pair in pairs for found in unlike(*pair, f"{where}[{number}]")]
    return [] if ours == read else [f"{where}: {ours!r} is {read!r}"]


def throughGrafana(dashboard: dict[str, Any]) -> Any:
    """The dashboard, read into the types that Grafana's schema gives, and written anew: a
    field that the schema does not have is gone.
    """
    sdk = pytest.importorskip(
        "grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed: make setup"
    )
    from grafana_foundation_sdk.cog import encoder, plugins
    from grafana_foundation_sdk.models import dashboard as models

    assert sdk is not None
    plugins.register_default_plugins()
    read = models.Dashboard.from_json(json.loads(json.dumps(dashboard)))
    return json.loads(json.dumps(read, cls=encoder.JSONEncoder))


def test_theFileIsWhatTheProgramPrints() -> None:
    printed = subprocess.run(
        [sys.executable, "ops/dashboard.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed == FILE.read_text(), "python ops/dashboard.py > ops/grafana/muninn.json"


def test_itFitsTheSchemaOfGrafana() -> None:
    assert unlike(DASHBOARD, throughGrafana(DASHBOARD)) == []


@pytest.mark.parametrize("key", ["gridPos", "fieldConfig", "title"])
def test_aFieldThatTheSchemaDoesNotHaveIsFound(key: str) -> None:
    broken = json.loads(FILE.read_text())
    broken["panels"][1][f"{key}s"] = broken["panels"][1].pop(key)
    assert unlike(broken, throughGrafana(broken))


def test_itHasTheThreeViewsOfTheSpecification() -> None:
    rows = [each["title"] for each in DASHBOARD["panels"] if each["type"] == "row"]
    assert rows == ["Capacity", "Hot Path", "Health"]
    shown = " ".join(text for texts in expressions().values() for text in texts)
    from test_metrics import SPECIFIED

    for name in SPECIFIED:
        assert name in shown, f"no panel shows {name}"


def test_idsAndReferencesAreUniqueAndPlacesDoNotOverlap() -> None:
    ids = [each["id"] for each in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "job", "instance"}
    for panel in PANELS:
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["description"] and panel["title"]
    places = [each["gridPos"] for each in DASHBOARD["panels"]]
    for place in places:
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)


@needsPrometheus
def test_eachQueryIsParsedAndNamesMetricsThatThereAre(
    domain: str, actor: Start, tmp_path: Path
) -> None:
    port = freePort()
    actor(
        "b = muninn.array('a', 8, 'u1'); muninn.array('idle', 8, 'u1').close()\nimport muninn.service.metrics as m\n"
        "m.apertures = lambda device: {'0': 0.1}\nm.queues = lambda: {'nvme0n1': 3}\n"
        "from muninn.session.membership import current\ncurrent().gpus.chosen()",
        MUNINN_METRICS_PORT=str(port),
    )
    eventually(lambda: isServed(port), "it answers")
    there = set(re.findall(r"^(\w+)[{ ]", fetched(port), re.MULTILINE))
    prometheus = Prometheus(tmp_path, [port], RULES.read_text(), freePort())
    try:
        eventually(lambda: (prometheus.value("count_over_time(up[1h])") or 0) > 3, "it has scraped")
        for title, texts in expressions().items():
            for text in texts:
                named = set(re.findall(r"\b(muninn_\w+)", text))
                assert named <= there or text.startswith("muninn:"), (title, named - there)
                prometheus.ask("format_query", query=text)
                result = prometheus.ask("query", query=text)["result"]
                # A quotient of two zeros and a rate of errors that nobody gets are empty.
                assert result or " / " in text or "> 0" in text, f"{title} shows nothing: {text}"
    finally:
        prometheus.end()
