"""Settings: their sources and the order of these; a refused value is reported with its
source and line.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from muninn.config import asBytes, loadSettings, variables
from muninn.config.settings import _TABLE_OF_KEY, DEFAULTS, variableOf
from muninn.config.sizes import asText, exactly
from muninn.control.geometry import Geometry
from muninn.errors import InvalidArgument, InvalidConfig


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """A fresh folder; pytest's own name for it is not in our style."""
    path: Path = request.getfixturevalue("tmp_path")
    return path


def test_laterSourcesWin(folder: Path) -> None:
    file = folder / "muninn.toml"
    file.write_text(
        '[control]\ntakeoverMs = 400\nmaxMembers = 10\n[memory]\nbigModeMaxBytes = "2G"\n'
    )
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
    assert variableOf("preferP2P") == "MUNINN_PREFER_P2P"
    assert loadSettings({"MUNINN_PREFER_P2P": "false"}).topology.preferP2P is False
    assert loadSettings({"MUNINN_CACHE_PATH": "-"}).topology.cachePath == "-"
    assert loadSettings({"MUNINN_HOST_GPU_BYTES": "3M"}).devices.hostGpuBytes == 3 << 20


@pytest.mark.parametrize(
    ("text", "sizeBytes"),
    [
        ("0", 0),
        ("17", 17),
        ("64K", 65536),
        ("512G", 512 << 30),
        ("1.5M", 3 << 19),
        ("2 GiB", 2 << 30),
        ("1tb", 1 << 40),
        ("7B", 7),
    ],
)
def test_readsSizes(text: str, sizeBytes: int) -> None:
    assert asBytes(text) == sizeBytes


def test_aSliceIsWholeWords() -> None:
    """Broken: a kernel compared slices of another size than those that were copied back, and
    writes were lost.
    """
    with pytest.raises(InvalidConfig, match="defaultSliceBytes: 4097 is no multiple of 8"):
        loadSettings({"MUNINN_DEFAULT_SLICE_BYTES": "4097"})


@pytest.mark.parametrize("text", ["9" * 20, "9" * 500, "-" + "1" * 30])
def test_aNumberWithTooManyDigitsIsOutOfRange(text: str) -> None:
    """Broken: the error said that the value is no whole number."""
    with pytest.raises(
        InvalidConfig, match=r"requestTimeoutMs: [-19]{1,40} is not between 100 and 3600000"
    ):
        loadSettings({"MUNINN_REQUEST_TIMEOUT_MS": text})


@pytest.mark.parametrize(
    ("sizeBytes", "text", "exact"),
    [
        (0, "0 B", "0 B"),
        (1023, "1023 B", "1023 B"),
        (1024, "1K", "1K"),
        (1536, "1.5K", "1.5K"),
        (100 << 10, "100K", "100K"),
        ((1 << 20) - 1, "1M", "1M (1048575 bytes)"),
        ((1 << 20) + 1, "1M", "1M (1048577 bytes)"),
        ((1 << 30) - 1, "1G", "1G (1073741823 bytes)"),
        (1023 << 30, "1023G", "1023G"),
        (1 << 50, "1P", "1P"),
        (1 << 56, "64P", "64P"),
    ],
)
def test_writesSizesAsItReadsThem(sizeBytes: int, text: str, exact: str) -> None:
    """Broken: a byte less than 1M was written as 1024K, and 1P, which can be read, was
    never written.
    """
    assert (asText(sizeBytes), exactly(sizeBytes)) == (text, exact)
    assert asBytes(text) == pytest.approx(sizeBytes, rel=0.05)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "K",
        "-1",
        "1Q",
        "1e3",
        "99999999P",
        "1 0",
        "0x10",
        "٣K",
        "1.K",
        "9" * 5000,
        "9" * 400 + ".5",
        "1\nK",
        "nan",
        "inf",
    ],
)
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
        ("[topology]\npreferP2P = 'perhaps'\n", ":2", "neither true nor false"),
        ("[topology]\npreferP2P = 1\n", ":2", "neither true nor false"),
        (
            "[topology]\ncachePath = 'topology.json'\n",
            ":2",
            "'topology.json' is not an absolute path",
        ),
        ("control = 3\n", ":1", "outside of a table"),
        ("[[control]]\ndomain = 'x'\n", ":1", "outside of a table"),
        ("\ntakeoverMs = 3\n", ":2", "outside of a table"),
        ("[control\n", ":1", "Expected"),
        ("[control]\n\ndomain = \n", ":3", "Invalid value"),
        ("[control]\ndomain = 'x'\ndomain = 'y'\n", ":3", "Cannot overwrite"),
        ("x = " + "[" * 5000, "", "read"),
        ("[memory]\n[control]\n'takeoverMs' = -1\n", ":3", "between"),
        ("control.takeoverMs = -1\n", ":1", "between"),
        ("# c\ncontrol = { takeoverMs = -1 }\n", ":2", "between"),
        (
            '[tenancy]\ndefaultTenant = """\n[control]\ntakeoverMs = 1\n"""\n',
            ":2",
            "control characters",
        ),
        ("[tenancy]\ndefaultTenant = 3\n", ":2", "no text"),
        ("[memory]\nbigModeMaxBytes = 1.5\n", ":2", "whole number"),
        ("[memory]\nbigModeMaxBytes = -1\n", ":2", "between"),
        ("[memory]\nbigModeMaxBytes = [1]\n", ":2", "whole number"),
        ("[server]\nlogLevel = ['debug']\n", ":2", "debug, info"),
        ("[devices]\nhostGpuBytes = 0\n", ":2", "between"),
        ("[server]\nudsPerm = '0700'\n", ":2", "0700, always"),
        ("[memory]\nnvmeEnabled = true\n", ":2", "not yet in this version"),
        ("[control]\ndomain = 'a b'\n", ":2", "domain"),
        ("[devices]\ndevice = 'tpu'\n", ":2", "auto, host, cuda"),
        ("[security]\nhandleBytes = 32\n", ":2", "handleBytes"),
    ],
)
def test_refusesAFileWithItsLine(folder: Path, text: str, place: str, words: str) -> None:
    file = folder / "bad.toml"
    file.write_text(text)
    with pytest.raises(InvalidConfig, match=words) as caught:
        loadSettings({"MUNINN_CONFIG": str(file)})
    assert f"{file}{place}" in caught.value.reason


