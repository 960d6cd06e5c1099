"""Late imports: the modules that calls need and `import muninn` does not. They are
imported at the first join, which takes 15 ms.

When the interpreter is finalized, nothing can be imported any more. So everything that
the `__del__` of an object may need is imported here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from muninn.config import Settings, loadSettings, warnOnce
from muninn.observe import outlet, spans
from muninn.system import clock
from muninn.system.logs import Log, setLevel
from muninn.system.threads import refuseImports

if TYPE_CHECKING:
    from muninn.broker.broker import Broker

Value = TypeVar("Value")


class Loaded(NamedTuple):
    """The classes and modules that were imported late."""

    broker: type[Broker]
    handles: ModuleType


_loaded: list[Loaded] = []
_PAUSE_SECONDS = 0.01
#: A program that drops its rights for good waits so long for the error.
_BOUND_SECONDS = 1.0


def load() -> Loaded:
    """Import the modules, at the first call. The caller prevents forks meanwhile: if
    another thread forked, the module would stay half imported in the child.

    Later calls import nothing, so they also work while the interpreter ends.
    """
    if not _loaded:
        refuseImports("this process has never joined a domain")
        _loaded.append(patiently(_imported))
    return _loaded[0]


def patiently(call: Callable[[], Value]) -> Value:
    """Call `call`, which may import modules, and return its result.

    A uid that may not look into the libraries, for a moment only, finds nothing there,
    and the interpreter would remember that.
    """
    deadline = clock.now() + _BOUND_SECONDS
    while True:
        try:
            return call()
        except ImportError:
            importlib.invalidate_caches()
            if clock.now() > deadline:
                raise
            clock.sleep(_PAUSE_SECONDS)


def settingsToJoin() -> Settings:
    """The settings of now; what this process writes to logs and spans is theirs from here
    on.
    """
    strange: dict[str, str] = {}
    settings = loadSettings(warn=strange.update)
    setLevel(settings.server.logLevel)
    outlet.attach(settings.server.log)
    # Not before: the warning is a line as any other.
    warnOnce(strange, Log("muninn.config").warning)
    spans.turn(settings.server.enableTracing)
    return settings


def _imported() -> Loaded:
    from muninn.broker.broker import Broker
    from muninn.wire import handles

    return Loaded(Broker, handles)
