"""Sends spans and metrics to an OpenTelemetry collector, over OTLP on gRPC.

The standard variables say where to and how (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``..._HEADERS``, ``..._CERTIFICATE``,
``OTEL_METRIC_EXPORT_INTERVAL``, ``OTEL_BSP_...``, ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``); without an
endpoint, or with ``OTEL_SDK_DISABLED=true``, nothing is sent and none of the SDK is loaded. Metrics are cumulative.

All sending is done in the SDK's threads and one of ours. A collector that is slow or gone costs the calls nothing:
spans beyond the queue are dropped, and at the end of the process what is not sent within ``END_TIMEOUT_S`` is given up.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
import time
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server.errors import ConfigurationError
from drawdown_server.telemetry.instruments import Distribution, Kind
from drawdown_server.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import DataT, MetricsData
    from opentelemetry.sdk.resources import Resource

    from drawdown_server.telemetry.instruments import Key, Reading, Registry

log = structlog.get_logger(__name__)

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
METRICS_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
PROTOCOLS: Final = (
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
)
INTERVAL: Final = "OTEL_METRIC_EXPORT_INTERVAL"
INTERVAL_DEFAULT_MS: Final = 60_000.0
"""The SDK's."""
READ_TIMEOUT_S: Final = 5.0
"""How long the event loop may take to hand out the metrics."""
END_TIMEOUT_S: Final = 5.0
"""How long the process may take at its end to send what is left; a collector that is there needs milliseconds."""
SCOPE: Final = "drawdown_server"


