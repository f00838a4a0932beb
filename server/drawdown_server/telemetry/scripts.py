"""What is said about each script: its time, and a span if the call that needs it is traced."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from drawdown_server.errors import DrawdownError
from drawdown_server.telemetry.tracing import current_trace

if TYPE_CHECKING:
    from types import TracebackType

    from drawdown_server.telemetry.metrics import Metrics


class ScriptCall:
    """A block in which one script is sent and answered.

    Args:
        metrics: Where its time is counted.
        verb: The script's name.
        partition: Where it runs.
    """

    __slots__ = ("_metrics", "_span", "_started_s", "_verb")

    def __init__(self, metrics: Metrics, verb: str, partition: int) -> None:
        trace = current_trace()
        self._metrics = metrics
        self._verb = verb
        self._span = trace.script_span(verb, partition) if trace is not None else None
        self._started_s = perf_counter()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._metrics.script(self._verb, perf_counter() - self._started_s)
        if self._span is not None:
            self._span.end(error.reason if isinstance(error, DrawdownError) else kind.__name__ if kind else "")
