"""`topology`: the GPUs that this process sees, what the driver states about each ordered
pair of them, and what was found out about it. The command joins no domain, and sends
bytes over a link only with `--refresh`.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from muninn.cli.finding import Finding
from muninn.cli.output import Row, bar, counted, printable, printJson, printTable
from muninn.config.sizes import asText
from muninn.devices.topology import matrix
from muninn.devices.topology.matrix import Ends, Pair, endsOf, keptVerdicts, pairsOf

if TYPE_CHECKING:
    from muninn.config.settings import Topology
    from muninn.devices.port import Device
    from muninn.devices.topology import Kept, Verdict

_GPU_HEADINGS = ("GPU", "NAME", "NUMA", "BUS", "BAR1")
_PAIR_HEADINGS = ("PAIR", "PATH", "ACCESS", "RANK", "P2P", "STAGED", "VERDICT")
_WIDTH = 80
#: The words of `nvidia-smi topo -m` for paths, and one more.
_WORDS = {
    "emulated": "emul",
    "PCIe, same board": "PSB",
    "PCIe, same switch": "PIX",
    "PCIe, several switches": "PXB",
    "PCIe, same host bridge": "PHB",
    "PCIe, same NUMA node": "NODE",
    "PCIe, other NUMA node": "SYS",
}
_NVLINK = "NVLink"
_NO_ACCESS, _CORRUPT, _OTHER = "no", "bad", "p2p"
_LEGEND = {
    _NO_ACCESS: "the driver has no path",
    _CORRUPT: "bytes arrive damaged",
    _OTHER: "a path of an unknown kind",
}
_IOMMU = (
    "Muninn copies between them by way of the host. The copies of other programs may be "
    "damaged too: a known cause is an IOMMU that is on while no virtual machine runs"
)


def _refreshed(device: Device, kept: Kept) -> dict[Ends, Verdict]:
    """Verdicts that are found out now."""
    from muninn.devices.topology.links import Links

    links, ends = Links(device, kept, isProbing=True), endsOf(device.gpuCount)
    found: dict[Ends, Verdict] = {}
    with bar("verifying and measuring links") as show:
        for source, target in ends:
            what = f"verifying and measuring {source}->{target}"
            show(what, len(found), len(ends), f"{len(found)} of {len(ends)}")
            found[source, target] = links.refreshed(source, target)
    return found


def runTopology(arguments: argparse.Namespace) -> int:
    settings, device, kept = _chosen()
    pairs = pairsOf(device, (_refreshed if arguments.refresh else keptVerdicts)(device, kept))
    if arguments.json:
        printJson(matrix.asDict(device, kept, pairs))
    elif device.gpuCount:
        _printText(settings, device, kept, pairs)
    else:
        print(printable(f"no GPU ({device.reason})"))
    return 0


def _chosen() -> tuple[Topology, Device, Kept]:
    from muninn.config import loadSettings
    from muninn.devices import chooseDevice
    from muninn.devices.topology import keptFor

    settings = loadSettings()
    device = chooseDevice(settings.devices)
    return settings.topology, device, keptFor(device, settings.topology.cachePath)


def _printText(settings: Topology, device: Device, kept: Kept, pairs: Sequence[Pair]) -> None:
    printTable(
        _GPU_HEADINGS, [Row.of(_gpuCells(device, gpu)) for gpu in range(device.gpuCount)], (1,)
    )
    if pairs:
        print()
        _printMatrix(device.gpuCount, pairs)
        print()
        printTable(_PAIR_HEADINGS, _pairRows(pairs), (1,))
    sentences = [*_explained(settings, kept, pairs)]
    if missing := device.missingFacts():
        sentences.append(f"Some facts are missing. {missing}")
    if sentences:
        print()
    for sentence in sentences:
        # A path is not cut: somebody may copy it.
        for line in textwrap.wrap(
            printable(sentence), _WIDTH, break_on_hyphens=False, break_long_words=False
        ):
            print(line)


def _gpuCells(device: Device, gpu: int) -> tuple[str, ...]:
    site = device.site(gpu)
    bar1 = "-"
    if site.bar1TotalBytes is not None and site.bar1UsedBytes is not None:
        bar1 = f"{asText(site.bar1UsedBytes)} of {asText(site.bar1TotalBytes)}"
    node = "-" if site.numaNode is None else str(site.numaNode)
    return (str(gpu), device.gpuName(gpu), node, site.busId or "-", bar1)


def _printMatrix(gpuCount: int, pairs: Sequence[Pair]) -> None:
    """A word for each pair, from the GPU of the line to that of the column."""
    words = {(pair.source, pair.target): _word(pair) for pair in pairs}
    gpus = range(gpuCount)
    printTable(
        ("FROM", *map(str, gpus)),
        [
            Row.of((str(source), *(words.get((source, target), "-") for target in gpus)))
            for source in gpus
        ],
    )
    paths = {_word(pair): pair.link.path for pair in pairs}
    legend = [f"{word}: {_LEGEND.get(word, path)}" for word, path in sorted(paths.items())]
    for line in textwrap.wrap(printable("; ".join(legend)), _WIDTH):
        print(line)


def _word(pair: Pair) -> str:
    if not pair.link.canAccess:
        return _NO_ACCESS
    if pair.isCorrupt():
        return _CORRUPT
    kind, _, count = pair.link.path.partition(" ×")
    return f"NV{count}" if kind == _NVLINK else _WORDS.get(pair.link.path, _OTHER)


def _pairRows(pairs: Iterable[Pair]) -> list[Row]:
    """A row for each pair. Pairs with one source that differ in nothing else share one:
    eight GPUs have 56 pairs.
    """
    targets: dict[tuple[int, tuple[str, ...], str], list[int]] = {}
    for pair in pairs:
        note = "" if pair.verdict is None else pair.verdict.note
        targets.setdefault((pair.source, _pairCells(pair), note), []).append(pair.target)
    return [
        Row.of((f"{source}->{_ranges(group)}", *cells), [note] if note else ())
        for (source, cells, note), group in targets.items()
    ]


def _pairCells(pair: Pair) -> tuple[str, ...]:
    link, verdict = pair.link, pair.verdict
    return (
        link.path or "-",
        "yes" if link.canAccess else "no",
        "-" if link.performanceRank is None else str(link.performanceRank),
        _figure(0 if verdict is None else verdict.p2pBytesPerSecond),
        _figure(0 if verdict is None else verdict.stagedBytesPerSecond),
        _verdictText(pair),
    )


def _figure(bytesPerSecond: float) -> str:
    return f"{bytesPerSecond / 1e9:.3g}" if bytesPerSecond else "-"


def _verdictText(pair: Pair) -> str:
    if not pair.link.canAccess:
        return "no path"
    if pair.verdict is None:
        return "not measured yet"
    if pair.verdict.isIntact is None:
        return "not verified"
    return "intact" if pair.verdict.isIntact else "corrupt"


def _ranges(numbers: Sequence[int]) -> str:
    """Such as `0-2,4`, of ascending numbers."""
    runs = list[list[int]]()
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _explained(settings: Topology, kept: Kept, pairs: Sequence[Pair]) -> Iterable[str]:
    """The sentences about the words of the table."""
    hindrance = kept.hindrance() if kept.path and pairs else ""
    verdicts = [pair.verdict for pair in pairs if pair.verdict is not None]
    if any(each.p2pBytesPerSecond or each.stagedBytesPerSecond for each in verdicts):
        yield "P2P (over the link) and STAGED (by way of the host) are in GB/s."
    isUnmeasured = any(pair.isUnmeasured() for pair in pairs)
    if isUnmeasured and not settings.enablePeerProbing:
        yield (
            "Not measured: topology.enablePeerProbing is false, so no link is verified, and "
            "copies go by way of the host. `topology --refresh` verifies and measures them now."
        )
    elif isUnmeasured:
        isKept = kept.path and not hindrance
        where = f"kept in {kept.path} until the next boot" if isKept else "kept nowhere"
        yield (
            "Not measured yet: no process has copied over this link. The first copy sends "
            "some MiB over it, compares what arrived, and measures the link; the verdict is "
            f"then {where}. `topology --refresh` does all that now."
        )
    if hindrance:
        yield f"No verdict can be kept in {kept.path}: {hindrance}. Correct topology.cachePath."
    if any(pair.isCorrupt() for pair in pairs):
        yield f"Corrupt: the bytes that arrived were not those that were sent. {_IOMMU}."


def pairsFinding() -> Finding:
    """The check of `doctor`. A corrupt link is a warning, as Muninn works without it."""
    settings, device, kept = _chosen()
    if device.gpuCount < 2:
        return Finding("ok", f"{counted(device.gpuCount, 'GPU')}, so there is no pair")
    pairs = pairsOf(device, keptVerdicts(device, kept))
    corrupt = [pair for pair in pairs if pair.isCorrupt()]
    unreached = sum(not pair.link.canAccess for pair in pairs)
    unmeasured = sum(pair.isUnmeasured() for pair in pairs)
    found = f"{len(pairs)} ordered pairs of GPUs"
    if unreached:
        found += f", {unreached} without a path, whose copies go by way of the host"
    if unmeasured:
        found += f", {unmeasured} not measured yet"
    if not settings.enablePeerProbing:
        found += "; none is measured (topology.enablePeerProbing = false)"
    if not corrupt:
        return Finding("ok", found)
    damaged = ", ".join(f"{pair.source}->{pair.target}" for pair in corrupt)
    notes = "; ".join(sorted({pair.verdict.note for pair in corrupt if pair.verdict} - {""}))
    return Finding(
        "warn", f"{found}; bytes arrive damaged: {damaged}{f' ({notes})' * bool(notes)}", _IOMMU
    )
