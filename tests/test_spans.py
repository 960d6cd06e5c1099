"""Spans: what is traced, where a span belongs, and that nothing of it is there when it is
off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from lab import Lab, Member
from peers import Peer

from muninn.broker.broker import Broker
from muninn.errors import InvalidConfig, ProtocolViolation
from muninn.observe import spans
from muninn.wire import requests
from support import Actor, eventually, program

Start = Callable[..., Actor]
#: A program that keeps its spans in memory.
_EXPORTER = program("spankeeper") + "\n"
_ON = {"MUNINN_ENABLE_TRACING": "true", "MUNINN_HOST_GPUS": "2"}


def spansOf(other: Actor, *names: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = other.do(f"finished(*{names!r})")
    return found


@pytest.fixture
def traced(actor: Start) -> Actor:
    return actor(_EXPORTER, **_ON)


def test_eachKindOfCallIsASpanWithTheFieldsOfTheLog(traced: Actor) -> None:
    traced.do(
        "a = muninn.share(np.zeros(1 << 16, np.uint8), name='a', access='readWrite', tenant='t')\n"
        "b = a.copyTo(1, name='b')\n"
        "w = a.promote(4096, 8192, targetGpu=0); w.markDirty(); w.writeback(); w.close()\n"
        "p = muninn.publish('c', np.zeros(4))\n"
        "from muninn.api.admin import evict; evict('b')"
    )
    (alloc,) = (
        each for each in spansOf(traced, "muninn.alloc") if each["fields"].get("bufferId") == "a"
    )
    assert alloc["fields"] == {"bufferId": "a", "tenant": "t", "bytes": 1 << 16, "mode": "bigMode"}
    copies = spansOf(traced, "muninn.copy")
    assert [each["fields"]["gpu"] for each in copies] == [1, 0]
    assert copies[0]["fields"] | {"durationMs": 0, "bytesPerSecond": 0} == {
        "bufferId": "a",
        "gpu": 1,
        "route": "upload",
        "reason": "hostMemory",
        "source": "host",
        "target": "GPU 1",
        "bytes": 1 << 16,
        "durationMs": 0,
        "bytesPerSecond": 0,
        "note": "",
    }
    (promotion,), (writeback,) = (
        spansOf(traced, "muninn.promotion"),
        spansOf(traced, "muninn.writeback"),
    )
    wanted = {"bufferId": "a", "gpu": 0, "offset": 4096, "bytes": 8192}
    assert promotion["fields"].items() >= wanted.items()
    assert writeback["fields"].items() >= wanted.items()
    assert writeback["fields"]["generation"] == 2
    assert copies[1]["trace"] == promotion["trace"]
    (publication,) = spansOf(traced, "muninn.publication")
    assert publication["fields"] == {"bufferId": "c", "tenant": "default", "bytes": 32}
    (eviction,) = spansOf(traced, "muninn.evict")
    assert eviction["fields"]["bufferId"] == "b"
    for each in spansOf(traced):
        assert (each["status"], each["ms"] >= 0) == ("UNSET", True)


def test_anOpenThatTakesALeaseIsASpan(actor: Start) -> None:
    actor("a = muninn.share(np.zeros(8), name='a', tenant='t')")
    other = actor(_EXPORTER, **_ON)
    other.do("b = muninn.open('a'); c = muninn.open('a')")
    (span,) = spansOf(other, "muninn.open")
    assert span["fields"] == {"bufferId": "a", "tenant": "t", "bytes": 64, "mode": "bigMode"}
    assert span["parent"] is None


def test_anErrorIsRecordedWithItsCode(traced: Actor) -> None:
    traced.do("try: muninn.open('none')\nexcept muninn.errors.BufferNotFound: pass")
    (span,) = spansOf(traced, "muninn.open")
    assert (span["status"], span["fields"]["errorCode"]) == ("ERROR", "MNN-0011")
    ((_, attributes),) = (each for each in span["events"] if each[0] == "exception")
    assert attributes["exception.type"] == "muninn.errors.BufferNotFound"


def test_aSpanOfTheProgramIsTheParent(traced: Actor) -> None:
    traced.do(
        "with trace.get_tracer('own').start_as_current_span('step'):\n"
        "    a = muninn.share(np.zeros(8), name='a')"
    )
    (step,), (alloc,) = spansOf(traced, "step"), spansOf(traced, "muninn.alloc")
    assert (alloc["trace"], alloc["parent"]) == (step["trace"], step["id"])


def test_aCopyOnAThreadOfItsOwnBelongsToItsCaller(traced: Actor) -> None:
    traced.do("a = muninn.share(np.zeros(8), name='a')")
    traced.do(
        "with trace.get_tracer('own').start_as_current_span('step'):\n"
        "    transfer = a.startCopyTo(1)\nb = transfer.result()"
    )
    (step,) = spansOf(traced, "step")
    (copy,) = eventually(lambda: spansOf(traced, "muninn.copy"), "the copy's span has ended")
    assert (copy["trace"], copy["parent"]) == (step["trace"], step["id"])


def test_aRepeatedCopyIsASpanWithItsTime(traced: Actor) -> None:
    traced.do(
        "a = muninn.share(np.zeros(1 << 16, np.uint8), name='a', mode='fastMode', preferredGpu=0)\n"
        "b = a.copyTo(1, name='b'); b.copyFrom(a); exporter.clear()"
    )
    traced.do(
        "with trace.get_tracer('own').start_as_current_span('step'):\n"
        "    for _ in range(3): b.copyFrom(a)"
    )
    (step,) = spansOf(traced, "step")
    found = spansOf(traced, "muninn.copy")
    assert [each["parent"] for each in found] == [step["id"]] * 3
    for each in found:
        assert each["fields"]["bufferId"] == "a"
        assert each["ms"] >= each["fields"]["durationMs"]
    assert "route" not in step["fields"]


# --- over the socket -----------------------------------------------------------------------


def test_theBrokersWorkIsAChildOfTheSpanThatAsked(actor: Start) -> None:
    broker = actor(_EXPORTER, **_ON).join()
    member = actor(_EXPORTER, **_ON).join()
    broker.do("exporter.clear()")
    member.do("a = muninn.share(np.zeros(8), name='a')")
    (alloc,) = spansOf(member, "muninn.alloc")
    found = {each["name"]: each for each in spansOf(broker)}
    assert found.keys() == {"muninn.broker.create", "muninn.broker.commit"}
    for each in found.values():
        assert (each["trace"], each["parent"], each["kind"]) == (
            alloc["trace"],
            alloc["id"],
            "SERVER",
        )


def test_theRevocationIsAnEventOfTheBrokersSpan(actor: Start) -> None:
    broker = actor(_EXPORTER + "a = muninn.share(np.zeros(8), name='a')", **_ON)
    member = actor(_EXPORTER, **_ON).join()
    member.do("from muninn.api.admin import evict; evict('a')")
    (eviction,), (handled,) = (
        spansOf(member, "muninn.evict"),
        spansOf(broker, "muninn.broker.evict"),
    )
    assert (handled["trace"], handled["parent"]) == (eviction["trace"], eviction["id"])
    ((name, fields),) = handled["events"]
    assert (name, fields["bufferId"], fields["holderPid"]) == ("muninn.revocation", "a", broker.pid)


def test_theBrokersOwnRequestsAreChildrenToo(traced: Actor) -> None:
    traced.do("a = muninn.share(np.zeros(8), name='a')")
    (alloc,), (create,) = spansOf(traced, "muninn.alloc"), spansOf(traced, "muninn.broker.create")
    assert (create["trace"], create["parent"]) == (alloc["trace"], alloc["id"])


@pytest.mark.parametrize("isBrokers", [True, False])
def test_oneEndWithoutSpansServesTheOther(actor: Start, isBrokers: bool) -> None:
    broker = actor(_EXPORTER, **(_ON if isBrokers else {})).join()
    member = actor(_EXPORTER, **({} if isBrokers else _ON)).join()
    member.do("a = muninn.share(np.zeros(8), name='a')")
    assert len(spansOf(member, "muninn.alloc")) == (not isBrokers)
    assert not spansOf(broker, "muninn.broker.create")


_GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_aContextIsTakenFromAnyRequest(served: tuple[Lab, Broker, Member]) -> None:
    lab, broker, _ = served
    peer = Peer(lab, broker)
    assert peer.ask(msgpack.packb({"op": "ping", "traceparent": _GOOD})) == {"epoch": 1}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        _GOOD[:-1],
        _GOOD + "-x",
        _GOOD + "\n",
        _GOOD.upper(),
        _GOOD.replace("00-", "01-", 1),
        _GOOD.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        _GOOD.replace("b7ad6b7169203331", "0" * 16),
        _GOOD.replace("b7", "٣٣"),
        "x" * 60_000,
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        7,
        None,
        [_GOOD],
        {_GOOD: _GOOD},
    ],
    ids=lambda value: repr(value)[:20],
)
def test_aContextThatIsNoneIsRefusedAndHarmsNoMember(
    served: tuple[Lab, Broker, Member], value: object
) -> None:
    lab, broker, _ = served
    good, peer = Peer(lab, broker), Peer(lab, broker)
    answer = peer.ask(msgpack.packb({"op": "ping", "traceparent": value}))
    assert answer is not None and answer["error"] == ProtocolViolation.number, answer
    assert good.ask(msgpack.packb({"op": "ping"})) == {"epoch": 1}
    assert not broker.isDeposed()


def test_noRequestHasAFieldOfThatName() -> None:
    for operation in requests.OPERATIONS.values():
        assert requests.TRACE not in operation.request


# --- off, and ends -------------------------------------------------------------------------


def test_offNothingIsImportedAndNothingSent(domain: str) -> None:
    code = (
        "import sys, muninn, numpy as np; a = muninn.share(np.zeros(8), name='a'); a.promote(targetGpu=0).close()\n"
        "print([each for each in sys.modules if each.startswith('opentelemetry')])\n"
        "from muninn.observe import spans; print(spans.isOn(), spans.traceparent())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\nFalse None\n", "")


def test_onWithoutOpenTelemetryIsAnErrorWithAFix(domain: str, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not here')\n")
    done = subprocess.run(
        [sys.executable, "-c", "import muninn; muninn.listBuffers()"],
        env={**os.environ, "MUNINN_ENABLE_TRACING": "true", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "MNN-0001" in done.stderr and "opentelemetry-api is not installed" in done.stderr
    assert "pip install muninn-gpu[traces]" in done.stderr


def test_withoutAProviderSpansGoNowhere(actor: Start) -> None:
    other = actor(**_ON)
    assert other.do("muninn.share(np.zeros(8), name='a').array.sum()") == 0


def test_aLineNamesTheSpanInWhichItHappens(actor: Start, tmp_path: Path) -> None:
    """Also a span of the program's own, where Muninn makes none."""
    file = tmp_path / "log"
    other = actor(_EXPORTER, MUNINN_LOG=f"debug:{file}").join()
    other.do(
        "with trace.get_tracer('own').start_as_current_span('step'):\n"
        "    a = muninn.share(np.zeros(8), name='a')\nb = muninn.share(np.zeros(8), name='b')"
    )
    (step,) = spansOf(other, "step")
    lines = [json.loads(each) for each in file.read_text().splitlines()]
    first, second = (line for line in lines if line["event"] == "creation")
    assert (first["traceId"], first["spanId"]) == (f"{step['trace']:032x}", f"{step['id']:016x}")
    assert "traceId" not in second


