"""The HTTP interface under schemathesis: whatever fits the schemas, and much that does
not, gets an answer that the document describes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

import muninn
from muninn.service.web.application import applicationOf
from muninn.service.web.guards import byFile
from muninn.service.web.held import Held
from muninn.service.web.workshop import Workshop

#: They say what the request met, and not that the program is wrong.
_NOT_OURS = (503, 504, 507)
#: What a schema can not say, as that a range lies in its buffer, is 400.
_EXCLUDED = [not_a_server_error, positive_data_acceptance]
_EXAMPLES = 60


@pytest.fixture
def interface(domain: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[schemathesis.BaseSchema]:
    for key in ("BIG_MODE_MAX_BYTES", "FAST_MODE_MAX_BYTES"):
        monkeypatch.setenv(f"MUNINN_{key}", "4M")
    held = Held()
    yield schemathesis.openapi.from_asgi("/openapi.json", applicationOf(held, Workshop(), byFile))
    held.close()


@pytest.mark.long
def test_anyRequestGetsADescribedAnswer(interface: schemathesis.BaseSchema) -> None:
    seen = list[int]()
    buffer = muninn.share(np.zeros(100_000, "u1"), "there", access="readOnly")
    mine = buffer.describe()["bufferId"]

    def answered(case: schemathesis.Case) -> None:
        # A random id is that of no buffer: each other request is about one that is there.
        if case.path_parameters and len(seen) % 2 and case.operation.method != "delete":
            case.path_parameters["id"] = mine
        answer = case.call_and_validate(excluded_checks=_EXCLUDED)
        seen.append(answer.status_code)
        assert answer.status_code < 500 or answer.status_code in _NOT_OURS, answer.text

    for result, mode in itertools.product([*interface.get_all_operations()], GenerationMode):
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing of it can be wrong, but for the id
        ask = given(case=operation.as_strategy(generation_mode=mode))(answered)
        settings(
            max_examples=_EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(ask)()
    assert {200, 201, 404, 422} <= set(seen)
    assert buffer.nbytes == 100_000
