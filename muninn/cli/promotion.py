"""The commands about windows of a buffer in VRAM: `promote` and `hint`.

The scratch memory of a window of a readOnly buffer is shared by all processes that
promote it, so `promote` holds it for them. That of any other buffer is one process's
own: there `promote` only shows what a promotion costs.
"""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from muninn.cli.ending import hold, say, stopped
from muninn.cli.listing import hintsText, windowText
from muninn.cli.output import printable, waitingBy
from muninn.cli.transfers import transferOf, wayOf
from muninn.config import asBytes
from muninn.errors import InvalidArgument
from muninn.system import clock
from muninn.terms import Access

if TYPE_CHECKING:
    from muninn import MuninnBuffer
    from muninn.api.scratch import Scratch


def runPromote(arguments: argparse.Namespace) -> int:
    from muninn.api.opening import openAny

    if arguments.hot and (arguments.offset, arguments.length) != (None, None):
        arguments.fail("--hot is instead of --offset and --length")
    with contextlib.ExitStack() as held:
        buffer = held.enter_context(openAny(arguments.name))
        deadline = clock.now() + arguments.timeout
        stop, promoted = stopped(), list[Any]()
        for offset, length in _windows(arguments, buffer):
            left = max(0.0, deadline - clock.now())
            with waitingBy("--timeout"):
                scratch = buffer.promote(offset, length, arguments.gpu, timeout=left)
            promoted.append(held.enter_context(scratch))
        isShared = buffer.access == Access.READ_ONLY
        result = {"shared": isShared, "windows": [_described(each) for each in promoted]}
        lines = [_shown(buffer.name, each) for each in promoted]
        bound = "" if arguments.seconds is None else f"for {arguments.seconds:g} s, or "
        end = (
            f"held {bound}until Ctrl-C: processes that promote these bytes use this copy"
            if isShared
            else f"given back: {buffer.name} is {buffer.access}, and processes share windows "
            "of readOnly buffers only"
        )
        status = say(arguments, result, "\n".join(map(printable, [*lines, end])))
        if isShared:
            hold(lambda: [each.address for each in promoted], stop, arguments.seconds)
    return status


def _windows(arguments: argparse.Namespace, buffer: MuninnBuffer) -> list[tuple[int, int | None]]:
    if not arguments.hot:
        length = None if arguments.length is None else asBytes(arguments.length)
        return [(0 if arguments.offset is None else asBytes(arguments.offset), length)]
    ranges = [(at, length) for at, length in buffer.hints["hotRanges"]]
    if not ranges:
        raise InvalidArgument(
            f"nobody has said which ranges of {buffer.name!r} are hot",
            f"`python -m muninn hint {buffer.name} --hot OFFSET+LENGTH` says it",
        )
    return ranges


def _described(scratch: Scratch) -> dict[str, Any]:
    return {
        "offset": scratch.offset,
        "size": scratch.sizeBytes,
        "gpu": scratch.gpu,
        "hot": scratch.isHot,
        "transfer": transferOf(scratch.transfer),
    }


def _shown(name: str, scratch: Scratch) -> str:
    window = windowText(name, scratch.offset, scratch.sizeBytes)
    if scratch.transfer is None:
        return f"{window} is on GPU {scratch.gpu} already: no byte was copied"
    return f"{window} to {wayOf(scratch.transfer)}"


def runHint(arguments: argparse.Namespace) -> int:
    from muninn.api.opening import openAny

    changes: dict[str, Any] = {}
    if arguments.clear:
        changes = {"hotRanges": (), "priority": "normal", "lifetimeMs": None}
    if arguments.hot is not None:
        changes["hotRanges"] = [_asRange(arguments, each) for each in arguments.hot]
    if arguments.priority is not None:
        changes["priority"] = arguments.priority
    if arguments.lifetime_ms is not None:
        changes["lifetimeMs"] = arguments.lifetime_ms
    with openAny(arguments.name) as buffer:
        if changes:
            buffer.setHints(**changes)
        hints = buffer.hints
    return say(arguments, hints, printable(f"{arguments.name}: {hintsText(hints)}"))


def _asRange(arguments: argparse.Namespace, text: str) -> tuple[int, int]:
    offset, plus, length = text.partition("+")
    if not plus:
        arguments.fail(f"--hot {text!r} is no OFFSET+LENGTH, such as 512M+128M")
    return asBytes(offset), asBytes(length)
