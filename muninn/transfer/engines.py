"""The engine of this process: one for each device, made at its first use."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from muninn.devices.topology.cache import keptFor
from muninn.devices.topology.links import Links
from muninn.session.gpus import deviceOf
from muninn.system.forks import Guard
from muninn.transfer.engine import Engine

if TYPE_CHECKING:
    from muninn.devices.port import Device
    from muninn.session.context import Context

_engines: weakref.WeakKeyDictionary[Device, Engine] = weakref.WeakKeyDictionary()
_lock = Guard()


def engineOf(context: Context) -> Engine:
    """The engine of a membership's device."""
    device = deviceOf(context)
    with _lock.lock:
        engine = _engines.get(device)
        if engine is None:
            settings = context.tables.settings.topology
            links = Links(device, keptFor(device, settings.cachePath), settings.enablePeerProbing)
            engine = _engines[device] = Engine(device, links, settings.preferP2P)
            context.gpus.tidying.append(engine.trim)
        return engine
