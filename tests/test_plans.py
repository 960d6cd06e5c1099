"""Plans: what one may hold, what is decided, and that an application does that and no
more; deaths in the midst of one, and two at once.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import muninn
from muninn.api.scratchroom import Room
from muninn.broker.policy.limits import Limits
from muninn.errors import (
    BufferExists,
    BufferMismatch,
    BufferNotFound,
    DeviceUnavailable,
    DomainDraining,
    InvalidArgument,
    InvalidConfig,
    MuninnError,
    PromotionDenied,
    QuotaExceeded,
    WritebackConflict,
)
from muninn.plans import Action, Answer, Rehearsal, Verdict, checkPlan, facts, planOf, schemas
from muninn.plans import applying as applications
from muninn.plans.applying import Application
from muninn.plans.deciding import decide
from muninn.plans.facts import Existing, Facts, PlannedGpu, Used
from muninn.session import membership
from support import Actor, eventually

Start = Callable[..., Actor]
#: The body of `POST /buffers` of the roadmap, smaller.
ROADMAP = {
    "size": 1 << 20,
    "mode": "bigMode",
    "preferredGpu": 0,
    "name": "weightsA",
    "access": "readMostly",
    "tenant": "org/acct/job123",
    "hints": {
        "hotRanges": [[0, 65536], [131072, 32768]],
        "lifetimeMs": 600000,
        "priority": "normal",
    },
}
JOB: dict[str, Any] = {
    "version": 1,
    "buffers": [ROADMAP, {"name": "kv", "size": "64K", "access": "readWrite"}],
    "promotions": [{"buffer": "kv", "offset": 4096, "length": "8K", "targetGpu": 1}],
    "prefetches": [{"buffer": "weightsA", "targetGpu": 0}],
}
TOML = """
version = 1
[[buffers]]
name = "weightsA"
size = "1M"
hints = { hotRanges = [[0, 65536]], priority = "high" }
[[prefetches]]
buffer = "weightsA"
"""


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")


def names() -> list[str]:
    return [each["name"] for each in muninn.listBuffers() if each["kind"] != "window"]


def ids() -> dict[str, str]:
    found = muninn.listBuffers()
    return {each["name"]: each["bufferId"] for each in found if each["kind"] != "window"}


def windows() -> int:
    return sum(each["kind"] == "window" for each in muninn.listBuffers())


# --- what a plan may hold ------------------------------------------------------------------

WRONG: list[tuple[Any, str]] = [
    ([], "a plan: [] is no object"),
    ({"bufferz": []}, "a plan: 'bufferz' is not known (did you mean 'buffers'?)"),
    ({1: []}, "a plan: 1 is not known"),
    ({"version": 2}, "version: 2 can not be"),
    ({"version": True}, "version: True is no whole number"),
    ({"buffers": {}}, "buffers: {} is no list"),
    ({"buffers": "ab"}, "buffers: 'ab' is no list"),
    ({"buffers": [1]}, "buffers[0]: 1 is no object"),
    ({"buffers": [{"name": "a"}]}, "buffers[0]: size is missing"),
    ({"buffers": [{"size": 1}]}, "buffers[0]: name is missing"),
    ({"buffers": [{"size": 0, "name": "a"}]}, "buffers[0].size: 0 can not be"),
    ({"buffers": [{"size": 1 << 57, "name": "a"}]}, "buffers[0].size: 144115188075855872 can"),
    ({"buffers": [{"size": 10**5000, "name": "a"}]}, "buffers[0].size: a int can not be"),
    ({"buffers": [{"size": "1Q", "name": "a"}]}, "buffers[0].size: '1Q' is no size"),
    ({"buffers": [{"size": 1.0, "name": "a"}]}, "buffers[0].size: 1.0 is no size"),
    ({"buffers": [{"size": None, "name": "a"}]}, "buffers[0].size: None is no size"),
    ({"buffers": [{"size": 1, "name": ""}]}, "buffers[0].name: name has 0 bytes"),
    ({"buffers": [{"size": 1, "name": "ä" * 64}]}, "buffers[0].name: name has 128 bytes"),
    ({"buffers": [{"size": 1, "name": "a\nb"}]}, "buffers[0].name: name 'a\\nb' has control"),
    ({"buffers": [{"size": 1, "name": "\ud800"}]}, "buffers[0].name: name '\\ud800' is not valid"),
    ({"buffers": [{"size": 1, "name": 7}]}, "buffers[0].name: 7 is no text"),
    ({"buffers": [{"size": 1, "name": "a", "mode": "bigmode"}]}, "buffers[0].mode: 'bigmode' is"),
    ({"buffers": [{"size": 1, "name": "a", "access": "copyOnWrite"}]}, "buffers[0].access: 'copy"),
    ({"buffers": [{"size": 1, "name": "a", "tenant": "t" * 64}]}, "buffers[0].tenant: tenant has"),
    ({"buffers": [{"size": 1, "name": "a", "preferredGpu": -1}]}, "buffers[0].preferredGpu: -1"),
    ({"buffers": [{"size": 1, "name": "a", "lifetimeMs": 0}]}, "buffers[0].lifetimeMs: 0 can"),
    (
        {"buffers": [{"size": 1, "name": "a", "mode": "fastMode", "reserve": "lazy"}]},
        "buffers[0].reserve: memory of a GPU is there at once",
    ),
    (
        {"buffers": [{"size": 1, "name": "a"}, {"size": 1, "name": "a"}]},
        "buffers[1].name: 'a' is the name of buffers[0] too",
    ),
    (
        {"buffers": [{"size": 8, "name": "a", "hints": {"hotRanges": [[0, 4], [4, 5]]}}]},
        "buffers[0].hints.hotRanges[1]: it ends at 9 B, and the buffer has 8 B",
    ),
    (
        {"buffers": [{"size": 8, "name": "a", "hints": {"hotRanges": [[0]]}}]},
        "buffers[0].hints.hotRanges[0]: [0] is no pair",
    ),
    (
        {"buffers": [{"size": 8, "name": "a", "hints": {"hotRanges": [[0, "x"]]}}]},
        "buffers[0].hints.hotRanges[0][1]: 'x' is no size",
    ),
    (
        {"buffers": [{"size": "1P", "name": "a", "hints": {"hotRanges": [[0, "1P"]]}}]},
        "buffers[0].hints.hotRanges[0]: 1P is too long",
    ),
    (
        {"buffers": [{"size": 99, "name": "a", "hints": {"hotRanges": [[0, 1]] * 16}}]},
        "buffers[0].hints.hotRanges: it has 16 entries",
    ),
    (
        {"buffers": [{"size": 8, "name": "a", "hints": {"priority": "urgent"}}]},
        "buffers[0].hints.priority: 'urgent' is not known",
    ),
    ({"promotions": [{}]}, "promotions[0]: buffer is missing"),
    ({"promotions": [{"buffer": "a", "track": 1}]}, "promotions[0].track: 1 is neither"),
    (
        {"buffers": [{"size": 8, "name": "a"}], "promotions": [{"buffer": "a", "offset": 8}]},
        "promotions[0]: the window begins at 8 B and ends at 8 B, and 'a' has 8 B",
    ),
    (
        {"buffers": [{"size": 8, "name": "a"}], "promotions": [{"buffer": "a", "length": 9}]},
        "promotions[0]: the window begins at 0 B and ends at 9 B",
    ),
    ({"prefetches": [{"buffer": "a", "offset": 1}]}, "prefetches[0]: 'offset' is not known"),
]


@pytest.mark.parametrize(("plan", "said"), WRONG, ids=range(len(WRONG)))
def test_aWrongValueIsNamedByItsPath(plan: Any, said: str, tmp_path: Path) -> None:
    if isinstance(plan, dict):
        with pytest.raises(InvalidArgument) as caught:
            muninn.applyPlan(plan)
        assert caught.value.reason.startswith(said)
        assert caught.value.code == "MNN-0026" and caught.value.fix
        assert len(str(caught.value)) < 400
    file = tmp_path / "plan.json"
    with contextlib.suppress(ValueError):  # an integer that no JSON has
        file.write_text(json.dumps({str(k): v for k, v in plan.items()} if plan else plan))
        if not (isinstance(plan, dict) and 1 in plan):
            with pytest.raises(InvalidConfig) as inFile:
                muninn.applyPlan(file)
            assert inFile.value.reason.removeprefix(f"{file}: ")[:14] == said[:14]
    assert names() == []


def test_whatIsNoPlanAtAllIsATypeError() -> None:
    for value in (None, 1, [], b"x"):
        with pytest.raises(TypeError, match="a plan is a dict, or the path of a file"):
            muninn.applyPlan(value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="did you mean 'timeout'"):
        muninn.applyPlan({}, timout=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.yaml", b"{}", "a.yaml is no plan by its ending"),
        ("a.json", b"", "a.json:1: Expecting value"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b"{\n\n'a'", "a.json:3: Expecting property name"),
        ("a.json", b'{"buffers": [], "buffers": []}', "the key 'buffers' stands twice"),
        ("a.json", b'{"version": NaN}', "NaN is no number of JSON"),
        ("a.json", b'{"version": ' + b"9" * 5000 + b"}", "a.json: Exceeds the limit"),
        ("a.json", b"\xff\xfe", "no text in UTF-8"),
        ("a.json", b"\x00" * 100, "a.json:1: Expecting value"),
        ("a.toml", b"buffers = [\n[", "a.toml: Invalid value (at end of document)"),
        ("a.toml", b"version = 1\nversion = 1\n", "a.toml:2: Cannot overwrite a value"),
        ("a.toml", b"version = 1979-05-27\n", "version: datetime.date(1979, 5, 27) is no whole"),
        ("a.toml", os.urandom(4096), "a.toml"),
    ],
)
def test_aGarbageFileIsSaid(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidConfig) as caught:
        checkPlan(str(tmp_path / name))
    assert said in caught.value.reason


def test_aFileThatIsNoneIsSaid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO, too: nobody writes it, and the process would wait for ever."""
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "large.json").write_bytes(b" " * 101)
    monkeypatch.setattr("muninn.plans.reading.MAX_FILE_BYTES", 100)
    for name, said in (
        ("fifo.json", "is no file"),
        ("folder.json", "is no file"),
        ("large.json", "has more than"),
        ("missing.json", "can not be read: No such file"),
        ("nul\0.json", "can not be read"),
    ):
        with pytest.raises(InvalidConfig, match=said):
            checkPlan(tmp_path / name)


