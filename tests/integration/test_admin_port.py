"""The admin port of a running server: what Prometheus scrapes, what probes ask, what operators read."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.app import flush
from drawdown_server.errors import ConfigurationError
from drawdown_server.telemetry.metrics import Metrics
from drawdown_server.telemetry.prometheus import prometheus_name
from integration.audit import open_audit
from integration.credentials import PEPPER
from integration.server import Server, run_server, settings, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey import ValkeyProcess

GET_TIMEOUT_S = 10.0


class Admin:
    """An admin port in the hands of a test."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body; in a thread, because the server runs in this event loop."""
        return await asyncio.to_thread(self.get_blocking, path)

    def get_blocking(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=GET_TIMEOUT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    async def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """A scrape, as Prometheus' own parser reads it: (name, labels) -> value."""
        status, text = await self.get("/metrics")
        assert status == 200
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def value(self, name: str, **labels: str) -> float | None:
        """One sample; None when it is not there."""
        return (await self.samples()).get((name, tuple(sorted(labels.items()))))


@asynccontextmanager
async def run_with_admin(config: Config) -> AsyncIterator[tuple[Server, Admin]]:
    with capture_logs() as logs:
        async with run_server(config) as server:
            yield server, admin_of(logs)


def admin_of(logs: list[Any]) -> Admin:
    return Admin(next(line["port"] for line in logs if line["event"] == "admin.ready"))


@pytest.fixture
def admin_config(valkey_url: str, postgres_url: str) -> Config:
    return settings(valkey_url, postgres_url, admin_port=0, api_key_pepper=PEPPER)


async def test_every_metric_is_there_to_be_scraped_after_some_traffic(admin_config: Config) -> None:
    async with run_with_admin(admin_config) as (server, admin):
        wallet = await server.wallet(USD=1000)
        for number in range(3):
            await server.authorize(wallet, f"h-{number}", USD=100)
        await server.commit(wallet, "h-0", USD=60)
        await server.commit(wallet, "h-0", USD=60)
        await server.release(wallet, "h-1")
        denied = await server.authorize(wallet, "h-poor", USD=10_000)
        assert denied.decision == pb.DECISION_DENIED
        await server.failure(pb.AuthorizeRequest(wallet_id=wallet))
        await server.debits(wallet, at_least=1)
        await until(lambda: _is(admin, "drawdown_outbox_events", 0.0))

        method = "drawdown.v1.AuthorizationService/Authorize"
        ok = {"rpc_system_name": "grpc", "rpc_method": method, "rpc_response_status_code": "OK", "error_type": ""}
        assert await admin.value("rpc_server_call_duration_seconds_count", **ok) == 4
        bad = ok | {"rpc_response_status_code": "INVALID_ARGUMENT"}
        assert await admin.value("rpc_server_call_duration_seconds_count", **bad) == 1
        decided = {"verb": "authorize", "asset": "USD"}
        poor = decided | {"decision": "DENIED", "reason": "INSUFFICIENT_FUNDS"}
        assert await admin.value("drawdown_decisions_total", **decided, decision="APPROVED", reason="") == 3
        assert await admin.value("drawdown_decisions_total", **poor) == 1
        assert await admin.value("drawdown_replays_total", verb="commit") == 1
        assert await admin.value("drawdown_hold_age_seconds_count", outcome="committed") == 1
        assert await admin.value("drawdown_hold_age_seconds_count", outcome="released") == 1
        assert await admin.value("drawdown_script_duration_seconds_count", verb="commit") == 2
        assert await admin.value("drawdown_flush_events_total") == 2
        assert await admin.value("drawdown_flush_leases") == admin_config.partitions
        assert await admin.value("drawdown_epoch_max") == 1
        assert await admin.value("drawdown_rebuilds_total") == 0
        assert await admin.value("drawdown_dead_letters") == 0

        scraped = {name.removesuffix("_bucket").removesuffix("_created") for name, _ in await admin.samples()}
        # Units have a series per asset that waits, and nothing waits now; nobody gave up or was refused either. There
        # is no certificate.
        expected = {prometheus_name(definition) for definition in Metrics().registry.definitions}
        assert expected - scraped == {
            "drawdown_outbox_units",
            "drawdown_calls_abandoned_total",
            "drawdown_scripts_abandoned_total",
            "drawdown_calls_refused_total",
            "drawdown_tls_certificate_expire_time_seconds",
            "drawdown_tls_reloads_total",
        }
        await server.assert_conserved(wallet)


async def _is(admin: Admin, name: str, value: float) -> bool:
    return await admin.value(name) == value


async def test_a_server_is_ready_until_it_drains(admin_config: Config) -> None:
    # Long enough for the two questions after the stop.
    draining = admin_config.model_copy(update={"drain_delay_s": 2.0})
    async with run_with_admin(draining) as (server, admin):
        assert await admin.get("/healthz") == (200, "ok\n")
        status, body = await admin.get("/readyz")
        assert (status, json.loads(body)) == (200, {"ready": True, "problems": {}})
        server.stop.set()
        status, body = await admin.get("/readyz")
        assert (status, json.loads(body)) == (503, {"ready": False, "problems": {"server": "this server is draining"}})
        assert await admin.get("/healthz") == (200, "ok\n")


async def test_a_server_without_its_store_is_alive_and_not_ready(
    admin_config: Config, valkey_server: ValkeyProcess
) -> None:
    async with run_with_admin(admin_config) as (_, admin):
        valkey_server.kill()
        try:
            await until(lambda: _is_unready(admin))
            status, body = await admin.get("/readyz")
            assert (status, list(json.loads(body)["problems"])) == (503, ["valkey"])
            assert await admin.get("/healthz") == (200, "ok\n")
            assert (await admin.get("/metrics"))[0] == 200
        finally:
            valkey_server.start()
        await until(lambda: _is_ready(admin))


async def _is_ready(admin: Admin) -> bool:
    return (await admin.get("/readyz"))[0] == 200


async def _is_unready(admin: Admin) -> bool:
    return not await _is_ready(admin)


async def test_a_stuck_event_loop_is_seen_from_outside(admin_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drawdown_server.telemetry.admin.LOOP_TIMEOUT_S", 0.05)
    async with run_with_admin(admin_config) as (_, admin):
        with ThreadPoolExecutor(1) as elsewhere:
            # Nothing is awaited here: the loop is stuck, and that is the test.
            answer = elsewhere.submit(admin.get_blocking, "/healthz").result(GET_TIMEOUT_S)
        assert answer == (503, "the event loop does not answer\n")
        assert await admin.get("/healthz") == (200, "ok\n")


async def test_settings_are_shown_without_passwords(admin_config: Config) -> None:
    password = urlsplit(admin_config.postgres_url).password
    assert password
    async with run_with_admin(admin_config) as (_, admin):
        status, body = await admin.get("/config")
        assert status == 200
        assert json.loads(body) == admin_config.masked()
        assert password not in body


async def test_other_paths_and_methods_are_refused(admin_config: Config) -> None:
    async with run_with_admin(admin_config) as (_, admin):
        assert (await admin.get("/"))[0] == 404
        assert (await admin.get("/metrics?x=1"))[0] == 200
        request = urllib.request.Request(f"http://127.0.0.1:{admin.port}/metrics", data=b"x", method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(urllib.request.urlopen, request, timeout=GET_TIMEOUT_S)
        assert refused.value.code == 501
        refused.value.close()


async def test_a_taken_admin_port_is_refused_with_what_to_change(admin_config: Config) -> None:
    async with run_with_admin(admin_config) as (_, admin):
        taken = admin_config.model_copy(update={"admin_port": admin.port})
        with pytest.raises(ConfigurationError, match="DRAWDOWN_ADMIN_PORT"):
            async with run_server(taken):
                pytest.fail("it started")


async def test_a_flusher_alone_has_the_port_too(admin_config: Config) -> None:
    stop = asyncio.Event()
    with capture_logs() as logs:
        flushing = asyncio.create_task(flush(admin_config, stop=stop))
        await until(lambda: _has_started(flushing, logs))
        admin = admin_of(logs)
        await until(lambda: _is(admin, "drawdown_flush_leases", admin_config.partitions))
        assert (await admin.get("/readyz"))[0] == 200
        stop.set()
        await flushing


async def test_a_flusher_alone_frees_holds_that_are_due(admin_config: Config) -> None:
    without_sweep = admin_config.model_copy(update={"sweep_interval_ms": 60_000})
    async with run_server(without_sweep) as server:
        wallet = await server.wallet(USD=100)
        await server.authorize(wallet, "h", ttl_s=1, USD=60)
    stop = asyncio.Event()
    with capture_logs() as logs:
        flushing = asyncio.create_task(flush(admin_config, stop=stop))
        await until(lambda: _has_started(flushing, logs))
        admin = admin_of(logs)

        async def is_free() -> bool:
            return await admin.value("drawdown_sweep_holds_total", outcome="expired") == 1

        await until(is_free)
        stop.set()
        await flushing
    async with open_audit(admin_config) as audit:
        await audit.assert_conserved(wallet)


async def _has_started(task: asyncio.Task[None], logs: list[Any]) -> bool:
    if task.done():
        await task
    return any(line["event"] == "flusher.ready" for line in logs)
