"""How commands show which way bytes went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muninn.config.sizes import asText

if TYPE_CHECKING:
    from muninn.transfer.handle import Report


def transferOf(transfer: Report | None) -> dict[str, Any] | None:
    """A transfer for programs; None if no byte was copied."""
    if transfer is None:
        return None
    return {
        "source": transfer.source,
        "target": transfer.target,
        "route": transfer.route,
        "reason": transfer.reason,
        "note": transfer.note,
        "sizeBytes": transfer.sizeBytes,
        "durationMs": transfer.seconds * 1e3,
    }


def wayOf(transfer: Report) -> str:
    """A transfer for people, from its target on."""
    speed = transfer.sizeBytes / max(transfer.seconds, 1e-9) / 1e9
    note = f": {transfer.note}" if transfer.note else ""
    return (
        f"{transfer.target}: {transfer.route} ({transfer.reason}){note}; "
        f"{asText(transfer.sizeBytes)} in {transfer.seconds * 1e3:.2f} ms, {speed:.3g} GB/s"
    )
