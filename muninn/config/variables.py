"""Variables of the environment that begin with ``MUNINN_`` and are no settings.

Kubernetes writes the address of every Service into the environment of every pod of its
namespace, under the Service's name, and Docker's links do the same. The variables of a
Service called `muninn` are no settings, and are passed over. Any other unknown variable
may be misspelt, or meant for another version. A warning names it, once in the life of
the process, with the nearest known name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping

from muninn.terms import nearest

PREFIX = "MUNINN_"
_ADDRESS = r"(?:tcp|udp|sctp)://\S*"
#: The end of a variable's name after the Service or the container, and the pattern of
#: its value. A Service may be called `muninn-something`.
_LINKS = (
    (r"SERVICE_HOST", r".*"),
    (r"SERVICE_PORT(?:_[A-Z0-9_]+)?", r"\d*"),
    (r"PORT(?:_\d+_(?:TCP|UDP|SCTP))?", _ADDRESS),
    (r"PORT_\d+_(?:TCP|UDP|SCTP)_(?:PORT|PROTO|ADDR|START|END|PORT_START|PORT_END)", r".*"),
    (r"PORT_(?:START|END)", _ADDRESS),
    (r"NAME", r"/.*"),
    (r"ENV_.+", r".*"),
)
_PATTERNS = [
    (re.compile(f"{PREFIX}(?:[A-Z0-9_]+_)?{name}"), re.compile(value, re.DOTALL))
    for name, value in _LINKS
]
#: The variables of which the process was warned.
_warned: set[str] = set()


def isLink(variable: str, value: str) -> bool:
    """Whether a variable is one that Kubernetes or Docker makes for a Service or a
    container.
    """
    return any(name.fullmatch(variable) and like.fullmatch(value) for name, like in _PATTERNS)


def strangers(environ: Mapping[str, str], known: Iterable[str]) -> dict[str, str]:
    """The variables that begin with ``MUNINN_`` and have no meaning: variable → the
    nearest known one, or "".
    """
    names = set(known)
    unknown = [
        each
        for each, value in environ.items()
        if each.startswith(PREFIX) and each not in names and not isLink(each, value)
    ]
    return {each: _nearest(each, names) for each in unknown}


def warnOnce(
    found: Mapping[str, str], say: Callable[[str, str, str], object] | None = None
) -> None:
    """Warn of each variable that has no meaning, once, by `say`: a method `warning` of a
    logger.
    """
    for variable, meant in found.items():
        if variable not in _warned:
            _warned.add(variable)
            hint = f": did you mean {meant}?" if meant else ""
            with contextlib.suppress(Exception):  # a handler of the program may raise
                (say or _logged)("%r means nothing to Muninn%s", variable, hint)


def _logged(message: str, variable: str, hint: str) -> None:
    import logging

    logging.getLogger("muninn.config").warning(message, variable, hint)


def _nearest(variable: str, names: set[str]) -> str:
    found = nearest(
        variable.removeprefix(PREFIX).upper(), sorted(name.removeprefix(PREFIX) for name in names)
    )
    return PREFIX + found if found else ""
