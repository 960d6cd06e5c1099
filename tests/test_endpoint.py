"""The endpoint: any member that has the port answers, whichever of them dies, is stopped
or leaves, and a program that asks for none has none.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import muninn
from muninn.errors import InvalidConfig
from muninn.service import joining
from muninn.service.endpoint import Endpoint, urlOf
from muninn.session.membership import current
from support import Actor, eventually, program

Start = Callable[..., Actor]
#: Counts the requests that this actor answers.
COUNTING = program("countanswers")


def freePort() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, which the test's own processes take if they want to."""
    return freePort()


@pytest.fixture
def left(domain: str) -> Iterator[None]:
    """Leave the domain at the end, and so the endpoint of the test's own process."""
    yield
    current().leave()


def fetched(port: int, path: str = "/metrics", timeout: float = 30.0) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=timeout) as answer:
        text: str = answer.read().decode()
    return text


def isServed(port: int) -> bool:
    try:
        return "muninn_members" in fetched(port)
    except OSError:
        return False


def counters(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples that must never go back, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in ("counter", "histogram")
        for sample in family.samples
    }


class Scraper:
    """A program that asks each 100 ms, on a thread."""

    def __init__(self, port: int, seconds: float = 0.1) -> None:
        self.scrapes = 0
        self.failures: list[str] = []
        self.backward: list[str] = []
        self.slowest = 0.0
        self._port, self._seconds = port, seconds
        self._seen: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            began = time.monotonic()
            try:
                now = counters(fetched(self._port))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                continue
            self.scrapes += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            for key, value in self._seen.items():
                if now.get(key, -1.0) < value:
                    self.backward.append(f"{key}: {value} → {now.get(key)}")
            self._seen = now

    def after(self, more: int) -> None:
        """Return when so many more scrapes have come back."""
        wanted = self.scrapes + more
        eventually(lambda: self.scrapes >= wanted, f"{more} more scrapes; {self.failures[-3:]}")

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


# --- whether there is one ------------------------------------------------------------


def test_noneIsThereUnlessItIsAskedFor(domain: str, actor: Start) -> None:
    quiet = actor("import sys, threading; muninn.domainInfo()")
    assert quiet.do("[t.name for t in threading.enumerate() if 'metrics' in t.name]") == []
    assert quiet.do("'prometheus_client' in sys.modules or 'wsgiref' in sys.modules") is False
    assert current().members.answering() == []


def test_theSettingBeginsItAtTheJoinAndTheEndOfTheMembershipEndsIt(
    domain: str, left: None, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUNINN_METRICS_PORT", str(port))
    for _ in range(2):
        muninn.domainInfo()
        eventually(lambda: isServed(port), "the endpoint answers")
        assert current().members.answering() == [current().key.slot]
        current().leave()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 10)
        assert [each.name for each in threading.enumerate() if "metrics" in each.name] == []


def test_withoutTheLibraryTheErrorSaysWhichExtra(
    domain: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUNINN_METRICS_PORT", str(port))
    monkeypatch.setattr(joining, "find_spec", lambda name: None)
    with pytest.raises(InvalidConfig) as raised:
        muninn.domainInfo()
    assert "muninn-gpu[metrics]" in raised.value.fix
    monkeypatch.setenv("MUNINN_METRICS_PORT", "0")
    assert muninn.domainInfo()["members"]


def test_keepServesWhereItSays(domain: str, port: int) -> None:
    kept = subprocess.Popen(
        [sys.executable, "-m", "muninn", "keep", "--metrics", str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert kept.stdout is not None
    assert kept.stdout.readline().startswith("keeping domain ")
    assert kept.stdout.readline() == f"metrics: http://127.0.0.1:{port}/metrics\n"
    eventually(lambda: isServed(port), "it serves")
    kept.terminate()
    assert kept.wait(30) == 0
    kept.stdout.close()
    assert not isServed(port)


@pytest.mark.parametrize("wrong", ["0", "65536", "x"])
def test_keepRefusesWhatIsNoPort(domain: str, wrong: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "muninn", "keep", "--metrics", wrong],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "is no port" in done.stderr


def test_aCommandThatIsThereForAMomentServesNothing(domain: str, port: int) -> None:
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "muninn", "list"],
        capture_output=True,
        text=True,
        env={**os.environ, "MUNINN_METRICS_PORT": str(port)},
        timeout=60,
    )
    assert listed.returncode == 0
    assert "muninn.session" in listed.stderr and "prometheus_client" not in listed.stderr


# --- what it answers -----------------------------------------------------------------


def test_otherPathsAndOtherMethodsAreRefusedByHttp(domain: str, actor: Start, port: int) -> None:
    actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: isServed(port), "it answers")
    assert "/metrics" in fetched(port, "/")
    for path, method, status in (("/nix", "GET", 404), ("/metrics", "POST", 405)):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, timeout=30)
        assert raised.value.code == status
        raised.value.close()
    for raw, code in ((b"what\r\n\r\n", b"400"), (b"GET / HTTP/9.9\r\n\r\n", b"505")):
        with socket.create_connection(("127.0.0.1", port), 30) as client:
            client.sendall(raw)
            assert b"Error code: " + code in client.makefile("rb").read()
    assert isServed(port)


