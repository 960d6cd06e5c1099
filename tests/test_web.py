"""The HTTP interface: its operations, its refusals, who may ask, and the page."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from starlette.datastructures import URL
from starlette.requests import HTTPConnection
from starlette.routing import Route
from starlette.testclient import TestClient

import muninn
from muninn.api import admin, listing
from muninn.config import strangersIn
from muninn.config.settings import TOKEN_VARIABLE
from muninn.errors import MuninnError
from muninn.errortable import ERRORS
from muninn.service.web import openapi, serving
from muninn.service.web.application import applicationOf
from muninn.service.web.failures import statusOf
from muninn.service.web.guards import byFile, byToken
from muninn.service.web.handlers import Handlers
from muninn.service.web.held import Held
from muninn.service.web.serving import served
from muninn.service.web.workshop import MOST_WAITING, Workshop
from muninn.session import membership
from muninn.session.membership import current
from muninn.system.latch import Latch
from support import Actor, eventually

Start = Callable[..., Actor]
WINDOW = 65_536


@pytest.fixture
def held(domain: str) -> Iterator[Held]:
    made = Held()
    yield made
    made.close()


@pytest.fixture
def client(held: Held) -> TestClient:
    return TestClient(applicationOf(held, Workshop(), byFile), raise_server_exceptions=False)


def created(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/buffers", json={"size": 100_000, **body})
    assert answer.status_code == 201, answer.text
    described: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/buffers/{described['bufferId']}"
    return described


def refused(answer: httpx.Response, status: int, code: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    reason: str = error["reason"]
    return reason


def test_thePlanOfTheSpecificationIsDone(client: TestClient) -> None:
    """R§4.2, with smaller numbers."""
    body = {
        "size": 1 << 20,
        "mode": "bigMode",
        "preferredGpu": 0,
        "name": "weightsA",
        "access": "readMostly",
        "tenant": "org/acct/job123",
        "hints": {
            "hotRanges": [[0, 4096], [8192, 4096]],
            "lifetimeMs": 600_000,
            "priority": "normal",
        },
    }
    described = created(client, **body)
    assert described["hints"]["hotRanges"] == body["hints"]["hotRanges"]  # type: ignore[index]
    path = f"/buffers/{described['bufferId']}"
    assert client.get(path).json()["name"] == "weightsA"
    opened = client.post(
        f"{path}/open",
        json={"process": os.getpid(), "tenant": "org/acct/job123", "purpose": "reader"},
    ).json()
    assert muninn.open(base64.b64decode(opened["handle"])).nbytes == 1 << 20
    promoted = client.post(
        f"{path}/promote", json={"offset": 4096, "length": WINDOW, "targetGpu": 0}
    ).json()
    assert promoted["bytes"] == WINDOW and promoted["route"] == "upload"
    deleted = client.delete(path).json()
    assert deleted["freed"] and deleted["revoked"] == 0
    assert refused(client.get(path), 404, "MNN-0011")


def test_aHandleHasTheRightsOfItsPurpose(client: TestClient, actor: Start) -> None:
    path = f"/buffers/{created(client, name='a', access='readWrite')['bufferId']}/open"
    other = actor("import base64")
    for purpose, mayWrite in (("reader", False), ("writer", True)):
        opened = client.post(path, json={"process": other.pid, "purpose": purpose}).json()
        assert other.do(f"{opened['python']}.writable") is mayWrite


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"process": 2**31 - 1}, 400, "MNN-0026"),
        ({"process": 1, "tenant": "another"}, 403, "MNN-0008"),
        ({"process": 0}, 422, "MNN-0026"),
        ({}, 422, "MNN-0026"),
        ({"process": 1, "purpose": "thief"}, 422, "MNN-0026"),
        ({"process": 1, "extra": 1}, 422, "MNN-0026"),
    ],
)
def test_anOpenThatCanNotBeIsRefused(
    client: TestClient, body: dict[str, Any], status: int, code: str | None
) -> None:
    path = f"/buffers/{created(client, name='a')['bufferId']}/open"
    assert refused(client.post(path, json=body), status, code)


def test_memoryOfAGpuIsHeldUntilItIsDeleted(client: TestClient, actor: Start) -> None:
    described = created(client, name="v", mode="fastMode", preferredGpu=0)
    other = actor("b = muninn.open('v'); b.close(); del b")
    assert other.do("muninn.open('v').nbytes") == 100_000
    assert client.delete(f"/buffers/{described['bufferId']}").json()["holders"] == 0
    with pytest.raises(muninn.errors.BufferNotFound):
        muninn.open("v")


def test_aBufferWithoutANameIsHeldToo(client: TestClient) -> None:
    described = created(client)
    assert client.get(f"/buffers/{described['bufferId']}").status_code == 200
    client.delete(f"/buffers/{described['bufferId']}")
    eventually(
        lambda: client.get(f"/buffers/{described['bufferId']}").status_code == 404, "it is gone"
    )


def test_aWindowEndsWithItsTimeOrItsBuffer(client: TestClient, held: Held) -> None:
    muninn.share(np.zeros(WINDOW * 4, "u1"), "r", access="readOnly")
    base = next(each for each in muninn.listBuffers() if each["name"] == "r")["bufferId"]

    def windows() -> int:
        return sum(each["kind"] == "window" for each in client.get("/buffers").json()["buffers"])

    body = {"offset": 0, "length": WINDOW, "holdMs": 1}
    assert client.post(f"/buffers/{base}/promote", json=body).json()["isShared"]
    time.sleep(0.01)
    held.tidy()
    assert (
        client.post(f"/buffers/{base}/promote", json={**body, "holdMs": 60_000}).status_code == 201
    )
    held.tidy()
    assert windows() == 1
    client.delete(f"/buffers/{base}")
    with pytest.raises(muninn.errors.BufferNotFound):
        muninn.open("r")


def test_anIdIsNeverAnotherBuffers(client: TestClient) -> None:
    """A newer version has the name, and the older one is there while it is held."""
    older = muninn.publish("v", np.zeros(4096, "u1"))
    path = f"/buffers/{older.describe()['bufferId']}"
    newer = muninn.publish("v", np.ones(8192, "u1"))
    assert client.get(path).json()["state"] == "replaced"
    for what, body in (("open", {"process": os.getpid()}), ("promote", {"length": WINDOW // 16})):
        assert "newer version" in refused(client.post(f"{path}/{what}", json=body), 410, "MNN-0013")
    path = f"/buffers/{newer.describe()['bufferId']}"
    opened = client.post(f"{path}/open", json={"process": os.getpid()}).json()
    assert muninn.open(base64.b64decode(opened["handle"])).nbytes == 8192
    older.close()
    assert client.delete(path).status_code == 200


def test_aBundleIsOpenedAndNotPromoted(client: TestClient, actor: Start) -> None:
    kept = muninn.shareBundle({"x": np.arange(4096, dtype="u1"), "y": np.zeros(9)}, "b")
    path = f"/buffers/{muninn.listBuffers()[0]['bufferId']}"
    opened = client.post(f"{path}/open", json={"process": os.getpid()}).json()
    assert actor("import base64").do(f"list({opened['python']})") == ["x", "y"]
    assert "bundle" in refused(client.post(f"{path}/promote", json={}), 409, "MNN-0012")
    kept.close()


def test_anOperationLooksAtItsOwnBufferAlone(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = created(client, name="a")
    created(client, name="b")
    looked = list[int]()
    stable = listing.stableDescription

    def noted(tables: Any, row: int, state: Any) -> Any:
        looked.append(row)
        return stable(tables, row, state)

    monkeypatch.setattr(listing, "stableDescription", noted)
    path = f"/buffers/{described['bufferId']}"
    client.get(path)
    client.post(f"{path}/open", json={"process": os.getpid()})
    client.post(f"{path}/promote", json={})
    client.delete(path)
    assert {f"{row}" for row in looked} == {described["bufferId"].partition(".")[0]}


@pytest.mark.parametrize("how", [{"mode": "fastMode"}, {"lifetime": "lastClose"}, {}])
def test_aBufferThatOnlyThisProcessHoldsIsDeleted(client: TestClient, how: dict[str, str]) -> None:
    path = f"/buffers/{created(client, **how)['bufferId']}"
    assert client.delete(path).json()["freed"]
    assert client.delete(path).status_code == 404


def test_noPromotionKeepsABufferThatIsDeleted(client: TestClient) -> None:
    """Neither one that failed, nor one whose window is still held."""
    path = f"/buffers/{created(client, name='a', access='readOnly')['bufferId']}"
    errors = [client.post(f"{path}/promote", json={"targetGpu": 7})]
    errors += [client.post(f"{path}/promote", json={"offset": 1 << 30})]
    assert [each.status_code for each in errors] == [400, 400]
    assert client.post(f"{path}/promote", json={}).status_code == 201
    assert client.get(path).json()["importers"]
    client.delete(path)
    assert client.get(path).status_code == 404


def test_aTakenNameAndAnUnknownIdAreSaid(client: TestClient) -> None:
    created(client, name="a")
    assert "a" in refused(client.post("/buffers", json={"size": 1, "name": "a"}), 409, "MNN-0028")
    known = muninn.listBuffers()[0]["bufferId"]
    row, _, incarnation = known.partition(".")
    for bufferId in (
        f"0{known}",
        f"{row}.0{incarnation}",
        f"{row}.{int(incarnation) + 1}",
        f"9999999.{incarnation}",
        "9.9",
        "x",
        "%00",
        "9" * 40,
    ):
        assert client.get(f"/buffers/{bufferId}").status_code == 404


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"{}", "text/plain", 415, None),
        (b"{}", "application/x-www-form-urlencoded", 415, None),
        (b"{", "application/json", 422, None),
        (b"[]", "application/json", 422, "MNN-0026"),
        (b"\xff\xfe", "application/json", 422, None),
        (b'{"size": NaN}', "application/json", 422, None),
        (b'{"size": 1e999}', "application/json", 422, "MNN-0026"),
        (b'{"size": true}', "application/json", 422, "MNN-0026"),
        (b'{"size": 0}', "application/json", 422, "MNN-0026"),
        (b"[" * 60_000, "application/json", 422, None),
        (b'{"size": 1, "name": "' + b"x" * 70_000 + b'"}', "application/json", 413, None),
        (b'{"size": 1' + b"0" * 5000 + b"}", "application/json", 422, None),
    ],
)
def test_aBodyThatMakesNoSenseIsRefused(
    client: TestClient, content: bytes, kind: str, status: int, code: str | None
) -> None:
    answer = client.post("/buffers", content=content, headers={"content-type": kind})
    assert refused(answer, status, code)
    assert muninn.listBuffers() == []


def test_aNumberIsAnIntegerHoweverItIsWritten(client: TestClient) -> None:
    answer = client.post(
        "/buffers",
        content=b'{"size": 4.096e3, "name": "a"}',
        headers={"content-type": "application/json; charset=utf-8"},
    )
    assert answer.status_code == 201 and answer.json()["size"] == 4096


def test_noRoomIsNoFaultOfTheRequest(client: TestClient) -> None:
    assert "1P wanted" in refused(client.post("/buffers", json={"size": 1 << 50}), 507, "MNN-0016")


def test_everyErrorHasAStatus() -> None:
    paths = openapi.document("1")["paths"].values()
    documented = {
        status for each in paths for operation in each.values() for status in operation["responses"]
    }
    for row in ERRORS:
        kind = getattr(muninn.errors, row.name)
        status = statusOf(kind("why"))
        assert str(status) in documented, row
        assert row.category != "fatal" or status in (410, 500, 501), row
    assert statusOf(TimeoutError()) == 504 and statusOf(KeyError()) == 500


def test_anErrorOfItsOwnTellsNothing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise KeyError("secret")

    monkeypatch.setattr(muninn, "listBuffers", fails)
    answer = client.get("/buffers")
    assert answer.status_code == 500 and "secret" not in answer.text


def test_healthFollowsTheBroker(client: TestClient, actor: Start) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    admin.drain(True, "for a test")
    answer = client.get("/healthz")
    assert answer.status_code == 503 and answer.json()["status"] == "draining"
    assert refused(client.post("/buffers", json={"size": 1}), 503, "MNN-0024")
    assert client.post("/buffers", json={"size": 1}).headers["retry-after"] == "1"


def test_metricsAndTopologyAreThere(client: TestClient) -> None:
    created(client, name="a")
    assert 'muninn_buffers_total{mode="bigMode"} 1.0' in client.get("/metrics").text
    topology = client.get("/topology").json()
    assert [each["index"] for each in topology["gpus"]] == [0]
    state = client.get("/state").json()
    assert [each["name"] for each in state["buffers"]] == ["a"]


def test_aBufferWhoseLifetimeIsOverAtOnceIsAnAnswerOfTheDocument(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: it was created, and had gone when it was to be described."""

    def over(*_: object, **__: object) -> None:
        raise muninn.errors.LeaseRevoked("lifetimeEnded")

    monkeypatch.setattr(muninn.MuninnBuffer, "describe", over)
    answer = client.post("/buffers", json={"size": 1, "lifetimeMs": 1})
    refused(answer, 410, "MNN-0014")
    assert "410" in openapi.document("1")["paths"]["/buffers"]["post"]["responses"]


