"""The sites at which a function changes or awaits a word of other threads and
processes, and the comments that name the peer of each.

A comment reads `SYNC <name>: pairs with <function>[ and <function>]`, and then says in
words which data become visible to which side.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

#: Calls that change a word, or sleep on one. Loads are the other ends; the names in the
#: comments lead to them.
_CHANGES = re.compile(
    r"^(store|exchange|cas|fetchAdd|raiseField|futexWait|futexWake)\w*\d$|^watch$|^kickWatcher$"
)
_SLEEPS = "sleepOn"
_C_CHANGES = re.compile(
    r"\bmnn(?:Cas|Exchange|StoreRelease|FetchAdd|FutexWait|FutexWake|RaiseField)\w*\(|\bcas32\("
    r"|\b__atomic_(?:store|exchange|compare_exchange|fetch_\w+|\w+_fetch)\w*\((?![^;]*__ATOMIC_RELAXED)|\bSYS_futex"
)
_C_FUNCTION = re.compile(r"^[a-z][\w \t*]*?\b(\w+)\([^;{]*?\)\s*\{", re.MULTILINE)
_SAID = re.compile(r"SYNC (\w+): pairs with ([A-Za-z_][\w.]*(?: and [A-Za-z_][\w.]*)*)")


class Function(NamedTuple):
    """A function of the source, with the comment above it where it is C.

    Attributes
    ----------
    changes
        The lines at which it changes a word or sleeps on one, counted in the file.
    """

    name: str
    file: str
    text: str
    changes: Sequence[int]


class Pair(NamedTuple):
    """The content of one comment."""

    name: str
    peers: tuple[str, ...]


def pairsIn(function: Function) -> list[Pair]:
    """The pairs that the comments of a function name. A comment may be broken into
    lines anywhere.
    """
    joined = re.sub(r"\s*\n\s*(?:#|\*|//)?\s*", " ", function.text)
    return [
        Pair(name, tuple(peer.rstrip(".") for peer in peers.split(" and ")))
        for name, peers in _SAID.findall(joined)
    ]


def functionsOfPython(file: str, source: str) -> Iterator[Function]:
    """All functions of a module, by their dotted names. A function that is defined
    inside another one belongs to both.
    """
    lines = source.split("\n")

    def walk(node: ast.AST, path: tuple[str, ...]) -> Iterator[Function]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            path = (*path, node.name)
        if isinstance(node, ast.FunctionDef):
            changes = [
                call.lineno
                for call in ast.walk(node)
                if isinstance(call, ast.Call) and _isChange(call.func)
            ]
            yield Function(
                ".".join(path), file, "\n".join(lines[node.lineno - 1 : node.end_lineno]), changes
            )
        for child in ast.iter_child_nodes(node):
            yield from walk(child, path)

    yield from walk(ast.parse(source), ())


def _isChange(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == _SLEEPS
    through = (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "atomics"
    )
    return (
        through
        and isinstance(function, ast.Attribute)
        and _CHANGES.match(function.attr) is not None
    )


def functionsOfC(file: str, source: str) -> Iterator[Function]:
    """The functions of a C file; each begins with the comment above it."""
    starts = list(_C_FUNCTION.finditer(source))
    for match in starts:
        begin, end = match.end(), match.end()
        depth = 1
        while depth and end < len(source):
            depth += {"{": 1, "}": -1}.get(source[end], 0)
            end += 1
        above = source[: match.start()].rstrip()
        first = above.rfind("/*") if above.endswith("*/") else match.start()
        code = re.sub(
            r"/\*.*?\*/",
            lambda comment: "\n" * comment[0].count("\n"),
            source[begin:end],
            flags=re.DOTALL,
        )
        line = source.count("\n", 0, begin) + 1
        changes = [line + code.count("\n", 0, found.start()) for found in _C_CHANGES.finditer(code)]
        yield Function(match[1], file, source[first:end], changes)


def functions(root: Path) -> list[Function]:
    """All functions of `muninn` and `cshim`."""
    found: list[Function] = []
    for path in sorted((root / "muninn").rglob("*.py")):
        found += functionsOfPython(str(path.relative_to(root)), path.read_text())
    for path in sorted((root / "cshim").glob("*.c")):
        found += functionsOfC(str(path.relative_to(root)), path.read_text())
    return found


def unpaired(found: Sequence[Function], exempt: set[str]) -> list[str]:
    """The errors: a change without a comment, a peer that does not exist, a name that
    stands at one end only.
    """
    wrong = []
    for function in found:
        pairs = pairsIn(function)
        if function.changes and not pairs and function.name not in exempt:
            wrong += [
                f"{function.file}:{line}: {function.name} does not say with what it pairs"
                for line in function.changes
            ]
        for name, peers in pairs:
            for peer in peers:
                ends = [
                    other
                    for other in found
                    if other.name == peer or other.name.endswith(f".{peer}")
                ]
                if not ends:
                    wrong.append(
                        f"{function.file}: {function.name}: SYNC {name} pairs with {peer}, which does not exist"
                    )
                elif not any(name == pair.name for end in ends for pair in pairsIn(end)):
                    wrong.append(
                        f"{function.file}: {function.name}: SYNC {name} pairs with {peer}, which does not say so"
                    )
    return wrong
