"""The requests of a member to its broker: the fields of each request and of its answer.

The table `OPERATIONS` is the only description, and both ends use it: the broker checks
each request before anything acts on it, and the member checks each answer. Nothing here
is shared memory, and nothing survives a crash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from muninn.errors import ERROR_OF_NUMBER, MuninnError, ProtocolViolation
from muninn.system.descriptors import Descriptor
from muninn.wire.messages import MAX_DESCRIPTORS, Message

#: How many descriptors a `hello` or a `bring` brings when another `bring` follows.
FULL_BATCH = MAX_DESCRIPTORS - 1
#: The row in the answer to a `create` that must be repeated: it is not known yet
#: whether a process has the memory of that name.
LATER = -1
#: The row in the answer to the `create` of a window that must wait; `reason` says for
#: what, and `short` which budget has no room: "gpu", "tenant", or none.
QUEUED = -2
_ROW = {"row": int, "incarnation": int}
#: The one field that every request may have beside its own: the span in which it was
#: made, as W3C's Trace Context writes it. No id is zero.
TRACE = "traceparent"
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


class Operation(NamedTuple):
    """One operation that a member may ask for.

    Attributes
    ----------
    request
        The type of each field of the request. Every field is required, and no other is
        allowed, except `TRACE`.
    answer
        The type of each field that the answer must have. Other fields may stand beside
        them.
    mayComeLate
        Whether a member that can not wait may send it without waiting for the answer,
        so that it comes late, and perhaps twice. Any other is `aside.refusal`.
    """

    request: Mapping[str, type]
    answer: Mapping[str, type] = MappingProxyType({})
    mayComeLate: bool = False


OPERATIONS: dict[str, Operation] = {
    "hello": Operation({"slot": int, "generation": int, "nonce": int, "allocations": list}),
    "bring": Operation({"allocations": list}),
    "create": Operation(
        {
            "name": str,
            "tenant": str,
            "mode": str,
            "gpu": int,
            "sizeBytes": int,
            "gpuCapacityBytes": int,
            "deadlineMs": int,
            "rank": int,
            "isWaiting": bool,
        },
        answer=_ROW,
    ),
    "commit": Operation({**_ROW, "replaces": bool}),
    "abandon": Operation(_ROW, mayComeLate=True),
    "find": Operation({"name": str}),  # the answer names a row where there is one
    "fetch": Operation(_ROW, answer={"found": bool}),
    "free": Operation(_ROW, mayComeLate=True),
    "tryReclaim": Operation(_ROW, mayComeLate=True),
    "recall": Operation(_ROW),
    "evict": Operation(
        {"name": str, "tenant": str, "pid": int, "reason": str},
        answer={"revoked": int, "buffers": int},
    ),
    "drain": Operation({"on": bool, "reason": str}, answer={"holds": int}),
    "yield": Operation({"slot": int, "generation": int}),
    "leave": Operation({}),
    "ping": Operation({}),
}


def checked(message: Message) -> Message:
    """The request, or `ProtocolViolation`."""
    op = message.get("op")
    operation = OPERATIONS.get(op) if isinstance(op, str) else None
    if operation is None:
        raise ProtocolViolation(
            f"{op!r:.80} is no request"
            if isinstance(op, str)
            else "a message without an op is no request"
        )
    fields = operation.request
    if message.keys() - {"op", TRACE} != fields.keys():
        raise ProtocolViolation(
            f"the fields of {op!r} are {sorted(fields)}, not "
            f"{sorted(message.keys() - {'op'})!r:.200}"
        )
    if TRACE in message:
        _checkTrace(message[TRACE])
    for field, kind in fields.items():
        value = message[field]
        wrongInteger = kind is int and (
            isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 64
        )
        if not isinstance(value, kind) or wrongInteger:
            # Its type only: the text of a value that is nested deep enough is an error
            # of its own.
            raise ProtocolViolation(
                f"{field} of {op!r} is a {type(value).__name__}, or out of range, and must be "
                f"{kind.__name__}"
            )
    return message


def _checkTrace(value: object) -> None:
    if not isinstance(value, str) or not _TRACEPARENT.fullmatch(value):
        raise ProtocolViolation(f"a {TRACE} is no context of a span")


def allocationsOf(message: Message, descriptors: list[Descriptor]) -> list[tuple[int, int]]:
    """(row, incarnation) of each descriptor that came with the message."""
    allocations: list[Any] = message["allocations"]
    pairs = [
        tuple(pair)
        for pair in allocations
        if isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(number, int) for number in pair)
    ]
    if len(pairs) != len(allocations) or len(pairs) != len(descriptors):
        raise ProtocolViolation(
            f"{len(descriptors)} descriptors came for {len(allocations)} allocations"
        )
    return pairs


def failure(error: MuninnError) -> Message:
    """An error as it crosses the socket."""
    return {"error": error.number, "reason": error.reason, "fix": error.fix}


def raiseFailure(reply: Message) -> None:
    """Raise the broker's answer, if it is an error."""
    if "error" in reply:
        number = reply["error"]
        errorClass = (
            ERROR_OF_NUMBER.get(number, ProtocolViolation)
            if isinstance(number, int)
            else ProtocolViolation
        )
        raise errorClass(
            f"{reply.get('reason')!s:.4000}",
            f"{reply['fix']!s:.4000}" if reply.get("fix") else None,
        )


def answered(op: str, reply: Message) -> None:
    """Raise the broker's answer, if it is an error, and refuse an answer that lacks a
    field that `op` demands.
    """
    raiseFailure(reply)
    fields = _ROW if op == "find" and reply.get("live") else OPERATIONS[op].answer
    for field, kind in fields.items():
        if type(reply.get(field)) is not kind:
            raise ProtocolViolation(f"the answer to {op!r} has no {field} that is {kind.__name__}")
