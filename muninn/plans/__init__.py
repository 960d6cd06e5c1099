"""Plans, and who decides when bytes move (`docs/plans.md`).

    with muninn.applyPlan("job.toml") as applied:      # Huginn: what is to be where
        applied.buffers["weightsA"]
    muninn.plans.setExecutor(own)                       # Grendel: when copies may begin

`fields` and `schemas` say what a plan may hold, `reading` checks one, `facts` looks at
what is there, `deciding` decides, `hands` and `applying` do it. `grendel` has the
executor of the process, and `rehearsal` the one for tests.
"""

from muninn.plans.applying import AppliedPlan, Outcome, applyPlan, checkPlan
from muninn.plans.deciding import Action, Decisions, Refusal, Step
from muninn.plans.grendel import executor, setExecutor
from muninn.plans.reading import planOf
from muninn.plans.rehearsal import Rehearsal
from muninn.plans.schemas import BUFFER_SCHEMA, OPEN_SCHEMA, PLAN_SCHEMA, PROMOTE_SCHEMA
from muninn.transfer.execution import GO, Answer, Executor, Kind, Reservation, Verdict, Work

__all__ = [
    "BUFFER_SCHEMA",
    "GO",
    "OPEN_SCHEMA",
    "PLAN_SCHEMA",
    "PROMOTE_SCHEMA",
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
