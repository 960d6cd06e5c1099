"""Metrics: a reading of the domain as families of `prometheus_client`.

The names, types and labels are those of the specification (R§7), and some more. Nothing
is kept between two scrapes: counters are sums of cells, gauges are read from the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from muninn.control import layout
from muninn.service.pressure import apertures, queues
from muninn.service.readings import Reading
from muninn.terms import MODES, Mode

if TYPE_CHECKING:
    from muninn.devices.port import Device

_NS_PER_MS = 1e6


class Counted(NamedTuple):
    """A counter, and which amount of which family it shows."""

    name: str
    text: str
    family: str
    amount: str
    label: str = ""


#: Counters whose samples are the labels of a family. Prometheus's own suffix `_total` is
#: added by the library.
_COUNTED = (
    Counted("muninn_buffers", "Buffers allocated.", "buffers", "times", "mode"),
    Counted("muninn_bytes", "Bytes allocated.", "allocations", "bytes", "tier"),
    Counted("muninn_opens", "Successful opens.", "opens", "times"),
    Counted("muninn_promotions", "Windows promoted to a GPU.", "promotions", "times", "gpu"),
    Counted("muninn_bytes_promoted", "Bytes copied for promotions.", "promotions", "bytes", "gpu"),
    Counted("muninn_promotion_seconds", "Time that promotions took.", "promotions", "ns", "gpu"),
    Counted(
        "muninn_promotion_failures",
        "Promotions that were denied or failed.",
        "promotionFailures",
        "times",
        "gpu",
    ),
    Counted("muninn_writebacks", "Windows written back.", "writebacks", "times", "gpu"),
    Counted("muninn_bytes_written_back", "Bytes written back.", "writebacks", "bytes", "gpu"),
    Counted(
        "muninn_window_bytes_used",
        "Bytes of promoted windows that kernels used, where use was marked.",
        "usedWindows",
        "usedBytes",
        "gpu",
    ),
    Counted(
        "muninn_window_bytes_marked",
        "Bytes of promoted windows of which use was marked.",
        "usedWindows",
        "bytes",
        "gpu",
    ),
    Counted("muninn_revocations", "Leases revoked.", "revocations", "times", "reason"),
    Counted("muninn_errors", "Errors that programs got.", "errors", "times", "code"),
    Counted("muninn_elections", "Terms of brokers that began.", "elections", "times"),
    Counted("muninn_member_deaths", "Members found dead.", "deaths", "times"),
)
#: Counters of transfers, by route.
_TRANSFERS = (
    ("muninn_route_selection", "Transfers, by the route that was chosen.", "times"),
    ("muninn_transfer_bytes", "Bytes that were moved.", "bytes"),
    ("muninn_transfer_seconds", "Time that transfers took.", "ns"),
)


class DomainCollector(Collector):
    """The metrics of one domain.

    Parameters
    ----------
    read
        Reads the domain.
    device
        Returns the GPUs of this process, which are asked for their apertures; None: it
        has not used any.
    """

    def __init__(self, read: Callable[[], Reading], device: Callable[[], Device | None]) -> None:
        self._read, self._device = read, device

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that a registry reads no domain when it gets the collector."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families, from one reading."""
        reading, device = self._read(), self._device()
        yield from _counters(reading, _gpus(reading, device))
        yield from _transfers(reading)
        yield _latencies(reading)
        yield from _gauges(reading)
        yield from _pressure(device)


def _gpus(reading: Reading, device: Device | None) -> set[str]:
    """The GPUs of which something is shown: those of this machine, or the first if this
    process has not looked, and those of which something was counted. All counters have the
    same ones, so that their sums and quotients have too.
    """
    there = {*map(str, range(1 if device is None else device.gpuCount))}
    counted = {
        gpu
        for each in _COUNTED
        if each.label == "gpu"
        for gpu, sums in reading.counted(each.family).items()
        if any(sums.values())
    }
    return there | counted


def _inUnit(amount: str, value: int) -> float:
    return value / 1e9 if amount == "ns" else value


