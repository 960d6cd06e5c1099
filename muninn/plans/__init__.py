"""Plans, and who decides when bytes move (`docs/plans.md`).

    with muninn.applyPlan("job.toml") as applied:      # Huginn: what is to be where
        applied.buffers["weightsA"]
    muninn.plans.setExecutor(own)                       # Grendel: when copies may begin

`entry` has the calls. `fields` and `schemas` say what a plan may hold, `reading` checks
one, `facts` looks at what is there, `deciding` decides, `hands` and `applying` do it.
`grendel` has the executor of the process, and `rehearsal` the one for tests.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from muninn.plans.entry import applyPlan, checkPlan

if TYPE_CHECKING:
    from muninn.plans.applying import AppliedPlan, Outcome
    from muninn.plans.decisions import Action, Decisions, Refusal, Step
    from muninn.plans.grendel import executor, setExecutor
    from muninn.plans.reading import planOf
    from muninn.plans.rehearsal import Rehearsal
    from muninn.plans.schemas import PLAN_SCHEMA
    from muninn.transfer.execution import GO, Answer, Executor, Kind, Reservation, Verdict, Work

#: Where the other names are, which are looked for at their first use: `import muninn`
#: imports this package.
_HOMES = {
    "muninn.plans.applying": (
        "AppliedPlan",
        "Outcome",
    ),
    "muninn.plans.decisions": (
        "Action",
        "Decisions",
        "Refusal",
        "Step",
    ),
    "muninn.plans.grendel": (
        "executor",
        "setExecutor",
    ),
    "muninn.plans.reading": ("planOf",),
    "muninn.plans.rehearsal": ("Rehearsal",),
    "muninn.plans.schemas": ("PLAN_SCHEMA",),
    "muninn.transfer.execution": (
        "GO",
        "Answer",
        "Executor",
        "Kind",
        "Reservation",
        "Verdict",
        "Work",
    ),
}

__all__ = [
    "GO",
    "PLAN_SCHEMA",
    "Action",
    "Answer",
    "AppliedPlan",
    "Decisions",
    "Executor",
    "Kind",
    "Outcome",
    "Refusal",
    "Rehearsal",
    "Reservation",
    "Step",
    "Verdict",
    "Work",
    "applyPlan",
    "checkPlan",
    "executor",
    "planOf",
    "setExecutor",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'muninn.plans' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