@pytest.mark.parametrize("where", ["on_start", "on_end"])
def test_aProcessorThatRaisesHarmsNoCall(actor: Start, where: str) -> None:
    other = actor(
        _EXPORTER
        + "from opentelemetry.sdk.trace import SpanProcessor\n"
        + f"class Bad(SpanProcessor):\n    def {where}(self, *_, **__): raise RuntimeError('bad')\n"
        + "provider.add_span_processor(Bad())",
        **_ON,
    )
    assert (
        other.do("a = muninn.share(np.zeros(8), name='a'); a.copyTo(1).transfer.route") == "upload"
    )
    assert other.do("trace.get_current_span().get_span_context().is_valid") is False


def test_aForkedChildMakesItsOwnSpans(traced: Actor) -> None:
    traced.do("a = muninn.share(np.zeros(8), name='a')")
    seen = traced.do(
        "out, into = os.pipe()\n"
        "with trace.get_tracer('own').start_as_current_span('step'):\n"
        "    if (child := os.fork()) == 0:\n"
        "        exporter.clear(); b = muninn.share(np.zeros(8), name='b')\n"
        "        import json; os.write(into, json.dumps(finished('muninn.alloc')).encode()); os._exit(0)\n"
        "os.waitpid(child, 0); os.read(out, 1 << 16).decode()"
    )
    (inChild,) = json.loads(seen)
    (step,) = spansOf(traced, "step")
    assert (inChild["fields"]["bufferId"], inChild["parent"]) == ("b", step["id"])
    assert [each["fields"]["bufferId"] for each in spansOf(traced, "muninn.alloc")] == ["a"]


