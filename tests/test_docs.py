"""The documentation is true: its runnable blocks run, its links lead somewhere, its
tables are complete.

A fenced block that begins with ``python runnable`` or ``sh runnable`` is a program of
its own; all blocks of a page share a domain and a folder, and run in the order of the
page. A block ``text output`` behind it is the text that it prints, where ``...`` stands
for anything.
"""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from muninn.cli import grammar
from muninn.control.geometry import Geometry
from muninn.errortable import ERRORS, ErrorRow
from support import BOUND_SECONDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A runnable block of a page and the text that it should print; `output` is None
    when the page does not say.
    """

    line: int
    language: str
    code: str
    output: str | None


def blocksOf(page: Path) -> list[Block]:
    text = page.read_text()
    fences = [
        (match[1].strip(), match[2], text.count("\n", 0, match.start()) + 2)
        for match in _FENCE.finditer(text)
    ]
    followers = [*fences[1:], ("", "", 0)]
    return [
        Block(line, kind.split()[0], code, following[1] if following[0] == "text output" else None)
        for (kind, code, line), following in zip(fences, followers, strict=False)
        if kind in ("python runnable", "sh runnable")
    ]


def prose(page: Path) -> str:
    """The text of a page without its code."""
    return re.sub(r"`[^`\n]*`", "``", _FENCE.sub("", page.read_text()))


def slug(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def anchorsOf(page: Path) -> set[str]:
    return {slug(heading) for heading in _HEADING.findall(_FENCE.sub("", page.read_text()))}


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if blocksOf(page)], ids=relative)
def test_runnableBlocksPrintWhatThePageSays(
    page: Path, request: pytest.FixtureRequest, domain: str
) -> None:
    checker, flags = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    folder: Path = request.getfixturevalue("tmp_path")
    # `python` in a shell block is this interpreter.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = {**os.environ, "MUNINN_DOMAIN": domain, "PATH": path}
    for block in blocksOf(page):
        program = [sys.executable, "-c"] if block.language == "python" else ["bash", "-e", "-c"]
        ended = subprocess.run(
            [*program, block.code],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=BOUND_SECONDS,
            check=False,
            env=environment,
        )
        assert ended.returncode == 0, f"{page}:{block.line}: {ended.stderr}"
        if block.output is not None:
            right = checker.check_output(block.output, ended.stdout, flags)
            assert right, f"{page}:{block.line} prints\n{ended.stdout}\nand not\n{block.output}"


def test_manyBlocksAreRunnable() -> None:
    assert sum(len(blocksOf(page)) for page in PAGES) >= 10


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_linksLeadSomewhere(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page} links to {target}"
        assert not anchor or anchor in anchorsOf(found), (
            f"{page} links to {target}, which has no such heading"
        )


@pytest.mark.parametrize(
    "index", [ROOT / "docs" / "index.md", ROOT / "docs" / "design" / "0000-index.md"], ids=relative
)
def test_indexLinksEveryPage(index: Path) -> None:
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in _LINK.findall(index.read_text())
    }
    assert set(index.parent.glob("*.md")) - linked - {index} == set()


def test_contributingMapsEveryModule() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for layer in sorted(
        {path.parent.name for path in (ROOT / "muninn").glob("*/__init__.py")} - {"kernels"}
    ):
        modules = {path.name for path in (ROOT / "muninn" / layer).glob("*.py")} - {"__init__.py"}
        assert not {
            module
            for module in modules
            if f"`{module}`" not in page and f"`{layer}/{module}`" not in page
        }, f"CONTRIBUTING.md does not map all of muninn/{layer}"


def test_troubleshootingHasEveryCodeAndNoOther() -> None:
    headings = _HEADING.findall((ROOT / "docs" / "troubleshooting.md").read_text())
    assert [heading for heading in headings if heading.startswith("MNN-")] == [
        f"{row.code} {row.name}" for row in ERRORS
    ]


@pytest.mark.parametrize("row", ERRORS, ids=[row.code for row in ERRORS])
def test_troubleshootingAgreesWithTheTableOfErrors(row: ErrorRow) -> None:
    section = (
        (ROOT / "docs" / "troubleshooting.md")
        .read_text()
        .partition(f"## {row.code} {row.name}\n")[2]
        .partition("\n## ")[0]
    )
    assert f"> {row.meaning}. {row.fix}. ({row.category})" in section
    for part in ("**You see.** ", "**Why.** ", "**Do.** "):
        assert part in section


def asToml(value: object) -> str:
    """A default as the page shows it."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def test_configurationPageHasEveryKeyAndItsDefault() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    defaults = tomllib.loads((ROOT / "muninn" / "config" / "defaults.toml").read_text())
    for table, keys in defaults.items():
        section = page.partition(f"## `[{table}]`\n")[2].partition("\n## ")[0]
        documented = re.findall(r"^\| `(\w+)` \| (`.+?`) \|", section, re.MULTILINE)
        assert documented == [(key, asToml(value)) for key, value in keys.items()], f"[{table}]"


