"""Measuring: from a row of the table to its result, or to the reason why there is none."""

from __future__ import annotations

from typing import NamedTuple

import muninn
from muninn.config.sizes import asText
from muninn.errors import MuninnError
from muninn.prof import deathrows, gpurows, hostrows
from muninn.prof.peer import PeerFailed
from muninn.prof.quantiles import figuresOf
from muninn.prof.results import Result
from muninn.prof.rows import GPU, RowSpec
from muninn.prof.run import Run, machineText

_MEASURES = {**hostrows.MEASURES, **gpurows.MEASURES, **deathrows.MEASURES}


class Outcome(NamedTuple):
    """What came of a row.

    Attributes
    ----------
    result
        None if it was not measured; `reason` says why then.
    isFailure
        Whether it should have been.
    """

    row: RowSpec
    result: Result | None
    reason: str = ""
    isFailure: bool = False


def measured(run: Run, row: RowSpec) -> Outcome:
    """Measure a row. Its failure is an outcome, so that the other rows are measured."""
    if row.name in gpurows.OF_TWO and run.gpus.number < 2:
        return Outcome(row, None, "there is one GPU")
    try:
        samples = _MEASURES[row.name](run, row)
    except (MuninnError, OSError, PeerFailed, MemoryError) as error:
        return Outcome(row, None, str(error) or type(error).__name__, isFailure=True)
    ours, limit = figuresOf(samples.ours), figuresOf(samples.limit)
    sizeBytes = run.sizeOf(row)
    return Outcome(
        row,
        Result(
            row.name,
            row.what.format(size=asText(sizeBytes)),
            run.gpus.name if row.group == GPU else "",
            gpurows.dirtyOf(sizeBytes) if row.name == "writeback" else sizeBytes,
            ours.samples,
            ours.p50,
            ours.p95,
            row.limit,
            limit.p50,
            run.isQuick,
            machineText(),
            muninn.__version__,
        ),
    )
