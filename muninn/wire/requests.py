"""What a member may ask its broker: the fields of each request, checked before anything acts on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muninn.errors import ERROR_OF_NUMBER, MuninnError, ProtocolViolation
from muninn.system.descriptors import Descriptor
from muninn.wire.messages import MAX_DESCRIPTORS, Message

#: What a member may say without waiting for the answer, where it can not wait: each may come late, and twice. All else is `aside.refusal`.
WITHOUT_ANSWER = ("free", "settle", "abandon")
#: How much memory a `hello` or a `bring` brings when another `bring` follows.
FULL_BATCH = MAX_DESCRIPTORS - 1
#: The row of a `create` that is to be asked again: whether anybody has the memory of that name is not known yet.
LATER = -1
_ROW = {"row": int, "incarnation": int}
#: op → field → type. Every field is required, and no other is allowed.
REQUESTS: dict[str, Mapping[str, type]] = {
    "hello": {"slot": int, "generation": int, "nonce": int, "allocations": list},
    "bring": {"allocations": list},
    "create": {"name": str, "tenant": str, "mode": str, "gpu": int, "sizeBytes": int, "gpuCapacityBytes": int, "deadlineMs": int},
    "commit": _ROW,
    "abandon": _ROW,
    "find": {"name": str},
    "fetch": _ROW,
    "free": _ROW,
    "settle": _ROW,
    "recall": _ROW,
    "evict": {"name": str, "tenant": str, "pid": int, "reason": str},
    "drain": {"on": bool, "reason": str},
    "yield": {"slot": int, "generation": int},
    "leave": {},
    "ping": {},
}

#: op → field → type of an answer; other fields may stand beside them. What is not here answers nothing, or may.
ANSWERS: dict[str, Mapping[str, type]] = {
    "create": _ROW,
    "fetch": {"found": bool},
    "evict": {"revoked": int, "buffers": int},
    "drain": {"holds": int},
}


def checked(message: Message) -> Message:
    """The request, or `ProtocolViolation`."""
    op = message.get("op")
    fields = REQUESTS.get(op) if isinstance(op, str) else None
    if fields is None:
        raise ProtocolViolation(f"{op!r:.80} is no request" if isinstance(op, str) else "a message without an op is no request")
    if message.keys() - {"op"} != fields.keys():
        raise ProtocolViolation(f"the fields of {op!r} are {sorted(fields)}, not {sorted(message.keys() - {'op'})!r:.200}")
    for field, kind in fields.items():
        value = message[field]
        wrongInteger = kind is int and (isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 64)
        if not isinstance(value, kind) or wrongInteger:
            # Its type only: the text of a value that is nested deep enough is an error of its own.
            raise ProtocolViolation(f"{field} of {op!r} is a {type(value).__name__}, or out of range, and must be {kind.__name__}")
    return message


def allocationsOf(message: Message, descriptors: list[Descriptor]) -> list[tuple[int, int]]:
    """(row, incarnation) of each descriptor that came with the message."""
    allocations: list[Any] = message["allocations"]
    pairs = [
        tuple(pair) for pair in allocations if isinstance(pair, list) and len(pair) == 2 and all(isinstance(number, int) for number in pair)
    ]
    if len(pairs) != len(allocations) or len(pairs) != len(descriptors):
        raise ProtocolViolation(f"{len(descriptors)} descriptors came for {len(allocations)} allocations")
    return pairs


def failure(error: MuninnError) -> Message:
    """An error as it crosses the socket."""
    return {"error": error.number, "reason": error.reason, "fix": error.fix}


def raiseFailure(reply: Message) -> None:
    """Raise what the broker answered, if it is an error."""
    if "error" in reply:
        number = reply["error"]
        errorClass = ERROR_OF_NUMBER.get(number, ProtocolViolation) if isinstance(number, int) else ProtocolViolation
        raise errorClass(f"{reply.get('reason')!s:.4000}", f"{reply['fix']!s:.4000}" if reply.get("fix") else None)


def answered(op: str, reply: Message) -> None:
    """Raise what the broker answered, if it is an error, and refuse an answer that lacks what `op` asks for."""
    raiseFailure(reply)
    fields = ANSWERS.get(op, {})
    if op == "find" and reply.get("live"):
        fields = _ROW
    for field, kind in fields.items():
        if type(reply.get(field)) is not kind:
            raise ProtocolViolation(f"the answer to {op!r} has no {field} that is {kind.__name__}")
