"""Completion: the scripts in their own shells, and the words that they ask for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from inspector import run

import muninn
from muninn.cli import completion, grammar
from muninn.session.membership import current
from muninn.storage.paths import Paths

#: What follows the program's name → words among its completions, and words that are not.
ASKED = [
    ("", ("list", "free", "purge"), ("weights",)),
    ("fre", ("free",), ("list",)),
    ("list --mo", ("--mode",), ("--tenant",)),
    ("list --mode ", ("bigMode", "fastMode"), ("--json",)),
    ("open --access copy", ("copyOnWrite",), ("readOnly",)),
    ("free ", ("weights", "tables"), ("bigMode",)),
    ("free weights ta", ("tables",), ("weights",)),
    ("describe --name w", ("weights",), ("tables",)),
    ("completion z", ("zsh",), ("bash",)),
    ("plan ", ("check", "apply"), ("weights",)),
    ("top --sort ", ("name", "size"), ("weights",)),
    ("prof --only open-", ("open-again",), ("exchange",)),
]
EVIL = "x$(touch evil)`touch evil`;y"


@pytest.fixture
def names(domain: str) -> str:
    for name in ("weights", "tables"):
        muninn.share(b"x", name=name).close()
    current().leave()
    return domain


def inShell(shell: str, code: str, folder: Path) -> str:
    """Run code in a shell that has the completion of `muninn` on its path."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here: apt-get install {shell}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [shell, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=folder,
        env={**os.environ, "PATH": path, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def inBash(line: str, folder: Path) -> list[str]:
    words = ["muninn", *line.split(" ")]
    spelt = " ".join(f"'{word}'" for word in words)
    code = (
        f"source <(muninn completion bash)\nCOMP_WORDS=({spelt})\nCOMP_CWORD={len(words) - 1}\n"
        'compopt() { :; }\n_muninn\nprintf "%s\\n" "${COMPREPLY[@]}"'
    )
    return inShell("bash", code, folder).splitlines()


def inFish(line: str, folder: Path) -> list[str]:
    shown = inShell("fish", f"muninn completion fish | source; complete -C 'muninn {line}'", folder)
    return [each.partition("\t")[0] for each in shown.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(("line", "wanted", "unwanted"), ASKED)
def test_completesByTheGrammarAndByLiveNames(
    names: str,
    tmp_path: Path,
    shell: str,
    line: str,
    wanted: tuple[str, ...],
    unwanted: tuple[str, ...],
) -> None:
    found = {"bash": inBash, "fish": inFish}[shell](line, tmp_path)
    assert set(wanted) <= set(found), found
    assert not set(unwanted) & set(found), found


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("fre", "muninn free"),
        ("free w", "muninn free weights"),
        ("list --mode f", "--mode fastMode"),
        ("plan ch", "plan check"),
        ("plan check pla", "plan check plan.toml"),
        ("top --sort na", "--sort name"),
    ],
)
def test_zshCompletesOnATerminal(names: str, tmp_path: Path, line: str, wanted: str) -> None:
    (tmp_path / "plan.toml").touch()
    code = f"""
zmodload zsh/zpty
zpty shell "PS1= zsh -f -i"
zpty -w shell "autoload -U compinit; compinit -u -D; source <(muninn completion zsh); echo REA''DY"
zpty -r -m shell line '*READY*'
zpty -w -n shell "muninn {line}"$'\\t'
zpty -r -m shell line '*{wanted}*' && print -r -- done
zpty -d shell
"""
    assert inShell("zsh", code, tmp_path).endswith("done\n")


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_aNameIsNoCode(domain: str, tmp_path: Path, shell: str) -> None:
    muninn.share(b"x", name=EVIL).close()
    current().leave()
    found = {"bash": inBash, "fish": inFish}[shell]("free x", tmp_path)
    assert len(found) == 1 and found[0].startswith("x")
    assert not (tmp_path / "evil").exists()


def test_toAskForNamesMakesNoDomain(domain: str) -> None:
    assert run("completion", "names").stdout.strip() == ""
    assert not os.path.exists(Paths(os.getuid(), domain).directory)


def test_theNamesOfAnotherDomainAreAskedFor(names: str, tmp_path: Path) -> None:
    assert inBash("--domain elsewhere free ", tmp_path) in ([], [""])
    assert "weights" in inBash(f"--domain {names} free ", tmp_path)


def test_everyCommandAndOptionIsInEachScript() -> None:
    parser = grammar.parserOf("muninn")
    commands = grammar.commandsOf(parser)
    scripts = {shell: make() for shell, make in completion._SHELLS.items()}
    for name, command in commands.items():
        for shell, script in scripts.items():
            assert name in script
            for action in command._actions:
                for option in action.option_strings:
                    spelt = (
                        f"-l {option[2:]} " if shell == "fish" and option[:2] == "--" else option
                    )
                    assert spelt in script or shell == "fish", (shell, name, option)


def test_programsGetTheWordsAlone() -> None:
    told = json.loads(run("completion", "bash", "--json").stdout)
    assert "--version" in told["options"]
    assert "--dry-run" in told["commands"]["purge"]


def test_anotherShellIsWrongUsage() -> None:
    done = run("completion", "tcsh")
    assert done.returncode == 2 and "'tcsh' is no shell: bash, zsh or fish" in done.stderr


def test_theValuesOfOptionsAreThoseOfTheGrammar() -> None:
    """A value that is offered names an option or an argument that exists."""
    own, commands = completion.tables()
    words = [*own, *(word for _, each in commands.values() for word in each)]
    spelt = {option for word in words for option in word.options}
    metavars = {"SHELL", "ROW"}
    assert set(completion._VALUES) <= spelt | metavars
