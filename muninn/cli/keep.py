"""The command `keep`: a member that stays and is preferred as broker, and what it may
serve besides: metrics, HTTP for plans, and systemd's questions.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from muninn.cli import systemd
from muninn.cli.ending import say, stopped
from muninn.cli.output import printError
from muninn.config import TOKEN_VARIABLE, variableOf
from muninn.errors import InvalidConfig, MuninnError

if TYPE_CHECKING:
    from muninn.config.settings import Server
    from muninn.service.web.serving import Where

#: How often a keeper looks whether it still is a member, and when it tries to be one again.
_LOOK_SECONDS, _PAUSE_SECONDS = 0.5, 1.0


def runKeep(arguments: argparse.Namespace) -> int:
    stop = stopped()
    if arguments.metrics is not None:
        os.environ[variableOf("metricsPort")] = str(arguments.metrics)
    if _isServing(arguments):
        _requireWeb()
    if arguments.systemd and arguments.http_port is not None:
        _requireOwnToken()
    address = systemd.addressOf() if arguments.systemd else None
    _keep(arguments, address, stop)
    while not stop.wait(_PAUSE_SECONDS):  # somebody has removed the files of the domain
        try:
            _keep(arguments, address, stop)
        except MuninnError as error:
            printError(error, asJson=False)
    return 0


def _isServing(arguments: argparse.Namespace) -> bool:
    return arguments.http or arguments.http_port is not None


def _keep(arguments: argparse.Namespace, address: str | None, stop: threading.Event) -> None:
    """Be a member until `stop` is set, or the membership is lost. A keeper makes no calls
    that would let it join anew.
    """
    from muninn.session import membership

    with contextlib.ExitStack() as beside:  # what a keeper does beside its membership
        member = membership.joinPreferred()
        beside.callback(member.leave)
        where = (
            beside.enter_context(_served(arguments.http_port)) if _isServing(arguments) else None
        )
        _sayWhat(arguments, member.domain, _metricsOf(member.settings.server), where)
        if address is not None:
            beside.enter_context(systemd.notifying(member, address, stop))
        while not stop.wait(_LOOK_SECONDS) and not member.isStale():
            pass


def _requireWeb() -> None:
    """Raises `InvalidConfig` if a library of the extra `http` is missing."""
    missing = [
        each for each in ("starlette", "uvicorn", "prometheus_client") if find_spec(each) is None
    ]
    if missing:
        raise InvalidConfig(
            f"--http needs {' and '.join(missing)}, which is not installed",
            "`pip install 'muninn-gpu[http]'`",
        )


def _requireOwnToken() -> None:
    """Raises `InvalidConfig` if a token would be printed, which systemd writes into the
    journal.
    """
    if not os.environ.get(TOKEN_VARIABLE):
        raise InvalidConfig(
            f"{TOKEN_VARIABLE} is not set, and a token that is printed ends in the journal",
            f"Set {TOKEN_VARIABLE} by EnvironmentFile= of the unit, with a file of mode 0600",
        )


def _served(port: int | None) -> contextlib.AbstractContextManager[Where]:
    from muninn.service.web.serving import served

    return served(port)


def _sayWhat(
    arguments: argparse.Namespace, domain: str, url: str | None, where: Where | None
) -> None:
    pid = os.getpid()
    result: dict[str, Any] = {"domain": domain, "pid": pid, "metrics": url}
    lines = [f"keeping domain {domain!r} as process {pid}, until Ctrl-C"]
    if url:
        lines.append(f"metrics: {url}")
    if where is not None:
        result["http"] = {"socket": where.socketPath, "url": where.url, "token": where.madeToken}
        lines.append(f"http: curl --unix-socket {where.socketPath} http://muninn/buffers")
        if where.url:
            lines.append(f"page: {where.page}")
    say(arguments, result, "\n".join(lines))


def _metricsOf(server: Server) -> str | None:
    """Where this process serves metrics."""
    if not server.metricsPort:
        return None
    from muninn.service.endpoint import urlOf

    return urlOf(server.metricsAddress, server.metricsPort)
