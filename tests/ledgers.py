"""A stand-in for the hold scripts: writes to the outboxes the events that they would, and keeps the same balances.

Tests of the ledger use it to be alone with the flusher. ``Live`` is deliberately simple: grants burn in the order in
which they came, nothing is ever held, and it trusts its caller.
"""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from redis.asyncio import Redis

from drawdown_server.config import Config
from drawdown_server.holds.keys import outbox, partition_of
from drawdown_server.holds.messages import ReadCapsReply
from drawdown_server.holds.model import (
    AssetBalance,
    GrantBalance,
    GrantSource,
    OveragePolicy,
    WalletReading,
    WalletState,
)
from drawdown_server.holds.nodes import OneNode
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.events import CapDelta, Event, EventKind, Line, LineKind, SettledAmount, encode
from drawdown_server.ledger.flusher import Flusher
from drawdown_server.ledger.store import LedgerStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.holds.messages import ReadCapsRequest
    from drawdown_server.ledger.rows import GrantRow

TENANT = "tenant"
PARTITIONS = 4
NOW_MS = 1_800_000_000_000

_owners = itertools.count(1)


def make_flusher(redis: Redis, store: LedgerStore, **settings: int) -> Flusher:
    """A flusher with an owner of its own."""
    return Flusher(
        OneNode(redis),
        store,
        owner=f"flusher-{next(_owners)}",
        batch_max=settings.get("batch_max", 100),
        block_ms=settings.get("block_ms", 20),
        linger_ms=settings.get("linger_ms", 0),
        lease_ttl_ms=settings.get("lease_ttl_ms", 60_000),
    )


def commit_event(
    wallet_id: str,
    sequence: int,
    lines: list[Line] | None = None,
    *,
    hold_id: str | None = None,
    labels: str = "",
    tenant_id: str = TENANT,
    amounts: list[SettledAmount] | None = None,
    final: bool = True,
    hold_create_ms: int = NOW_MS,
    cap_usage: dict[str, int] | None = None,
) -> Event:
    """A Commit; of zero without lines."""
    lines = lines or []
    return Event(
        version=1,
        kind=EventKind.COMMIT,
        tenant_id=tenant_id,
        wallet_id=wallet_id,
        wallet_sequence=sequence,
        time_ms=NOW_MS + sequence,
        change_number=0,
        hold_id=f"hold-{sequence}" if hold_id is None else hold_id,
        lines=lines,
        amounts=[SettledAmount(line.asset, line.units + 5, line.units, 0) for line in lines]
        if amounts is None
        else amounts,
        subjects=["key:sk_1", "model:m"],
        labels=labels,
        hold_create_ms=hold_create_ms,
        late=False,
        final=final,
        refund_id="",
        cap_usage=[CapDelta(counter, units) for counter, units in (cap_usage or {}).items()],
    )


def change_event(
    wallet_id: str, sequence: int, change_number: int, kind: EventKind, lines: list[Line] | None = None
) -> Event:
    """A change that was applied."""
    return Event(
        version=1,
        kind=kind,
        tenant_id=TENANT,
        wallet_id=wallet_id,
        wallet_sequence=sequence,
        time_ms=NOW_MS + sequence,
        change_number=change_number,
        hold_id="",
        lines=lines or [],
        amounts=[],
        subjects=[],
        labels="",
        hold_create_ms=0,
        late=False,
        final=True,
        refund_id="",
        cap_usage=[],
    )


def refund_event(
    wallet_id: str,
    sequence: int,
    hold_id: str,
    lines: list[Line],
    *,
    refund_id: str = "r",
    cap_usage: dict[str, int] | None = None,
) -> Event:
    """A Refund."""
    return msgspec.structs.replace(
        commit_event(wallet_id, sequence, lines, hold_id=hold_id, amounts=[], cap_usage=cap_usage),
        kind=EventKind.REFUND,
        refund_id=refund_id,
    )


