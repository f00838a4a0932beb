"""What is said about each call: a metric, a span if it is traced, and one line in the log.

The line is the call's only one, with everything that an operator asks first. It is written for every error and every
call of an administrator; of the data plane's calls that went well, which are thousands per second, only a sample, and
so of those that were refused because there were too many.
"""

from __future__ import annotations

import random
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.errors import CODES, ErrorReason
from drawdown_server.rpc.validation import ID_CHARS_MAX
from drawdown_server.telemetry.instruments import OTHER
from drawdown_server.telemetry.metrics import GRPC_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drawdown_server.errors import DrawdownError
    from drawdown_server.identity.caller import Caller
    from drawdown_server.telemetry.metrics import Metrics
    from drawdown_server.telemetry.tracing import CallTrace, Tracing

log = structlog.get_logger(__name__)

_Response = TypeVar("_Response")

DATA_PLANE: Final = ("drawdown.v1.AuthorizationService/", "drawdown.v1.BalanceService/")
"""Services whose calls that went well are sampled."""
ADMIN_METHODS: Final = frozenset({"drawdown.v1.AuthorizationService/ForceRelease"})
"""An operator's calls among them."""
FLOOD_REASONS: Final = frozenset({ErrorReason.OVERLOADED, ErrorReason.RATE_LIMITED})
"""Refusals that come by the thousand and say the same: sampled like successes, so that they cost little. A metric has
them all."""
OK: Final = "OK"
CANCELLED: Final = "CANCELLED"
"""The caller went away, or its deadline passed: nobody hears the answer."""
NAMES_TOLD: Final = ("wallet_id", "hold_id", "charge_id", "refund_id", "grant_id", "asset")
"""What a request may name, and a log line tells. Nothing else of a request gets into the log, and of
these nothing that can be no name: a caller decides neither how long a line is nor where it ends."""


class CallRecorder:
    """Says what is said about calls.

    Args:
        metrics: Where they are counted.
        tracing: Which of them are traced.
        log_sample_ratio: Share of the data plane's calls that went well which are logged, 0 to 1.
    """

    def __init__(self, metrics: Metrics, tracing: Tracing, *, log_sample_ratio: float) -> None:
        self.metrics = metrics
        self.tracing = tracing
        self.log_sample_ratio = log_sample_ratio

    def begin(self, method: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> Call:
        """A call arrived.

        Args:
            method: Full name without the leading slash.
            metadata: As the caller sent it; only its trace context is looked at.
        """
        return Call(self, method, *self.tracing.begin(method, metadata))

    def unknown_method(self) -> None:
        """A call of a method that does not exist: gRPC answers it by itself."""
        self.metrics.call(OTHER, "UNIMPLEMENTED", 0.0)


class Call:
    """One call, from its arrival to its answer."""

    __slots__ = (
        "_code",
        "_failure",
        "_recorder",
        "_response",
        "_started_s",
        "_trace",
        "caller",
        "method",
        "request",
        "trace_id",
    )

    def __init__(self, recorder: CallRecorder, method: str, trace_id: str, trace: CallTrace | None) -> None:
        self._started_s = perf_counter()
        self._recorder = recorder
        self.method = method
        self.trace_id = trace_id
        self._trace = trace
        self._code = CANCELLED  # until there is an answer
        self._failure: DrawdownError | None = None
        self.caller: Caller | None = None
        self.request: object = None
        self._response: object = None

    def answered(self, response: _Response) -> _Response:
        """The call will be answered with this; the response."""
        self._response = response
        self._code = OK
        return response

    def failed(self, failure: DrawdownError) -> DrawdownError:
        """The call will be answered with this error; the error."""
        self._failure = failure
        self._code = CODES[failure.reason].name
        return failure

    def end(self) -> None:
        """The call is answered, or nobody waits for it any more."""
        duration_s = perf_counter() - self._started_s
        self._recorder.metrics.call(self.method, self._code, duration_s)
        if self._trace is not None:
            self._trace.end(self._code, {f"drawdown.{name}": value for name, value in self._content().items()})
        if self._is_logged():
            self._log(duration_s)

    def _is_logged(self) -> bool:
        is_flood = self._failure is not None and self._failure.reason in FLOOD_REASONS
        if not is_flood and (
            self._code != OK or not self.method.startswith(DATA_PLANE) or self.method in ADMIN_METHODS
        ):
            return True
        return random.random() < self._recorder.log_sample_ratio  # noqa: S311  # no secret

    def _log(self, duration_s: float) -> None:
        write = log.warning if self._code in GRPC_ERRORS else log.info
        message = {"error": self._failure.message} if self._failure is not None else {}
        trace = {"trace_id": self.trace_id} if self.trace_id else {}
        write(
            "rpc",
            method=self.method,
            code=self._code,
            duration_ms=round(duration_s * 1000, 3),
            **self._content(),
            **message,
            **trace,
        )

    def _content(self) -> dict[str, str]:
        """Who asked about what, and what they were told."""
        names = ((name, getattr(self.request, name, "")) for name in NAMES_TOLD)
        content = {name: value for name, value in names if isinstance(value, str) and _is_name(value)}
        if self.caller is not None:
            content["tenant"] = self.caller.tenant_id
            if self.caller.principal:
                content["principal"] = self.caller.principal
        if self._failure is not None:
            content["reason"] = self._failure.reason.removeprefix("ERROR_REASON_")
        decision = getattr(self._response, "decision", pb.DECISION_UNSPECIFIED)
        if decision != pb.DECISION_UNSPECIFIED:
            content["decision"] = pb.Decision.Name(decision).removeprefix("DECISION_")
        if decision == pb.DECISION_DENIED:
            denial = getattr(self._response, "denial")  # noqa: B009  # of three messages without a common type
            content["denial_reason"] = pb.DenialReason.Name(denial.reason).removeprefix("DENIAL_REASON_")
        return content


def _is_name(value: str) -> bool:
    return 1 <= len(value) <= ID_CHARS_MAX and value.isprintable()
