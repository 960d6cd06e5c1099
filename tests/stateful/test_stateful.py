"""The public API does the same as a plain model of it, at each step at which processes
die.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from stateful.machine import DomainMachine
from stateful.profiles import Profile, chosen, short
from stateful.puppets import Difference

PROFILE = chosen()
#: The run that the environment asks for; otherwise a short run and a long one.
_PROFILES = (
    [short(), pytest.param(PROFILE, marks=pytest.mark.long)]
    if PROFILE.name == "slice"
    else [PROFILE]
)


def runRound(number: int, profile: Profile) -> None:
    """The machines of one seed."""

    class Machine(DomainMachine):
        pass

    chosenSettings = settings(
        max_examples=profile.machines,
        stateful_step_count=profile.steps,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    try:
        run_state_machine_as_test(seed(number)(Machine), settings=chosenSettings)
    except Difference as error:
        steps = "\n".join(DomainMachine.trace[-80:])
        pytest.fail(
            f"{error}\nafter these steps:\n{steps}\nDo it again: MUNINN_SEED={number} python -m pytest tests/stateful",
            pytrace=False,
        )


@pytest.mark.timeout(PROFILE.seconds * 2 + 300)
@pytest.mark.parametrize("profile", _PROFILES, ids=lambda profile: profile.name.replace(" ", "-"))
def test_theApiDoesWhatTheReferenceDoes(
    capsys: pytest.CaptureFixture[str], profile: Profile
) -> None:
    DomainMachine.steps = 0
    started = time.monotonic()
    done = 0
    for number in profile.seeds():
        if done and time.monotonic() - started > profile.seconds:
            break
        runRound(number, profile)
        done += 1
    with capsys.disabled():
        spent = time.monotonic() - started
        print(
            f"\nstateful: profile {profile.name}, seeds {profile.first} to {profile.first + done - 1}, {DomainMachine.steps} steps in {spent:.0f} s"
        )
