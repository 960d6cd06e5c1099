"""Metrics: the names, types and labels of the specification, and values that mean what
they say.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import muninn
from muninn.control import layout
from muninn.service.metrics import DomainCollector
from muninn.service.pressure import queues
from muninn.service.readings import read
from muninn.session.membership import current
from support import Actor, eventually

Start = Callable[..., Actor]
#: The table of R§7: name, type, labels. The samples of a counter end in `_total`.
SPECIFIED = {
    "muninn_buffers": ("counter", {"mode"}),
    "muninn_bytes": ("counter", {"tier"}),
    "muninn_opens": ("counter", set()),
    "muninn_open_latency_ms": ("histogram", {"mode"}),
    "muninn_promotions": ("counter", {"gpu"}),
    "muninn_bytes_promoted": ("counter", {"gpu"}),
    "muninn_route_selection": ("counter", {"route"}),
    "muninn_leases_active": ("gauge", {"tenant"}),
    "muninn_revocations": ("counter", {"reason"}),
    "muninn_errors": ("counter", {"code"}),
    "muninn_bar_pressure": ("gauge", {"gpu"}),
    "muninn_nvme_q_depth": ("gauge", {"device"}),
}


def scraped() -> dict[str, dict[tuple[str, ...], float]]:
    """The samples by name and by the values of their labels, in order of the labels."""
    registry = CollectorRegistry()
    member = current()
    registry.register(DomainCollector(lambda: read(member.tables), member.gpus.chosen))
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_everyMetricOfTheSpecificationIsThere(domain: str) -> None:
    registry, member = CollectorRegistry(), current()
    muninn.share(np.zeros(8), "a")
    registry.register(DomainCollector(lambda: read(member.tables), member.gpus.chosen))
    families = {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }
    for name, (kind, labels) in SPECIFIED.items():
        assert families[name].type == kind, name
        for sample in families[name].samples:
            assert set(sample.labels) - {"le"} == labels, name


def test_thePageHasEveryMetricWithItsTypeAndLabels(domain: str) -> None:
    member = current()
    collector = DomainCollector(lambda: read(member.tables), member.gpus.chosen)
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    row = re.compile(r"^\| `(muninn_\w+)` \| (\w+) \| (.*?) \|", re.MULTILINE)
    told = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in row.findall(page)
    }
    assert told == {
        family.name: (family.type, {*family._labelnames} - {"le"}) for family in collector.collect()
    }


def test_countersFollowWhatHappens(domain: str, actor: Start) -> None:
    buffer = muninn.share(np.arange(5000, dtype="u4"), "a", access="readWrite")
    with buffer.promote(0, 8192, 0) as scratch:
        scratch.array[:] = 7
    copy = buffer.copyTo(0)
    other = actor("b = muninn.open('a')")
    with pytest.raises(muninn.errors.BufferNotFound):
        muninn.open("nobody")
    seen = scraped()
    assert seen["muninn_buffers_total"] == {("bigMode",): 1, ("fastMode",): 1}
    assert seen["muninn_bytes_total"]["host",] >= 20_000 <= copy.nbytes
    assert seen["muninn_bytes_total"]["vram",] >= 28_192
    assert seen["muninn_opens_total"] == {(): 1}
    assert seen["muninn_open_latency_ms_count"]["bigMode",] == 1
    assert seen["muninn_promotions_total"]["0",] == 1
    assert seen["muninn_bytes_promoted_total"]["0",] == 8192
    assert seen["muninn_writebacks_total"]["0",] == 1
    assert seen["muninn_route_selection_total"]["upload",] >= 1
    assert seen["muninn_transfer_bytes_total"]["upload",] >= 20_000
    assert 0 < seen["muninn_transfer_seconds_total"]["upload",] < 60
    assert seen["muninn_errors_total"]["MNN-0011",] == 1
    assert seen["muninn_leases_active"]["default",] >= 3
    assert seen["muninn_members"][()] == 2
    other.kill()
    eventually(lambda: scraped()["muninn_members"][()] == 1, "the dead hold nothing")
    assert scraped()["muninn_opens_total"] == {(): 1}


def test_bytesAreCountedWhenTheyMoveAndOnlyThen(domain: str) -> None:
    """Broken: a window whose bytes were there counted as if they had been copied, and the
    bytes of writebacks were in no transfer.
    """
    buffer = muninn.share(np.zeros(1 << 18, "u1"), "a", access="readOnly")
    for _ in range(3):
        buffer.promote(0, 1 << 17, 0).close()
    seen = scraped()
    assert seen["muninn_promotions_total"]["0",] == 3
    assert seen["muninn_bytes_promoted_total"]["0",] == 1 << 17
    assert seen["muninn_transfer_bytes_total"]["upload",] == 1 << 17
    other = muninn.share(np.zeros(1 << 18, "u1"), "b", access="readWrite")
    with other.promote(0, 1 << 17, 0) as window:
        window.array[: 1 << 16] = 1
        window.markDirty(0, 1 << 16)
    seen = scraped()
    assert seen["muninn_transfer_bytes_total"]["download",] == 1 << 16
    assert seen["muninn_transfer_seconds_total"]["download",] > 0
    assert (other.read()[: 1 << 16] == 1).all()


def test_bytesAreActiveWhileAProcessHoldsThem(domain: str) -> None:
    buffer = muninn.share(np.zeros(5000, "u1"), "a", tenant="t")
    key = ("", "active", "t", "host")
    assert scraped()["muninn_bytes_now"][key] == 8192
    buffer.close()
    del buffer
    eventually(
        lambda: scraped()["muninn_bytes_now"].get(("", "idle", "t", "host")) == 8192, "it is idle"
    )
    muninn.free("a")
    eventually(lambda: "muninn_bytes_now" not in scraped(), "it is gone")


def test_aDamagedRowIsLeftOut(domain: str) -> None:
    """Broken: a number that can be no GPU's ended every scrape."""
    buffer, other = muninn.share(np.zeros(5000, "u1"), "a"), muninn.share(np.zeros(5000, "u1"), "b")
    row = int(buffer.describe()["bufferId"].split(".")[0])
    gpu = ctypes.c_int16.from_address(current().block.rowAddress(row) + layout.ROW_GPU_OFFSET)
    usual, gpu.value = gpu.value, -7
    assert scraped()["muninn_bytes_now"]["", "active", "default", "host"] == 8192
    gpu.value = usual
    assert scraped()["muninn_bytes_now"]["", "active", "default", "host"] == 16384
    assert other.nbytes == 5000


def test_revocationsAreCountedByReason(domain: str, actor: Start) -> None:
    buffer = muninn.share(np.zeros(8), "a")
    held = actor("b = muninn.open('a')")
    from muninn.api import admin

    assert admin.evict("a").revoked == scraped()["muninn_revocations_total"]["evicted",] == 2
    assert held.do("b.isClosed") is False and buffer.name == "a"


def test_queuesAreThoseOfNvmeDevices(tmp_path: Path) -> None:
    for name, inflight in (("nvme0n1", "   3     4\n"), ("sda", "1 1"), ("nvme1n1", "what")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inflight").write_text(inflight)
    (tmp_path / "nvme2n1").mkdir()
    assert queues(tmp_path) == {"nvme0n1": 7}
    assert queues(tmp_path / "absent") == {}


def test_aScrapeNeedsNoBroker(domain: str, actor: Start) -> None:
    broker = actor("held = muninn.share(b'x', 'a')")
    opened = muninn.open("a")
    broker.stop()
    try:
        assert scraped()["muninn_buffers_total"]["bigMode",] == 1 and opened.name == "a"
    finally:
        broker.resume()
    assert os.getpid() != broker.pid
