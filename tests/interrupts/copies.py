"""The calls that copy between GPUs, promote windows, and ask for the links.

What they keep for the next copy, as streams and scratch memory, is given back before
each census, which would else count it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from typing import Any

import muninn
from interrupts.call import BOUND_SECONDS, OWN, Call, values
from muninn.cli.main import main
from muninn.errors import TransferCancelled
from muninn.session import membership
from muninn.transfer.arena import Arena
from muninn.transfer.engines import engineOf
from support import eventually

Pair = tuple[muninn.MuninnBuffer, muninn.MuninnBuffer]
#: Above each priority.
_ANY_RANK = 9
#: The threads that work beside a copy, and end by themselves.
_BESIDE = ("muninn-links", "muninn-ways", "muninn-transfer", "muninn-wait")


def _near() -> muninn.MuninnBuffer:
    """A buffer of the first GPU, without a name: freeing the names leaves it."""
    return muninn.share(values(), mode="fastMode", preferredGpu=0, access="readWrite")


def _unverified() -> muninn.MuninnBuffer:
    """The same, of a process that knows nothing of its links."""
    near, links = _near(), engineOf(membership.current().openBuffers.context).links
    links._verdicts.clear()
    links._measured.clear()
    return near


def _pair() -> Pair:
    far = muninn.share(values(), mode="fastMode", preferredGpu=1, access="readWrite")
    return _near(), far


def _onHost() -> muninn.MuninnBuffer:
    return muninn.share(values(), access="readWrite")


def _constant() -> muninn.MuninnBuffer:
    return muninn.share(values(), access="readOnly")


# --- copies -------------------------------------------------------------------------


def _copyTo(kit: muninn.MuninnBuffer) -> None:
    assert kit.copyTo(1, name=OWN + "copy", timeout=BOUND_SECONDS).read()[3] == 7


def _copyToStaged(kit: muninn.MuninnBuffer) -> None:
    assert kit.copyTo(1, route="staged", timeout=BOUND_SECONDS).read()[3] == 7


def _startCopyTo(kit: muninn.MuninnBuffer) -> None:
    assert kit.startCopyTo(1).result(BOUND_SECONDS).read()[3] == 7


def _cancelCopyTo(kit: muninn.MuninnBuffer) -> None:
    transfer = kit.startCopyTo(1)
    transfer.cancel()
    with contextlib.suppress(TransferCancelled):  # it may be done
        transfer.result(BOUND_SECONDS)


def _copyFrom(kit: Pair) -> None:
    near, far = kit
    far.copyFrom(near, timeout=BOUND_SECONDS)
    assert far.read(timeout=BOUND_SECONDS)[3] == 7


def _startCopyFrom(kit: Pair) -> None:
    near, far = kit
    assert far.startCopyFrom(near).result(BOUND_SECONDS) > 0
    assert far.read(timeout=BOUND_SECONDS)[3] == 7


def _openOnGpu(_: None) -> None:
    assert muninn.open("precious", targetGpu=1).read()[3] == 7


def _openMapped(kit: muninn.MuninnBuffer) -> None:
    mapped = muninn.open(kit.handle, targetGpu=1, route="mapped")
    assert mapped.deviceArray()[3] == 7


# --- promotion ----------------------------------------------------------------------


def _mend(kit: muninn.MuninnBuffer) -> None:
    """Write the whole, after a writeback that was interrupted."""
    with kit.write(BOUND_SECONDS) as view:
        view[:] = 7


def _count(scratch: Any) -> None:
    """Write the window, as a kernel would."""
    array = scratch.deviceArray()
    array[:] = array[0] + 1


def _requireEqual(buffer: muninn.MuninnBuffer) -> None:
    assert len(set(buffer.read(timeout=BOUND_SECONDS).tolist())) == 1


def _promote(kit: muninn.MuninnBuffer) -> None:
    with kit.promote(targetGpu=1, timeout=BOUND_SECONDS) as scratch:
        _count(scratch)
    _requireEqual(kit)


def _promoteTracked(kit: muninn.MuninnBuffer) -> None:
    with kit.promote(track=True, timeout=BOUND_SECONDS) as scratch:
        _count(scratch)
        scratch.markDirty()
        scratch.writeback(BOUND_SECONDS)
        _count(scratch)
        kit.writeback(0, kit.nbytes, 0, scratch)
    _requireEqual(kit)


def _promoteShared(kit: muninn.MuninnBuffer) -> None:
    with kit.promote(timeout=BOUND_SECONDS) as scratch:
        assert scratch.deviceArray()[3] == 7


def _promoteAsync(kit: muninn.MuninnBuffer) -> None:
    async def promoted() -> None:
        with await kit.promoteAsync(timeout=BOUND_SECONDS) as scratch:
            _count(scratch)

    asyncio.run(promoted())
    _requireEqual(kit)


def _prefetch(kit: muninn.MuninnBuffer) -> None:
    kit.setHints(hotRanges=[(0, kit.nbytes)], priority="high")
    assert kit.prefetch().result(BOUND_SECONDS) == kit.nbytes
    with kit.promote(timeout=BOUND_SECONDS) as scratch:
        scratch.usedFlags[:] = 1
        assert scratch.usefulRatio() == 1
        _count(scratch)
    _requireEqual(kit)
    assert kit.hints["priority"] == "high"


def _applyPlan(_: None) -> None:
    name = OWN + "planned"
    plan = {
        "buffers": [{"name": name, "size": 4096, "hints": {"hotRanges": [[0, 4096]]}}],
        "promotions": [{"buffer": name}],
    }
    with muninn.applyPlan(plan, timeout=BOUND_SECONDS) as applied:
        assert list(applied.buffers) == [name] and len(applied.windows) == 1


# --- links --------------------------------------------------------------------------


def _topology(_: None) -> None:
    """The command, which answers a Ctrl-C with status 130."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["topology", "--refresh"]) in (0, 130)


