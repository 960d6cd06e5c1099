"""A real Prometheus scrapes a real domain, and raises its alarms."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus import RULES, Prometheus, faster, needsPrometheus, promtool
from test_endpoint import fetched, freePort, isServed

import muninn
from muninn.session.membership import current
from support import Actor, eventually, program

Start = Callable[..., Actor]
pytestmark = needsPrometheus
#: How much shorter the durations of the alarms are in these tests.
_TIMES = 60


def test_promtoolAcceptsTheMetrics(domain: str, actor: Start) -> None:
    """All but the name of the specification that has a short unit."""
    port = freePort()
    actor("b = muninn.array('a', 8, 'u1')", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: isServed(port), "it answers")
    checked = promtool("check", "metrics", stdin=fetched(port))
    findings = (checked.stdout + checked.stderr).strip().splitlines()
    assert findings == ["muninn_open_latency_ms metric names should not contain abbreviated units"]
    broken = promtool("check", "metrics", stdin=fetched(port) + "muninn what\n")
    assert broken.returncode == 1, "it would say so"


def test_theRulesAreValidAndTheirCasesFireAndStayQuiet(tmp_path: Path) -> None:
    checked = promtool("check", "rules", str(RULES))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    cases = RULES.with_name("muninn.test.yml")
    tested = promtool("test", "rules", str(cases))
    assert tested.returncode == 0, tested.stdout + tested.stderr
    (tmp_path / RULES.name).write_text(RULES.read_text().replace("> 0.6", "> 0.8"))
    (tmp_path / cases.name).write_text(cases.read_text())
    assert promtool("test", "rules", str(tmp_path / cases.name)).returncode == 1
    example = promtool("check", "config", str(RULES.with_name("prometheus.yml")))
    assert example.returncode == 0, example.stdout + example.stderr


def test_eachAlarmHasACaseThatFiresAndOneThatStaysQuiet() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    cases = yaml.safe_load(RULES.with_name("muninn.test.yml").read_text())["tests"]
    seen = {
        (case["alertname"], bool(case["exp_alerts"]))
        for test in cases
        for case in test["alert_rule_test"]
    }
    alarms = [rule["alert"] for rule in rules if "alert" in rule]
    assert seen == {(alarm, fires) for alarm in alarms for fires in (True, False)}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_theScrapeGoesOnOverTakeovers(domain: str, actor: Start, tmp_path: Path) -> None:
    """What Prometheus keeps never goes back: `resets` is 0 for each counter."""
    port = freePort()
    muninn.share(np.zeros(8), "a")
    code = "b = [muninn.open('a') for _ in range(10)]"
    serving = [actor(code, MUNINN_METRICS_PORT=str(port)) for _ in range(2)]
    eventually(lambda: len(current().members.answering()) == 2, "both have the sockets")
    prometheus = Prometheus(tmp_path, [port], RULES.read_text(), freePort())
    try:
        for how in ("kill", "stop", "leave"):
            before = prometheus.value("count_over_time(up[1h])") or 0.0
            eventually(
                lambda before=before: (
                    (prometheus.value("count_over_time(up[1h])") or 0) > before + 2
                ),
                "it scrapes",
            )
            serving.append(actor(code, MUNINN_METRICS_PORT=str(port)))
            old = serving.pop(0)
            getattr(old, how)()
        wanted = 50.0
        eventually(lambda: prometheus.value("muninn_opens_total") == wanted, "all are counted")
        names = [
            name
            for name in prometheus.ask("label/__name__/values")
            if re.fullmatch("muninn_.*_(total|count|bucket|sum)", name)
        ]
        assert "muninn_opens_total" in names and len(names) > 20
        for name in names:
            assert prometheus.value(f"sum(resets({name}[1h]))") in (0, None), name
        missed = prometheus.missed()
        print(f"{prometheus.value('count_over_time(up[1h])'):.0f} scrapes, {missed:.0f} failed")
        # A process that dies or is stopped takes along the answer that it was writing.
        assert missed <= 2
    finally:
        prometheus.end()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_pressureOnADomainRaisesEachAlarm(domain: str, actor: Start, tmp_path: Path) -> None:
    """The rules are those of `ops/`, with all times sixty times shorter.

    Promotions, expired leases and revocations happen in the domain: windows that no
    budget has room for, a lease that is used after its end, an eviction of thirty
    leases. BAR1 and the queue of an NVMe device are pressed in the process that serves,
    which is told of both by functions in the place of those of `service/pressure.py`:
    emulated GPUs have no BAR1, and this machine may have no NVMe device.
    """
    port = freePort()
    serving = actor(
        "import muninn.service.metrics as m\npressure = {'bar': 0.1, 'nvme': 3}\n"
        "m.apertures = lambda device: {'0': pressure['bar']}\n"
        "m.queues = lambda: {'nvme0n1': pressure['nvme']}\n"
        "from muninn.session.membership import current\ncurrent().gpus.chosen()",
        MUNINN_METRICS_PORT=str(port),
    )
    held = [muninn.array(f"b{number}", 8, "u1") for number in range(30)]
    eventually(lambda: isServed(port), "it answers")
    prometheus = Prometheus(tmp_path, [port], faster(RULES.read_text(), _TIMES), freePort())
    try:
        eventually(lambda: (prometheus.value("count_over_time(up[1h])") or 0) > 20, "it scrapes")
        assert prometheus.firing() == set(), "all is quiet"

        serving.do("pressure['bar'] = 0.75")
        raised(prometheus, "MuninnBarPressureHigh")
        serving.do("pressure['bar'] = 0.1")

        serving.do("pressure['nvme'] = 200")
        raised(prometheus, "MuninnNvmeQueueDeep")
        serving.do("pressure['nvme'] = 3")

        failing = actor(program("failingPromotions"), MUNINN_PER_GPU_SCRATCH_BYTES="0")
        raised(prometheus, "MuninnPromotionsFail", lambda: failing.do("fail()"))
        failing.kill()

        expired = actor(program("expiredLease"), MUNINN_LEASE_TTL_MS="60")
        raised(prometheus, "MuninnLeaseExpiryMisused", lambda: expired.do("misuse()"))
        expired.kill()

        from muninn.api import admin

        for each in held:
            admin.evict(each.name)
        raised(prometheus, "MuninnRevocationsSpike")
        eventually(lambda: not prometheus.firing(), "all is quiet again")
    finally:
        prometheus.end()


def raised(prometheus: Prometheus, alarm: str, press: Callable[[], object] = lambda: None) -> None:
    """Wait until the alarm fires, and no other one."""
    seen: set[str] = set()

    def isFiring() -> bool:
        press()
        seen.update(prometheus.firing())
        return alarm in seen

    eventually(isFiring, f"{alarm} fires")
