"""The graph of imports, file by file. Imports inside functions and under
`TYPE_CHECKING` count like all others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

#: From a module's dotted name to the modules that it imports.
Graph = Mapping[str, frozenset[str]]


def graphOf(root: Path, package: str) -> Graph:
    """The graph of a package that lies in `root`, without the modules that it imports
    from outside.
    """
    files = {
        _nameOf(path.relative_to(root)): path for path in sorted((root / package).rglob("*.py"))
    }
    return {name: frozenset(_imported(path, name, files)) - {name} for name, path in files.items()}


def _nameOf(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imported(path: Path, name: str, files: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (
                _module(alias.name, files) for alias in node.names if _module(alias.name, files)
            )
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, name, isPackage=path.name == "__init__.py")
            for alias in node.names:
                # A name of a package is a module of it, or something that its
                # `__init__` defines.
                found = _module(
                    f"{base}.{alias.name}" if f"{base}.{alias.name}" in files else base, files
                )
                if found:
                    yield found


def _absolute(node: ast.ImportFrom, name: str, isPackage: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = name.split(".") if isPackage else name.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def _module(dotted: str, files: Mapping[str, Path]) -> str:
    """The module of the package that contains a dotted name; empty when none contains
    it.
    """
    while dotted and dotted not in files:
        dotted = dotted.rpartition(".")[0]
    return dotted


def circlesOf(graph: Graph) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan 1972), sorted."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    circles = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in order:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], order[target])
        if lowest[module] == order[module]:
            at = stack.index(module)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                circles.append(sorted(component))

    for module in graph:
        if module not in order:
            visit(module)
    return sorted(circles)


def layersOf(graph: Graph) -> dict[str, set[str]]:
    """From each first-level part of a package to the parts that it imports."""
    parts: dict[str, set[str]] = {}
    for module, targets in graph.items():
        part = module.split(".")[1:2]
        for target in targets:
            other = target.split(".")[1:2]
            if part and other and part != other:
                parts.setdefault(part[0], set()).add(other[0])
    return parts