@dataclass
class Wallet:
    """A wallet as Valkey would have it."""

    sequence: int = 0
    change_number: int = 0
    state: WalletState = WalletState.ACTIVE
    grants: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Grant id -> asset, units left."""
    assets: set[str] = field(default_factory=set)


class Live:
    """Valkey's side of a few wallets, in this process; its events go to the real outboxes."""

    def __init__(self, redis: Redis, store: LedgerStore, epoch: int = 1) -> None:
        self.redis = redis
        self.store = store
        self.epoch = epoch
        self.wallets: dict[str, Wallet] = {}

    async def create_wallet(self, wallet_id: str, **units: int) -> None:
        """A wallet with one applied grant per asset."""
        await self.store.create_wallet(TENANT, wallet_id, partition_of(TENANT, wallet_id, PARTITIONS), "", {})
        self.wallets[wallet_id] = Wallet()
        for asset, granted in units.items():
            await self.store.create_asset(TENANT, asset, 0, "", OveragePolicy.CHARGE_AVAILABLE)
            await self.grant(wallet_id, f"g-{asset}", asset, granted)

    async def grant(self, wallet_id: str, grant_id: str, asset: str, units: int) -> None:
        """A grant, written to Postgres and applied."""
        await self.apply(wallet_id, await create_grant(self.store, wallet_id, grant_id, asset, units))

    async def apply(self, wallet_id: str, grant: GrantRow) -> None:
        """Apply a grant."""
        wallet = self.wallets[wallet_id]
        wallet.sequence += 1
        wallet.change_number = grant.change_number
        wallet.grants[grant.grant_id] = (grant.asset, grant.units)
        wallet.assets.add(grant.asset)
        line = Line(LineKind.GRANT, grant.asset, grant.units, grant.grant_id)
        await self.emit(change_event(wallet_id, wallet.sequence, grant.change_number, EventKind.GRANT, [line]))

    async def change_state(self, wallet_id: str, change_number: int, state: WalletState) -> None:
        """Apply a change of state."""
        wallet = self.wallets[wallet_id]
        wallet.sequence += 1
        wallet.change_number = change_number
        wallet.state = state
        await self.emit(change_event(wallet_id, wallet.sequence, change_number, EventKind.STATE))

    async def commit(self, wallet_id: str, **units: int) -> str:
        """A Commit from the grants in order. Returns the id of its event."""
        wallet = self.wallets[wallet_id]
        lines = []
        for asset, wanted in units.items():
            left = wanted
            for grant_id, (of_asset, remaining) in wallet.grants.items():
                taken = min(left, remaining) if of_asset == asset else 0
                if taken:
                    lines.append(Line(LineKind.DEBIT, asset, taken, grant_id))
                    wallet.grants[grant_id] = (asset, remaining - taken)
                    left -= taken
            assert left == 0, "the test commits more than there is"
        wallet.sequence += 1
        return await self.emit(commit_event(wallet_id, wallet.sequence, lines))

    async def emit(self, event: Event, partition: int | None = None) -> str:
        """Add an event to its outbox."""
        if partition is None:
            partition = partition_of(event.tenant_id, event.wallet_id, PARTITIONS)
        return await self.emit_raw(partition, encode(event))

    async def emit_raw(self, partition: int, raw: bytes) -> str:
        """Add anything to an outbox."""
        stream_id = await self.redis.xadd(outbox(partition, self.epoch), {b"e": raw})
        assert isinstance(stream_id, bytes)
        return stream_id.decode()

    async def read_live(self, tenant_id: str, wallet_id: str) -> WalletReading | None:
        """As the read script would answer."""
        assert tenant_id == TENANT
        wallet = self.wallets.get(wallet_id)
        if wallet is None:
            return None
        balances = []
        for asset in sorted(wallet.assets):
            grants = [
                GrantBalance(grant_id, units, 0, 0, GrantSource.PURCHASE, 0, 0, NOW_MS)
                for grant_id, (of_asset, units) in wallet.grants.items()
                if of_asset == asset and units
            ]
            total = sum(grant.free for grant in grants)
            balances.append(AssetBalance(asset, total, 0, total, 0, 0, grants))
        return WalletReading(wallet.state, wallet.sequence, wallet.change_number, 0, balances)

    async def read_caps(self, request: ReadCapsRequest) -> ReadCapsReply:
        """There are none."""
        assert request.wallet_id in self.wallets
        return ReadCapsReply(status="OK")


async def create_grant(
    store: LedgerStore,
    wallet_id: str,
    grant_id: str,
    asset: str,
    units: int,
    *,
    effective_ms: int = 0,
    expire_ms: int = 0,
) -> GrantRow:
    """A plain grant in Postgres."""
    row, _ = await store.create_grant(
        TENANT,
        wallet_id,
        grant_id,
        asset=asset,
        units=units,
        priority=0,
        source=GrantSource.PURCHASE,
        effective_ms=effective_ms,
        expire_ms=expire_ms,
        labels={},
    )
    return row


@asynccontextmanager
async def open_store(postgres_url: str, partitions: int = PARTITIONS) -> AsyncIterator[LedgerStore]:
    """A store over a pool of its own."""
    async with open_pool(Config(postgres_url=postgres_url)) as pool:
        store = LedgerStore(pool)
        await store.ensure_partitions(partitions)
        yield store


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Redis]:
    """A client as the flusher needs it."""
    redis = Redis.from_url(url, socket_timeout=30)
    try:
        yield redis
    finally:
        await redis.aclose()
