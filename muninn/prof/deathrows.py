"""The rows about the death of the broker: each kill is in a domain of its own."""

from __future__ import annotations

import muninn
from muninn.prof import limits
from muninn.prof.rows import RowSpec
from muninn.prof.run import Run
from muninn.prof.timing import Samples
from muninn.system import clock

OPEN, SHARE = "takeover-open", "takeover-share"
#: So that the other process has begun to watch the broker.
_SETTLED_SECONDS = 0.02


def takingOver(run: Run, row: RowSpec) -> Samples:
    """Each kill gives a sample for both rows; those of the other row are kept for it."""
    if (taken := run.kept.pop(row.name, None)) is not None:
        return taken
    opened, shared, told = list[float](), list[float](), list[float]()
    for _ in range(run.kills):
        run.ground.fresh()
        owner = run.ground.peer("broker")
        owner.line()
        with muninn.open("kept"):
            clock.sleep(_SETTLED_SECONDS)
        owner.process.kill()
        began = clock.now()
        with muninn.open("kept") as kept:
            opened.append(clock.now() - began)
            muninn.share(b"x", name="next").free()
            shared.append(clock.now() - began)
            kept.free()
        told.append(limits.death(lambda: run.ground.peer("sleep")))
    run.kept[SHARE if row.name == OPEN else OPEN] = Samples(
        [shared if row.name == OPEN else opened], [told]
    )
    return Samples([opened if row.name == OPEN else shared], [told])


MEASURES = {OPEN: takingOver, SHARE: takingOver}
