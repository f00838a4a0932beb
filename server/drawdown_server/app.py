"""The composition root: opens, wires, serves, drains. The one module that knows everything.

Read it top to bottom: what is opened first is closed last.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import structlog
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE
from grpc_reflection.v1alpha import reflection

from drawdown_server.background import run_background, run_backlog, run_flusher, run_sweeper
from drawdown_server.config import token_secrets
from drawdown_server.errors import ConfigurationError
from drawdown_server.holds.library import build_library
from drawdown_server.holds.opening import check_nodes, load_on_all, open_nodes, open_store_connection
from drawdown_server.holds.store import HoldStore
from drawdown_server.holds.token import TokenKeys
from drawdown_server.identity.startup import check as check_identity
from drawdown_server.identity.startup import open_identity
from drawdown_server.ledger.confirming import Confirmations
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.migrations import pending
from drawdown_server.ledger.presence import Presence
from drawdown_server.ledger.recovery import open_some
from drawdown_server.ledger.store import LedgerStore
from drawdown_server.rpc.admission import Admission
from drawdown_server.rpc.assets import AssetService
from drawdown_server.rpc.audit import AuditService
from drawdown_server.rpc.authorization import HoldLimits
from drawdown_server.rpc.calls import CallRecorder
from drawdown_server.rpc.caps import CapService
from drawdown_server.rpc.carriers import CarryingService
from drawdown_server.rpc.denials import Denials
from drawdown_server.rpc.draining import end_calls
from drawdown_server.rpc.gate import Gate
from drawdown_server.rpc.grants import GrantService
from drawdown_server.rpc.health import Health
from drawdown_server.rpc.keys import KeyService
from drawdown_server.rpc.ledger import LedgerService
from drawdown_server.rpc.methods import Methods, UnknownMethods
from drawdown_server.rpc.ports import bind
from drawdown_server.rpc.services import Services, service_names
from drawdown_server.rpc.tls import open_certificate
from drawdown_server.rpc.transport import server_options, session_age_s
from drawdown_server.rpc.wallets import BalanceService, WalletService
from drawdown_server.signals import stop_on_signals
from drawdown_server.stores import Stores, process_name
from drawdown_server.telemetry.admin import open_admin
from drawdown_server.telemetry.metrics import Metrics
from drawdown_server.telemetry.otlp import open_exporters
from drawdown_server.wallets.admin import WalletAdmin
from drawdown_server.wallets.assets import AssetRegistry
from drawdown_server.wallets.changes import ChangeApplier
from drawdown_server.wallets.keys import KeyAdmin
from drawdown_server.wallets.loader import WalletLoader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine
    from contextlib import AbstractAsyncContextManager

    from drawdown_server.config import Config
    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.holds.store_connection import StoreConnection
    from drawdown_server.identity.credentials import Credentials
    from drawdown_server.identity.startup import Secrets
    from drawdown_server.telemetry.tracing import Tracing

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_stores(config: Config, metrics: Metrics | None = None) -> AsyncIterator[Stores]:
    """Open Postgres and Valkey, refuse what is unfit, and agree with both on the epoch of every partition."""
    async with AsyncExitStack() as opened:
        await check_schema(config)
        ledger = LedgerStore(await opened.enter_async_context(open_pool(config)))
        nodes = await opened.enter_async_context(open_nodes_of(config))
        library = build_library()
        await check_nodes(nodes, library)
        await ledger.ensure_partitions(config.partitions)
        presence = Presence(nodes, ledger, process_name())
        opened.push_async_callback(presence.end)
        connection = await opened.enter_async_context(open_connection_of(config, nodes))
        holds = HoldStore(connection, library, [0] * config.partitions, metrics)
        holds.on_stale_epoch(lambda partitions: open_some(nodes, ledger, partitions), nodes.beside)
        holds.on_missing_library(lambda: load_on_all(nodes, library))

        async def verify(partitions: Collection[int] | None = None) -> None:
            # And leave what was connected before. After a failover of a cluster others give the old primary up with
            # their next beat: to wait for that is no news.
            await (presence.claim_patiently() if nodes.is_cluster else presence.claim())
            await check_nodes(nodes, library, partitions)
            await holds.learn_epochs(partitions)

        connection.on_reconnect(verify)
        # After the connection: a Valkey that is replaced from here on is noticed by it, and verified anew.
        await presence.claim_patiently()
        await holds.learn_epochs()
        confirmations = await opened.enter_async_context(aclosing(Confirmations(ledger)))
        async with running(presence.run(connection, holds.learn_epochs), name="presence"):
            yield Stores(nodes=nodes, holds=holds, ledger=ledger, presence=presence, confirmations=confirmations)


def open_nodes_of(config: Config) -> AbstractAsyncContextManager[Nodes]:
    """The primaries of the store of these settings."""
    return open_nodes(config.valkey_url, timeout_ms=config.valkey_timeout_ms, partitions=config.partitions)


def open_connection_of(config: Config, nodes: Nodes) -> AbstractAsyncContextManager[StoreConnection]:
    """The connection of the hot path to it."""
    return open_store_connection(
        nodes, config.valkey_url, timeout_ms=config.valkey_timeout_ms, in_flight_max=config.valkey_in_flight_max
    )


@asynccontextmanager
async def running(work: Coroutine[None, None, None], *, name: str) -> AsyncIterator[None]:
    """Work that goes on inside the block and is cancelled at its end."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def check_schema(config: Config) -> None:
    """Refuse a database that is not at the newest schema.

    Raises:
        ConfigurationError: With the migrations that it lacks.
        StoreUnavailableError: It cannot be reached.
    """
    missing = await pending(config.postgres_url)
    if missing:
        names = ", ".join(missing)
        raise ConfigurationError(f"the database lacks migrations ({names}): run drawdown-server migrate")


