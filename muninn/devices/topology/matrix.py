"""The matrix: every ordered pair of the GPUs of this process, what the driver states about
it, and what was found out. Nothing is sent over a link.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from muninn.devices.port import Device, Link
from muninn.devices.topology.cache import Kept
from muninn.devices.topology.verdict import Verdict

#: Source and target.
Ends = tuple[int, int]


class Pair(NamedTuple):
    """An ordered pair of GPUs: what is stated, and what was found out."""

    source: int
    target: int
    link: Link
    verdict: Verdict | None

    def isCorrupt(self) -> bool:
        return self.verdict is not None and self.verdict.isIntact is False

    def isUnmeasured(self) -> bool:
        return self.verdict is None and self.link.canAccess


def pairsOf(device: Device, verdicts: Mapping[Ends, Verdict]) -> list[Pair]:
    """Every ordered pair of the GPUs, by source and target."""
    return [Pair(*ends, device.link(*ends), verdicts.get(ends)) for ends in endsOf(device.gpuCount)]


def keptVerdicts(device: Device, kept: Kept) -> dict[Ends, Verdict]:
    """The verdicts of earlier processes."""
    uuids, pairs = [device.gpuUuid(gpu) for gpu in range(device.gpuCount)], kept.pairs()
    found = {
        (source, target): pairs.get((uuids[source], uuids[target]))
        for source, target in endsOf(device.gpuCount)
    }
    return {ends: verdict for ends, verdict in found.items() if verdict is not None}


def endsOf(gpuCount: int) -> list[Ends]:
    """Every ordered pair."""
    return [
        (source, target)
        for source in range(gpuCount)
        for target in range(gpuCount)
        if source != target
    ]


def asDict(device: Device, kept: Kept, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The GPUs and the pairs as plain values."""
    gpus = [
        {
            "index": gpu,
            "name": device.gpuName(gpu),
            "uuid": device.gpuUuid(gpu),
            **device.site(gpu)._asdict(),
        }
        for gpu in range(device.gpuCount)
    ]
    return {
        "backend": device.backend,
        "reason": device.reason,
        "driver": device.driverText(),
        "missingFacts": device.missingFacts(),
        "cachePath": kept.path,
        "gpus": gpus,
        "pairs": [
            {
                "source": pair.source,
                "target": pair.target,
                **pair.link._asdict(),
                "verdict": None if pair.verdict is None else pair.verdict._asdict(),
            }
            for pair in pairs
        ],
    }