def test_examplesTalkToEachOther(domain: str) -> None:
    consumer = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "consumer.py")], stdout=subprocess.PIPE, text=True
    )
    try:
        producer = [
            sys.executable,
            str(ROOT / "examples" / "producer.py"),
            "--count",
            "3",
            "--seconds",
            "0.5",
        ]
        published = subprocess.run(
            producer, capture_output=True, text=True, timeout=BOUND_SECONDS, check=True
        ).stdout
        seen, _ = consumer.communicate(timeout=BOUND_SECONDS)
    finally:
        consumer.kill()
    assert "published 3 as generation 6" in published
    assert "generation 6: [3. 3. 3. 3.]" in seen
    assert consumer.returncode == 0


def test_reliabilityNamesTestsThatExist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    written = {
        name
        for file in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert named and named <= written, named - written


def test_theControlBlockIsAsLargeAsThePageSays() -> None:
    control = tomllib.loads((ROOT / "muninn" / "config" / "defaults.toml").read_text())["control"]
    totalBytes = Geometry.of(
        control["maxMembers"], control["maxBuffers"], control["maxLeases"]
    ).totalBytes
    (said,) = re.findall(
        r"the control block has (\d+) MB of address space",
        (ROOT / "docs" / "configuration.md").read_text(),
    )
    assert int(said) == round(totalBytes / 1e6)


def test_thePagesCountTheErrorsRightly() -> None:
    assert re.findall(r"(\d+) error codes", (ROOT / "CHANGELOG.md").read_text()) == [
        str(len(ERRORS))
    ]


@pytest.mark.parametrize("row", ERRORS, ids=[row.code for row in ERRORS])
def test_aCodeThatCanBeMetIsNotSaidToBeOfLater(row: ErrorRow) -> None:
    """Broken: three codes that programs on a GPU meet were documented as those of a
    later version.
    """
    section = (
        (ROOT / "docs" / "troubleshooting.md")
        .read_text()
        .partition(f"## {row.code} {row.name}\n")[2]
        .partition("\n## ")[0]
    )
    sources = "".join(
        path.read_text()
        for path in (ROOT / "muninn").rglob("*.py")
        if path.name not in ("errors.py", "errortable.py")
    )
    isMet = re.search(rf"\b{row.name}\b", sources) is not None
    assert isMet != ("should not meet this code yet" in section)
    assert not isMet or "only the host back-end" not in section


def test_keysThatPagesNameExist() -> None:
    """Each `table.key` on a page is a key of the configuration."""
    defaults = tomllib.loads((ROOT / "muninn" / "config" / "defaults.toml").read_text())
    for page in PAGES:
        for table, key in re.findall(r"`(" + "|".join(defaults) + r")\.(\w+)`", page.read_text()):
            assert key == "py" or key in defaults[table], f"{page} names {table}.{key}"


def test_commandsThatPagesNameExist() -> None:
    there = grammar.commandsOf(grammar.parserOf("muninn"))
    assert len(there) > 10
    for page in PAGES:
        for command in re.findall(r"python -m muninn ([a-z]+)", page.read_text()):
            assert command in there, f"{page} names {command}"
        for target in re.findall(r"`make ([a-z]+)", page.read_text()):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), (
                f"{page} names make {target}"
            )


def sentencesTool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sentences", ROOT / "ops" / "sentences.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_pagesHaveOneSentenceALine() -> None:
    """`make format` breaks the lines of the pages."""
    tool = sentencesTool()
    assert [
        relative(page)
        for page in tool.pages()
        if tool.laidOut(page.read_text()) != page.read_text()
    ] == []


@pytest.mark.parametrize(
    ("written", "laidOut"),
    [
        ("One. Two\nends. (Three.) four ends.\n", "One.\nTwo ends.\n(Three.) four ends.\n"),
        (
            "- One. Two.\n  Three.\n1. Four? Five.\n",
            "- One.\n  Two.\n  Three.\n1. Four?\n   Five.\n",
        ),
        ("**Label.** One, e.g. Two. Three.\n", "**Label.** One, e.g. Two.\nThree.\n"),
        ("`code. Code` and [a. B](c). Two.\n", "`code. Code` and [a. B](c).\nTwo.\n"),
        ("One. - Two. # Three.\n", "One. - Two. # Three.\n"),
        (
            "```sh\nOne. Two.\n```\n| One. Two. |\n> One. Two.\n",
            "```sh\nOne. Two.\n```\n| One. Two. |\n> One. Two.\n",
        ),
        (
            "<!-- One. Two.\nThree. Four. -->\n# One. Two.\n",
            "<!-- One. Two.\nThree. Four. -->\n# One. Two.\n",
        ),
    ],
    ids=["paragraph", "lists", "label", "code", "markers", "kept", "html"],
)
def test_aPageIsLaidOutWithoutChangingWhatItShows(written: str, laidOut: str) -> None:
    tool = sentencesTool()
    assert tool.laidOut(written) == laidOut
    assert tool.laidOut(laidOut) == laidOut
