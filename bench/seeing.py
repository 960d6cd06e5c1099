"""The rows about what it costs to be seen: events that nobody wants, and spans that are
not made. Both stand in calls of 3 to 100 µs.
"""

from __future__ import annotations

import muninn
from bench.harness import Options, Row, microseconds, newDomain
from muninn.observe import events, spans

#: What a call may spend on a line or a span that is not wanted.
_MUST, _GO = 2.0, 0.6


def unseen(options: Options) -> list[Row]:
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
            _MUST,
            _GO,
        )
        for what, action in actions.items()
    ]