def test_aKeyThatIsNoneIsAnsweredByThoseOfItsTable(folder: Path) -> None:
    """Broken: the error listed the keys of all tables, and not the nearest key of this
    table.
    """
    file = folder / "bad.toml"
    file.write_text("[memory]\nbigmodeMax = 1\n")
    with pytest.raises(
        InvalidConfig, match=r"bigmodeMax is not known \(bigModeMaxBytes\?\)"
    ) as caught:
        loadSettings({"MUNINN_CONFIG": str(file)})
    assert caught.value.fix == (
        "Use one of bigModeMaxBytes, fastModeMaxBytes, loadThreads, prefaultThreads"
    )


def test_refusesAFileThatCanNotBeRead(folder: Path) -> None:
    for path in (folder / "missing.toml", folder):
        with pytest.raises(InvalidConfig, match=re.escape(str(path))) as caught:
            loadSettings({"MUNINN_CONFIG": str(path)})
        assert "MUNINN_CONFIG" in caught.value.fix, "the fix names the variable to correct"
    with pytest.raises(InvalidConfig) as caught:
        loadSettings({"MUNINN_TAKEOVER_MS": ""})
    assert "unset it" in caught.value.fix
    binary = folder / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidConfig):
        loadSettings({"MUNINN_CONFIG": str(binary)})


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("MUNINN_TAKEOVER", "MUNINN_TAKEOVER_MS"),
        ("MUNINN_takeoverMs", "MUNINN_TAKEOVER_MS"),
        ("MUNINN_DOMIAN", "MUNINN_DOMAIN"),
    ],
)
def test_warnsOnceOfAVariableThatMeansNothing(
    variable: str, nearest: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: every call failed, also where the user had not set the variable."""
    monkeypatch.setattr(variables, "_warned", set())
    for _ in range(3):
        assert (
            loadSettings({variable: "1"}).control.takeoverMs == loadSettings({}).control.takeoverMs
        )
    assert [record.getMessage() for record in caplog.records] == [
        f"{variable!r} means nothing to Muninn: did you mean {nearest}?"
    ]
    loadSettings({"MUNINN_XYZZY": "1"})
    assert caplog.records[-1].getMessage() == "'MUNINN_XYZZY' means nothing to Muninn"


#: As `kubectl exec … env` prints the variables for Services `muninn` and
#: `muninn-metrics`, and Docker those for a linked container.
LINKS = {
    "MUNINN_SERVICE_HOST": "10.96.7.21",
    "MUNINN_SERVICE_PORT": "8080",
    "MUNINN_SERVICE_PORT_HTTP": "8080",
    "MUNINN_PORT": "tcp://10.96.7.21:8080",
    "MUNINN_PORT_8080_TCP": "tcp://10.96.7.21:8080",
    "MUNINN_PORT_8080_TCP_PROTO": "tcp",
    "MUNINN_PORT_8080_TCP_PORT": "8080",
    "MUNINN_PORT_8080_TCP_ADDR": "10.96.7.21",
    "MUNINN_PORT_53_UDP": "udp://[fd00::1]:53",
    "MUNINN_METRICS_SERVICE_HOST": "10.96.7.22",
    "MUNINN_METRICS_PORT": "tcp://10.96.7.22:9090",
    "MUNINN_METRICS_PORT_9090_TCP_ADDR": "10.96.7.22",
    "MUNINN_NAME": "/web/muninn",
    "MUNINN_ENV_PATH": "/usr/bin",
}


def test_variablesOfKubernetesAndDockerAreIgnored(caplog: pytest.LogCaptureFixture) -> None:
    """Broken: every pod of a namespace with a Service of that name got MNN-0001."""
    assert loadSettings(LINKS) == loadSettings({}) and not caplog.records
    assert loadSettings({"MUNINN_METRICS_PORT": "9090"}).server.metricsPort == 9090  # the setting


def test_aHandlerThatRaisesDoesNotKeepAProgramFromJoining(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(*_: object) -> None:
        raise RuntimeError("a handler of the program's")

    monkeypatch.setattr("logging.Logger.warning", raising)
    assert loadSettings({"MUNINN_QUUX": "1"}) == loadSettings({})


@pytest.mark.parametrize(
    ("variable", "words"),
    [("MUNINN_UDS_PATH", "sockets live in"), ("MUNINN_NVME_ENABLED", "not yet in this version")],
)
def test_saysWhyAVariableOfTheSpecificationMeansNothing(variable: str, words: str) -> None:
    with pytest.raises(InvalidConfig, match=words):
        loadSettings({variable: "1"})


@pytest.mark.parametrize("value", ["", "9" * 5000, "-1", "1.5", "٣", "1e3", "true"])
def test_refusesVariablesThatAreNoNumbers(value: str) -> None:
    with pytest.raises(InvalidConfig, match="variable MUNINN_LEASE_TTL_MS: leaseTtlMs"):
        loadSettings({"MUNINN_LEASE_TTL_MS": value})


def test_readsTheFileAsUtf8WhateverTheLocale(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    file = folder / "muninn.toml"
    file.write_text("[tenancy]\ndefaultTenant = 'Hüginn'\n", encoding="utf-8")
    assert loadSettings({"MUNINN_CONFIG": str(file)}).tenancy.defaultTenant == "Hüginn"


def test_loadsNoParserUntilItIsCalled() -> None:
    code = "import sys; import muninn.config; print('tomllib' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


def test_returnedSettingsCanNotBeChanged() -> None:
    with pytest.raises(AttributeError):
        loadSettings({}).control.takeoverMs = 1  # type: ignore[misc]


def test_namesTheVariableOrArgumentThatIsWrong() -> None:
    with pytest.raises(InvalidConfig, match="variable MUNINN_MAX_MEMBERS"):
        loadSettings({"MUNINN_MAX_MEMBERS": "many"})
    with pytest.raises(InvalidConfig, match="argument maxMembers"):
        loadSettings({}, {"maxMembers": 0})
    with pytest.raises(InvalidConfig, match="argument unheard"):
        loadSettings({}, {"unheard": 0})


def test_everyLimitThatIsTakenMakesAControlBlock() -> None:
    """Rows come in whole chunks. Broken: the largest `maxBuffers` was one chunk more
    than a control block can have.
    """
    largest = {"maxMembers": 4094, "maxBuffers": 1_048_320, "maxLeases": 65_536}
    control = loadSettings({}, largest).control
    assert (
        Geometry.of(control.maxMembers, control.maxBuffers, control.maxLeases).maxBuffers
        == control.maxBuffers
    )
    for key, value in largest.items():
        with pytest.raises(InvalidConfig, match=key):
            loadSettings({}, {key: value + 1})


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MUNINN_CACHE_PATH", "a/b", "an absolute path, or"),
        ("MUNINN_DOMAIN", "a b", "1 to 32 letters, digits, - and _"),
        ("MUNINN_HOST_LINKS", "0-1=none\n", "one line of at most 4096 characters"),
    ],
)
def test_aTextThatCanNotBeIsExplainedInWords(variable: str, value: str, words: str) -> None:
    """Broken: the error showed a regular expression."""
    with pytest.raises(InvalidConfig, match=f"{value!r} is not {words}".replace("\\", r"\\")):
        loadSettings({variable: value})
