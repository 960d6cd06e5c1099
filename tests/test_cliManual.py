"""The commands of the specification's sections 13 and 17, as they are written there, with
sizes that fit every machine; and what the inspector does beside them.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from inspector import answer, onTerminal, run

import muninn
from muninn.cli import hints
from muninn.cli.fitting import shortened, widthOf
from muninn.errortable import ERRORS
from support import BOUND_SECONDS, Actor, eventually

Start = Callable[..., Actor]
ROOT = Path(__file__).parent.parent
#: The sizes of the specification, and what they are here.
SIZES = {"128G": "16M", "4G": "4M", "512M": "512K", "2G": "2M"}
BIG = "muninctl alloc --size 128G --mode bigMode --name datasetA --tenant org/team/job7"
FAST = "muninctl alloc --size 4G --mode fastMode --gpu 0 --name weightsX"
TENSOR = "muninctl alloc --size 2G --mode fastMode --gpu 0 --name tensorY"
PROMOTE = "muninctl promote --name datasetA --offset 4G --length 512M --gpu 0"


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")


def words(line: str) -> list[str]:
    """A command of the specification as a program and its arguments."""
    program, *arguments = shlex.split(line)
    scaled = [SIZES.get(each, each) for each in arguments]
    if program in ("producer", "consumer"):
        return [sys.executable, str(ROOT / "examples" / f"{program}.py"), *scaled]
    return [str(Path(sys.executable).parent / program), *scaled]


def done(line: str) -> str:
    """What a command prints that ends by itself."""
    ended = subprocess.run(
        words(line), capture_output=True, text=True, timeout=BOUND_SECONDS, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextlib.contextmanager
def going(line: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on in the background, as with `&`."""
    begun = subprocess.Popen(words(line), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield begun
    finally:
        begun.kill()
        begun.communicate(timeout=BOUND_SECONDS)


@contextlib.contextmanager
def allocated(line: str, name: str) -> Iterator[None]:
    """`alloc` of fastMode memory, which is held until Ctrl-C."""
    with going(line) as holder:
        eventually(lambda: name in [each["name"] for each in muninn.listBuffers()], "it is there")
        yield
        holder.send_signal(signal.SIGINT)
        assert holder.wait(BOUND_SECONDS) == 0


def test_theCommandsOfSection13(domain: str) -> None:
    alloc = BIG.replace("org/team/job7", "org/acct/job123")
    assert done(alloc) == "datasetA: 16M of bigMode\n"
    assert re.search(r"^tenant +org/acct/job123$", done("muninctl describe --name datasetA"), re.M)
    assert done(PROMOTE).startswith("datasetA[4M + 512K] to GPU 0: upload (hostMemory); 512K in ")
    lines = done("muninctl list --mode bigMode").splitlines()
    assert lines[0].split() == [
        "BUFFER",
        "MODE",
        "SIZE",
        "TENANT",
        "GPU",
        "IMPORTERS",
        "LEASE",
        "AGE",
    ]
    assert lines[1].split()[:7] == ["datasetA", "bigMode", "16M", "org/acct/job123", "-", "0", "-"]
    assert lines[2] == "1 bigMode buffer, 16M host"
    assert "0 leases revoked" in done("muninctl evict --name datasetA --tenant org/acct/job123")
    assert "creates nothing new" in done("muninctl drain --reason maintenance")
    assert "draining (maintenance)" in done("muninctl list")


def test_bigNotFastAsInSection17(domain: str) -> None:
    done(BIG)
    producer = "producer --buffer datasetA --tenant org/team/job7"
    with going(producer) as producing, going(producer.replace("producer", "consumer")) as consuming:
        assert producing.stdout is not None and consuming.stdout is not None
        assert producing.stdout.readline().startswith("published 1 ")
        assert consuming.stdout.readline() != ""
        assert "datasetA[4M + 512K] to GPU 0" in done(PROMOTE)
    refused = subprocess.run(
        words("consumer --buffer datasetA --tenant other"),
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
    )
    assert (refused.returncode, refused.stderr) == (
        1,
        "datasetA is of tenant org/team/job7, and not of other\n",
    )


def test_fastOnOneGpuAsInSection17(domain: str) -> None:
    with allocated(FAST, "weightsX"):
        with (
            going("producer --buffer weightsX") as producing,
            going("consumer --buffer weightsX --target-gpu 0") as consuming,
        ):
            assert producing.stdout is not None and consuming.stdout is not None
            assert producing.stdout.readline().startswith("published 1 ")
            assert "weightsX" in consuming.stdout.readline()
        listed = done("muninctl list").splitlines()
        assert listed[1].split()[:5] == ["weightsX", "fastMode", "4M", "default", "0"]
        assert listed[2] == "1 buffer, 4M vram"


def test_acrossGpusAsInSection17(domain: str) -> None:
    with allocated(TENSOR, "tensorY"):
        said = done("consumer --buffer tensorY --target-gpu 1")
        assert re.search(r"^tensorY to GPU 1: p2p \(peerAccess\), 2097152 bytes in ", said)


def test_theConsumerOfSection17NeedsNoTargetOnTheHost(domain: str) -> None:
    """`consumer --buffer weightsX` without a GPU reads on the host, where that can be."""
    with allocated(FAST, "weightsX"):
        ended = subprocess.run(
            words("consumer --buffer weightsX"),
            capture_output=True,
            text=True,
            timeout=BOUND_SECONDS,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr


# --- alloc and load without a name --------------------------------------------------------


def test_allocWithoutANameMakesOneUpAndPrintsIt(domain: str) -> None:
    said = run("alloc", "--size", "1K").stdout
    match = re.fullmatch(r"(buffer-[0-9a-f]{8}): 1K of bigMode\n", said)
    assert match is not None and muninn.open(match[1]).nbytes == 1024
    assert answer("alloc", "--size", "1K")["name"] != match[1]


@pytest.mark.parametrize(
    ("file", "name"),
    [("llama-3.1-8b.npz", "llama-3.1-8b"), ("w.npy", "w"), ("a.b.npy", "a.b")],
)
def test_loadWithoutANameTakesTheFiles(domain: str, tmp_path: Path, file: str, name: str) -> None:
    with open(tmp_path / file, "wb") as opened:
        (np.save if file.endswith("npy") else np.savez)(opened, np.ones(3))
    done = run("load", str(tmp_path / file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}: 1 array, 24 B, from {file}")
    assert [each["name"] for each in muninn.listBuffers()] == [name]


# --- free ---------------------------------------------------------------------------------


@pytest.fixture
def several(domain: str) -> list[str]:
    for name, tenant in (("a", "t"), ("b", "t"), ("c", "u")):
        muninn.share(b"x" * 999, name=name, tenant=tenant, access="readOnly").close()
    return ["a", "b", "c"]


@pytest.mark.parametrize(
    ("arguments", "freed", "left"),
    [
        (("a", "c"), ["a", "c"], ["b"]),
        (("a", "a", "--name", "c"), ["a", "c"], ["b"]),
        (("--name", "a", "--name", "b"), ["a", "b"], ["c"]),
        (("--tenant", "t"), ["a", "b"], ["c"]),
        (("--all",), ["a", "b", "c"], []),
    ],
)
def test_freesSeveral(
    several: list[str], arguments: tuple[str, ...], freed: list[str], left: list[str]
) -> None:
    assert sorted(answer("free", *arguments)["freed"]) == freed
    assert [each["name"] for each in muninn.listBuffers()] == left


def test_freesTheOthersIfOneIsNotThere(several: list[str]) -> None:
    done = run("free", "a", "nothing", "b")
    assert done.returncode == 1
    assert done.stdout.splitlines()[:2] == ["a: freed", "b: freed"]
    assert done.stderr.startswith("MNN-0011") and "'nothing'" in done.stderr
    asJson = run("free", "nothing", "c", "--json")
    told = json.loads(asJson.stdout)
    assert (told["freed"], told["error"]["code"], asJson.returncode) == (["c"], "MNN-0011", 1)


def test_freesBuffersWithTheirWindows(several: list[str]) -> None:
    with muninn.open("a", "readOnly") as buffer, buffer.promote(0, 999, 0):
        assert sorted(answer("free", "--all")["freed"]) == several
    eventually(lambda: muninn.listBuffers() == [], "nothing is left")


@pytest.mark.parametrize(
    "arguments", [(), ("a", "--all"), ("a", "--tenant", "t"), ("--all", "--tenant", "t")]
)
def test_whatIsToBeFreedIsSaidInOneWay(several: list[str], arguments: tuple[str, ...]) -> None:
    done = run("free", *arguments)
    assert done.returncode == 2 and "give either NAMEs, or --tenant, or --all" in done.stderr
    assert len(muninn.listBuffers()) == 3


def test_aTenantWithoutABufferIsAnError(several: list[str]) -> None:
    assert run("free", "--tenant", "v").stderr.startswith("MNN-0011")
    run("free", "--all")
    assert run("free", "--all").stdout == "there is no buffer to free\n"


# --- lists --------------------------------------------------------------------------------


def test_aListEndsWithItsTotalsByTier(domain: str) -> None:
    def last(*options: str) -> str:
        return run("list", *options).stdout.splitlines()[-1]

    assert last() == f"(no buffer in domain '{domain}')"
    with (
        muninn.share(np.zeros(1 << 20, np.uint8), name="h", tenant="t", access="readOnly") as host,
        muninn.share(np.zeros(2 << 20, np.uint8), name="v", mode="fastMode"),
    ):
        assert last() == "2 buffers, 3M (1M host, 2M vram)"
        assert last("--mode", "fastMode") == "1 fastMode buffer, 2M vram; 1 other not listed"
        assert last("--tenant", "t") == "1 buffer of tenant 't', 1M host; 1 other not listed"
        lines = run().stdout.splitlines()
        assert lines[lines.index("2 buffers, 3M (1M host, 2M vram)") + 1] == ""
        with host.promote(0, 1 << 19, 1):
            assert last() == "2 buffers, 1 window, 3.5M (1M host, 2.5M vram)"


def test_aDeadProcessIsNotNamedAsAHolder(domain: str, actor: Start) -> None:
    """Nobody has taken its lease back: the broker is stopped, and so is every other
    process that could.
    """
    broker = actor("muninn.share(b'x', name='one').close()")
    dead = actor("held = muninn.open('one')")
    broker.stop()
    dead.kill()
    for arguments in ((), ("list", "--holders")):
        done = run(*arguments, MUNINN_TAKEOVER_MS="60000")
        assert "one " in done.stdout and f"member {broker.pid} " in done.stdout
        assert f" {dead.pid} " not in done.stdout + done.stderr, arguments
    assert str(dead.pid) not in run("describe", "one").stdout
    refused = run("close", "one", "--pid", str(dead.pid))
    assert refused.returncode == 1 and refused.stderr.startswith("MNN-0011")


@pytest.mark.parametrize("room", range(1, 16))
@pytest.mark.parametrize("text", ["abcdefghijkl", "日本語日本語", "é" * 12, "a日b本c語"])
def test_aNameIsCutInTheMiddle(room: int, text: str) -> None:
    cut = shortened(text, room)
    assert widthOf(cut) <= max(room, 1)
    if widthOf(text) <= room:
        assert cut == text
    else:
        head, _, tail = cut.partition("…")
        assert text.startswith(head) and text.endswith(tail)
        assert len(head) >= len(tail) >= len(head) - 2
        assert widthOf(cut) >= room - 2 or room < 4


def test_namesThatEndDifferentlyAreToldApart(domain: str) -> None:
    for number in (1, 2):
        muninn.share(b"x", name=f"experiment/of/a/long/name/shard-{number}").close()
    shown = re.sub(r"\x1b\[[0-9;]*m", "", onTerminal("list", columns=72)).splitlines()
    assert shown[1].split()[0].endswith("-1") and shown[2].split()[0].endswith("-2")
    assert all("…" in line for line in shown[1:3])


# --- words --------------------------------------------------------------------------------


def test_saysItsVersion() -> None:
    assert run("--version").stdout == f"muninn {muninn.__version__}\n"


def fixes() -> Iterator[str]:
    """Every fix in the source, with `X` where a value stands."""
    names = {row.name for row in ERRORS}
    yield from (row.fix for row in ERRORS)
    for path in (ROOT / "muninn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if called in names and (text := _literal(node.args[1])):
                yield text


def _literal(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        parts = (each.value if isinstance(each, ast.Constant) else "X" for each in node.values)
        return "".join(map(str, parts))
    return ""


def test_fixesAreInTheWordsOfTheCommandLine() -> None:
    every = list(fixes())
    assert len(every) > 100
    options = "|".join(hints.OPTIONS)
    for fix in every:
        said = hints.inWords(fix)
        assert not re.search(rf"\b({options})=", said), said
        assert said.count("`") % 2 == 0, said
    assert hints.inWords('Free buffers, enlarge /dev/shm, or use reserve="lazy"') == (
        "Free buffers, enlarge /dev/shm, or use `--reserve lazy`"
    )
    assert hints.inWords("Open it with targetGpu=1, which copies it") == (
        "Open it with `--target-gpu 1`, which copies it"
    )
    assert hints.inWords("Try again") == "Try again"


def test_anErrorOfACommandNamesItsOptions(domain: str) -> None:
    muninn.share(b"x", name="ro", access="readOnly").close()
    for options in ((), ("--json",)):
        done = run("open", "ro", "--access", "readWrite", "--seconds", "0", *options)
        assert done.returncode == 1
        assert "access=" not in done.stderr + done.stdout and "muninn." not in done.stderr
        assert "`--access " in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--json",), ("free", "--json"), ("--json", "bogus"), ("purge", "--user", "x", "--json")],
)
def test_wrongUsageIsJsonWhereverTheOptionStands(domain: str, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    if arguments == ("--json",):
        assert json.loads(done.stdout)["buffers"] == []
        return
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] is None


# --- the page -----------------------------------------------------------------------------


def pageTool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("clipage", ROOT / "ops" / "clipage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_thePageOfCommandsIsWhatTheGrammarSays(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = pageTool()
    text = tool.PAGE.read_text()
    assert tool.page(text) == text, "make format"
    helped = "say everything about a buffer"
    changed = tool.grammar.helpsOf
    monkeypatch.setattr(
        tool.grammar, "helpsOf", lambda parser: {**changed(parser), "describe": f"{helped} at once"}
    )
    assert tool.page(text) != text, "the check can fail"


def test_thePageHasNotesOnCommandsThatThereAre() -> None:
    tool = pageTool()
    commands = tool.grammar.commandsOf(tool.grammar.parserOf("muninn"))
    assert set(tool.NOTES) <= set(commands)
    with pytest.raises(ValueError, match="lacks the line"):
        tool.page("a page without marks")


def test_theGrammarIsTheSameForEachProgram(monkeypatch: pytest.MonkeyPatch) -> None:
    from muninn.cli import grammar

    for called, prog in (
        ("/usr/bin/muninn", "muninn"),
        ("muninctl", "muninctl"),
        ("/x/muninn/__main__.py", "python -m muninn"),
        ("-c", "python -m muninn"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        assert grammar.program() == prog
