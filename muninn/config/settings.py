"""The settings and their sources.

`loadSettings` reads the defaults, the file named by ``MUNINN_CONFIG``, the ``MUNINN_*``
variables and the caller's overrides, in that order, and checks every value against the
tables of `checks.py`. A value that does not fit is `InvalidConfig`, with the file and line, the
variable or the argument that it came from. Settings belong to one process. Only the
sizes of tables are shared: the creator of a domain writes them into its control block.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from muninn.config import variables
from muninn.config.checks import CHECKS
from muninn.errors import InvalidArgument, InvalidConfig
from muninn.terms import nearest

DEFAULTS = Path(__file__).with_name("defaults.toml")
FILE_VARIABLE = "MUNINN_CONFIG"
#: The bearer token of `keep --http-port`: no setting, which commands would show.
TOKEN_VARIABLE = "MUNINN_HTTP_TOKEN"
_HEADING = re.compile(r"\s*\[+\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"\s*([^=#]+?)\s*=")
_READABLE = f"Let {FILE_VARIABLE} name a TOML file that this process may read, or unset it"


class Server(NamedTuple):
    logLevel: str
    log: str
    enableTracing: bool
    metricsPort: int
    metricsAddress: str


class Memory(NamedTuple):
    bigModeMaxBytes: int
    fastModeMaxBytes: int
    prefaultThreads: int
    loadThreads: int


class Tenancy(NamedTuple):
    defaultTenant: str
    defaultPinnedHostQuota: int
    defaultVramQuota: int


class Promotion(NamedTuple):
    defaultPolicy: str
    enablePromotion: bool
    defaultSliceBytes: int
    perGpuScratchBytes: int
    perTenantScratchBytes: int
    maxConcurrentPromotions: int


class Topology(NamedTuple):
    enablePeerProbing: bool
    preferP2P: bool
    cachePath: str


class Security(NamedTuple):
    leaseTtlMs: int
    handleBytes: int


class Observability(NamedTuple):
    counters: bool


class Control(NamedTuple):
    domain: str
    takeoverMs: int
    requestTimeoutMs: int
    maxMembers: int
    maxBuffers: int
    maxLeases: int


class Devices(NamedTuple):
    device: str
    hostGpus: int
    hostGpuBytes: int
    hostLinks: str
    mappedWindowBytes: int
    ipcGraceMs: int


class Settings(NamedTuple):
    """All settings, by table. ``defaults.toml`` explains the keys; sizes are in bytes
    here.
    """

    server: Server
    memory: Memory
    tenancy: Tenancy
    promotion: Promotion
    topology: Topology
    security: Security
    observability: Observability
    control: Control
    devices: Devices


class Found(NamedTuple):
    """A value, and its source in words."""

    value: Any
    where: str


_TABLE_OF_KEY = {key: table for table, keys in CHECKS.items() for key in keys}
_TABLES: dict[str, type[Any]] = {
    "server": Server,
    "memory": Memory,
    "tenancy": Tenancy,
    "promotion": Promotion,
    "topology": Topology,
    "security": Security,
    "observability": Observability,
    "control": Control,
    "devices": Devices,
}
#: Keys of the specification that have no meaning in this version, with the reason.
_NOT_HERE = {
    "udsPath": "sockets live in the domain's own directory below /dev/shm",
    "udsPerm": "the domain's directory below /dev/shm is 0700, always",
    **dict.fromkeys(
        ("nvmeEnabled", "nvmePath", "nvmePrefetch", "nvmeAioDepth", "defaultNvmeQuota"),
        "NVMe spill is not yet in this version",
    ),
}


def variableOf(key: str) -> str:
    """The environment variable of a key: `takeoverMs` is ``MUNINN_TAKEOVER_MS``."""
    return "MUNINN_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).upper()


_KEY_OF_VARIABLE = {variableOf(key): key for key in _TABLE_OF_KEY}
_REASON_OF_VARIABLE = {variableOf(key): reason for key, reason in _NOT_HERE.items()}


def loadSettings(
    environ: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """The settings that are in force now.

    Parameters
    ----------
    environ
        The environment; by default that of the process.
    overrides
        Key to value; they win over all other sources.

    Raises
    ------
    InvalidConfig
        An unknown key, a wrong type, a value out of range, or a file that can not be
        read.
    """
    environ = os.environ if environ is None else environ
    found = dict(_defaults())
    if path := environ.get(FILE_VARIABLE):
        found |= _ofFile(Path(path))
    found |= _ofVariables(environ)
    if found["logLevel"].value != "error":
        variables.warnOnce(strangersIn(environ))
    found |= {
        _known(key, f"argument {key}"): Found(value, f"argument {key}")
        for key, value in (overrides or {}).items()
    }
    values: dict[str, dict[str, Any]] = {table: {} for table in _TABLES}
    for key, (value, where) in found.items():
        table = _TABLE_OF_KEY[key]
        try:
            values[table][key] = CHECKS[table][key](value)
        except InvalidArgument as error:
            raise InvalidConfig(
                f"{where}: {key}: {error.reason}",
                "Give it a value, or unset it" if value == "" else None,
            ) from None
    return Settings(**{table: _TABLES[table](**values[table]) for table in Settings._fields})


@cache
def _defaults() -> dict[str, Found]:
    """The defaults. They are read once, because after a chroot a process may not see
    the package's files any more.
    """
    return _ofFile(DEFAULTS)


def _known(key: str, where: str, table: str = "") -> str:
    if key in _TABLE_OF_KEY:
        return key
    if key in _NOT_HERE:
        raise InvalidConfig(f"{where}: {key} has no meaning here: {_NOT_HERE[key]}", "Remove it")
    known = sorted(CHECKS.get(table, _TABLE_OF_KEY))
    meant = nearest(key, known)
    raise InvalidConfig(
        f"{where}: {key} is not known{f' ({meant}?)' if meant else ''}",
        f"Use one of {', '.join(known)}",
    )


def _ofVariables(environ: Mapping[str, str]) -> dict[str, Found]:
    found = {}
    for variable, value in environ.items():
        key, reason = _KEY_OF_VARIABLE.get(variable), _REASON_OF_VARIABLE.get(variable)
        if reason is not None and not variables.isLink(variable, value):
            raise InvalidConfig(f"variable {variable} has no meaning here: {reason}", "Remove it")
        # A Service `muninn-metrics` has a MUNINN_METRICS_PORT too.
        if key is not None and not variables.isLink(variable, value):
            found[key] = Found(value, f"variable {variable}")
    return found


def settingsIn(environ: Mapping[str, str]) -> list[str]:
    """The names of the variables in `environ` that are settings."""
    return [
        variable
        for variable in environ
        if variable == FILE_VARIABLE or variable in _KEY_OF_VARIABLE
    ]


def strangersIn(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that begin with ``MUNINN_`` and have no meaning, each with the
    nearest known variable.
    """
    known = {FILE_VARIABLE, TOKEN_VARIABLE, *_KEY_OF_VARIABLE, *_REASON_OF_VARIABLE}
    return variables.strangers(environ, known)