def _describe(kit: muninn.MuninnBuffer) -> None:
    assert kit.describe()["topology"]["p2p"]


CALLS: dict[str, Call] = {
    "copyTo": Call(_copyTo, _near),
    "copyTo, new link": Call(_copyTo, _unverified),
    "copyTo staged": Call(_copyToStaged, _near),
    "startCopyTo": Call(_startCopyTo, _near),
    "startCopyTo, cancel": Call(_cancelCopyTo, _near),
    "copyFrom": Call(_copyFrom, _pair),
    "startCopyFrom": Call(_startCopyFrom, _pair),
    "open on a GPU": Call(_openOnGpu),
    "open mapped": Call(_openMapped, _near),
    "promote": Call(_promote, _onHost, isWhole=True, mend=_mend),
    "promote tracked": Call(_promoteTracked, _onHost, isWhole=True, mend=_mend),
    "promote readOnly": Call(_promoteShared, _constant, isWhole=True),
    "promote across": Call(_promote, _near, isWhole=True, mend=_mend),
    "promoteAsync": Call(_promoteAsync, _onHost, mend=_mend),
    "prefetch": Call(_prefetch, _onHost, mend=_mend),
    "applyPlan": Call(_applyPlan),
    "describe on a GPU": Call(_describe, _near),
    "topology": Call(_topology),
}


def tidy() -> None:
    """Give back what this process keeps for its next copies and windows, and wait for the
    threads beside them.
    """
    current = membership._current
    if current is not None:
        for companion in list(current.gpus._companions.values()):
            if isinstance(companion, Arena):
                while companion.makeRoom(_ANY_RANK):
                    pass
            companion.trim(0.0)  # type: ignore[call-arg]  # of both kinds
    eventually(
        lambda: not [each for each in threading.enumerate() if each.name in _BESIDE],
        "what works beside copies has ended",
        BOUND_SECONDS,
    )
