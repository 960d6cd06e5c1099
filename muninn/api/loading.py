"""Loading: what a membership is made of and `import muninn` does not need. It takes 15 ms."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from muninn.api.holdings import Holdings
    from muninn.api.membership import Membership
    from muninn.broker.broker import Broker


class Loaded(NamedTuple):
    """The classes that were imported late."""

    holdings: type[Holdings]
    broker: type[Broker]
    lone: type[Membership]


_loaded: list[Loaded] = []


def load() -> Loaded:
    """Import them, at the first call. Its caller keeps forks away: what a thread is importing stays half imported in another one's child.

    Later calls import nothing, so they work also when the interpreter ends.
    """
    if not _loaded:
        from muninn.api.alone import LoneMembership
        from muninn.api.holdings import Holdings
        from muninn.broker.broker import Broker

        _loaded.append(Loaded(Holdings, Broker, LoneMembership))
    return _loaded[0]
