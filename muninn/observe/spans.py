"""Spans: how long a call took, and what it was made of, for OpenTelemetry.

Spans are made where `server.enableTracing` is true, and not wherever a program has a
tracer: a span costs more than most of Muninn's calls, and a program that traces its
requests has not asked for one more per copy. Only OpenTelemetry's API is used. Which
spans are kept, and where they go, is the program's decision. Where they are not made,
nothing of OpenTelemetry is imported, and `span` costs a call.

A request takes the context of its span to the broker as a field `traceparent`, in the
form of W3C's Trace Context, which `wire/requests.py` checks. If the broker's process
makes spans too, its span of the request is a child. Nothing that a tracer, a processor
or an exporter raises comes to the caller.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from muninn.errors import InvalidConfig, MuninnError
from muninn.system.logs import surroundings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_PREFIX = "muninn."
_API = "opentelemetry.trace"


class Tracing:
    """Whether this process makes spans, and by which tracer."""

    def __init__(self) -> None:
        self.tracer: Tracer | None = None


tracing = Tracing()


def isOn() -> bool:
    """Whether this process makes spans."""
    return tracing.tracer is not None


def turn(isOn: bool) -> None:
    """Make spans from now on, or none.

    Raises
    ------
    InvalidConfig
        OpenTelemetry's API is not installed.
    """
    surroundings.span = ids
    if not isOn:
        tracing.tracer = None
        return
    try:
        from opentelemetry import trace
    except ImportError:
        raise InvalidConfig(
            "server.enableTracing is true, and opentelemetry-api is not installed",
            "pip install muninn-gpu[traces], or leave enableTracing out",
        ) from None
    tracing.tracer = trace.get_tracer("muninn")


def ids() -> Mapping[str, object]:
    """`traceId` and `spanId` of the span that is open now, Muninn's or the program's."""
    api = sys.modules.get(_API)
    if api is None:
        return {}
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"traceId": f"{context.trace_id:032x}", "spanId": f"{context.span_id:016x}"}


class Nothing:
    """A span where none is made."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def describe(self, fields: Mapping[str, object]) -> None:
        """Nothing to describe."""


NOTHING = Nothing()


class Span:
    """A span, from the beginning of a block to its end, or from `sinceSeconds` before."""

    def __init__(
        self,
        name: str,
        fields: Mapping[str, object],
        parent: Context | None = None,
        sinceSeconds: float | None = None,
    ) -> None:
        self._name, self._fields, self._parent = name, fields, parent
        self._sinceSeconds = sinceSeconds
        self._span: Any = None
        #: Makes the context current that was before; also a second time.
        self._restore: Callable[[], object] = dict

    def __enter__(self) -> Self:
        try:
            with contextlib.suppress(Exception):  # a program's sampler or processor
                self._begin()
            return self
        except BaseException:  # an interruption: the block is not entered, and so not left
            self._leave()
            self._end(None)
            raise

    def _begin(self) -> None:
        from opentelemetry import context, trace

        assert tracing.tracer is not None
        isRequest = self._parent is not None
        self._span = tracing.tracer.start_span(
            _PREFIX + self._name,
            self._parent,
            trace.SpanKind.SERVER if isRequest else trace.SpanKind.INTERNAL,
            _attributes(self._fields),
            start_time=_ago(self._sinceSeconds),
        )
        # The token of `attach` would be lost if an interruption came as it returns.
        self._restore = functools.partial(context.attach, context.get_current())
        context.attach(trace.set_span_in_context(self._span))

    def describe(self, fields: Mapping[str, object]) -> None:
        """Add to its attributes."""
        with contextlib.suppress(Exception):
            self._span.set_attributes(_attributes(fields))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._leave()
            self._end(error)
        finally:
            self._leave()  # an interruption may have come before it did

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            self._restore()

    def _end(self, error: BaseException | None) -> None:
        """It ends also if code of the program raises as the error is recorded."""
        if self._span is None:
            return
        try:
            with contextlib.suppress(Exception):
                if error is not None:
                    self._record(error)
        finally:
            with contextlib.suppress(Exception):
                self._span.end()

    def _record(self, error: BaseException) -> None:
        from opentelemetry.trace import Status, StatusCode

        code = {"errorCode": error.code} if isinstance(error, MuninnError) else {}
        self._span.set_attributes(code)
        self._span.set_status(Status(StatusCode.ERROR, _textOf(error)))
        self._span.record_exception(error, code)


def span(name: str, **fields: object) -> Span | Nothing:
    """A span for a ``with`` block, if spans are made. An error that leaves the block is
    recorded, with its code. The fields are those of the log.
    """
    return NOTHING if tracing.tracer is None else Span(name, fields)


def spanned(
    name: str, describe: Callable[Arguments, Mapping[str, object]]
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Wrap a function in a span. `describe` is called with its arguments, and only where
    spans are made.
    """

    def wrap(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def call(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
            if tracing.tracer is None:
                return function(*arguments, **keywords)
            fields: Mapping[str, object] = {}
            with contextlib.suppress(Exception):  # `function` finds out what is wrong
                fields = describe(*arguments, **keywords)
            with Span(name, fields):
                return function(*arguments, **keywords)

        return call

    return wrap


def past(name: str, seconds: float) -> Span | Nothing:
    """A span of something that has just ended, for a block that describes it."""
    return NOTHING if tracing.tracer is None else Span(name, {}, sinceSeconds=seconds)


def describe(fields: Mapping[str, object]) -> None:
    """Add to the attributes of the span that is open now, which the caller has opened."""
    if tracing.tracer is None:
        return
    with contextlib.suppress(Exception):
        from opentelemetry import trace

        trace.get_current_span().set_attributes(_attributes(fields))


def note(name: str, fields: Mapping[str, object]) -> None:
    """Note an event in the span that is open now."""
    with contextlib.suppress(Exception):
        from opentelemetry import trace

        trace.get_current_span().add_event(_PREFIX + name, _attributes(fields))


def carried(function: Callable[[], Result]) -> Callable[[], Result]:
    """A function for another thread, whose spans belong to the span that is open now."""
    if tracing.tracer is None:
        return function
    context = contextvars.copy_context()
    return lambda: context.run(function)


def traceparent() -> str | None:
    """The context of the span that is open now, for a request; None if there is none."""
    if tracing.tracer is None:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def handling(op: str, parent: str | None) -> Span | Nothing:
    """The broker's span of a request. `parent` is the request's `traceparent`, which has
    been checked.
    """
    if tracing.tracer is None or parent is None:
        return NOTHING
    from opentelemetry import trace

    _, traceId, spanId, flags = parent.split("-")
    remote = trace.SpanContext(
        int(traceId, 16), int(spanId, 16), True, trace.TraceFlags(int(flags, 16))
    )
    return Span(f"broker.{op}", {}, trace.set_span_in_context(trace.NonRecordingSpan(remote)))


def _textOf(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the program's own
        return type(error).__name__


def _ago(seconds: float | None) -> int | None:
    return None if seconds is None else time.time_ns() - int(seconds * 1e9)


def _attributes(fields: Mapping[str, object]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, str | int | float | bool) else str(value)
        for key, value in fields.items()
        if value is not None
    }
