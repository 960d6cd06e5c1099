"""The example programs, as a reader would run them, on a machine without a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import muninn
from muninn.storage.paths import Paths
from support import BOUND_SECONDS, eventually, leftovers

EXAMPLES = Path(__file__).parent.parent / "examples"


#: The programs that a reader starts; the others are parts of these.
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text())


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def needLibrary(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: make interop")


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_weightsAreServedByWorkersOfEachLibrary(domain: str, library: str) -> None:
    needLibrary(library)
    ran = run(f"weights{library}")
    assert ran.returncode == 0, ran.stderr
    assert re.search("workers (give|compute) one answer", ran.stdout)
    assert leftovers(domain) == []


@pytest.mark.parametrize(
    ("name", "library"),
    [("withnumba", "numpy"), ("withtorch", "torch"), ("withjax", "jax")],
)
def test_aTensorIsSharedWithEachLibrary(domain: str, name: str, library: str) -> None:
    needLibrary(library)
    # Broken: the second found the name taken, because the first had left its memory.
    for _ in range(2):
        ran = run(name)
        assert ran.returncode == 0, ran.stderr
        assert "both processes see one" in ran.stdout
        assert leftovers(domain) == []


@pytest.mark.parametrize("name", ["withcupy", "vram", "stream"])
def test_aProgramThatNeedsAGpuSaysSo(domain: str, name: str) -> None:
    ran = run(name)
    assert ran.returncode == 2
    assert "GPU" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("producer", ("--seconds", "-1")),
        ("producer", ("--seconds", "nan")),
        ("producer", ("--count", "0")),
        ("consumer", ("--wait", "inf")),
        ("stream", ("0",)),
        ("stream", ("0.01", "0", "1")),
        ("stream", ("0.01", "1", "-1")),
        ("vram", ("3", "0")),
        ("vram", ("-1",)),
        ("routes", ("0",)),
        ("consumer", ("--target-gpu", "-1")),
    ],
)
def test_aNumberThatCanNotBeIsAUsageError(
    domain: str, name: str, arguments: tuple[str, ...]
) -> None:
    """Broken: the program ended with a traceback, waited for a minute, or printed `-1
    frames … -0.0 GiB/s`.
    """
    ran = run(name, *arguments)
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: ") and f"{name}.py: error: argument " in ran.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("consumer", ("--wait", "0"), "MNN-0011"),
        ("producer", ("--buffer", ""), "MNN-0026"),
        ("embedder", ("nothing",), "MNN-0011"),
        ("embedder", ("array",), "MNN-0012"),
        ("embedder", ("another",), "the bundle 'another' has no "),
        ("sharer", ("array",), "MNN-0028"),
    ],
)
def test_aRefusalIsSaidInALine(
    domain: str, name: str, arguments: tuple[str, ...], expected: str
) -> None:
    with (
        muninn.share(b"abc", name="array") as array,
        muninn.shareBundle({"key": b"abc"}, name="another") as another,
    ):
        ran = run(name, *arguments)
        array.free()
        another.free()
    assert ran.returncode == 1
    assert ran.stderr.startswith(expected) and ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ("", "outperforms"),
        ("0-1=none", "p2p can not be (peerDenied)"),
        ("0-1=corrupt", "no way over the link"),
        ("0-1=slow:20M", "Staged outperforms P2P here"),
    ],
)
def test_eachRouteBetweenTwoGpusIsTried(
    domain: str, monkeypatch: pytest.MonkeyPatch, links: str, expected: str
) -> None:
    """Demo C, as it is on a machine with fewer GPUs, and on bad links."""
    if links:
        monkeypatch.setenv("MUNINN_DEVICE", "host")
        monkeypatch.setenv("MUNINN_HOST_GPUS", "2")
        monkeypatch.setenv("MUNINN_HOST_LINKS", links)
    ran = run("routes", "4")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert expected in ran.stdout and "WRONG" not in ran.stdout
    assert ("so two are emulated" in ran.stdout) == (not links)
    rows = {line.split()[0]: line.split()[1:5] for line in ran.stdout.splitlines()[3:7]}
    assert [rows["staged"][place] for place in (0, 3)] == ["staged", "right"]
    assert rows.keys() == {"-", "p2p", "staged", "mapped"}
    assert leftovers(domain) == []


@pytest.mark.parametrize(
    ("name", "arguments"), [("hints", ("2000",)), ("routes", ("4",)), ("withnumba", ())]
)
def test_aProgramLeavesNoBufferInADomainThatGoesOn(
    domain: str, monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple[str, ...]
) -> None:
    """Broken: `hints` left its named table at each run, and `routes` its array in VRAM."""
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")
    with muninn.share(b"abc", name="mine") as mine:
        ran = run(name, *arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        eventually(
            lambda: [each["name"] for each in muninn.listBuffers()] == ["mine"],
            "no buffer of the program",
        )
        mine.free()


@pytest.fixture
def tensor(monkeypatch: pytest.MonkeyPatch, domain: str) -> Iterator[muninn.MuninnBuffer]:
    """What `muninctl alloc --mode fastMode --gpu 0 --name tensorY` makes."""
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")
    with muninn.MuninnBuffer("1M", "fastMode", 0, name="tensorY") as buffer:
        yield buffer


def test_theConsumerCopiesToAnotherGpu(tensor: muninn.MuninnBuffer) -> None:
    with tensor.write() as view:
        view[:] = 3
    ran = run("consumer", "--buffer", "tensorY", "--target-gpu", "1")
    assert ran.returncode == 0, ran.stderr
    said, last = ran.stdout.splitlines()
    assert re.match(r"tensorY to GPU 1: p2p \(peerAccess\), 1048576 bytes in .* GB/s", said)
    assert last == "nothing new for 2 s"
    absent = run("consumer", "--buffer", "tensorY", "--target-gpu", "2")
    assert absent.returncode == 1 and absent.stderr.startswith("MNN-0029")


def test_theConsumerCopiesEachPublicationToTheGpu(tensor: muninn.MuninnBuffer) -> None:
    command = ["-W", "ignore", str(EXAMPLES / "consumer.py"), "--buffer", "tensorY"]
    consumer = subprocess.Popen(
        [sys.executable, *command, "--target-gpu", "1"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert consumer.stdout is not None and "tensorY to GPU 1" in consumer.stdout.readline()
        with tensor.write() as view:
            view[:] = 3
        seen, _ = consumer.communicate(timeout=BOUND_SECONDS)
    finally:
        consumer.kill()
    assert "generation 2: p2p (peerAccess), 1048576 bytes" in seen and consumer.returncode == 0


def test_theProducerPublishesToABufferThatIsThere(tensor: muninn.MuninnBuffer) -> None:
    for number, name in enumerate(("tensorY", "onHost"), 1):
        with muninn.share(bytes(100), name="onHost") as onHost:
            ran = run("producer", "--buffer", name, "--count", str(number), "--seconds", "0")
            assert ran.returncode == 0, ran.stderr
            assert f"published {number} as generation {2 * number}" in ran.stdout
            written = tensor if name == "tensorY" else onHost
            assert (written.read() == number).all()
            onHost.free()


@pytest.mark.parametrize("name", PROGRAMS)
def test_eachExplainsItself(domain: str, name: str) -> None:
    """Broken: some programs took `--help` for a number and ended with a traceback;
    others ignored it and ran, or took it for the name of the buffer.
    """
    ran = run(name, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("usage: ") and "Traceback" not in run(name, "--bogus").stderr
    assert not Path(Paths(os.getuid(), domain).linkPath).exists()