def _counters(reading: Reading, gpus: set[str]) -> Iterator[Metric]:
    """The counters. A label that may come later is 0 from the first scrape on: a rate does
    not see the step from nothing to 1.
    """
    for name, text, family, amount, label in _COUNTED:
        metric = CounterMetricFamily(name, text, labels=[label] if label else [])
        for value, sums in reading.counted(family).items():
            # Of the GPUs that have cells, this machine may not have all.
            if label != "gpu" or value in gpus:
                metric.add_metric([value] if label else [], _inUnit(amount, sums[amount]))
        yield metric


def _transfers(reading: Reading) -> Iterator[Metric]:
    ways = reading.counted("transfers")
    routes = dict.fromkeys(way.partition("/")[0] for way in ways)
    for name, text, amount in _TRANSFERS:
        metric = CounterMetricFamily(name, text, labels=["route"])
        for route in routes:
            total = sum(
                sums[amount] for way, sums in ways.items() if way.partition("/")[0] == route
            )
            metric.add_metric([route], _inUnit(amount, total))
        yield metric
    reasons = CounterMetricFamily(
        "muninn_transfers", "Transfers, by route and reason.", labels=["route", "reason"]
    )
    for way, sums in ways.items():
        if sums["times"]:
            route, _, reason = way.partition("/")
            reasons.add_metric([route, reason], sums["times"])
    yield reasons


def _latencies(reading: Reading) -> Metric:
    metric = HistogramMetricFamily(
        "muninn_open_latency_ms", "Time of an open that takes a lease.", labels=["mode"]
    )
    for mode in MODES:
        buckets, below, total = [], 0, 0
        for bound, sums in reading.counted(f"openLatency/{mode.value}").items():
            below, total = below + sums["times"], total + sums["ns"]
            buckets.append((bound, below))
        metric.add_metric([mode.value], buckets, total / _NS_PER_MS)
    return metric


def _gauges(reading: Reading) -> Iterator[Metric]:
    rows = reading.rows
    leases = GaugeMetricFamily("muninn_leases_active", "Leases, by tenant.", labels=["tenant"])
    for tenant, count in reading.leases.items():
        leases.add_metric([tenant], count)
    yield leases
    buffers = GaugeMetricFamily("muninn_buffers_now", "Buffers there are.", labels=["mode"])
    isBuffer = np.isin(rows.kind, (layout.ROW_KIND_ARRAY, layout.ROW_KIND_BUNDLE))
    for mode in MODES:
        isOf = isBuffer & (rows.isFast == (mode is Mode.FAST))
        buffers.add_metric([mode.value], int(np.count_nonzero(isOf)))
    yield buffers
    sizes = GaugeMetricFamily(
        "muninn_bytes_now",
        "Bytes that are taken: active, if a process holds them, else idle.",
        labels=["tier", "gpu", "tenant", "state"],
    )
    # One number for each (GPU + 1, tenant, whether it is held).
    width = 2 * len(rows.tenants)
    group = (rows.gpu + 1) * width + 2 * rows.tenant + (rows.holders > 0)
    totals = np.bincount(group, weights=rows.sizeBytes)
    for each in np.flatnonzero(np.bincount(group)).tolist():
        place, number, isHeld = each // width, each % width // 2, each % 2
        tier, gpu = ("vram", str(place - 1)) if place else ("host", "")
        state = "active" if isHeld else "idle"
        sizes.add_metric([tier, gpu, rows.tenants[number], state], totals[each])
    yield sizes
    yield GaugeMetricFamily(
        "muninn_members", "Processes in the domain.", value=len(reading.members)
    )
    yield GaugeMetricFamily("muninn_epoch", "Terms of brokers, ever.", value=reading.epoch)


def _pressure(device: Device | None) -> Iterator[Metric]:
    bars = GaugeMetricFamily("muninn_bar_pressure", "BAR1 in use, from 0 to 1.", labels=["gpu"])
    for gpu, share in ({} if device is None else apertures(device)).items():
        bars.add_metric([gpu], share)
    yield bars
    depths = GaugeMetricFamily(
        "muninn_nvme_q_depth", "Requests that an NVMe device has before it.", labels=["device"]
    )
    for name, depth in queues().items():
        depths.add_metric([name], depth)
    yield depths