def test_aClientThatSaysNothingKeepsNobodyWaiting(domain: str, actor: Start, port: int) -> None:
    actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: isServed(port), "it answers")
    with contextlib.ExitStack() as silent:
        clients = [
            silent.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            for _ in range(10)
        ]
        clients[0].sendall(b"GET /metr")
        assert isServed(port)
        assert clients[0].recv(100) == b"", "it is dropped after a while"


def test_moreSilentClientsThanThereIsRoomForCostNothingAndKeepNobodyWaiting(
    domain: str, actor: Start, port: int
) -> None:
    """Broken: the thread was woken by the next client, for whom it had no room, until the
    silent ones were late: it used a whole processor, and a scrape waited as long.
    """
    serving = actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: isServed(port), "it answers")
    with contextlib.ExitStack() as silent:
        for _ in range(80):
            silent.enter_context(socket.create_connection(("127.0.0.1", port), 60))
        looks = "sum(int(each) for each in open('/proc/self/stat').read().rpartition(')')[2].split()[11:13])"
        before = serving.do(looks)
        time.sleep(1)
        assert serving.do(looks) - before < 30, "hundredths of a second of a processor"
        assert isServed(port)


def test_aScrapeThatFailsIsAnAnswerAndTheNextOneIsWhole(
    domain: str, actor: Start, port: int
) -> None:
    broken = actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: isServed(port), "it answers")
    broken.do("import muninn.service.endpoint as e; whole = e.read; e.read = lambda tables: 1 / 0")
    with pytest.raises(urllib.error.HTTPError) as raised:
        fetched(port)
    assert raised.value.code == 500
    raised.value.close()
    broken.do("e.read = whole")
    assert isServed(port)


@pytest.mark.parametrize("address", ["::1", "127.0.0.2"])
def test_theAddressCanBeChosen(domain: str, actor: Start, port: int, address: str) -> None:
    if address == "::1" and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("this machine has no IPv6")
    actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port), MUNINN_METRICS_ADDRESS=address)

    def isThere() -> bool:
        try:
            with urllib.request.urlopen(urlOf(address, port), timeout=30) as answer:
                return b"muninn_members" in answer.read()
        except OSError:
            return False

    eventually(isThere, "it answers there")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 10)


# --- who answers ---------------------------------------------------------------------


def test_theBrokerAnswersOrElseTheFirstThatHasThePort(domain: str, actor: Start, port: int) -> None:
    broker = actor("muninn.domainInfo()\n" + COUNTING, MUNINN_METRICS_PORT=str(port))
    others = [
        actor("muninn.domainInfo()\n" + COUNTING, MUNINN_METRICS_PORT=str(port)) for _ in range(2)
    ]
    eventually(lambda: len(current().members.answering()) == 3, "all three have the sockets")
    for _ in range(5):
        assert isServed(port)
    assert [each.do("answers") for each in (broker, *others)] == [5, 0, 0]
    broker.kill()
    eventually(lambda: muninn.domainInfo()["brokerPid"] != broker.pid, "a takeover")
    before = [each.do("answers") for each in others]
    for _ in range(5):
        assert isServed(port)
    after = [each.do("answers") for each in others]
    assert sum(after) - sum(before) == 5


@pytest.mark.parametrize("how", ["killed", "stopped", "leaves", "busy"])
def test_anotherMemberAnswersAtOnce(domain: str, actor: Start, port: int, how: str) -> None:
    """No connection is refused: the socket stays open, and its queue is kept."""
    first = actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
    actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: len(current().members.answering()) == 2, "both have the sockets")
    assert isServed(port)
    with contextlib.ExitStack() as over:
        if how == "killed":
            first.kill()
        elif how == "stopped":
            first.stop()
            over.callback(first.resume)
        elif how == "leaves":
            assert first.leave() == 0
        else:
            over.enter_context(first.interpreterHeld())
        for _ in range(3):
            assert "muninn_members" in fetched(port)


