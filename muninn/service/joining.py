"""Joining: whether a process that joins a domain is to serve its metrics.

`import muninn` imports this module, and so it imports nothing of what serves.
"""

from __future__ import annotations

from importlib.util import find_spec

from muninn.config import Settings
from muninn.errors import InvalidConfig
from muninn.session.services import Begin


def endpointIfAsked(settings: Settings) -> Begin | None:
    """What begins the endpoint, if the settings name a port. Raises `InvalidConfig` if
    it needs a library that is not installed.
    """
    port = settings.server.metricsPort
    if not port:
        return None
    if find_spec("prometheus_client") is None:
        raise InvalidConfig(
            f"metricsPort is {port}, and prometheus_client is not installed",
            "`pip install 'muninn-gpu[metrics]'`, or unset metricsPort",
        )
    # All that the thread of the endpoint uses is imported here, while no other thread
    # forks.
    from muninn.service.endpoint import Endpoint

    return Endpoint