def test_theNextBrokerGoesOnWithTheSpan(actor: Start) -> None:
    """The broker dies, and the member asks its successor within the same call."""
    broker = actor(_EXPORTER, **_ON).join()
    member = actor(_EXPORTER, **_ON).join()
    broker.kill()
    member.do("exporter.clear(); a = muninn.share(np.zeros(8), name='a')")
    (alloc,) = spansOf(member, "muninn.alloc")
    (create,) = spansOf(member, "muninn.broker.create")
    assert (create["trace"], create["parent"]) == (alloc["trace"], alloc["id"])


def test_anInterruptedCallEndsItsSpan(traced: Actor) -> None:
    traced.join()
    traced.do(
        "import signal; signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "try:\n    signal.setitimer(signal.ITIMER_REAL, 0.5); muninn.open('later', timeout=60)\n"
        "except KeyboardInterrupt: pass"
    )
    (span,) = spansOf(traced, "muninn.open")
    assert span["status"] == "ERROR"
    assert traced.do("trace.get_current_span().get_span_context().is_valid") is False


def test_anInterruptionLeavesNoContext(traced: Actor) -> None:
    """At each place where one may come within a span's own code, but for the very
    beginning of its exit. Broken: one at the end of `__enter__` left the context for ever.
    """
    traced.do(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from interrupts import tracing\n"
        "from muninn.observe import spans\n"
        "def call(_):\n    with spans.span('x'): pass\n"
        "def interrupt(): raise KeyboardInterrupt\n"
        "muninn.listBuffers(); exporter.clear()\n"
        "places = [each for each in tracing.rehearse(call, None, None)\n"
        "    if each.file == spans.__file__ and each.mayBeInterrupted()\n"
        "    and (each.function, each.opcode) != ('Span.__exit__', 'RESUME')]"
    )
    left, count = traced.do(
        "left = []\n"
        "for place in places:\n"
        "    outcome = tracing.interrupt(call, None, place, 1, interrupt, None)\n"
        "    assert outcome.isDone and type(outcome.raised) is KeyboardInterrupt, place\n"
        "    if trace.get_current_span().get_span_context().is_valid:\n"
        "        left.append((place.function, place.opcode))\n"
        "        from opentelemetry import context; context.attach(context.Context())\n"
        "left, len(places)"
    )
    assert count > 10
    assert left == []


def test_anErrorWithoutATextEndsItsSpan(traced: Actor) -> None:
    traced.do(
        "from muninn.observe import spans\n"
        "class Odd(Exception):\n    def __str__(self): raise ValueError\n"
        "muninn.listBuffers()\n"
        "try:\n    with spans.span('odd'): raise Odd\nexcept Odd: pass"
    )
    (span,) = spansOf(traced, "muninn.odd")
    assert span["status"] == "ERROR"
    assert traced.do("trace.get_current_span().get_span_context().is_valid") is False


def test_spansAreTurnedOnAndOff() -> None:
    with pytest.raises(InvalidConfig, match="neither true nor false"):
        from muninn.config import loadSettings

        loadSettings({"MUNINN_ENABLE_TRACING": "1"})
    assert not spans.isOn()
    spans.turn(True)
    try:
        assert spans.isOn()
        assert spans.traceparent() is None  # no span is open
    finally:
        spans.turn(False)
    assert spans.span("x") is spans.span("y")
