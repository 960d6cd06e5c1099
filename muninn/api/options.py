"""The options of a new buffer: one declaration, from which every function that makes a
buffer takes its keywords.

`BufferOptions` states the name, the type, the default and the description of each
option. A function lists the options that it also takes by position, and takes the
others by `**options`. Its `**options` has one of the types below, which state the same
for type checkers: those can not derive a function's keywords from a dataclass
(`tests/test_options.py` compares both). `takesOptions` puts the options into the
function's signature and docstring.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypedDict, TypeVar, Unpack

from muninn.api.hints import HintKeywords
from muninn.arguments import callerOf, checkKeywords, keywordsOf
from muninn.terms import AccessWord, LifetimeWord, ModeWord, RenewWord, ReserveWord

Function = TypeVar("Function", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)
#: The place in a docstring where the descriptions of the options belong, with the
#: indentation of a parameter.
_PLACE = re.compile(r"^( *)\*\*options\n +\S.*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class BufferOptions:
    """The options of a buffer that is to be made, as the caller wrote them;
    `api/specs.py` checks their values.

    Attributes
    ----------
    name
        The name by which processes `open` it: 1 to 127 bytes of UTF-8. None makes a
        name up, and the buffer is freed with its last user.
    mode
        ``"bigMode"`` (host memory) or ``"fastMode"`` (VRAM of `preferredGpu`).
    preferredGpu
        The GPU in whose VRAM it is, for fastMode. For a bundle also a mapping from the
        beginnings of keys to GPUs: ``{"layers.0": 0, "layers.1": 1, "": 0}``.
    access
        The rights of other processes: ``"readOnly"`` (no process writes once it is
        shared), ``"readMostly"`` or ``"readWrite"``; ``"readMostly"`` unless configured
        otherwise.
    tenant
        The tenant whose quota the bytes count against.
    lifetime
        ``"keep"`` (default for named buffers: until freed) or ``"lastClose"``.
    lifetimeMs
        Milliseconds after which the buffer is freed.
    reserve
        ``"full"`` allocates every page now; ``"lazy"`` at its first touch, which is a
        SIGBUS on a full host.
    renew
        ``"auto"`` renews the lease while the buffer is open; ``"onUse"`` only when it
        is used.
    numaNode
        Bind the pages to this node.
    progress
        Called with the bytes that are ready since the last call.
    hints
        How it will be used, as `MuninnBuffer.setHints` takes it: ``{"hotRanges": [(0, 4096)],
        "lifetimeMs": 600_000, "priority": "high"}``. For one array.
    """

    name: str | None = None
    mode: ModeWord | None = None
    preferredGpu: int | Mapping[str, int] | None = None
    access: AccessWord | None = None
    tenant: str | None = None
    lifetime: LifetimeWord | None = None
    lifetimeMs: int | None = None
    reserve: ReserveWord = "full"
    renew: RenewWord = "auto"
    numaNode: int | None = None
    progress: Callable[[int], None] | None = None
    hints: HintKeywords | None = None
    #: Whether another buffer may have the name until the commit takes it.
    replaces = False


class VersionOptions(BufferOptions):
    """The options of a buffer that takes the name of another at its commit."""

    __slots__ = ()
    replaces = True


class ShareKeywords(TypedDict, total=False):
    """`**options` of `share`, which takes the others by position too."""

    lifetimeMs: int | None
    reserve: ReserveWord
    renew: RenewWord
    numaNode: int | None
    progress: Callable[[int], None] | None
    hints: HintKeywords | None


class BufferKeywords(ShareKeywords, total=False):
    """`**options` of `MuninnBuffer`."""

    lifetime: LifetimeWord | None


class ArrayKeywords(BufferKeywords, total=False):
    """`**options` of `array`, which has a default of its own for `access`."""

    mode: ModeWord | None
    preferredGpu: int | Mapping[str, int] | None
    tenant: str | None


class NamedKeywords(ArrayKeywords, total=False):
    """`**options` of a function that takes only `name` by position."""

    access: AccessWord | None


class AllKeywords(NamedKeywords, total=False):
    """All options."""

    name: str | None


def optionsOf(function: Callable[..., Any], **options: Unpack[AllKeywords]) -> BufferOptions:
    """The options that the caller of `function` passed; `TypeError` for a keyword that
    is no option.
    """
    try:
        return BufferOptions(**options)
    except TypeError:
        checkKeywords(callerOf(function), options, keywordsOf(function))
        raise


def versionOf(options: BufferOptions) -> VersionOptions:
    """The same options, of a new version of the name."""
    return VersionOptions(**{each.name: getattr(options, each.name) for each in fields(options)})


def takesOptions(function: Function) -> Function:
    """State the options that `function` takes as `**options` in its signature, and
    describe all options in its docstring. Stands below `named`.
    """
    signature = inspect.signature(function)
    listed = [
        each
        for each in signature.parameters.values()
        if each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    names = {each.name for each in listed}
    taken = [
        inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type
        )
        for each in fields(BufferOptions)
        if each.name not in names
    ]
    function.__dict__["__signature__"] = signature.replace(parameters=[*listed, *taken])
    function.__doc__ = _withDescriptions(function.__doc__)
    return function


def describesOptions(kind: _Class) -> _Class:
    """Put the descriptions of the options into the docstring of a class whose
    constructor takes them.
    """
    kind.__doc__ = _withDescriptions(kind.__doc__)
    return kind


def _withDescriptions(docstring: str | None) -> str | None:
    """A docstring with the description of each option in place of ``**options``, except
    the options that it describes itself.
    """
    place = _PLACE.search(docstring or "")
    if docstring is None or place is None:  # python -OO keeps no docstrings
        return docstring
    indent = place[1]
    own = {
        name
        for line in re.findall(rf"^{indent}([a-z]\w*(?:, \w+)*)$", docstring, re.MULTILINE)
        for name in line.split(", ")
    }
    lines = [
        f"{indent}{line}" if line else line
        for name, text in _descriptions().items()
        if name not in own
        for line in (name, *text)
    ]
    return docstring[: place.start()] + "\n".join(lines) + "\n" + docstring[place.end() :]


@functools.cache
def _descriptions() -> dict[str, list[str]]:
    """From each option to the lines of its description."""
    found: dict[str, list[str]] = {}
    for line in (
        inspect.cleandoc(BufferOptions.__doc__ or "").partition("----------\n")[2].splitlines()
    ):
        if line.startswith(" "):
            found[next(reversed(found))].append(line)
        else:
            found[line] = []
    return found