def test_aMemberThatComesWhileTheFirstIsStoppedGetsTheSockets(
    domain: str, actor: Start, port: int
) -> None:
    first, second = (actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port)) for _ in range(2))
    eventually(lambda: len(current().members.answering()) == 2, "both have the sockets")
    first.stop()
    try:
        actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
        eventually(lambda: len(current().members.answering()) == 3, "from the second")
        second.kill()
        assert isServed(port)
    finally:
        first.resume()


def test_whereAllThatHaveTheSocketsAreStoppedANewOneSaysSoAndWaits(
    domain: str, actor: Start, port: int
) -> None:
    first = actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: isServed(port), "it answers")
    current()
    first.stop()
    try:
        second = actor(
            program("keeplines") + "\nmuninn.domainInfo()", MUNINN_METRICS_PORT=str(port)
        )
        eventually(lambda: any("stopped" in each for each in second.do("lines")), "it says so")
    finally:
        first.resume()
    eventually(lambda: len(current().members.answering()) == 2, "it gets them after all")
    assert len([each for each in second.do("lines") if "stopped" in each]) == 1


def test_aBrokerWithoutAPortLeavesItToAMemberThatHasOne(
    domain: str, actor: Start, port: int
) -> None:
    muninn.share(np.zeros(8), "a")  # this process is broker
    actor("b = muninn.open('a')", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: isServed(port), "the member answers")
    assert counters(fetched(port))["muninn_opens_total", ()] == 1
    assert muninn.domainInfo()["brokerPid"] == os.getpid()


# --- ports that are taken ------------------------------------------------------------


def test_aPortOfAnotherProgramIsOneLineAndTriedAgain(domain: str, actor: Start, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        wanting = actor(
            program("keeplines") + "\nmuninn.domainInfo()", MUNINN_METRICS_PORT=str(port)
        )
        eventually(lambda: wanting.do("lines"), "it says so")
        time.sleep(2.5)  # some more attempts
        lines = wanting.do("lines")
        assert len(lines) == 1 and f"port {port}" in lines[0] and "another program" in lines[0]
        assert wanting.do("muninn.share(b'x', 'a').name") == "a", "the program goes on"
    eventually(lambda: isServed(port), "once the port is free")


def test_twoDomainsOnOnePortAreNamed(domain: str, actor: Start, port: int) -> None:
    actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: isServed(port), "the first domain answers")
    other = actor(
        program("keeplines") + "\nmuninn.domainInfo()",
        MUNINN_METRICS_PORT=str(port),
        MUNINN_DOMAIN=f"{domain}-2",
    )
    eventually(lambda: other.do("lines"), "the second says so")
    assert f"is the endpoint of domain {domain!r}" in other.do("lines")[0]
    assert f"metrics of domain '{domain}-2'" in other.do("lines")[0]


# --- forks, descriptors, threads -----------------------------------------------------


def test_aForkedChildKeepsNoPortOpen(domain: str, actor: Start, port: int) -> None:
    parent = actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: isServed(port), "it answers")
    child = parent.do("pid = os.fork()\nif not pid:\n    time.sleep(600)\n    os._exit(0)\npid")
    try:
        assert isServed(port), "the parent goes on"
        parent.kill()
        eventually(lambda: not isServed(port), "nobody has the port")
        with socket.create_server(("127.0.0.1", port)):
            os.kill(child, 0)
    finally:
        os.kill(child, 9)


def test_aForkedChildThatJoinsAnswersToo(domain: str, actor: Start, port: int) -> None:
    parent = actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: isServed(port), "it answers")
    child = parent.do(
        "pid = os.fork()\nif not pid:\n    muninn.domainInfo()\n    time.sleep(600)\n    os._exit(0)\npid"
    )
    try:
        eventually(lambda: len(current().members.answering()) == 2, "both answer")
        parent.kill()
        assert isServed(port)
    finally:
        os.kill(child, 9)