def test_aFileSaysTheSameInBothFormats(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(TOML)
    buffer = {"name": "weightsA", "size": 1 << 20}
    hints = {"hotRanges": [[0, "64K"]], "priority": "high"}
    (tmp_path / "plan.json").write_text(
        json.dumps(
            {"buffers": [{**buffer, "hints": hints}], "prefetches": [{"buffer": "weightsA"}]}
        )
    )
    assert planOf(tmp_path / "plan.toml") == planOf(str(tmp_path / "plan.json"))


# --- hypothesis: plans ---------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "b", "c", "d", "bundle"])
_SIZES = st.one_of(st.integers(1, 1 << 22), st.sampled_from(["4K", "1M", "1.5M", "600G"]))
_PAIRS = st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 20)).map(list)
_HINTS = st.fixed_dictionaries(
    {},
    optional={
        "hotRanges": st.lists(_PAIRS, max_size=3),
        "lifetimeMs": st.integers(1, 1 << 40),
        "priority": st.sampled_from(["low", "normal", "high"]),
    },
)
_BUFFERS = st.fixed_dictionaries(
    {"size": _SIZES, "name": _NAMES},
    optional={
        "mode": st.sampled_from(["bigMode", "fastMode"]),
        "preferredGpu": st.integers(0, 2),
        "access": st.sampled_from(["readOnly", "readMostly", "readWrite"]),
        "tenant": st.sampled_from(["default", "t"]),
        "lifetime": st.sampled_from(["keep", "lastClose"]),
        "lifetimeMs": st.integers(1, 1 << 40),
        "hints": _HINTS,
    },
)
_WINDOWS = st.fixed_dictionaries(
    {"buffer": _NAMES},
    optional={
        "offset": st.integers(0, 1 << 20),
        "length": st.integers(1, 1 << 20),
        "targetGpu": st.integers(0, 2),
        "track": st.booleans(),
    },
)
_PREFETCHES = st.fixed_dictionaries({"buffer": _NAMES}, optional={"targetGpu": st.integers(0, 2)})
PLANS = st.fixed_dictionaries(
    {},
    optional={
        "buffers": st.lists(_BUFFERS, max_size=4, unique_by=lambda each: each["name"]),
        "promotions": st.lists(_WINDOWS, max_size=3),
        "prefetches": st.lists(_PREFETCHES, max_size=3),
    },
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["size", "name", "x"]) | st.text(max_size=4), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A plan in which a value is another one, or that has a field more."""
    plan = copy.deepcopy(draw(PLANS))
    places = list(_places(plan))
    holder, key = draw(st.sampled_from(places)) if places else (plan, "buffers")
    holder[key] = draw(_JSON)
    return plan


def _places(value: Any) -> Any:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


_PATH = r"^(a plan|version|buffers|promotions|prefetches)[\w.\[\]]*: "


@settings(max_examples=300, deadline=None)
@given(plan=st.one_of(PLANS, damaged(), _JSON))
def test_thePlanIsWhatTheSchemaSays(plan: Any) -> None:
    """What the schema refuses is refused, with a path. What only the checks refuse is
    between two values, or counts bytes.
    """
    from jsonschema import Draft202012Validator

    isShaped = Draft202012Validator(schemas.PLAN_SCHEMA).is_valid(_asJson(plan))
    if not isinstance(plan, dict):
        assert not isShaped
        return
    try:
        planOf(plan)
    except InvalidArgument as error:
        assert re.match(_PATH, error.reason), error.reason
        assert error.fix
        beyond = ("ends at", "is the name of", "is at once", "has control", "not valid", " bytes",
                  "' can not be", "more than any")  # fmt: skip
        assert not isShaped or any(each in error.reason for each in beyond)
    else:
        assert isShaped


def _asJson(value: Any) -> Any:
    """JSON Schema takes 1.0 for an integer; a plan does not."""
    if isinstance(value, float):
        return 0.5 if value.is_integer() else value
    if isinstance(value, dict):
        return {key: _asJson(each) for key, each in value.items()}
    return [_asJson(each) for each in value] if isinstance(value, list) else value


# --- hypothesis: decisions -----------------------------------------------------------------

GIB = 1 << 30
LIMITS = Limits(512 * GIB, 64 * GIB, 512 * GIB, 16 * GIB, 8 * GIB, 8 * GIB, 2)
FACTS = Facts(
    {}, (), LIMITS, (PlannedGpu(0, GIB), PlannedGpu(None, GIB)), 100, 1 << 60, None, "default",
    "readMostly", 65536, True,
)  # fmt: skip
_EXISTING = st.builds(
    Existing,
    isArray=st.booleans(),
    mode=st.sampled_from(["bigMode", "fastMode"]),
    gpu=st.integers(-1, 1),
    sizeBytes=st.integers(1, 1 << 21),
    access=st.sampled_from(["readOnly", "readMostly", "readWrite"]),
    tenant=st.sampled_from(["default", "t"]),
    lifetime=st.just("keep"),
    hotRanges=st.sampled_from([(), ((0, 4096),), ((0, 4096), (8192, 4096))]),
    priority=st.sampled_from(["low", "normal", "high"]),
)
_FACTS = st.builds(
    FACTS._replace,
    existing=st.dictionaries(_NAMES, _EXISTING, max_size=3),
    used=st.lists(
        st.builds(
            Used,
            st.sampled_from(["bigMode", "fastMode"]),
            st.just("default"),
            st.integers(-1, 1),
            st.booleans(),
            st.integers(1, GIB),
        ),
        max_size=3,
    ).map(tuple),
    freeRows=st.integers(0, 5),
    drainReason=st.sampled_from([None, None, None, "", "maintenance"]),
    enablePromotion=st.sampled_from([True, True, False]),
)


@settings(max_examples=200, deadline=None)
@given(plan=PLANS, facts=_FACTS)
def test_thePlanDecides(plan: dict[str, Any], facts: Facts) -> None:
    """The same twice, byte by byte; about each entry; in the order of the plan."""
    try:
        checked = planOf(plan)
    except InvalidArgument:
        return
    first, second = (decide(planOf(copy.deepcopy(plan)), facts) for _ in range(2))
    assert json.dumps(first.asDict(), sort_keys=True) == json.dumps(second.asDict(), sort_keys=True)
    decided = {each.path.removesuffix(".hints") for each in first.steps}
    decided |= {each.path for each in first.refusals}
    assert decided == {
        each.path for each in (*checked.buffers, *checked.promotions, *checked.prefetches)
    }
    paths = [each.path.removesuffix(".hints") for each in first.steps]
    order = [each.path for each in (*checked.buffers, *checked.promotions, *checked.prefetches)]
    assert [order.index(path) for path in paths] == sorted(order.index(path) for path in paths)
    for step in first.steps:
        assert (step.action is Action.CREATE) <= (step.buffer not in facts.existing)
        assert (step.action is Action.KEEP) <= (step.buffer in facts.existing)
    if first.refusals:
        with pytest.raises(MuninnError) as caught:
            first.require()
        assert caught.value.reason.startswith(first.refusals[0].path)
        assert caught.value.code == first.refusals[0].code


class Refused(Exception):
    """A hand did not do what it was told."""


class Listed:
    """Hands that keep a list of the domain instead of one, and fail at the nth call."""

    def __init__(self, there: set[str], failsAt: int) -> None:
        self.there, self.hints = set(there), {name: {"of": "before"} for name in there}
        self.did, self.windows, self._left = list[tuple[str, str]](), 0, failsAt

    def _do(self, what: str, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            raise Refused
        self.did.append((what, name))

    def create(self, name: str, values: dict[str, Any]) -> tuple[Any, str]:
        self._do("create", name)
        if name in self.there:
            raise BufferExists(f"{name!r} is there")
        self.there.add(name)
        self.hints[name] = values["hints"]
        return _Named(name), ""

    def open(self, name: str, access: str) -> Any:
        self._do("open", name)
        assert name in self.there
        return _Named(name)

    def free(self, buffer: Any) -> None:
        self.there.remove(buffer.name)
        del self.hints[buffer.name]

    def hint(self, buffer: Any, hints: dict[str, Any]) -> dict[str, Any]:
        if hints != {"of": "before"}:
            self._do("hint", buffer.name)
        before, self.hints[buffer.name] = self.hints[buffer.name], hints
        return before

    def promote(self, buffer: Any, values: dict[str, Any], timeout: float | None) -> Any:
        self._do("promote", buffer.name)
        self.windows += 1
        return _Window(self)

    def prefetch(self, buffer: Any, values: dict[str, Any], timeout: float | None) -> str:
        self._do("prefetch", buffer.name)
        return ""


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def close(self) -> None:
        """Nothing is held."""


class _Window:
    def __init__(self, hands: Listed) -> None:
        self._hands = hands

    def close(self) -> None:
        self._hands.windows -= 1


@settings(max_examples=300, deadline=None)
@given(plan=PLANS, facts=_FACTS, failsAt=st.integers(0, 12))
def test_anApplicationDoesWhatItSaysAndNoMore(
    plan: dict[str, Any], facts: Facts, failsAt: int
) -> None:
    """And if a step fails, all is as before."""
    try:
        checked = planOf(plan)
    except InvalidArgument:
        return
    decisions = decide(checked, facts)
    if decisions.refusals:
        return
    hands = Listed(set(facts.existing), failsAt)
    before = set(hands.there), dict(hands.hints)
    said = [(each.action.value, each.buffer) for each in decisions.steps]
    try:
        applied = Application(checked, decisions, hands, 1.0, lambda: facts).run()
    except Refused as error:
        assert (hands.there, hands.hints, hands.windows) == (*before, 0)
        assert error.__notes__ == [
            f"{error.__notes__[0].partition(';')[0]}; what came before is undone"
        ]
    else:
        changes = [each for each in hands.did if each[0] != "open"]
        assert changes == [each for each in said if each[0] not in ("keep", "skip")]
        assert [name for what, name in said if what == "create"] == applied.created
        assert hands.there == before[0] | set(applied.created)
        applied.close()
        assert hands.windows == 0


# --- applying ------------------------------------------------------------------------------


def test_theRoadmapsBodyIsABufferOfAPlan() -> None:
    with muninn.applyPlan({"buffers": [ROADMAP]}) as applied:
        described = applied.buffers["weightsA"].describe()
    assert applied.created == ["weightsA"] == names()
    wanted = {key: ROADMAP[key] for key in ("size", "mode", "access", "tenant")}
    assert {key: described[key] for key in wanted} == wanted
    assert described["hints"]["hotRanges"] == [[0, 65536], [131072, 32768]]
    assert 0 < described["hints"]["endsInMs"] <= 600_000


def test_aPlanIsAppliedAgainAndAgain() -> None:
    with muninn.applyPlan(JOB) as applied:
        assert [each.note for each in applied.outcomes][:3] == ["created", "created", "promoted"]
        assert "apply the plan again" in applied.outcomes[3].note
        assert windows() == 1
        assert (applied.windows[0].offset, applied.windows[0].sizeBytes) == (4096, 8192)
        with applied.buffers["weightsA"].write() as view:
            view[:] = 5
    assert sorted(names()) == ["kv", "weightsA"]
    before = ids()
    for _ in range(2):
        with muninn.applyPlan(JOB) as applied:
            assert applied.created == []
            assert [each.step.action.value for each in applied.outcomes] == [
                "keep", "hint", "keep", "promote", "prefetch",
            ]  # fmt: skip
            assert applied.outcomes[-1].note == "98304 bytes are there"
    assert ids() == before


def test_theEndOfTheBlockCopiesBackWhatWasWrittenInWindows() -> None:
    """Broken: the windows were only closed, and what kernels had written was lost."""
    plan = {
        "buffers": [{"name": each, "size": 8192, "access": "readWrite"} for each in "ab"],
        "promotions": [{"buffer": each, "length": 4096} for each in "ab"],
    }
    with muninn.applyPlan(plan) as applied:
        for window in applied.windows:
            window.array[:] = 7
    both = [muninn.open(name, access="readWrite") for name in "ab"]
    assert [int(each.read().sum()) for each in both] == [7 * 4096] * 2
    # What leaves by an exception, or is only closed, is not published.
    with pytest.raises(ZeroDivisionError), muninn.applyPlan(plan) as applied:
        applied.windows[0].array[:] = 8
        raise ZeroDivisionError
    applied = muninn.applyPlan(plan)
    applied.windows[0].array[:] = 8
    applied.close()
    assert [int(each.read().sum()) for each in both] == [7 * 4096] * 2
    # A window that can not be copied back keeps no other one from that.
    with pytest.raises(WritebackConflict), muninn.applyPlan(plan) as applied:
        for window in applied.windows:
            window.array[:] = 9
        with both[1].write() as view:
            view[:] = 1
    assert [int(each.read().sum()) for each in both] == [9 * 4096, 8192]
    assert (applied.windows, applied.buffers) == ([], {})


def test_theSamePlanIsDecidedAlikeInTwoProcesses(actor: Start) -> None:
    """R§10: the same plan, hints and topology give the same decisions."""
    muninn.domainInfo()
    other = actor(f"from muninn.plans import checkPlan; plan = {JOB!r}")
    for _ in range(2):
        mine = json.loads(json.dumps(checkPlan(JOB).asDict()))
        assert other.do("import json; json.loads(json.dumps(checkPlan(plan).asDict()))") == mine
        muninn.applyPlan(JOB).close()


def test_aCheckDoesNothing() -> None:
    decisions = checkPlan(JOB)
    assert [each.action for each in decisions.steps] == ["create", "create", "promote", "skip"]
    assert decisions.refusals == () and names() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": "2M"}, "size is 1M, not 2M"),
        ({"mode": "fastMode"}, "mode is bigMode, not fastMode"),
        ({"access": "readWrite"}, "access is readMostly, not readWrite"),
        ({"tenant": "other"}, "tenant is org/acct/job123, not other"),
        ({"lifetime": "lastClose"}, "lifetime is keep, not lastClose"),
    ],
)
def test_whatDiffersIsSaidAndNotTouched(change: dict[str, Any], said: str) -> None:
    with muninn.applyPlan({"buffers": [ROADMAP]}) as applied:
        before = applied.buffers["weightsA"].describe()
        other = {"buffers": [{"name": "first", "size": 1}, {**ROADMAP, **change}]}
        with pytest.raises(BufferMismatch) as caught:
            muninn.applyPlan(other)
        assert caught.value.reason.startswith("buffers[1]: 'weightsA' is there, and ")
        assert said in caught.value.reason and "nothing was done" in caught.value.reason
        after = applied.buffers["weightsA"].describe()
    assert names() == ["weightsA"]
    assert {**before, "importers": 0, "ageMs": 0, "hints": 0} == {
        **after, "importers": 0, "ageMs": 0, "hints": 0,
    }  # fmt: skip


def test_aBundleOfTheNameDiffers() -> None:
    with muninn.shareBundle({"a": b"abc"}, name="weightsA"):
        with pytest.raises(BufferMismatch, match="it is a bundle of arrays"):
            muninn.applyPlan({"buffers": [ROADMAP]})
        with pytest.raises(InvalidArgument, match=r"promotions\[0\]: 'weightsA' is a bundle"):
            muninn.applyPlan({"promotions": [{"buffer": "weightsA"}]})
        muninn.free("weightsA")


def test_aPlanLargerThanTheQuotasIsRefusedWhole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNINN_DEFAULT_PINNED_HOST_QUOTA", "3M")
    plan = {"buffers": [{"name": each, "size": "1M"} for each in "abcd"]}
    with pytest.raises(QuotaExceeded) as caught:
        muninn.applyPlan(plan)
    assert caught.value.reason.startswith(
        "buffers[3]: bigMode of tenant 'default': 3M used + 1M wanted > 3M allowed"
    )
    assert names() == []


def test_whatTheMachineCanNotHoldIsRefused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: it was to be created by the decisions, and the application failed."""
    monkeypatch.setattr(facts, "hostRoomBytes", lambda: 3 << 20)
    plan = {"buffers": [{"name": each, "size": "2M"} for each in "ab"]}
    plan["buffers"].append({"name": "c", "size": "2M", "reserve": "lazy"})
    (refusal,) = checkPlan(plan).refusals
    assert (refusal.path, refusal.error) == ("buffers[1]", "HostMemoryFull")
    assert refusal.reason == "2M wanted, and 1M of host memory would be left"