@asynccontextmanager
async def open_exporters(
    registry: Registry, *, sample_ratio: float, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[Tracing]:
    """Send metrics and spans inside the block, as the environment says; yields what opens the spans.

    Args:
        registry: The metrics.
        sample_ratio: As in ``Tracing``.
        environment: The process', with the standard variables.

    Raises:
        ConfigurationError: A variable asks for what this server cannot do.
    """
    endpoints = {name for name in (ENDPOINT, TRACES_ENDPOINT, METRICS_ENDPOINT) if environment.get(name)}
    if not endpoints or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield Tracing()
        return
    for name in PROTOCOLS:
        if environment.get(name, "grpc") != "grpc":
            raise ConfigurationError(f"{name} must be grpc: that is the protocol this server speaks to a collector.")
    interval_s = _interval_s(environment)
    resource = _resource()
    ends: list[Callable[[], None]] = []
    tracing = Tracing()
    if endpoints & {ENDPOINT, TRACES_ENDPOINT}:
        tracing, end = _open_tracing(resource, sample_ratio)
        ends.append(end)
    if endpoints & {ENDPOINT, METRICS_ENDPOINT}:
        ends.append(_MetricSender(registry, resource, interval_s).end)
    log.info("telemetry.exporting", to=sorted(environment[name] for name in endpoints))
    try:
        yield tracing
    finally:
        await asyncio.gather(*(_finish(end) for end in ends))


def _interval_s(environment: Mapping[str, str]) -> float:
    try:
        interval_ms = float(environment.get(INTERVAL) or INTERVAL_DEFAULT_MS)
    except ValueError:
        interval_ms = 0.0
    if not 1 <= interval_ms < float("inf"):
        raise ConfigurationError(f"{INTERVAL} must be a number of milliseconds, at least 1.")
    return interval_ms / 1000


def _resource() -> Resource:
    """Who sends: the environment's word first, then ours."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # only those who export pay for the import

    ours = {
        "service.name": "drawdown-server",
        "service.version": version("drawdown"),
        "service.instance.id": f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
    }
    told = Resource.create()
    known = {
        name for name in ours if not str(told.attributes.get(name, "unknown_service")).startswith("unknown_service")
    }
    return told.merge(Resource({name: value for name, value in ours.items() if name not in known}))


def _open_tracing(resource: Resource, sample_ratio: float) -> tuple[Tracing, Callable[[], None]]:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415

    # Tracing has decided before it asks for a span, so every span that is made is sent.
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider.get_tracer(SCOPE, version("drawdown")), sample_ratio), provider.shutdown


class _MetricSender:
    """Sends all metrics again and again, from a thread of its own.

    The SDK's periodic reader reads the SDK's instruments only.
    """

    def __init__(self, registry: Registry, resource: Resource, interval_s: float) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter  # noqa: PLC0415

        self._registry = registry
        self._resource = resource
        self._interval_s = interval_s
        self._exporter: OTLPMetricExporter = OTLPMetricExporter()
        self._loop = asyncio.get_running_loop()
        self._begin_ns = time.time_ns()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp-metrics", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Send a last time, and stop; in a thread that is not the event loop's."""
        self._ending.set()
        self._thread.join()
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._ending.wait(self._interval_s):
            self._send()
        self._send()

    def _send(self) -> None:
        if self._loop.is_closed():  # the process has ended without waiting for us
            return
        try:
            readings = asyncio.run_coroutine_threadsafe(self._read(), self._loop).result(READ_TIMEOUT_S)
            self._exporter.export(metrics_data(readings, self._resource, self._begin_ns, time.time_ns()))
        except Exception:  # whatever it is, the next time comes
            log.exception("telemetry.not_sent")

    async def _read(self) -> list[Reading]:
        return self._registry.read()


async def _finish(end: Callable[[], None]) -> None:
    """Run in a thread that the process need not wait for."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        end()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="otlp-end", daemon=True).start()
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            await done.wait()
    except TimeoutError:
        log.warning("telemetry.left_unsent", timeout_s=END_TIMEOUT_S)


def metrics_data(readings: list[Reading], resource: Resource, begin_ns: int, now_ns: int) -> MetricsData:
    """The metrics as the SDK's exporters take them.

    Args:
        readings: What ``Registry.read`` gave.
        resource: Who sends.
        begin_ns: Since when counters count, in nanoseconds since the Unix epoch.
        now_ns: When they were read.
    """
    from opentelemetry.sdk.metrics import export  # noqa: PLC0415
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

    metrics = [
        export.Metric(
            reading.definition.name,
            reading.definition.description,
            reading.definition.unit,
            _data(reading, begin_ns, now_ns),
        )
        for reading in readings
        if reading.points
    ]
    scope = export.ScopeMetrics(InstrumentationScope(SCOPE, version("drawdown")), metrics, "")
    return export.MetricsData([export.ResourceMetrics(resource, [scope], "")])


def _data(reading: Reading, begin_ns: int, now_ns: int) -> DataT:
    from opentelemetry.sdk.metrics import export  # noqa: PLC0415

    definition = reading.definition
    numbers, distributions = [], []
    for key, point in reading.points.items():
        attributes = _attributes(definition.attributes, key)
        if isinstance(point, Distribution):
            distributions.append(
                export.HistogramDataPoint(
                    attributes,
                    begin_ns,
                    now_ns,
                    count=sum(point.counts),
                    sum=point.total,
                    bucket_counts=point.counts,
                    explicit_bounds=point.bounds,
                    min=None,  # type: ignore[arg-type]  # optional in OTLP, and of no use since the process began
                    max=None,  # type: ignore[arg-type]
                )
            )
        else:
            numbers.append(export.NumberDataPoint(attributes, begin_ns, now_ns, point))
    cumulative = export.AggregationTemporality.CUMULATIVE
    match definition.kind:
        case Kind.HISTOGRAM:
            return export.Histogram(distributions, cumulative)
        case Kind.COUNTER:
            return export.Sum(numbers, cumulative, is_monotonic=True)
        case Kind.GAUGE:
            return export.Gauge(numbers)


def _attributes(names: tuple[str, ...], key: Key) -> dict[str, str]:
    """Attributes without those that say nothing: OTLP, as Prometheus, knows no difference to a missing one."""
    return {name: value for name, value in zip(names, key, strict=True) if value}
