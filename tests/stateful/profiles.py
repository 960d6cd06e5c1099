"""How long the state machine runs, and from which seeds.

`MUNINN_SEED` repeats one round; `MUNINN_STATEFUL=long` runs for
`MUNINN_STATEFUL_SECONDS`, or half an hour, from a fresh seed. They are taken out of the
environment here, since Muninn refuses variables of its name that it does not know.
"""

from __future__ import annotations

import os
import secrets
from typing import NamedTuple

#: The seed of the CI slice, which runs the same machines every time.
FIRST_SEED = 20261123


class Profile(NamedTuple):
    """Rounds of machines of steps. No round begins after `seconds`."""

    name: str
    first: int
    rounds: int
    seconds: float
    machines: int = 2
    steps: int = 30

    def seeds(self) -> range:
        return range(self.first, self.first + self.rounds)


def _taken(variable: str) -> str:
    """The variable's value, kept for later calls."""
    value = os.environ.pop(variable, "")
    return _found.setdefault(variable, value)


_found: dict[str, str] = {}


def chosen() -> Profile:
    """The profile that the environment asks for."""
    number, length, seconds = (
        _taken("MUNINN_SEED"),
        _taken("MUNINN_STATEFUL"),
        _taken("MUNINN_STATEFUL_SECONDS"),
    )
    if length not in ("", "long"):
        raise ValueError(f"MUNINN_STATEFUL is {length!r}: leave it out, or say long")
    if number:
        return Profile("one seed", int(number), 1, 600)
    if length == "long":
        return Profile(
            "long", secrets.randbelow(1 << 40), 1 << 20, float(seconds or 1800), steps=60
        )
    return Profile("slice", FIRST_SEED, 30, 60)


def short() -> Profile:
    """The first machines of the slice."""
    return Profile("short slice", FIRST_SEED, 2, 15)