def test_noDescriptorOfItIsAStandardStream(domain: str, port: int) -> None:
    kept = subprocess.Popen(
        [sys.executable, "-m", "muninn", "keep", "--metrics", str(port)],
        preexec_fn=lambda: os.closerange(0, 3),
    )
    try:
        eventually(lambda: isServed(port), "it serves")
        for number in range(3):
            link = f"/proc/{kept.pid}/fd/{number}"
            assert not os.path.exists(link) or "socket" not in os.readlink(link)
    finally:
        kept.terminate()
        assert kept.wait(30) in (0, 1)


def test_aProgramThatClosesEverythingIsServedAnew(domain: str, actor: Start, port: int) -> None:
    """As a daemon does; its own file may have the number of the listener next."""
    daemon = actor("muninn.domainInfo()", MUNINN_METRICS_PORT=str(port))
    eventually(lambda: isServed(port), "it answers")
    daemon.do(
        "import stat\n"
        "for n in map(int, os.listdir('/proc/self/fd')):\n"
        "    try:\n"
        "        if n > 2 and stat.S_ISSOCK(os.fstat(n).st_mode): os.close(n)\n"
        "    except OSError: pass\n"
        "files = [open('/dev/null') for _ in range(20)]"
    )
    eventually(lambda: isServed(port), "it answers again")
    assert (
        daemon.do("[os.fstat(each.fileno()).st_rdev for each in files]")
        == [os.stat("/dev/null").st_rdev] * 20
    )


def test_anErrorOfTheThreadDoesNotEndIt(domain: str, actor: Start, port: int) -> None:
    failing = actor(
        program("keeplines")
        + "\nimport muninn.service.endpoint as e; whole = e.Endpoint._rank\n"
        + "e.Endpoint._rank = lambda self: 1 / 0\nmuninn.domainInfo()",
        MUNINN_METRICS_PORT=str(port),
    )
    eventually(
        lambda: not isServed(port) and any("goes on" in each for each in failing.do("lines")),
        "it fails",
    )
    failing.do("e.Endpoint._rank = whole")
    eventually(lambda: isServed(port), "it goes on")


@pytest.mark.parametrize(
    "error",
    [muninn.errors.ThreadsExhausted("no thread can be started"), OSError(24, "no descriptor")],
    ids=["thread", "descriptor"],
)
def test_withoutAThreadOrADescriptorTheProgramGoesOnAndSaysWhy(
    domain: str,
    left: None,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def none(*_: object) -> None:
        raise error

    monkeypatch.setenv("MUNINN_METRICS_PORT", str(port))
    monkeypatch.setattr(Endpoint, "__init__", none)
    with caplog.at_level(logging.ERROR, "muninn"):
        assert muninn.share(b"x", "a").name == "a"
    assert any("a service does not begin" in each.message for each in caplog.records)


# --- while they come and go ----------------------------------------------------------


def test_countersNeverGoBackWhileThoseThatServeAreKilledAndStopped(
    domain: str, actor: Start, port: int
) -> None:
    unrest(actor, port, rounds=3)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_countersNeverGoBackInALongUnrest(domain: str, actor: Start, port: int) -> None:
    unrest(actor, port, rounds=30)


def unrest(actor: Start, port: int, rounds: int) -> None:
    """Kill, stop and end the processes that serve, in turn, while one scrapes."""
    muninn.share(np.zeros(8), "a")
    code = "b = [muninn.open('a') for _ in range(10)]"
    serving = [actor(code, MUNINN_METRICS_PORT=str(port)) for _ in range(2)]
    eventually(lambda: len(current().members.answering()) == 2, "both have the sockets")
    scraper = Scraper(port)
    scraper.after(2)
    for number in range(rounds):
        new = actor(code, MUNINN_METRICS_PORT=str(port))
        serving.append(new)
        eventually(lambda: len(current().members.answering()) == 3, "one more has the sockets")
        old = serving.pop(0)
        match number % 3:
            case 0:
                old.kill()
            case 1:
                old.stop()
                scraper.after(3)
                old.resume()
                scraper.after(2)
                old.kill()
            case _:
                assert old.leave() == 0
        scraper.after(3)
        eventually(lambda: len(current().members.answering()) == 2, "two are left")
    scraper.end()
    print(
        f"{scraper.scrapes} scrapes, {len(scraper.failures)} failed {scraper.failures}, "
        f"the slowest {scraper.slowest:.2f} s"
    )
    assert not scraper.backward
    # A process that dies or is stopped while it answers takes that one answer along.
    assert len(scraper.failures) <= rounds
    assert not any("refused" in each for each in scraper.failures)
    assert counters(fetched(port))["muninn_opens_total", ()] == 10 * (rounds + 2)
