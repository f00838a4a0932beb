"""A real OTLP receiver: a gRPC server that keeps what exporters send to it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
    from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """What arrived.

    Args:
        silent: Takes what is sent and never answers, as one behind a dead disk does.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.port = 0
        self.spans: list[Span] = []
        self.metrics: dict[str, Metric] = {}
        """The newest of each name."""
        self.resources: list[dict[str, Any]] = []
        self.headers: list[dict[str, str | bytes]] = []
        self.asked = asyncio.Event()
        """Set when something has arrived."""
        self._silent = silent

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def span(self, name: str) -> Span:
        """The one span of this name."""
        (span,) = [span for span in self.spans if span.name == name]
        return span

    async def take(self, context: Any) -> None:  # noqa: ANN401 - grpc.aio's context
        self.asked.set()
        self.headers.append(dict(context.invocation_metadata()))
        if self._silent:
            await asyncio.Event().wait()


class _Traces(trace_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: ANN401, N802 - gRPC's names
        for resource in request.resource_spans:
            self._collector.resources.append(attributes(resource.resource.attributes))
            for scope in resource.scope_spans:
                self._collector.spans += scope.spans
        await self._collector.take(context)
        return trace_pb.ExportTraceServiceResponse()


class _Metrics(metrics_grpc.MetricsServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: ANN401, N802
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                self._collector.metrics |= {metric.name: metric for metric in scope.metrics}
        await self._collector.take(context)
        return metrics_pb.ExportMetricsServiceResponse()


def attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    """Attributes as a dict; all of ours are strings and integers."""
    return {
        pair.key: pair.value.int_value if pair.value.HasField("int_value") else pair.value.string_value
        for pair in pairs
    }


@asynccontextmanager
async def run_collector(*, silent: bool = False) -> AsyncIterator[Collector]:
    collector = Collector(silent=silent)
    server = grpc.aio.server()
    trace_grpc.add_TraceServiceServicer_to_server(_Traces(collector), server)  # type: ignore[no-untyped-call]
    metrics_grpc.add_MetricsServiceServicer_to_server(_Metrics(collector), server)  # type: ignore[no-untyped-call]
    collector.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)
