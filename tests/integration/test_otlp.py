"""Traces and metrics arrive at a collector; a collector that is slow or gone costs nobody anything."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanProto
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from structlog.testing import capture_logs

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.errors import ConfigurationError
from drawdown_server.telemetry.metrics import CALL_BOUNDS_S, Metrics
from integration.collector import Collector, attributes, run_collector
from integration.server import DEADLINE_S, Rpc, Server, authorize_request, run_server, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config

AUTHORIZE = "drawdown.v1.AuthorizationService/Authorize"
NO_PARENT = b""


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with run_collector() as collector:
        export_to(collector.endpoint, monkeypatch)
        yield collector


def export_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")


@asynccontextmanager
async def running(config: Config, **changes: object) -> AsyncIterator[Server]:
    async with run_server(config.model_copy(update=changes)) as server:
        yield server


class Gateway:
    """A caller with a trace of its own."""

    def __init__(self, rpc: Rpc, *, sampled: bool = True) -> None:
        self._rpc = rpc
        self.trace_id, self.span_id = secrets.token_bytes(16), secrets.token_bytes(8)
        self.traceparent = f"00-{self.trace_id.hex()}-{self.span_id.hex()}-{'01' if sampled else '00'}"

    async def authorize(self, request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
        metadata = (("traceparent", self.traceparent), ("tracestate", "vendor=1"))
        response: pb.AuthorizeResponse = await self._rpc.method("Authorize")(
            request, metadata=metadata, timeout=DEADLINE_S
        )
        return response


async def test_a_trace_leads_from_the_gateway_through_authorize_to_the_script(
    config: Config, collector: Collector
) -> None:
    async with running(config, trace_sample_ratio=0.0) as server:
        wallet = await server.wallet(USD=100)
        gateway = Gateway(server)
        await gateway.authorize(authorize_request(wallet, "h", USD=10))
        await until(lambda: _arrived(collector, 2))
        await server.assert_conserved(wallet)
    call, script = collector.span(AUTHORIZE), collector.span("FCALL authorize")
    assert len(collector.spans) == 2, "calls without a trace are not sampled here"
    assert (call.trace_id, call.parent_span_id, call.kind) == (
        gateway.trace_id,
        gateway.span_id,
        SpanProto.SPAN_KIND_SERVER,
    )
    assert call.trace_state == "vendor=1"
    assert (script.trace_id, script.parent_span_id, script.kind) == (
        gateway.trace_id,
        call.span_id,
        SpanProto.SPAN_KIND_CLIENT,
    )
    assert call.start_time_unix_nano <= script.start_time_unix_nano
    assert script.end_time_unix_nano <= call.end_time_unix_nano
    assert attributes(call.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": AUTHORIZE,
        "rpc.response.status_code": "OK",
        "drawdown.wallet_id": wallet,
        "drawdown.hold_id": "h",
        "drawdown.tenant": "default",
        "drawdown.decision": "APPROVED",
    }
    told = attributes(script.attributes)
    assert told.pop("drawdown.partition") in range(config.partitions)
    assert told == {
        "db.system.name": "redis",
        "db.operation.name": "FCALL",
        "db.stored_procedure.name": "authorize",
    }
    assert collector.resources[0]["service.name"] == "drawdown-server"
    assert {"service.version", "service.instance.id"} <= collector.resources[0].keys()


async def test_a_denial_and_a_callers_mistake_are_no_errors_of_ours(config: Config, collector: Collector) -> None:
    async with running(config, trace_sample_ratio=0.0) as server:
        wallet = await server.wallet(USD=100)
        denied, wrong = Gateway(server), Gateway(server)
        await denied.authorize(authorize_request(wallet, "h", USD=1_000))
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            await wrong.authorize(pb.AuthorizeRequest(wallet_id=wallet))
        await until(lambda: _arrived(collector, 3))
    spans = {span.trace_id: span for span in collector.spans if span.name == AUTHORIZE}
    for span in spans.values():
        assert span.status.code == Status.STATUS_CODE_UNSET
        assert "error.type" not in attributes(span.attributes)
    told = attributes(spans[denied.trace_id].attributes)
    assert (told["drawdown.decision"], told["drawdown.denial_reason"]) == ("DENIED", "INSUFFICIENT_FUNDS")
    told = attributes(spans[wrong.trace_id].attributes)
    assert (told["rpc.response.status_code"], told["drawdown.reason"]) == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_a_caller_that_does_not_sample_is_not_sampled_but_named_in_the_log(
    config: Config, collector: Collector
) -> None:
    with capture_logs() as logs:
        async with running(config, trace_sample_ratio=1.0, log_sample_ratio=1.0) as server:
            wallet = await server.wallet(USD=100)
            gateway = Gateway(server, sampled=False)
            await gateway.authorize(authorize_request(wallet, "h", USD=10))
            await server.authorize(wallet, "h2", USD=10)
            await until(lambda: _arrived_named(collector, AUTHORIZE))
    assert gateway.trace_id not in {span.trace_id for span in collector.spans}
    first, second = [line for line in logs if line["event"] == "rpc" and line["method"] == AUTHORIZE]
    assert first["trace_id"] == gateway.trace_id.hex()
    root = collector.span(AUTHORIZE)
    assert (second["trace_id"], root.parent_span_id) == (root.trace_id.hex(), NO_PARENT)


async def test_every_metric_arrives_at_a_collector(config: Config, collector: Collector) -> None:
    async with running(config) as server:
        wallet = await server.wallet(USD=100)
        await server.authorize(wallet, "h", USD=10)
        for _ in range(2):
            await server.commit(wallet, "h", USD=10)
        await server.debits(wallet, at_least=1)
        await server.assert_conserved(wallet)
    definitions = {definition.name: definition for definition in Metrics().registry.definitions}
    # Nothing waits for the ledger, so there is no asset whose units do; nobody gave up or was refused. Neither TLS nor
    # API keys are on.
    assert definitions.keys() - collector.metrics.keys() == {
        "drawdown.outbox.units",
        "drawdown.calls.abandoned",
        "drawdown.scripts.abandoned",
        "drawdown.calls.refused",
        "drawdown.tls.certificate.expire_time",
        "drawdown.tls.reloads",
        "drawdown.keys.age",
        "drawdown.keys.looked_up",
    }
    for name, metric in collector.metrics.items():
        assert (metric.unit, metric.description) == (definitions[name].unit, definitions[name].description)
    calls = {
        attributes(point.attributes)["rpc.method"]: point
        for point in collector.metrics["rpc.server.call.duration"].histogram.data_points
    }
    point = calls[AUTHORIZE]
    assert attributes(point.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": AUTHORIZE,
        "rpc.response.status_code": "OK",
    }
    assert (point.count, sum(point.bucket_counts), tuple(point.explicit_bounds)) == (1, 1, CALL_BOUNDS_S)
    (decided,) = collector.metrics["drawdown.decisions"].sum.data_points
    assert attributes(decided.attributes) == {"verb": "authorize", "decision": "APPROVED", "asset": "USD"}
    assert decided.as_int == 1


async def test_what_waits_for_the_ledger_arrives_in_events_units_and_seconds(
    config: Config, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drawdown_server.ledger.backlog.LOOK_INTERVAL_S", 0.02)
    async with running(config, flusher=False) as server:
        wallet = await server.wallet(USD=100, EUR=50)
        await server.authorize(wallet, "h", USD=10, EUR=5)
        await server.commit(wallet, "h", USD=10, EUR=5)

        async def arrived() -> dict[str, int]:
            metric = collector.metrics.get("drawdown.outbox.units")
            points = [] if metric is None else metric.gauge.data_points
            return {attributes(point.attributes)["asset"]: point.as_int for point in points}

        assert await until(arrived) == {"USD": 10, "EUR": 5}
    (events,) = collector.metrics["drawdown.outbox.events"].gauge.data_points
    (age,) = collector.metrics["drawdown.outbox.age"].gauge.data_points
    assert events.as_int == 3, "two grants and a debit"
    assert age.as_double > 0


async def test_the_standard_variables_say_who_sends_and_with_which_credentials(
    config: Config, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "wallets")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret")
    async with running(config, trace_sample_ratio=1.0) as server:
        await server.wallet()
        await until(lambda: _arrived(collector, 1))
    assert collector.resources[0]["service.name"] == "wallets"
    assert collector.resources[0]["deployment.environment.name"] == "test"
    assert collector.headers[0]["api-key"] == "s3cret"


async def test_a_collector_that_never_answers_holds_up_neither_calls_nor_the_end(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drawdown_server.telemetry.otlp.END_TIMEOUT_S", 0.2)
    async with run_collector(silent=True) as collector:
        export_to(collector.endpoint, monkeypatch)
        with capture_logs() as logs:
            async with running(config, trace_sample_ratio=1.0) as server:
                wallet = await server.wallet(USD=100)
                await collector.asked.wait()
                for number in range(20):
                    await server.authorize(wallet, f"h-{number}", USD=1)
                await server.assert_conserved(wallet)
    assert "telemetry.left_unsent" in {line["event"] for line in logs}


async def test_a_collector_that_is_not_there_is_no_reason_not_to_serve(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_collector() as gone:
        pass
    monkeypatch.setattr("drawdown_server.telemetry.otlp.END_TIMEOUT_S", 0.2)
    export_to(gone.endpoint, monkeypatch)
    async with running(config, trace_sample_ratio=1.0) as server:
        wallet = await server.wallet(USD=100)
        await server.authorize(wallet, "h", USD=1)
        await server.assert_conserved(wallet)


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), ("OTEL_METRIC_EXPORT_INTERVAL", "often")],
)
async def test_variables_that_cannot_be_met_are_refused_by_name(
    config: Config, collector: Collector, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert collector.endpoint
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        async with running(config):
            pytest.fail("it started")


async def _arrived(collector: Collector, spans: int) -> bool:
    return len(collector.spans) >= spans


async def _arrived_named(collector: Collector, name: str) -> bool:
    return any(span.name == name for span in collector.spans)
