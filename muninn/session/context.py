"""The context of open buffers: the parts that a buffer, an access or a lock needs of
its membership.

The membership makes it once, when the process joins, and each open buffer keeps it. So
everything that is needed to end a mapping lives as long as the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from muninn.session.client import Client
from muninn.session.departure import Departure
from muninn.session.gpus import Gpus
from muninn.session.lending import Lent
from muninn.session.owners import Owners
from muninn.session.releases import Releases
from muninn.session.tables import Tables
from muninn.session.unclaimed import Unclaimed


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Context:
    """The context of the open buffers of one membership.

    Attributes
    ----------
    isStale
        `Standing.isStale`.
    owners
        The accesses and locks of this process, which keep their open buffers.
    """

    tables: Tables
    isStale: Callable[[], bool]
    departure: Departure
    client: Client
    gpus: Gpus
    releases: Releases
    lent: Lent
    unclaimed: Unclaimed
    owners: Owners