def test_theDocumentIsTrue(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document == json.loads(json.dumps(openapi.document(muninn.__version__)))
    answer = created(client, name="a")
    required = document["paths"]["/buffers"]["post"]["responses"]["201"]["content"][
        "application/json"
    ]["schema"]["required"]
    assert set(required) <= set(answer)


def test_anOperationHasTheStatusesOfItsIdAndItsBody() -> None:
    ofIds, ofBodies = {"404", "410"}, {"400", "403", "409", "410", "413", "415", "422"}
    for path in openapi.document("1")["paths"].values():
        for operation in path.values():
            told = set(operation["responses"])
            assert {"401", "421", "500", "503"} < told
            wanted = ofIds if "parameters" in operation else set()
            wanted = wanted | (ofBodies if "requestBody" in operation else set())
            assert told & (ofIds | ofBodies) == wanted


def test_badHealthIsAsTheDocumentSays(client: TestClient) -> None:
    admin.drain(True, "for a test")
    answer = client.get("/healthz")
    assert answer.status_code == 503
    document = openapi.document("1")
    told = document["paths"]["/healthz"]["get"]["responses"]["503"]["content"]["application/json"]
    schema = {**told["schema"], "components": document["components"]}
    jsonschema.validate(answer.json(), schema)
    jsonschema.validate({"error": dict.fromkeys(("code", "name", "fix")) | {"reason": ""}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"status": "well"}, schema)


def test_theSocketIsTheUsersAlone(domain: str) -> None:
    with served() as where:
        assert where.port is None and os.stat(where.socketPath).st_mode & 0o777 == 0o600
        transport = httpx.HTTPTransport(uds=where.socketPath)
        with httpx.Client(transport=transport, base_url="http://muninn") as asking:
            assert asking.get("/healthz").json()["domain"] == domain
    assert not os.path.exists(where.socketPath)


def test_aProcessKeepsTheTokenThatItHasMade(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a keeper whose domain was removed told its clients that theirs is wrong."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with served(0) as first:
        pass
    with served(0) as second:
        assert second.token == first.token


def test_aPortNeedsTheToken(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, _TOKEN)
    with served(0) as where, httpx.Client(base_url=f"http://127.0.0.1:{where.port}") as asking:
        for headers in (
            {},
            {"Authorization": "Bearer x"},
            {"Authorization": _TOKEN},
            {"Authorization": b"Bearer \xff"},
        ):
            assert refused(asking.get("/buffers", headers=headers), 401)
        for scheme in ("bearer", "BEARER"):
            headers = {"Authorization": f"{scheme} {where.token}"}
            assert asking.get("/buffers", headers=headers).status_code == 200
        mine = {"Authorization": f"Bearer {where.token}"}
        assert asking.get("/buffers", headers=mine).json() == {"buffers": []}
        for host in ("evil.example", "127.0.0.1.evil.example:80", ""):
            assert asking.get("/buffers", headers={**mine, "Host": host}).status_code in (400, 421)
        assert asking.get("/", headers={"Host": f"localhost:{where.port}"}).status_code == 200
        assert "default-src 'none'" in asking.get("/").headers["content-security-policy"]


_TOKEN = "a token of this test"
_MINE = f"Bearer {_TOKEN}"


def rawAnswer(held: Held, path: str, *headers: tuple[str, str]) -> int:
    """The status of an answer to GET with exactly these headers, which no client makes."""
    sent = list[dict[str, Any]]()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
    }
    asyncio.run(applicationOf(held, Workshop(), byToken(_TOKEN))(scope, receive, send))
    status: int = sent[0]["status"]
    return status


@pytest.mark.parametrize(
    "host",
    [
        "localhost:1/?",
        "localhost:1/#",
        "127.0.0.1:/",
        "[::1]:x",
        "localhost:",
        "localhost:1:1",
        "localhost\n",
        "a@localhost",
        "[::1]evil.example",
        "",
    ],
)
def test_aHostIsANameOfLoopbackOrItIsRefused(held: Held, host: str) -> None:
    for path in ("/buffers", "/", "/metrics"):
        assert rawAnswer(held, path, ("host", host)) == 421
        assert rawAnswer(held, path, ("host", host), ("authorization", _MINE)) == 421


def test_aHostIsGivenOnce(held: Held) -> None:
    assert rawAnswer(held, "/") == 421
    assert rawAnswer(held, "/", ("host", "localhost"), ("host", "evil.example")) == 421
    for host in ("localhost", "LocalHost:80", "127.0.0.1:9619", "[::1]", "[::1]:9619"):
        assert rawAnswer(held, "/", ("host", host)) == 200
    assert rawAnswer(held, "/buffers/", ("host", "evil.example")) == 404, "and not a redirection"


def test_noUrlMakesARoutePublic(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 1.0 starlette makes the URL of the Host: it is then what the client writes."""
    monkeypatch.setattr(HTTPConnection, "url", URL("http://localhost/"))
    public = {"/", "/openapi.json"}
    paths = {
        route.path
        for route in applicationOf(held, Workshop(), byFile).routes
        if isinstance(route, Route)
    }
    assert public < paths
    for path in (each.replace("{id}", "0.1") for each in paths - {"/buffers/{id}/open"}):
        status = rawAnswer(held, path, ("host", "localhost"))
        # Only POST is another method's, which tells nothing.
        assert status == (200 if path in public else 405 if "promote" in path else 401), path


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_itIsServedOnLoopbackOnly(domain: str, address: str) -> None:
    with pytest.raises(muninn.errors.InvalidArgument, match="not loopback"), served(0, address):
        pass


def test_aTakenPortAndAShortTokenAreSaid(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(muninn.errors.InvalidArgument, match=f"port {port}"), served(port):
            pass
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(muninn.errors.InvalidArgument, match=TOKEN_VARIABLE), served(0):
        pass
    assert not os.path.exists(current().paths.httpPath())


def test_aSocketThatAKilledProcessLeftIsReplaced(domain: str, actor: Start) -> None:
    other = actor(
        "from muninn.service.web.serving import served; s = served(); path = s.__enter__().socketPath"
    )
    path = other.do("path")
    other.kill()
    assert os.path.exists(path)
    with served() as where:
        assert where.socketPath == path
        with httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://x") as asking:
            assert asking.get("/healthz").status_code == 200


def test_aSecondServerOfADomainIsRefused(domain: str, actor: Start) -> None:
    other = actor(
        "from muninn.service.web.serving import served; s = served(); path = s.__enter__().socketPath"
    )
    path = other.do("path")
    with (
        pytest.raises(muninn.errors.InvalidArgument, match=f"process {other.pid} serves HTTP"),
        served(),
    ):
        pass
    assert not isinstance(askedAt(path, "/healthz"), httpx.HTTPError)
    assert other.do("s.__exit__(None, None, None)") is False
    assert not os.path.exists(path)


def test_aProcessUnlinksNoSocketButItsOwn(domain: str) -> None:
    with served() as where, socket.socket(socket.AF_UNIX) as another:
        os.unlink(where.socketPath)
        another.bind(where.socketPath)
    assert os.path.exists(where.socketPath)
    os.unlink(where.socketPath)


def test_clientsCanConnectOnceItSaysWhere(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before the server has begun, which here it never does."""
    monkeypatch.setattr(serving._Server, "run", lambda server, sockets: None)
    with served(0) as where, socket.socket(socket.AF_UNIX) as asking:
        asking.connect(where.socketPath)
        socket.create_connection(("127.0.0.1", where.port or 0)).close()


class Gate:
    """A handler that waits until the test lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Callable[[], Any]) -> None:
        self.entered, self.opened, self.left = threading.Semaphore(0), threading.Event(), Latch()
        self.outcome: Any = None
        self._then = then
        monkeypatch.setattr(Handlers, "promoteBuffer", self.wait)

    def wait(self, *_: object) -> dict[str, Any]:
        self.entered.release()
        assert self.opened.wait(60)
        try:
            self.outcome = self._then()
        except MuninnError as error:
            self.outcome = error
        self.left.set()
        return {}


def askedAt(path: str, url: str, method: str = "GET", body: Any = None) -> Any:
    """The answer at a socket, or the error that there was none."""
    transport = httpx.HTTPTransport(uds=path)
    try:
        with httpx.Client(transport=transport, base_url="http://x", timeout=60) as asking:
            return asking.request(method, url, json=body)
    except httpx.HTTPError as error:
        return error


def test_promotionsThatWaitKeepNothingElseWaiting(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, answers = Gate(monkeypatch, lambda: None), list[Any]()
    with served() as where:

        def promote() -> None:
            answers.append(askedAt(where.socketPath, "/buffers/0.1/promote", "POST", {}))

        workers = [threading.Thread(target=promote) for _ in range(MOST_WAITING + 30)]
        for each in workers:
            each.start()
        try:
            for _ in range(MOST_WAITING):
                assert gate.entered.acquire(timeout=60)
            # A thread pool of starlette has 40 threads.
            eventually(lambda: len(answers) == 30, "those that find no place are refused")
            assert askedAt(where.socketPath, "/healthz").status_code == 200
        finally:
            gate.opened.set()
            for each in workers:
                each.join()
        for each in answers[:30]:
            assert "wait already" in refused(each, 503, "MNN-0006")
            assert each.headers["retry-after"] == "1"
        assert [each.status_code for each in answers[30:]] == [201] * MOST_WAITING
        assert askedAt(where.socketPath, "/buffers/0.1/promote", "POST", {}).status_code == 201


def test_aHandlerThatOutlivesItsServerDoesNotJoinAgain(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_STOP_SECONDS", 0.1)
    gate = Gate(monkeypatch, muninn.listBuffers)
    with served() as where:
        arguments = (where.socketPath, "/buffers/0.1/promote", "POST", {})
        asking = threading.Thread(target=askedAt, args=arguments)
        asking.start()
        assert gate.entered.acquire(timeout=60)
    membership.leave()
    gate.opened.set()
    assert gate.left.wait(60)
    asking.join()
    assert isinstance(gate.outcome, muninn.errors.BrokerUnavailable)
    assert not membership.isJoined()


def test_theEndWaitsForWhatIsAtWorkAndBeginsNothing(domain: str) -> None:
    workshop, entered, done = Workshop(), threading.Event(), list[str]()

    def work() -> None:
        entered.set()
        eventually(lambda: workshop._isOver, "the end has begun")
        done.append("work")

    worker = threading.Thread(target=asyncio.run, args=(workshop.do(work),))
    worker.start()
    assert entered.wait(60)
    workshop.close(60)
    assert done == ["work"]
    worker.join()
    with pytest.raises(muninn.errors.BrokerUnavailable):
        asyncio.run(workshop.do(lambda: None))


def test_whatIsGivenToBeHeldAfterTheEndIsNot(held: Held) -> None:
    held.close()
    buffer = muninn.array("a", 10, "u1", mode="fastMode")
    held.keep("0.1", buffer)
    with pytest.raises(muninn.errors.MuninnError):
        buffer.describe()


def test_manyClientsAtOnceGetTheirOwnAnswers(domain: str) -> None:
    errors = list[BaseException]()
    with served() as where:

        def work(number: int) -> None:
            try:
                transport = httpx.HTTPTransport(uds=where.socketPath)
                with httpx.Client(transport=transport, base_url="http://x", timeout=60) as asking:
                    for step in range(5):
                        name = f"b{number}-{step}"
                        made = asking.post("/buffers", json={"size": 4096, "name": name}).json()
                        path = f"/buffers/{made['bufferId']}"
                        assert asking.get(path).json()["name"] == name
                        assert asking.delete(path).status_code == 200
            except BaseException as error:
                errors.append(error)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()
    assert errors == [] and muninn.listBuffers() == []


def test_noErrorClassIsForgotten() -> None:
    kinds = [kind for kind in vars(muninn.errors).values() if isinstance(kind, type)]
    assert len([kind for kind in kinds if issubclass(kind, MuninnError)]) >= len(ERRORS)


# --- keep --http -----------------------------------------------------------------------


def keeping(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "muninn", "keep", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def ended(kept: subprocess.Popen[str]) -> int:
    kept.terminate()
    assert kept.stdout is not None
    kept.stdout.close()
    return kept.wait(60)


def test_keepServesOnASocketOfTheUser(domain: str) -> None:
    kept = keeping("--http", "--json")
    assert kept.stdout is not None
    http = json.loads(kept.stdout.readline())["http"]
    assert http["url"] is None and http["token"] is None
    transport = httpx.HTTPTransport(uds=http["socket"])
    with httpx.Client(transport=transport, base_url="http://muninn", timeout=60) as asking:
        asking.post("/buffers", json={"size": 4096, "name": "v", "mode": "fastMode"})
        assert muninn.open("v").nbytes == 4096
        assert asking.get("/healthz").json()["brokerPid"] == kept.pid
    assert ended(kept) == 0 and not os.path.exists(http["socket"])
    assert muninn.open("v").nbytes == 4096, "this process goes on as the broker"


def test_keepTellsATokenThatItHasMadeAndNoOther(domain: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    kept = keeping("--http-port", port)
    assert kept.stdout is not None
    lines = [kept.stdout.readline() for _ in range(3)]
    assert re.fullmatch(rf"page: http://127\.0\.0\.1:{port}/#token=[\w-]{{40,}}\n", lines[2])
    token = lines[2].rstrip().rpartition("=")[2]
    asked = httpx.get(
        f"http://127.0.0.1:{port}/buffers", headers={"Authorization": f"Bearer {token}"}, timeout=60
    )
    assert asked.json() == {"buffers": []}
    assert ended(kept) == 0
    secret = "a token that nobody prints"
    kept = keeping("--http-port", port, MUNINN_HTTP_TOKEN=secret)
    assert kept.stdout is not None
    lines = [kept.stdout.readline() for _ in range(3)]
    assert lines[2] == f"page: http://127.0.0.1:{port}/#token=$MUNINN_HTTP_TOKEN\n"
    assert ended(kept) == 0


def test_underSystemdNoTokenIsPrinted(domain: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != TOKEN_VARIABLE}
    done = subprocess.run(
        [sys.executable, "-m", "muninn", "keep", "--systemd", "--http-port", "9"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("MNN-0001") and "EnvironmentFile" in done.stderr


def test_theTokensVariableIsKnown() -> None:
    assert TOKEN_VARIABLE == "MUNINN_HTTP_TOKEN" and strangersIn({TOKEN_VARIABLE: "x"}) == {}


def test_keepSaysWhichExtraIsMissing(domain: str) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from muninn.cli.main import main; sys.exit(main(['keep', '--http']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("MNN-0001") and "uvicorn" in done.stderr
    assert "pip install 'muninn-gpu[http]'" in done.stderr


# --- the page ---------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium")


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="it needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_thePageShowsTheDomain(domain: str, tmp_path: Path, width: int) -> None:
    """In a browser: names, holders, routes, and no error on its console."""
    buffer = muninn.share(np.zeros(1 << 20, "u1"), "<b>weights & more</b>", access="readOnly")
    muninn.array("onGpu", 1000, "f4", mode="fastMode")
    copy = buffer.copyTo(0)
    with served(0) as where:
        arguments = [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            f"--window-size={width},900",
            "--virtual-time-budget=5000",
            "--enable-logging=stderr",
            "--dump-dom",
            f"http://127.0.0.1:{where.port}/#token={where.token}",
        ]
        run = subprocess.run(arguments, capture_output=True, text=True, timeout=110, check=True)
    assert "CONSOLE" not in run.stderr, run.stderr
    assert "&lt;b&gt;weights &amp; more&lt;/b&gt;" in run.stdout and "onGpu" in run.stdout
    assert re.search(rf"{os.getpid()} \S", run.stdout) and "hostMemory" in run.stdout
    assert 'id="ask" hidden' in run.stdout and copy.nbytes == buffer.nbytes
