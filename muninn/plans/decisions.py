"""Decisions: what a plan would do, as values that can be printed and compared."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from muninn import errors
from muninn.errors import MuninnError


class Action(enum.StrEnum):
    """What becomes of an entry of a plan."""

    CREATE = "create"
    KEEP = "keep"
    HINT = "hint"
    PROMOTE = "promote"
    PREFETCH = "prefetch"
    #: Nothing is done, and that is no fault.
    SKIP = "skip"


class Step(NamedTuple):
    """One decision.

    Attributes
    ----------
    path
        The entry of the plan.
    why
        For people.
    values
        What it is done with, as JSON has it.
    """

    path: str
    action: Action
    buffer: str
    why: str
    values: dict[str, Any]


class Refusal(NamedTuple):
    """An entry that can not be carried out, as the error that it would be."""

    path: str
    buffer: str
    error: str
    code: str
    reason: str
    fix: str

    @classmethod
    def of(cls, path: str, buffer: str, error: MuninnError) -> Refusal:
        return cls(path, buffer, type(error).__name__, error.code, error.reason, error.fix)

    def raised(self, note: str) -> MuninnError:
        """The error, with the path before its reason."""
        kind: type[MuninnError] = getattr(errors, self.error)
        reason = self.reason if self.reason.startswith(self.path) else f"{self.path}: {self.reason}"
        return kind(f"{reason}{note}", self.fix)


class Decisions(NamedTuple):
    """What a plan would do. If anything is refused, that is nothing."""

    steps: tuple[Step, ...]
    refusals: tuple[Refusal, ...]

    def require(self) -> None:
        """Raise the first refusal."""
        if self.refusals:
            more = len(self.refusals) - 1
            note = f"; and {more} more, which `plan check` lists" if more else ""
            raise self.refusals[0].raised(f"{note}; nothing was done")

    def asDict(self) -> dict[str, Any]:
        """For printing as JSON, and for comparing."""
        return {
            "steps": [
                {**each._asdict(), "action": each.action.value, "values": dict(each.values)}
                for each in self.steps
            ],
            "refusals": [each._asdict() for each in self.refusals],
        }
