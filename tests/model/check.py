"""Explore the models with SPIN, whole, and with each rule of the protocol taken away:
`make model`, or `make model QUICK=1`.

Exits with 0 when every model holds and every mutilated one fails. Needs `spin` and a C
compiler; no Python package.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
_BOUND_SECONDS = 1200
_MEMORY_MIB = 6000

_OPEN_FREE = "N=2 THERE_IS_ONE=1 DOES0=OPENS DOES1=FREES SPURIOUS=0"
_TWO_BROKERS = "N=2 THERE_IS_ONE=2 DOES0=OPENS DOES1=OPENS DEATHS=0 SPURIOUS=1"


class Case(NamedTuple):
    """One exploration: a model, its parameters, and the thing taken away, if any."""

    model: str
    parameters: str
    without: str = ""
    isQuick: bool = True

    def __str__(self) -> str:
        return f"{self.model} {self.parameters}" + (f", {self.without}" if self.without else "")


SOUND = (
    Case("domain", "N=2"),
    Case("domain", "N=2 LOSSES=1"),
    Case("domain", "N=2 REPAIRS=1", isQuick=False),
    Case("domain", "N=2 LOSSES=1 ROUNDS=2", isQuick=False),
    Case("domain", "N=3", isQuick=False),
    Case("ownerlocks", "N=2 OPS=2"),
    Case("ownerlocks", "N=2 WEAK"),
    Case("ownerlocks", "N=2 OPS=3 DEATHS=0"),
    Case("ownerlocks", "N=3", isQuick=False),
    Case("access", "N=3"),
    Case("access", "N=3 ROLE0=WRITES ROLE1=WRITES ROLE2=READS DEATHS=2"),
    Case("access", "N=3 ROLE0=WRITES ROLE1=WRITES ROLE2=COPIES"),
    Case("promotion", "N=2"),
    Case("promotion", "N=2 ROLE1=PROMOTES"),
    Case("promotion", "N=2 ROLE1=READS"),
    Case("promotion", "N=3 BACKS=1"),
    Case("promotion", "N=3 BACKS=1 ROLE2=READS DEATHS=2", isQuick=False),
    Case("promotion", "N=3 ROLE1=PROMOTES DEATHS=2", isQuick=False),
    Case("windows", "N=2 ROUNDS=1"),
    Case("windows", "N=2 DEATHS=2", isQuick=False),
    Case("windows", "N=3 ROUNDS=1", isQuick=False),
    Case("publication", "N=2 DEATHS=0 SPURIOUS=0"),
    Case("publication", "N=2 DEATHS=0 SPURIOUS=0 NO_ROOM_IN_INDEX"),
    Case("publication", "N=2 DEATHS=1 SPURIOUS=0 OTHERS=REST"),
    Case("publication", "N=2 DEATHS=0 SPURIOUS=1 OTHERS=REST"),
    Case("publication", "N=2 DEATHS=1 SPURIOUS=0 FIRST=1 OTHERS=REST", isQuick=False),
    Case("publication", "N=2 DEATHS=0 SPURIOUS=1 UNINTERRUPTED LOOKS_ONLY", isQuick=False),
    Case("publication", "N=2 DEATHS=1 SPURIOUS=0 UNINTERRUPTED LOOKS_ONLY", isQuick=False),
    Case("buffers", f"{_OPEN_FREE} DEATHS=0"),
    Case("buffers", "N=2 THERE_IS_ONE=1 DOES0=RENEWS DOES1=OPENS DEATHS=0 SPURIOUS=0"),
    Case("buffers", "N=2 THERE_IS_ONE=1 DOES0=OPENS DOES1=REVOKES DEATHS=0 SPURIOUS=0"),
    Case("buffers", "N=3 THERE_IS_ONE=1 DOES0=OPENS DOES1=OPENS DOES2=FREES DEATHS=0 SPURIOUS=0"),
    Case("buffers", f"{_OPEN_FREE} DEATHS=1", isQuick=False),
    Case(
        "buffers", "N=2 THERE_IS_ONE=2 DOES0=RESTS DOES1=OPENS DEATHS=1 SPURIOUS=0", isQuick=False
    ),
    Case("buffers", "N=2 DOES0=RESTS DOES1=CREATES DEATHS=1 SPURIOUS=0", isQuick=False),
    Case("buffers", "N=2 DOES0=CREATES DOES1=OPENS DEATHS=0 SPURIOUS=1", isQuick=False),
    Case("buffers", _TWO_BROKERS, isQuick=False),
    Case(
        "buffers",
        "N=3 THERE_IS_ONE=1 DOES0=RESTS DOES1=OPENS DOES2=RESTS DEATHS=1 SPURIOUS=0",
        isQuick=False,
    ),
)
MUTILATED = (
    *(
        Case("domain", "N=2", without)
        for without in ("NO_CREATE_LOCK", "NO_LOOK_AFTER_CLAIM", "LOOK_BEFORE_WITHDRAWAL")
    ),
    Case("domain", "N=2", "WITHDRAW_WHAT_IS_WANTED NO_REINSTATE NO_ADOPTION"),
    *(Case("domain", "N=2 LOSSES=1", without) for without in ("NO_ADOPTION", "BESIDE_THE_LIVING")),
    *(
        Case("domain", "N=2 REPAIRS=1", without, isQuick=False)
        for without in ("REPAIR_IN_PLACE", "REPAIR_LOOKS_FIRST")
    ),
    *(
        Case("ownerlocks", "N=2", without)
        for without in ("TAKE_FROM_THE_SUSPECTED", "NO_BOUND", "NO_ODD", "NO_SECOND_LOOK")
    ),
    Case("ownerlocks", "N=2 OPS=2", "RELEASE_BEFORE_DATA"),
    Case("ownerlocks", "N=2 OPS=4 DEATHS=0", "NO_SUCCESSOR"),
    Case("ownerlocks", "N=3 WRITES_ONLY", "NO_PASSING"),
    Case("ownerlocks", "N=2 WEAK", "PLAIN_BEGIN"),
    *(
        Case("access", "N=2 ROLE0=WRITES ROLE1=READS", without)
        for without in (
            "PLAIN_READING",
            "LOOK_BEFORE_READING",
            "NO_STEP_BACK",
            "SCAN_BEFORE_OWNER_LOCK",
            "TICKET_AFTER_LEAVING",
            "TICKET_AFTER_RELEASE",
            "CLEAR_THE_SUSPECTED",
            "NO_CLEARING",
        )
    ),
    *(
        Case("access", "N=2 ROLE0=WRITES ROLE1=COPIES", without)
        for without in ("WAIT_BEFORE_LOOKING", "TICKET_AFTER_RELEASE")
    ),
    Case("access", "N=2 ROLE0=WRITES ROLE1=WRITES", "TAKE_FROM_THE_SUSPECTED"),
    *(
        Case("promotion", "N=2", without)
        for without in (
            "NO_LOOK",
            "TORN_IS_PROMOTED",
            "LOOK_BEFORE_OWNER_LOCK",
            "LOOK_WHEN_ODD",
            "NO_READ_ACCESS",
            "GENERATION_AFTERWARDS",
            "NO_ODD",
            "ODD_AGAIN",
            "PUBLISH_BEFORE_COPY",
            "TAKE_FROM_THE_SUSPECTED",
        )
    ),
    *(
        Case("windows", "N=2 ROUNDS=1", without)
        for without in (
            "COMMIT_BEFORE_FILL",
            "NO_ORPHANS",
            "ENDS_WITH_ITS_MAKER",
            "VALIDATE_BEFORE_LEASE",
            "NO_SCAN_AFTER_STATE",
            "GRANT_TWICE",
            "NO_TRY_RECLAIM",
            "NO_TRY_RECLAIM_AFTER_DEATH",
        )
    ),
    *(
        Case("publication", "N=2 DEATHS=0 SPURIOUS=0", without)
        for without in ("OLD_FIRST", "FREE_IN_DOUBT", "OPEN_REPLACED")
    ),
    Case("publication", "N=2 DEATHS=0 SPURIOUS=0 NO_ROOM_IN_INDEX", "ASK_ONCE"),
    *(
        Case("publication", "N=2 DEATHS=1 SPURIOUS=0 OTHERS=REST", without)
        for without in ("NO_FINISH", "WORD_AFTER_LIVE", "NO_VOUCHING")
    ),
    *(
        Case("publication", "N=2 DEATHS=0 SPURIOUS=1 OTHERS=REST", without)
        for without in ("NO_WORD", "NO_WORD_FENCE", "RECORD_BEFORE_WORD")
    ),
    *(
        Case("buffers", f"{_OPEN_FREE} DEATHS=0", without)
        for without in (
            "PLAIN_LEASE",
            "VALIDATE_BEFORE_LEASE",
            "NO_SCAN_AFTER_STATE",
            "SCAN_BEFORE_STATE",
            "TTL_REAPS",
            "NO_TRY_RECLAIM_AFTER_FAILED_OPEN",
        )
    ),
    *(
        Case("buffers", f"{_OPEN_FREE} DEATHS=1", without)
        for without in ("NO_PROOF", "COUNTER", "NO_TRY_RECLAIM_AFTER_DEATH")
    ),
    Case(
        "buffers",
        "N=2 THERE_IS_ONE=1 DOES0=RENEWS DOES1=OPENS DEATHS=0 SPURIOUS=0",
        "NO_INCARNATION",
    ),
    Case(
        "buffers",
        "N=2 THERE_IS_ONE=2 DOES0=RESTS DOES1=OPENS DEATHS=1 SPURIOUS=0",
        "NO_TRY_RECLAIM_AFTER_CLOSE",
    ),
    *(
        Case("buffers", _TWO_BROKERS, without)
        for without in ("NO_EPOCH", "NO_FENCE", "PLAIN_ROW_STORE", "UNLINK_BEFORE_DEAD")
    ),
)


class Outcome(NamedTuple):
    """The result of an exploration."""

    isWhole: bool
    violation: str
    states: int
    depth: int
    seconds: float


def explore(case: Case) -> Outcome:
    """Generate the verifier, compile it, run it."""
    defines = [f"-D{each}" for each in (*case.parameters.split(), *case.without.split())]
    with tempfile.TemporaryDirectory(prefix="muninn-model-") as folder:
        began = time.monotonic()
        _run(
            [os.environ.get("SPIN", "spin"), *defines, "-a", str(HERE / f"{case.model}.pml")],
            folder,
        )
        # To compile a small model well takes longer than to explore it. The states of a
        # large one are kept in parts that they share: a third of the memory, and half
        # of the time again.
        how = ["-O0"] if case.isQuick or case.without else ["-O2", "-DCOLLAPSE"]
        compiler = shlex.split(os.environ.get("CC") or "cc")
        _run(
            [
                *compiler,
                "-w",
                "-DSAFETY",
                *how,
                f"-DMEMLIM={_MEMORY_MIB}",
                "-o",
                "pan",
                "pan.c",
            ],
            folder,
        )
        said = _run(["./pan", "-E", "-m1000000"], folder)
    found = re.search(r"^pan:1: (.*?) \(at depth", said, re.MULTILINE)
    states = re.search(r"(\d+) states, stored", said)
    depth = re.search(r"depth reached (\d+)", said)
    if not states or not depth:
        raise SystemExit(f"{case}: the verifier said nothing of its states:\n{said}")
    isWhole = "Search not completed" not in said and "max search depth too small" not in said
    return Outcome(
        isWhole, found[1] if found else "", int(states[1]), int(depth[1]), time.monotonic() - began
    )


def _run(command: list[str], folder: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_BOUND_SECONDS
    )
    if done.returncode != 0 and command[0] != "./pan":
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def main() -> int:
    quick = "--quick" in sys.argv[1:]
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv[1:] else ""
    cases = [
        case
        for case in (*SOUND, *MUTILATED)
        if (case.isQuick or not quick) and str(case).startswith(only)
    ]
    wrong, states, began = 0, 0, time.monotonic()
    print(f"{'states':>12} {'depth':>6} {'s':>6}  verdict")
    with ThreadPoolExecutor(2) as pool:
        for case, outcome in zip(cases, pool.map(explore, cases), strict=True):
            if case.without:
                isRight, verdict = (
                    bool(outcome.violation),
                    "fails, as it must" if outcome.violation else "HOLDS, AND MUST NOT",
                )
            else:
                isRight = outcome.isWhole and not outcome.violation
                verdict = (
                    "holds" if isRight else f"FAILS: {outcome.violation or 'not explored whole'}"
                )
                states += outcome.states
            wrong += not isRight
            print(
                f"{outcome.states:>12,} {outcome.depth:>6} {outcome.seconds:>6.1f}  {verdict}: {case}",
                flush=True,
            )
    mutilated = sum(bool(case.without) for case in cases)
    print(
        f"{len(cases) - mutilated} models, {states:,} states, {mutilated} with something taken away; "
        f"{wrong} not as they should be; {time.monotonic() - began:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
