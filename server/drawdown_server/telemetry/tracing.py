"""Spans: one per call under the caller's trace, one per script under the call's.

Whether a call is traced is decided before anything is made: by the caller's ``traceparent`` if there is one, else by
``trace_sample_ratio``. A call that is not traced costs a look at its metadata (under 1 us), a traced one about 40 us.
The SDK makes and exports the spans (``otlp.py``); without an exporter nothing is traced.
"""

from __future__ import annotations

import random
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from drawdown_server.telemetry.metrics import GRPC_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.trace import Span, Tracer

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
_TRACEPARENT_FORM: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
"""W3C Trace Context: version, trace id, parent id, flags; later versions may add more."""


class CallTrace:
    """The span of a call that is traced, and what makes spans below it."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def script_span(self, verb: str, partition: int) -> ScriptSpan:
        """A span for a script that is about to be sent."""
        span = self._tracer.start_span(
            f"FCALL {verb}",
            context=set_span_in_context(self._span, Context()),
            kind=SpanKind.CLIENT,
            attributes={
                "db.system.name": "redis",
                "db.operation.name": "FCALL",
                "db.stored_procedure.name": verb,
                "drawdown.partition": partition,
            },
        )
        return ScriptSpan(span)

    def end(self, code: str, attributes: Mapping[str, str]) -> None:
        """The call was answered with this code of gRPC."""
        self._span.set_attributes({"rpc.response.status_code": code, **attributes})
        if code in GRPC_ERRORS:
            self._span.set_attribute("error.type", code)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class ScriptSpan:
    """The span of one script."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, failure: str = "") -> None:
        """The script was answered, or failed; ``failure`` says why in a word."""
        if failure:
            self._span.set_attribute("error.type", failure)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


_current: ContextVar[CallTrace | None] = ContextVar("call_trace", default=None)
"""Of the call that runs in this context. Our own variable: the SDK's costs a copy of its context per call."""


def current_trace() -> CallTrace | None:
    """The trace of the current call; None when it is not traced, or there is no call."""
    return _current.get()


class Tracing:
    """Decides which calls are traced, and opens their spans.

    Args:
        tracer: Makes the spans; None: nothing is traced.
        sample_ratio: Share of the calls without a ``traceparent`` that are traced, 0 to 1.
    """

    def __init__(self, tracer: Tracer | None = None, sample_ratio: float = 0.0) -> None:
        self._tracer = tracer
        self._sample_ratio = sample_ratio

    def begin(self, method: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[str, CallTrace | None]:
        """A call arrived: its trace id ("" = it has none), and its trace if it is traced, then current.

        Args:
            method: Full name without the leading slash.
            metadata: As the caller sent it.
        """
        parent, state = "", ""
        for name, value in metadata or ():
            if name == TRACEPARENT and isinstance(value, str):
                parent = value
            elif name == TRACESTATE and isinstance(value, str):
                state = value
        found = _TRACEPARENT_FORM.fullmatch(parent) if parent else None
        if found is None:
            if self._tracer is None or random.random() >= self._sample_ratio:  # noqa: S311  # no secret
                _current.set(None)  # an operation must not be taken for its stream
                return "", None
            trace = self._start(self._tracer, method, Context())
            return trace.trace_id, trace
        trace_id, parent_id, flags = found.groups()
        if self._tracer is None or not int(flags, 16) & TraceFlags.SAMPLED:
            _current.set(None)
            return trace_id, None
        caller = SpanContext(
            trace_id=int(trace_id, 16),
            span_id=int(parent_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
            trace_state=TraceState.from_header([state]) if state else None,
        )
        return trace_id, self._start(self._tracer, method, set_span_in_context(NonRecordingSpan(caller), Context()))

    def _start(self, tracer: Tracer, method: str, context: Context) -> CallTrace:
        span = tracer.start_span(
            method,
            context=context,
            kind=SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": method},
        )
        trace = CallTrace(tracer, span)
        _current.set(trace)
        return trace
