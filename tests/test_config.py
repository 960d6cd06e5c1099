"""Settings: where they come from, in which order, and what is refused with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from muninn.config import asBytes, loadSettings
from muninn.config.settings import _TABLE_OF_KEY, DEFAULTS, variableOf
from muninn.errors import InvalidArgument, InvalidConfig


def test_laterSourcesWin(tmp_path: Path) -> None:
    file = tmp_path / "muninn.toml"
    file.write_text('[control]\ntakeoverMs = 400\nmaxMembers = 10\n[memory]\nbigModeMaxBytes = "2G"\n')
    environ = {"MUNINN_CONFIG": str(file), "MUNINN_TAKEOVER_MS": "500"}
    settings = loadSettings(environ, {"maxLeases": 9})
    assert settings.control.takeoverMs == 500
    assert settings.control.maxMembers == 10
    assert settings.control.maxLeases == 9
    assert settings.memory.bigModeMaxBytes == 2 << 30
    assert settings.control.maxBuffers == loadSettings({}).control.maxBuffers


def test_everyKeyHasADefaultAndAComment() -> None:
    lines = [line for line in DEFAULTS.read_text().splitlines() if re.match(r"\w+ = ", line)]
    assert {line.split(" = ")[0] for line in lines} == set(_TABLE_OF_KEY)
    assert all("#" in line for line in lines)


def test_variablesAreNamedAfterKeys() -> None:
    assert variableOf("takeoverMs") == "MUNINN_TAKEOVER_MS"
    assert variableOf("hostGpuBytes") == "MUNINN_HOST_GPU_BYTES"
    assert loadSettings({"MUNINN_HOST_GPU_BYTES": "3M"}).devices.hostGpuBytes == 3 << 20


@pytest.mark.parametrize(
    ("text", "sizeBytes"),
    [("0", 0), ("17", 17), ("64K", 65536), ("512G", 512 << 30), ("1.5M", 3 << 19), ("2 GiB", 2 << 30), ("1tb", 1 << 40), ("7B", 7)],
)
def test_readsSizes(text: str, sizeBytes: int) -> None:
    assert asBytes(text) == sizeBytes


@pytest.mark.parametrize("text", ["", "K", "-1", "1Q", "1e3", "99999999P", "1 0", "0x10", "٣K", "1.K"])
def test_refusesWhatIsNoSize(text: str) -> None:
    with pytest.raises(InvalidArgument):
        asBytes(text)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("[control]\ntakeoverMs = 'soon'\n", ":2", "takeoverMs"),
        ("[control]\n\ntakeoverMs = true\n", ":3", "takeoverMs"),
        ("[control]\ntakeoverMs = -1\n", ":2", "between"),
        ("[memory]\nbigModeMaxBytes = '5Q'\n", ":2", "no size"),
        ("[control]\n# c\nfoo = 1\n", ":3", "foo"),
        ("[memory]\ntakeoverMs = 4\n", ":2", r"belongs to \[control\]"),
        ("[nonsense]\na = 1\n", ":1", "nonsense"),
        ("[server]\nudsPath = '/x'\n", ":2", "sockets live in"),
        ("[memory]\nnvmeEnabled = true\n", ":2", "NVMe"),
        ("[topology]\npreferP2P = true\n", ":1", "routes"),
        ("control = 3\n", "", "control"),
        ("[control\n", "", "Expected"),
        ("[control]\ndomain = 'a b'\n", ":2", "domain"),
        ("[devices]\ndevice = 'tpu'\n", ":2", "auto, host, cuda"),
        ("[security]\nhandleBytes = 32\n", ":2", "handleBytes"),
    ],
)
def test_refusesAFileWithItsLine(tmp_path: Path, text: str, place: str, words: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(InvalidConfig, match=words) as caught:
        loadSettings({"MUNINN_CONFIG": str(file)})
    assert f"{file}{place}" in caught.value.reason


def test_refusesAFileThatCanNotBeRead(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(InvalidConfig, match=re.escape(str(path))):
            loadSettings({"MUNINN_CONFIG": str(path)})
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidConfig):
        loadSettings({"MUNINN_CONFIG": str(binary)})


@pytest.mark.parametrize("variable", ["MUNINN_FOO", "MUNINN_UDS_PATH", "MUNINN_takeoverMs"])
def test_refusesUnknownVariables(variable: str) -> None:
    with pytest.raises(InvalidConfig, match=variable):
        loadSettings({variable: "1"})


def test_namesTheVariableOrArgumentThatIsWrong() -> None:
    with pytest.raises(InvalidConfig, match="variable MUNINN_MAX_MEMBERS"):
        loadSettings({"MUNINN_MAX_MEMBERS": "many"})
    with pytest.raises(InvalidConfig, match="argument maxMembers"):
        loadSettings({}, {"maxMembers": 0})
    with pytest.raises(InvalidConfig, match="argument unheard"):
        loadSettings({}, {"unheard": 0})
