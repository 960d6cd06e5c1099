"""A survey: what a process sees that copies along every link of a matrix.

An actor calls `prepare`, and then `of` for each matrix. Each survey is a process of
its own, forked before it uses any GPU, because the links of a driver stay as they are
when it starts. It has a domain and a file of verdicts of its own.

The figures of links are made up here, so that no route depends on how busy the machine
is; `probing` measures real ones in other tests.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import signal
import threading
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matrices import Matrix

import muninn
from muninn.api import copying
from muninn.devices import choose, mapped, ways
from muninn.devices.port import Device
from muninn.devices.topology import links, probing
from muninn.devices.topology.cache import keptFor
from muninn.devices.topology.verdict import Verdict
from muninn.errors import TopologyNotPeerable
from muninn.session import gpus, membership
from muninn.transfer import engine as engines
from muninn.transfer.engines import engineOf
from support import eventually

_PR_SET_PDEATHSIG = 1
#: Some pieces and a rest. No other copy has the size of the rest, or of the whole.
_PIECE_BYTES, _PIECES = 32 << 10, 2
_REST_BYTES = 1697
SIZE_BYTES = 3 * _PIECE_BYTES + _REST_BYTES
_VERIFIED_BYTES = 4 * _PIECE_BYTES
_GPU_BYTES = "64M"
_FAST, _FASTER = 1e9, 10e9
#: What a GPU's buffer has at first is made by the GPU's number, and later by another one.
_LATER = 100
_LINES = re.compile(
    r"copy device to device, bytes=(\d+), GPU (\d+) to GPU (\d+) directly"
    r"|cuMemSetAccess\(address=(0x[0-9a-f]+), .* GPU (\d+)\)"
    r"|cuMemUnmap\(address=(0x[0-9a-f]+)"
)


def prepare(backend: str) -> None:
    """Import the back-end, once for all surveys. No GPU is used by this."""
    if backend == "cuda":
        missing = choose.importBackEnd()
        assert not missing, missing


def of(gpuCount: int, kinds: list[str], name: str, isDemanding: bool) -> dict[str, Any]:
    """What a new process sees that copies along each link of a matrix.

    Parameters
    ----------
    name
        Of its domain, and of its other files.
    isDemanding
        Whether it demands each route, too.
    """
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.close(reading)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            seen = _Survey(Matrix(gpuCount, tuple(kinds)), name).made(isDemanding)
        except BaseException:
            seen = {"error": traceback.format_exc()}
        with os.fdopen(writing, "w") as file:
            json.dump(seen, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    Path(f"/dev/shm/standin-{os.getuid()}-{_ledgerOf(name)}").unlink(missing_ok=True)
    answer: dict[str, Any] = json.loads(text)
    if "error" in answer:
        raise AssertionError(answer["error"])
    return answer


def _ledgerOf(name: str) -> str:
    """The ledger of a survey on the stand-in: what other tests have on its GPUs would leave
    it too little memory.
    """
    return f"{os.environ.get('STANDIN_DOMAIN', 'default')}-{name}"


class _Grant(NamedTuple):
    """Access that was given to memory, of which `mapping` is a weak reference."""

    mapping: weakref.ref[Any]
    home: int
    gpu: int


class _Survey:
    def __init__(self, matrix: Matrix, name: str) -> None:
        self._matrix, self._grants = matrix, list[_Grant]()
        #: Source, target and bytes of each copy that went straight.
        self._straight = list[tuple[int, int, int]]()
        files = f"{os.environ['XDG_CACHE_HOME']}-{name}"
        self._log = Path(f"{files}.log")
        os.environ.update(
            MUNINN_DOMAIN=name,
            MUNINN_CACHE_PATH=f"{files}.json",
            MUNINN_HOST_GPUS=str(matrix.gpuCount),
            MUNINN_HOST_GPU_BYTES=_GPU_BYTES,
            MUNINN_HOST_LINKS=matrix.onHost(),
            STANDIN_DEVICES=str(matrix.gpuCount),
            STANDIN_DOMAIN=_ledgerOf(name),
            STANDIN_MEMORY=_GPU_BYTES,
            STANDIN_LINKS=matrix.onStandin(),
            STANDIN_LOG=str(self._log),
        )
        probing._VERIFIED_BYTES = _VERIFIED_BYTES  # type: ignore[misc]
        ways._LINK_PIECE_BYTES = _PIECE_BYTES  # type: ignore[misc]
        links.USUAL_PIECES = _PIECE_BYTES, _PIECES  # type: ignore[misc]
        links.measure = self._measured
        # Idle ways stay, however slow the machine is.
        engines.Engine.trim.__defaults__ = (3600.0,)  # type: ignore[attr-defined]

    def made(self, isDemanding: bool) -> dict[str, Any]:
        muninn.domainInfo()
        device = gpus.deviceOf(membership.current())
        self._watch(device)
        self._keepGood(device)
        for gpu in range(self._matrix.gpuCount):
            # The first memory that is given back takes some, which stays.
            device.allocate(gpu, 1).close()
        free = self._freeBytes(device)
        routes = self._copied(isDemanding)
        self._end()
        # The broker gives back what was freed while others had it.
        eventually(lambda: self._freeBytes(device) == free, "all memory of the GPUs is given back")
        self._readLog()
        return {
            "routes": routes,
            "given": sorted({(grant.home, grant.gpu) for grant in self._grants}),
            "straight": sorted(
                {
                    (source, target)
                    for source, target, sizeBytes in self._straight
                    if sizeBytes in (SIZE_BYTES, _REST_BYTES)
                }
            ),
            "mapped": sum(grant.mapping() is not None for grant in self._grants),
        }

    # --- what is watched -----------------------------------------------------------------

    def _watch(self, device: Device) -> None:
        """Note whom access is given, which is an error of a second time, and on the host
        what goes straight. A driver has a log of that.
        """
        for kind in _kindsOf(mapped.MappedAllocation):
            if "_give" in vars(kind):
                kind._give = self._noting(kind._give)
        if device.backend == "host":
            # pylint: disable-next=protected-access
            sending = device._links  # type: ignore[attr-defined]
            sending.send = self._sending(sending.send)

    def _noting(self, give: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
        def given(allocation: Any, gpu: int) -> None:
            give(allocation, gpu)
            mapping = allocation._mapping
            assert not any(
                grant.mapping() is mapping and grant.gpu == gpu for grant in self._grants
            ), f"GPU {gpu} was given access to the same memory twice"
            self._grants.append(_Grant(weakref.ref(mapping), allocation.gpu, gpu))

        return given

    def _sending(self, send: Callable[..., None]) -> Callable[..., None]:
        def sent(source: int, sourceGpu: int, target: int, targetGpu: int, sizeBytes: int) -> None:
            self._straight.append((sourceGpu, targetGpu, sizeBytes))
            send(source, sourceGpu, target, targetGpu, sizeBytes)

        return sent

    def _readLog(self) -> None:
        """The same by the log of the stand-in, and that all to which it has given access is
        unmapped.
        """
        if not self._log.exists():
            return
        text = self._log.read_text()
        self._log.unlink()
        asked = dict[str, set[str]]()
        for count, source, target, address, gpu, unmapped in _LINES.findall(text):
            if count:
                self._straight.append((int(source), int(target), int(count)))
            elif address:
                assert gpu not in asked.setdefault(address, set()), "the driver was asked twice"
                asked[address].add(gpu)
            else:
                del asked[unmapped]
        assert not asked, "the driver has memory mapped"

    # --- the copies ----------------------------------------------------------------------

    def _keepGood(self, device: Device) -> None:
        kept = keptFor(device, os.environ["MUNINN_CACHE_PATH"])
        for (source, target), kind in self._matrix.links():
            if kind.isKeptGood:
                verdict = Verdict(True, _FASTER, _FAST, _PIECE_BYTES, _PIECES)
                kept.put(device.gpuUuid(source), device.gpuUuid(target), verdict)

    def _measured(self, device: Device, source: int, target: int, verdict: Verdict) -> Verdict:
        """In place of `probing.measure`."""
        kind = dict(self._matrix.links())[source, target]
        isSlower = kind.later == ("staged", "peerSlower")
        link = 0.0 if not verdict.isIntact else _FAST / 10 if isSlower else _FASTER
        return verdict._replace(
            p2pBytesPerSecond=link,
            stagedBytesPerSecond=_FAST,
            pieceBytes=_PIECE_BYTES,
            pieceCount=_PIECES,
        )

    def _copied(self, isDemanding: bool) -> dict[str, list[list[Any]]]:
        """Route, reason, and whether the bytes are whole: of each pair, by its text, of a
        copy to a new buffer, of a second one once all links were measured, and of those
        that demand a route.
        """
        buffers = [
            muninn.share(
                _content(gpu), mode="fastMode", preferredGpu=gpu, access="readWrite", name=f"b{gpu}"
            )
            for gpu in range(self._matrix.gpuCount)
        ]
        copies = {
            pair: buffers[pair[0]].copyTo(pair[1], access="readWrite")
            for pair, _ in self._matrix.links()
        }
        seen = {pair: [_told(copies[pair], pair[0])] for pair in copies}
        eventually(lambda: not _measuring(), "all links are measured")
        given = len(self._grants)
        for gpu, buffer in enumerate(buffers):
            with muninn.share(_content(gpu + _LATER)) as later:
                buffer.copyFrom(later)
        for (source, target), copied in copies.items():
            transfer = copied.startCopyFrom(buffers[source])
            transfer.result(60)
            isWhole = np.array_equal(copied.read(), _content(source + _LATER))
            seen[source, target].append([transfer.route, transfer.reason, isWhole])
        assert len(self._grants) == given, "access was set anew for a second copy"
        if isDemanding:
            for (source, target), told in seen.items():
                told += [_demanded(buffers[source], target, route) for route in ("p2p", "staged")]
        for each in (*buffers, *copies.values()):
            each.free()
        return {f"{source}>{target}": told for (source, target), told in seen.items()}

    # --- the end -------------------------------------------------------------------------

    def _end(self) -> None:
        """Give all ways back, and wait until they are closed."""
        engineOf(membership.current().openBuffers.context).trim(0.0)
        eventually(lambda: not _measuring(), "all ways are closed")
        gc.collect()

    def _freeBytes(self, device: Device) -> list[int]:
        return [device.memoryInfo(gpu).freeBytes for gpu in range(self._matrix.gpuCount)]


def _demanded(buffer: muninn.MuninnBuffer, gpu: int, route: copying.RouteWord) -> list[Any]:
    try:
        copied = buffer.copyTo(gpu, route=route)
    except TopologyNotPeerable as error:
        found = re.search(r"\((peer\w+)\)", error.reason)
        assert found is not None, error
        return ["refused", found[1], False]
    assert buffer.gpu is not None
    return _told(copied, buffer.gpu + _LATER)


def _told(copied: muninn.MuninnBuffer, seed: int) -> list[Any]:
    assert copied.transfer is not None
    isWhole = np.array_equal(copied.read(), _content(seed))
    return [copied.transfer.route, copied.transfer.reason, isWhole]


def _content(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, SIZE_BYTES, np.uint8)


def _measuring() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name in ("muninn-links", "muninn-ways")]


def _kindsOf(kind: type) -> list[Any]:
    return [kind, *(each for below in kind.__subclasses__() for each in _kindsOf(below))]