def test_aWindowThatIsLargerThanItsGpuWaitsForNothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: it was said to wait for room that there can never be."""
    monkeypatch.setenv("MUNINN_HOST_GPU_BYTES", "1M")
    plan = {
        "buffers": [{"name": "a", "size": "4M", "reserve": "lazy"}],
        "promotions": [{"buffer": "a", "length": "2M"}],
    }
    (refusal,) = checkPlan(plan).refusals
    assert (refusal.path, refusal.error) == ("promotions[0]", "QuotaExceeded")


def test_whatCanNotBeIsSaidForEachEntry() -> None:
    plan = {
        "buffers": [{"name": "a", "size": 1, "mode": "fastMode", "preferredGpu": 7}],
        "promotions": [
            {"buffer": "nothing"},
            {"buffer": "a"},
            {"buffer": "nothing", "targetGpu": 9},
        ],
    }
    decisions = checkPlan(plan)
    assert [(each.path, each.error) for each in decisions.refusals] == [
        ("buffers[0]", "DeviceUnavailable"),
        ("promotions[0]", "BufferNotFound"),
        ("promotions[2]", "BufferNotFound"),
    ]
    assert [(each.path, each.why) for each in decisions.steps] == [
        ("promotions[1]", "its buffer is refused")
    ]
    with pytest.raises(DeviceUnavailable, match="and 2 more"):
        muninn.applyPlan(plan)
    with pytest.raises(BufferNotFound):
        muninn.applyPlan({"prefetches": [{"buffer": "nothing"}]})


def test_aDrainingDomainKeepsAndCreatesNothing() -> None:
    from muninn.api import admin

    buffers = {"buffers": JOB["buffers"]}
    muninn.applyPlan(buffers).close()
    admin.drain(True, "maintenance")
    with muninn.applyPlan(buffers) as applied:
        assert sorted(applied.buffers) == ["kv", "weightsA"]
    with pytest.raises(DomainDraining, match=r"buffers\[0\].*maintenance"):
        muninn.applyPlan({"buffers": [{"name": "new", "size": 1}]})


def test_aWindowThatNeverFitsIsRefusedBeforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", "1M")
    plan: dict[str, Any] = {
        "buffers": [{"name": "a", "size": "1M"}],
        "promotions": [{"buffer": "a"}],
    }
    with pytest.raises(PromotionDenied, match=r"promotions\[0\]: scratch of GPU 0"):
        muninn.applyPlan(plan)
    assert names() == []
    plan["buffers"][0]["access"] = "readOnly"
    with muninn.applyPlan(plan) as applied:
        assert len(applied.windows) == 1
        again = checkPlan(plan)
        assert "it may have to wait: scratch of GPU 0" in again.steps[1].why


def test_theRoomThatIsSaidIsTheRoomThatIsTaken() -> None:
    (step,) = [each for each in checkPlan(JOB).steps if each.action is Action.PROMOTE]
    room = Room.of(8192, 65536, isWritten=True, isTracked=False).sizeBytes
    assert f"in {muninn.config.sizes.exactly(room)} of scratch" in step.why
    with muninn.applyPlan(JOB):
        (window,) = [each for each in muninn.listBuffers() if each["kind"] == "window"]
        assert window["size"] == room


# --- failures ------------------------------------------------------------------------------


def test_aFailureUndoesWhatThisApplicationDid() -> None:
    """The third step fails: the buffers are gone, and the hints are those of before."""
    with muninn.share(np.zeros(1 << 16, np.uint8), "kept", access="readMostly") as kept:
        kept.setHints(hotRanges=[(4096, 4096)], priority="low")
        before = kept.hints
        plan = {
            "buffers": [
                {"name": "kept", "size": 65536, "hints": {"priority": "high", "hotRanges": []}},
                {"name": "new", "size": "1M"},
            ],
            "promotions": [{"buffer": "new"}, {"buffer": "kept", "targetGpu": 1}],
        }

        def answer(work: Any) -> Answer:
            if work.target.gpu == 0:
                return Answer(Verdict.GO)
            return Answer(Verdict.REFUSE, "GPU 1 is at 91 °C")

        with Rehearsal(answer), pytest.raises(PromotionDenied) as caught:
            muninn.applyPlan(plan)
        assert caught.value.reason.startswith("promotions[1] ('kept'): the promotion of 65536")
        assert caught.value.reason.endswith("91 °C; what came before is undone")
        assert names() == ["kept"] and kept.hints == before
        eventually(lambda: windows() == 0, "no window is held")
        kept.free()


def test_aPrefetchThatFailsIsOnlySaid() -> None:
    """It changes no result, so nothing is undone for it."""
    muninn.applyPlan(JOB).close()
    with (
        Rehearsal(
            lambda work: Answer(Verdict.REFUSE if work.kind == "prefetch" else Verdict.GO, "no")
        ),
        muninn.applyPlan(JOB) as applied,
    ):
        assert applied.outcomes[-1].note.startswith("none is there: the prefetch of 65536 bytes")
        assert len(applied.windows) == 1


def test_whatCanNotBeUndoneIsSaid(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise InvalidArgument("free does not work")

    monkeypatch.setattr(applications.OwnHands, "free", fails)
    with (
        Rehearsal(lambda work: Answer(Verdict.REFUSE, "no")),
        pytest.raises(PromotionDenied) as caught,
    ):
        muninn.applyPlan(JOB)
    assert "still there: 'kv' (MNN-0026 InvalidArgument: free does not work" in str(caught.value)
    assert sorted(names()) == ["kv", "weightsA"]


def test_anInterruptionUndoesToo(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(applications.OwnHands, "promote", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        muninn.applyPlan(JOB)
    assert caught.value.__notes__ == [
        "applyPlan: at promotions[0] ('kv'); what came before is undone"
    ]
    assert names() == []


@pytest.mark.parametrize("isThere", [False, True])
def test_aCreationThatWasInterruptedIsLookedFor(
    monkeypatch: pytest.MonkeyPatch, isThere: bool
) -> None:
    """Its object did not come back, and it may be another process's: it is said only."""

    def interrupted(hands: Any, name: str, values: dict[str, Any]) -> None:
        if isThere:
            muninn.MuninnBuffer(4096, name=name, lifetime="keep").close()
        raise KeyboardInterrupt

    monkeypatch.setattr(applications.OwnHands, "create", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        muninn.applyPlan(JOB)
    said = "still there: perhaps 'weightsA': it was being created, and is there"
    (note,) = caught.value.__notes__
    assert note.endswith(said if isThere else "what came before is undone")
    assert names() == ["weightsA"] * isThere


def test_aNameThatIsTakenMeanwhileIsKeptOnlyIfItMatches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that knows no plan comes between the decision and the creation."""
    create = applications.OwnHands.create
    taken = dict[str, Any]()

    def late(hands: Any, name: str, values: dict[str, Any]) -> Any:
        if name == "b" and not taken:
            taken["b"] = muninn.MuninnBuffer(size, name="b", access="readMostly", lifetime="keep")
        return create(hands, name, values)

    monkeypatch.setattr(applications.OwnHands, "create", late)
    plan = {"buffers": [{"name": each, "size": 8192} for each in "ab"]}
    size = 4096
    with pytest.raises(BufferMismatch, match="another process has made 'b' meanwhile, and size"):
        muninn.applyPlan(plan)
    assert names() == ["b"]
    taken.pop("b").free()
    size = 8192
    with muninn.applyPlan(plan) as applied:
        assert applied.created == ["a"]
        assert applied.outcomes[1].note == "kept: another process has made it meanwhile"
        assert sorted(applied.buffers) == ["a", "b"]


# --- several processes ---------------------------------------------------------------------

MANY = {"buffers": [{"name": f"b{index}", "size": "64K"} for index in range(40)]}


def test_whatAKilledApplicationLeavesIsKeptByTheNextOne(actor: Start) -> None:
    """At a random moment: each buffer is whole or not there, and the lock is free."""
    muninn.domainInfo()
    chance = random.Random(7)
    halves = 0
    for _ in range(6):
        victim = actor(f"plan = {MANY!r}").join()
        victim.begin("muninn.applyPlan(plan, timeout=60).close()")
        enough = chance.randrange(1, 35)
        eventually(lambda: len(names()) >= enough, "some buffers are there")
        victim.kill()
        eventually(lambda: all(each["state"] == "live" for each in muninn.listBuffers()), "settled")
        before = ids()
        halves += 0 < len(before) < 40
        with muninn.applyPlan(MANY, timeout=60) as applied:
            assert len(applied.buffers) == 40
            assert set(applied.created) == set(applied.buffers) - set(before)
            assert before.items() <= ids().items()
            assert all((each.read() == 0).all() for each in applied.buffers.values())
        for name in names():
            muninn.free(name)
        eventually(lambda: names() == [], "all is freed")
    assert halves > 0


def test_twoProcessesApplyOnePlanAtOnce(actor: Start) -> None:
    muninn.domainInfo()
    both = [actor(f"plan = {MANY!r}").join() for _ in range(2)]
    for _ in range(3):
        for each in both:
            each.begin(
                "applied = muninn.applyPlan(plan, timeout=60); made = applied.created; applied.close(); made"
            )
        first, second = (each.result() for each in both)
        # One of them makes all.
        assert sorted(map(len, (first, second))) == [0, 40]
        assert len(names()) == 40
        for name in names():
            muninn.free(name)
        eventually(lambda: names() == [], "all is freed")


def test_anotherApplicationIsWaitedFor(actor: Start) -> None:
    muninn.domainInfo()
    busy = actor(
        "from muninn.sync.lock import OwnLock\nlock = OwnLock('plan', 'apply', None)"
    ).join()
    busy.do("lock.acquire(); 1")
    with pytest.raises(TimeoutError, match="has held lock 'plan:apply' for 0"):
        muninn.applyPlan(JOB, timeout=0.05)
    assert names() == []
    busy.kill()
    muninn.applyPlan(JOB, timeout=60).close()
    assert len(names()) == 2


def test_anApplicationLeavesNoLockBehind() -> None:
    muninn.applyPlan({"buffers": JOB["buffers"]}).close()
    rows = membership.current().rows
    eventually(lambda: len(rows.notFree()) == 2, "there are the two buffers and nothing else")


# --- the command ---------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, "-m", "muninn", "plan", *arguments]
    return subprocess.run(started, capture_output=True, text=True, timeout=100, check=False)


def test_theCommandSaysWhatAPlanWouldDo(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(JOB))
    ran = command("check", str(file))
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["PATH", "ACTION", "BUFFER", "WHY"]
    assert [line.split()[:3] for line in lines[1:5]] == [
        ["buffers[0]", "create", "weightsA"],
        ["buffers[1]", "create", "kv"],
        ["promotions[0]", "promote", "kv"],
        ["prefetches[0]", "skip", "weightsA"],
    ]
    assert lines[-1] == "would create 2, promote 1, skip 1"
    told = json.loads(command("check", str(file), "--json").stdout)
    assert told["steps"] == json.loads(json.dumps(checkPlan(JOB).asDict()))["steps"]
    assert told["facts"]["gpus"] == [{"numaNode": None, "capacityBytes": 1 << 30}] * 2
    assert names() == []


def test_theCommandAppliesAPlanAndHoldsItsWindows(tmp_path: Path) -> None:
    muninn.domainInfo()
    file = tmp_path / "job.json"
    file.write_text(json.dumps(JOB))
    ran = command("apply", str(file), "--seconds", "0", "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    told = json.loads(ran.stdout)
    assert told["created"] == ["weightsA", "kv"] and len(told["outcomes"]) == 4
    assert told["windows"] == [
        {"buffer": "kv", "offset": 4096, "length": 8192, "targetGpu": 1, "track": False}
    ]
    assert sorted(names()) == ["kv", "weightsA"]
    holder = subprocess.Popen(
        [sys.executable, "-m", "muninn", "plan", "apply", str(file)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        eventually(lambda: windows() > 0, "it holds its window")
        while "until Ctrl-C" not in holder.stdout.readline():
            assert holder.poll() is None
        holder.terminate()
        assert holder.wait(60) == 0
    finally:
        holder.kill()
        holder.communicate()
    eventually(lambda: windows() == 0, "the window went with it")


def test_theCommandListsAllThatIsRefused(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    more: dict[str, Any] = {"buffers": [{"name": "huge", "size": "4P"}, *JOB["buffers"]]}
    file.write_text(json.dumps({**JOB, **more, "prefetches": [{"buffer": "nobody"}]}))
    ran = command("check", str(file))
    assert ran.returncode == 1
    assert "buffers[0]     refuse   huge      MNN-0016" in ran.stdout
    assert "prefetches[0]  refuse   nobody    MNN-0011" in ran.stdout
    assert ran.stdout.endswith("2 entries of the plan can not be: nothing would be done\n")
    ran = command("apply", str(file), "--json")
    assert ran.returncode == 1 and ran.stderr.startswith("MNN-0016 QuotaExceeded: buffers[0]: ")
    assert json.loads(ran.stdout)["error"]["code"] == "MNN-0016"
    assert names() == []
    for wrong in (("verify", str(file)), ("check",), ("check", str(file), "--seconds", "1")):
        assert command(*wrong).returncode == 2
