"""Handlers: what each operation does, in plain calls of Muninn.

A handler gets the id in the path and the checked body, and returns what is told the
client. It runs on a thread of its own and may wait.
"""

from __future__ import annotations

import base64
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import muninn
from muninn.broker.holders import revoke
from muninn.config import loadSettings
from muninn.control import leases
from muninn.devices.topology import keptFor, matrix
from muninn.errors import InvalidArgument, PermissionDenied
from muninn.service import readings
from muninn.session.membership import current
from muninn.system.clock import monotonicMs

if TYPE_CHECKING:
    from muninn.service.web.held import Held
    from muninn.service.web.ids import BufferId
    from muninn.terms import OpenAccessWord

Body = dict[str, Any]
_HOLD_MS, _TIMEOUT_MS = 60_000, 10_000
_RIGHTS: dict[str, OpenAccessWord] = {"reader": "readOnly", "writer": "readWrite"}
_ANSWER_SECONDS = 1.0


class Handlers:
    """The operations on this process's domain."""

    def __init__(self, held: Held) -> None:
        self._held = held

    # --- buffers -----------------------------------------------------------------------

    def listBuffers(self) -> Body:
        return {"buffers": muninn.listBuffers()}

    def createBuffer(self, body: Body) -> Body:
        """It is held if it would go with its last holder."""
        options = {key: value for key, value in body.items() if key != "size"}
        buffer = muninn.MuninnBuffer(body["size"], options.pop("mode", "bigMode"), **options)
        described = buffer.describe()
        if buffer.mode == "fastMode" or described["lifetime"] == "lastClose":
            self._held.keep(described["bufferId"], buffer)
        else:
            buffer.close()
        return described

    def describeBuffer(self, bufferId: BufferId) -> Body:
        return bufferId.described()

    def openBuffer(self, bufferId: BufferId, body: Body) -> Body:
        """A handle for another process: it gives the rights that its purpose needs."""
        described = bufferId.described()
        _requireTenant(described, body)
        _requireProcess(body["process"])
        access = _RIGHTS[body.get("purpose", "reader")]
        with bufferId.opened(("array", "bundle"), access) as buffer:
            handle = base64.b64encode(buffer.handle).decode()
        function = "openBundle" if described["kind"] == "bundle" else "open"
        return {
            "bufferId": str(bufferId),
            "name": described["name"],
            "mode": described["mode"],
            "access": access,
            "leaseTtlMs": described["leaseTtlMs"],
            "handle": handle,
            "python": f"muninn.{function}(base64.b64decode({handle!r}), access={access!r})",
        }

    def promoteBuffer(self, bufferId: BufferId, body: Body) -> Body:
        """The window is held for `holdMs`; processes that promote it meanwhile share the
        copy of a readOnly buffer.
        """
        begun, holdMs = monotonicMs(), body.get("holdMs", _HOLD_MS)
        buffer = bufferId.opened(("array",), "readOnly")
        with contextlib.ExitStack() as undo:  # an error would keep it open as long as itself
            undo.callback(buffer.close)
            scratch = buffer.promote(
                body.get("offset", 0),
                body.get("length"),
                body.get("targetGpu", 0),
                timeout=body.get("timeoutMs", _TIMEOUT_MS) / 1000,
            )
            undo.pop_all()
        self._held.keepWindow(str(bufferId), scratch, buffer, holdMs / 1000)
        transfer = scratch.transfer
        return {
            "bufferId": str(bufferId),
            "offset": scratch.offset,
            "length": scratch.sizeBytes,
            "gpu": scratch.gpu,
            "isShared": scratch.isShared,
            "route": None if transfer is None else transfer.route,
            "reason": None if transfer is None else transfer.reason,
            "bytes": 0 if transfer is None else transfer.sizeBytes,
            "durationMs": monotonicMs() - begun,
            "heldMs": holdMs,
        }

    def deleteBuffer(self, bufferId: BufferId) -> Body:
        """Free the name now, and the memory with the last lease. Leases that have run out
        are revoked, so that their holders notice.
        """
        row, incarnation = bufferId
        described, member = bufferId.described(), current()
        member.client.free(row, incarnation)
        self._held.drop(str(bufferId))  # and not before: it may be the last holder
        now = monotonicMs()
        holds = [
            each
            for each in leases.scanHolds(member.block, member.members, row)
            if each.incarnation == incarnation and each.slot != member.key.slot
        ]
        expired = (each for each in holds if each.expiryMs <= now and not each.reason)
        return {
            "bufferId": described["bufferId"],
            "freed": True,
            "holders": len({each.slot for each in holds}),
            "revoked": revoke(member.block, member.members, member.rows, expired, "evicted"),
        }

    # --- the domain --------------------------------------------------------------------

    def topology(self) -> Body:
        settings, device = loadSettings(), current().gpus.chosen()
        kept = keptFor(device, settings.topology.cachePath)
        pairs = matrix.pairsOf(device, matrix.keptVerdicts(device, kept))
        return matrix.asDict(device, kept, pairs)

    def health(self) -> Body:
        isAnswered = current().client.awaitAnswer(_ANSWER_SECONDS)
        info = muninn.domainInfo()
        status = "ok" if isAnswered else "noBroker"
        return {
            "status": "draining" if isAnswered and info["draining"] else status,
            "domain": info["domain"],
            "brokerPid": info["brokerPid"],
            "epoch": info["epoch"],
        }

    def state(self) -> Body:
        """Everything that the page shows."""
        reading, info = readings.read(current().tables), muninn.domainInfo()
        return {
            "atMs": reading.atMs,
            "domain": info["domain"],
            "brokerPid": info["brokerPid"],
            "epoch": info["epoch"],
            "draining": info["draining"],
            "members": info["members"],
            "buffers": muninn.listBuffers(),
            "leases": reading.leases,
            "transfers": info["transfers"],
            "promotions": reading.counted("promotions"),
            "revocations": reading.counted("revocations"),
        }


def _requireTenant(described: Body, body: Body) -> None:
    tenant = body.get("tenant", described["tenant"])
    if tenant != described["tenant"]:
        raise PermissionDenied(f"{described['name']!r} belongs to another tenant than {tenant!r}")


def _requireProcess(pid: int) -> None:
    """A handle is for a process of this user: another one could not use it."""
    try:
        isOurs = Path(f"/proc/{pid}").stat().st_uid in (os.geteuid(), 0)
    except OSError:
        isOurs = False
    if not isOurs:
        raise InvalidArgument(
            f"process {pid} is no process of this user", "Name the process that is to open it"
        )