def build_server(
    config: Config,
    stores: Stores,
    changes: ChangeApplier,
    secrets: Secrets | None,
    gate: Gate,
    health: Health,
    *,
    shares_ports: bool = False,
) -> grpc.aio.Server:
    """The gRPC server with all services, not started."""
    assets = AssetRegistry(stores.ledger)
    loader = WalletLoader(
        stores.holds,
        stores.ledger,
        changes,
        loads_max=config.loads_max,
        unknown_ttl_ms=config.unknown_wallet_ttl_ms,
    )
    stores.holds.on_missing_wallet(loader.load)
    admin = WalletAdmin(stores.holds, stores.ledger, assets, changes, loader)
    limits = HoldLimits(
        ttl_default_ms=config.ttl_default_ms,
        open_holds_max=config.open_holds_max,
        tombstone_ms=config.tombstone_ms,
        outbox_backlog_limit=config.outbox_backlog_limit,
    )
    server = grpc.aio.server(
        options=server_options(
            connections_max=config.connections_max, connection_age_s=config.connection_age_s, shares_ports=shares_ports
        ),
    )
    methods = Methods(gate)
    server.add_generic_rpc_handlers([methods])
    Services(
        authorization=CarryingService(
            gate,
            stores.holds,
            stores.ledger,
            assets,
            limits,
            token_keys(config),
            stores.confirmations,
            session_age_s=session_age_s(config.connection_age_s),
        ),
        assets=AssetService(admin, stores.ledger),
        wallets=WalletService(admin, stores.ledger),
        grants=GrantService(admin, stores.ledger, stores.holds.clock_of),
        caps=CapService(admin, stores.holds),
        balances=BalanceService(stores.holds, assets),
        ledger=LedgerService(stores.ledger),
        audit=AuditService(stores.ledger),
        keys=KeyService(KeyAdmin(stores.ledger, secrets)),
    ).add_to(methods)
    health.add_to(server)
    if config.reflection:
        reflection.enable_server_reflection([*service_names(), reflection.SERVICE_NAME, HEALTH_SERVICE], server)
    server.add_generic_rpc_handlers([UnknownMethods(gate)])
    return server


def token_keys(config: Config) -> TokenKeys:
    """What signs holds; a server without a key says what that means."""
    if not config.hold_token_keys:
        log.warning(
            "hold_tokens.off",
            lost="what customers used under holds that Valkey loses is not charged",
            change="set DRAWDOWN_HOLD_TOKEN_KEYS; drawdown-server new-token-key prints a key",
        )
    return TokenKeys(token_secrets(config.hold_token_keys))


