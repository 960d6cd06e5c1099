"""The command `keep`: a member that stays and is preferred as broker, and what it may
serve besides: metrics, HTTP for plans, and systemd's questions.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from muninn.cli import systemd
from muninn.cli.ending import say, stopped
from muninn.config import variableOf
from muninn.errors import InvalidConfig

if TYPE_CHECKING:
    from muninn.config.settings import Server
    from muninn.service.web.serving import Where


def runKeep(arguments: argparse.Namespace) -> int:
    from muninn.session import membership

    stop = stopped()
    if arguments.metrics is not None:
        os.environ[variableOf("metricsPort")] = str(arguments.metrics)
    isServing = arguments.http or arguments.http_port is not None
    if isServing:
        _requireWeb()
    address = systemd.addressOf() if arguments.systemd else None
    with contextlib.ExitStack() as beside:  # what a keeper does beside its membership
        member = membership.joinPreferred()
        beside.callback(member.leave)
        where = beside.enter_context(_served(arguments.http_port)) if isServing else None
        _sayWhat(arguments, member.domain, _metricsOf(member.settings.server), where)
        if address is not None:
            beside.enter_context(systemd.notifying(member, address, stop))
        stop.wait()
    return 0


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