def _ofFile(path: Path) -> dict[str, Found]:
    text, tables = _parsed(path)
    lines, found = _linesOf(text), {}
    for table, entries in tables.items():
        heading = lines.get((table,), 1)
        where = f"{path}:{heading}"
        if not isinstance(entries, dict):
            raise InvalidConfig(f"{where}: {table} stands outside of a table", _whereTo(table))
        if table not in CHECKS:
            reason = _NOT_HERE.get(next(iter(entries), ""))
            raise InvalidConfig(
                f"{where}: [{table}] is not known" + (f": {reason}" if reason else ""),
                f"Use {', '.join(f'[{each}]' for each in CHECKS)}",
            )
        for key, value in entries.items():
            where = f"{path}:{lines.get((table, key), heading)}"
            if _TABLE_OF_KEY.get(_known(key, where, table)) != table:
                raise InvalidConfig(
                    f"{where}: {key} belongs to [{_TABLE_OF_KEY[key]}], not to [{table}]",
                    "Move the key",
                )
            found[key] = Found(value, where)
    return found


def _whereTo(key: str) -> str:
    if key in CHECKS:
        return f"Write [{key}], and its keys below"
    return f"Write it below [{_TABLE_OF_KEY[key]}]" if key in _TABLE_OF_KEY else "Remove it"


def _parsed(path: Path) -> tuple[str, dict[str, Any]]:
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise InvalidConfig(
            f"{path}:{line[1] if line else text.count(chr(10)) + 1}: {error}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidConfig(
            f"{path} can not be read: {getattr(error, 'strerror', None) or error}", _READABLE
        ) from error


def _linesOf(text: str) -> dict[tuple[str, ...], int]:
    """The first line of each table, by its name, and of each key, by the table's name and
    its own. A key within braces has none.
    """
    lines: dict[tuple[str, ...], int] = {}
    current, inText = "", False
    for number, line in enumerate(text.splitlines(), 1):
        begins = not inText
        inText ^= bool((line.count('"""') + line.count("'''")) % 2)
        if not begins:
            continue
        if match := _HEADING.match(line):
            current = match[1].strip("\"' ")
            names = [current]
        elif match := _KEY.match(line):
            names = [part.strip("\"' ") for part in match[1].split(".")]
            names = [current, *names] if current else names
        else:
            continue
        lines.setdefault(tuple(names), number)
        lines.setdefault((names[0],), number)
    return lines
