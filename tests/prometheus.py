"""A real Prometheus (Debian's package `prometheus`), and its `promtool`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from support import eventually

RULES = Path(__file__).parents[1] / "ops" / "prometheus" / "muninn.rules.yml"
#: A mark for tests that need the programs.
needsPrometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Prometheus is not installed: apt-get install prometheus",
)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}


def promtool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, timeout=60
    )


def faster(rules: str, times: int) -> str:
    """The same rules with all durations shorter: windows, and how long an alarm waits."""

    def shorter(match: re.Match[str]) -> str:
        seconds = int(match[2]) * _UNIT_SECONDS[match[3]]
        assert seconds % times == 0, match[0]
        return f"{match[1]}{seconds // times}s"

    found, count = re.subn(r"(\[|for: )(\d+)([smh])\b", shorter, rules)
    assert count == len(re.findall(r"for: |\[\d", rules)), "every duration is made shorter"
    return found


class Prometheus:
    """A server that scrapes each second, with these rules.

    Parameters
    ----------
    folder
        An empty one.
    targets
        Ports to scrape.
    rules
        The text of a file of rules.
    port
        Its own.
    """

    def __init__(self, folder: Path, targets: list[int], rules: str, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        shown = ", ".join(f'"127.0.0.1:{target}"' for target in targets)
        (folder / "rules.yml").write_text(rules)
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
            "rule_files: [rules.yml]\n"
            f"scrape_configs: [{{job_name: muninn, static_configs: [{{targets: [{shown}]}}]}}]\n"
        )
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=self._log,
        )
        try:
            eventually(self._isReady, "Prometheus is ready")
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._log.close()

    def _isReady(self) -> bool:
        assert self._process.poll() is None, "Prometheus has ended; its log says why"
        try:
            return bool(self.ask("status/runtimeinfo"))
        except OSError:
            return False

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of its API. An error of the query is a failed test."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            read = json.loads(answer.read())
        assert read["status"] == "success", read
        return read["data"]

    def value(self, expression: str) -> float | None:
        """The one value of an expression; None: it has none."""
        result = self.ask("query", query=expression)["result"]
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None

    def firing(self) -> set[str]:
        """The names of the alarms that fire."""
        alerts = self.ask("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def missed(self) -> float:
        """How many scrapes have failed."""
        return self.value('sum(count_over_time((up{job="muninn"} == 0)[1h:1s]))') or 0.0