def build_gate(
    config: Config, credentials: Credentials, metrics: Metrics, tracing: Tracing, ledger: LedgerStore
) -> Gate:
    """What every call goes through."""
    admission = Admission(config.calls_max, config.caller_calls_per_s)
    recorder = CallRecorder(metrics, tracing, log_sample_ratio=config.log_sample_ratio)
    gate = Gate(credentials, recorder, admission, Denials(ledger))
    metrics.follow_admission(admission.refused)
    metrics.follow_calls(gate)
    return gate


async def serve(
    config: Config,
    *,
    stop: asyncio.Event | None = None,
    on_ready: Callable[[int], None] | None = None,
    is_replaced: Callable[[], bool] | None = None,
) -> None:
    """Serve until ``stop`` is set or SIGTERM or SIGINT arrives, then drain.

    Args:
        config: The settings.
        stop: Ends the server when set, for those who run it inside another program.
        on_ready: Called with the port when the server accepts calls.
        is_replaced: For one of several processes that share its ports: asked at the end whether another serves them on.

    Raises:
        ConfigurationError: Something must be changed first; the message says what.
        StoreUnavailableError: A store cannot be reached at start.
    """
    check_identity(config)
    stop = stop or asyncio.Event()
    stop_background = asyncio.Event()
    metrics = Metrics()
    certificate = open_certificate(config)
    if certificate is not None:
        metrics.follow_certificate(certificate)
    async with AsyncExitStack() as opened:
        tracing = await opened.enter_async_context(
            open_exporters(metrics.registry, sample_ratio=config.trace_sample_ratio)
        )
        stores = await opened.enter_async_context(open_stores(config, metrics))
        changes = ChangeApplier(stores.holds, stores.ledger)
        identity = await open_identity(config, stores.ledger)
        if identity.secrets is not None:
            metrics.follow_keys(identity.secrets.keys)
        if identity.certificates is not None:
            metrics.follow_reloads("callers", identity.certificates)
        gate = build_gate(config, identity.credentials, metrics, tracing, stores.ledger)
        health = Health(service_names(), gate.send_away)
        server = build_server(
            config, stores, changes, identity.secrets, gate, health, shares_ports=is_replaced is not None
        )
        port = bind(server, config, certificate)
        admin = await opened.enter_async_context(AsyncExitStack())
        await admin.enter_async_context(
            open_admin(config, metrics.registry, health.check, shares_port=is_replaced is not None)
        )
        await server.start()
        # One dead background task ends the process: better restarted than half alive.
        async with asyncio.TaskGroup() as tasks:
            background = run_background(config, stores, metrics, changes, stop_background)
            tasks.create_task(background, name="background")
            tasks.create_task(identity.run(stop_background), name="identity")
            try:
                await health.tell(None)
                tasks.create_task(health.watch(stores.holds.ping, stop), name="health")
                log.info("server.ready", host=config.grpc_host, port=port)
                if on_ready is not None:
                    on_ready(port)
                with stop_on_signals(stop):
                    await stop.wait()
                log.info("server.draining")
                if is_replaced is not None and is_replaced():
                    await admin.aclose()  # who asks there is answered by the one that came
                else:
                    health.leave()
                    await asyncio.sleep(config.drain_delay_s)
            finally:
                # Also when a background task died: calls in flight still get their answers.
                stores.confirmations.end()
                await end_calls(server, gate, health, {port, config.grpc_certificate_port}, config.drain_grace_s)
                stop_background.set()
    log.info("server.stopped")


async def flush(config: Config, *, stop: asyncio.Event | None = None) -> None:
    """Run the flusher and the sweeper alone, beside servers started without a flusher."""
    stop = stop or asyncio.Event()
    metrics = Metrics()
    async with (
        open_exporters(metrics.registry, sample_ratio=config.trace_sample_ratio),
        open_stores(config, metrics) as stores,
    ):

        async def check_postgres() -> None:
            await stores.ledger.check_partition_count(config.partitions)

        async with (
            open_admin(config, metrics.registry, stores.holds.ping, check_postgres),
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(run_backlog(stores, metrics, stop), name="backlog")
            tasks.create_task(run_sweeper(config, stores, metrics, stop), name="sweeper")
            log.info("flusher.ready")
            with stop_on_signals(stop):
                await run_flusher(config, stores, metrics, stop)
    log.info("flusher.stopped")
