"""The engine of this process: one for each membership, made at its first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.devices.topology.cache import keptFor
from muninn.devices.topology.links import Links
from muninn.session.gpus import deviceOf
from muninn.transfer.engine import Engine

if TYPE_CHECKING:
    from muninn.session.context import Context


def engineOf(context: Context) -> Engine:
    """The engine of a membership. It ends with the membership."""
    device, settings = deviceOf(context), context.tables.settings.topology

    def made() -> Engine:
        links = Links(device, keptFor(device, settings.cachePath), settings.enablePeerProbing)
        return Engine(device, links, settings.preferP2P, context.gpus.tidySoon)

    return context.gpus.companion(Engine, made)
