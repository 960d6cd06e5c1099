"""The rows about seeing: what a scrape takes, and what it costs to be seen: counts, spans,
and the events that nobody wants.
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable

import numpy as np

import muninn
from bench.harness import Options, Peer, Row, microseconds, newDomain, quantile, seconds
from bench.opens import exchangeOurs
from muninn.observe import events, spans

_PORT = 29618
_COUNTERS, _TRACING = "MUNINN_COUNTERS", "MUNINN_ENABLE_TRACING"
#: What a call may spend on a line or a span that is not wanted, in µs.
_MUST_UNSEEN, _GO_UNSEEN = 2.0, 0.6


def scraping(options: Options) -> list[Row]:
    """A scrape by HTTP, in a domain of many buffers and members. The members are real
    ones; but for the one that serves they are forks of one process, which take little
    memory and time to start.
    """
    buffers, members = options.pick(10_000, 300), options.pick(200, 6)
    newDomain()
    os.environ["MUNINN_METRICS_PORT"] = str(_PORT)
    serving = Peer("broker")
    serving.line()
    del os.environ["MUNINN_METRICS_PORT"]
    for number in range(buffers):
        muninn.share(b"x" * 128, name=f"buffer{number}", tenant=f"team{number % 20}").close()
    crowd = Peer("forkMembers", members - 2, buffers, 50)
    crowd.line()

    def scrape() -> float:
        took = seconds(lambda: urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/metrics").read())
        return took * 1e3

    scrape()
    times = [scrape() for _ in range(options.pick(101, 5))]
    there = len(muninn.domainInfo()["members"])
    crowd.end()
    for number in range(buffers):
        muninn.free(f"buffer{number}")
    serving.end()
    what = f"scrape at {buffers} buffers, {there} members"
    return [
        Row(
            f"{what}, p50", "ms", [quantile(times, 0.5)], [], "", 50.0, 20.0, f"{len(times)} times"
        ),
        Row(f"{what}, p95", "ms", [quantile(times, 0.95)], [], "", None, None),
    ]


def counting(options: Options) -> list[Row]:
    """Counters on beside off, in domains in turn: the processes on both sides count, or
    none does.
    """
    measured = {
        "64 KiB there and back, counters on": _exchanged,
        "open of what this process has open, counters on": _opened,
        "open + close, counters on": _openedAndClosed,
    }
    return [
        Row(what, "µs", *_onAndOff(_COUNTERS, measure, options), "counters off", 1.02, 1.005)
        for what, measure in measured.items()
    ]


def tracing(options: Options) -> list[Row]:
    """Spans made beside none made, for a provider that keeps none: what Muninn's part and
    OpenTelemetry's take, without an exporter.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    measured = {"open + close, spans made": _openedAndClosed, "publish 8 B, spans made": _published}
    return [
        Row(what, "µs", *_onAndOff(_TRACING, measure, options), "tracing off", None, None)
        for what, measure in measured.items()
    ]


def unseen(options: Options) -> list[Row]:
    """Events that nobody wants, and spans that are not made. Both stand in calls of 3 to
    100 µs.
    """
    newDomain()
    muninn.domainInfo()  # as a program that uses Muninn has it
    repeats, rounds = options.pick(20_000, 1000), options.pick(15, 3)
    wished = events.wish("transfer")

    def span() -> None:
        with spans.span("copy"):
            pass

    actions = {
        "an event that nobody wants": lambda: events.say("deposed", term=1),
        "asking whether a copy's line is wanted": wished,
        "a span that is not made": span,
        "the context of no span, for a request": spans.traceparent,
    }
    return [
        Row(
            what,
            "µs",
            [microseconds(action, repeats) for _ in range(rounds)],
            [],
            "",
            _MUST_UNSEEN,
            _GO_UNSEEN,
        )
        for what, action in actions.items()
    ]


def _onAndOff(
    variable: str, measure: Callable[[Options], float], options: Options
) -> tuple[list[float], list[float]]:
    """The figures with a setting true, and false."""
    on, off = list[float](), list[float]()
    for number in range(options.pick(31, 3) + 1):
        # Which is first changes: the second finds warmer caches.
        for isOn in (True, False) if number % 2 else (False, True):
            took = _with(variable, isOn, measure, options)
            if number:  # the first round warms up
                (on if isOn else off).append(took)
    return on, off


def _with(
    variable: str, isOn: bool, measure: Callable[[Options], float], options: Options
) -> float:
    os.environ[variable] = "true" if isOn else "false"
    try:
        newDomain()
        return measure(options)
    finally:
        del os.environ[variable]


def _published(options: Options) -> float:
    content = np.ones(1)
    took = microseconds(lambda: muninn.publish("version", content), options.pick(300, 20))
    muninn.free("version")
    return took


def _exchanged(options: Options) -> float:
    payload, out = np.ones(1 << 16, np.uint8), np.empty(1 << 16, np.uint8)
    return exchangeOurs(options.pick(3000, 100), payload, out)


def _opened(options: Options) -> float:
    with muninn.array("kept", 8, "u1"):
        took = microseconds(lambda: muninn.open("kept"), options.pick(20_000, 100))
    muninn.free("kept")
    return took


def _openedAndClosed(options: Options) -> float:
    muninn.array("kept", 8, "u1").close()
    took = microseconds(lambda: muninn.open("kept").close(), options.pick(3000, 100))
    muninn.free("kept")
    return took
