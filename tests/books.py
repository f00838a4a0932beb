"""Both stores with everything between them but the gRPC edge: real scripts, real flusher, real loads.

``Books`` gives short verbs on one wallet ``w`` and says whether a reload from Postgres brings back what was live.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from drawdown_server.holds import keys
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.fingerprint import refund_digest
from drawdown_server.holds.library import build_library, load_library
from drawdown_server.holds.messages import (
    AmountRequest,
    AuthorizeReply,
    AuthorizeRequest,
    ChargeRequest,
    CommitRequest,
    EvictRequest,
    ReadCapsReply,
    ReadCapsRequest,
    RefundRequest,
    ReleaseRequest,
    SettleReply,
    SweepRequest,
    TotalUsed,
)
from drawdown_server.holds.model import (
    Cap,
    CapMode,
    CapWindow,
    ExpiryAction,
    GrantSource,
    OveragePolicy,
    WalletReading,
)
from drawdown_server.holds.nodes import OneNode
from drawdown_server.holds.refusals import HoldUnknownError
from drawdown_server.holds.store import HoldStore
from drawdown_server.ledger.reconcile import reconcile_wallet
from drawdown_server.ledger.recovery import open_partitions
from drawdown_server.rpc.refund_grants import grants_that_may_have_paid
from drawdown_server.wallets.admin import WalletAdmin
from drawdown_server.wallets.assets import AssetRegistry
from drawdown_server.wallets.changes import ChangeApplier
from drawdown_server.wallets.loader import WalletLoader
from idle import make_idle
from ledgers import PARTITIONS, TENANT, make_flusher, open_redis, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from drawdown_server.holds.messages import PackedGrant
    from drawdown_server.ledger.flusher import Flusher
    from drawdown_server.ledger.store import LedgerStore

WALLET = "w"
TTL_MS = 300_000
TOMBSTONE_MS = 900_000
SUBJECTS = ["key:1", "user:1"]


@dataclass
class Books:
    """One wallet on both sides."""

    redis: Redis
    holds: HoldStore
    ledger: LedgerStore
    admin: WalletAdmin
    loader: WalletLoader
    flusher: Flusher

    # --- money in ------------------------------------------------------------------------------------------------

    async def grant(
        self,
        grant_id: str,
        units: int,
        *,
        asset: str = "USD",
        priority: int = 0,
        source: GrantSource = GrantSource.PURCHASE,
        effective_ms: int = 0,
        expire_ms: int = 0,
    ) -> None:
        await self.admin.create_grant(
            TENANT,
            wallet_id=WALLET,
            grant_id=grant_id,
            asset=asset,
            units=units,
            priority=priority,
            source=source,
            labels={"of": grant_id},
            effective_ms=effective_ms,
            expire_ms=expire_ms,
        )

    async def cap(
        self,
        subject: str,
        limit: int,
        *,
        asset: str = "USD",
        window: CapWindow = CapWindow.LIFETIME,
        mode: CapMode = CapMode.ENFORCE,
    ) -> None:
        await self.admin.set_cap(TENANT, WALLET, Cap(subject, asset, window, limit, mode))

    # --- holds ---------------------------------------------------------------------------------------------------

    async def authorize(
        self,
        hold_id: str,
        units: dict[str, int],
        *,
        policy: OveragePolicy = OveragePolicy.CHARGE_AVAILABLE,
        ttl_ms: int = TTL_MS,
        action: ExpiryAction = ExpiryAction.RELEASE,
        subjects: list[str] | None = None,
    ) -> AuthorizeReply:
        return await self.holds.authorize(
            AuthorizeRequest(
                tenant_id=TENANT,
                wallet_id=WALLET,
                hold_id=hold_id,
                fingerprint="f",
                ways=[[AmountRequest(asset, amount, overage_policy=policy) for asset, amount in units.items()]],
                ttl_ms=ttl_ms,
                subjects=SUBJECTS if subjects is None else subjects,
                expiry_action=action,
                labels='{"a":"b"}',
                open_holds_max=1000,
                tombstone_ms=TOMBSTONE_MS,
            )
        )

    async def charge(
        self, hold_id: str, units: dict[str, int], *, policy: OveragePolicy = OveragePolicy.CHARGE_FULL
    ) -> AuthorizeReply:
        return await self.holds.charge(
            ChargeRequest(
                tenant_id=TENANT,
                wallet_id=WALLET,
                hold_id=hold_id,
                fingerprint="f",
                amounts=[AmountRequest(asset, amount, overage_policy=policy) for asset, amount in units.items()],
                subjects=SUBJECTS,
                labels="",
                tombstone_ms=TOMBSTONE_MS,
            )
        )

    async def commit(self, hold_id: str, units: dict[str, int], *, final: bool = True) -> SettleReply:
        return await self.holds.commit(
            CommitRequest(
                tenant_id=TENANT,
                wallet_id=WALLET,
                hold_id=hold_id,
                amounts=[TotalUsed(asset, amount) for asset, amount in units.items()],
                final=final,
                tombstone_ms=TOMBSTONE_MS,
            )
        )

    async def release(self, hold_id: str, *, forced: bool = False) -> SettleReply:
        return await self.holds.release(
            ReleaseRequest(
                tenant_id=TENANT,
                wallet_id=WALLET,
                hold_id=hold_id,
                tombstone_ms=TOMBSTONE_MS,
                bury=False,
                forced=forced,
            )
        )

    async def refund(self, hold_id: str, refund_id: str, units: dict[str, int]) -> SettleReply:
        """As the edge does it: from the ledger when Valkey has forgotten the hold."""
        request = RefundRequest(
            tenant_id=TENANT,
            wallet_id=WALLET,
            hold_id=hold_id,
            refund_id=refund_id,
            digest=refund_digest(units),
            amounts=[TotalUsed(asset, amount) for asset, amount in units.items()],
            grants=await self.paying_grants(hold_id),
            recorded=None,
            tombstone_ms=TOMBSTONE_MS,
        )
        try:
            return await self.holds.refund(request)
        except HoldUnknownError:
            request.recorded = await self.ledger.recorded_hold(TENANT, WALLET, hold_id)
            return await self.holds.refund(request)

    async def paying_grants(self, hold_id: str) -> list[PackedGrant]:
        return await grants_that_may_have_paid(self.ledger, TENANT, WALLET, hold_id)

    async def sweep(self) -> None:
        while (
            await self.holds.sweep(SweepRequest(tenant_id=TENANT, wallet_id=WALLET, tombstone_ms=TOMBSTONE_MS))
        ).more:
            pass

    async def until(self, time_ms: int) -> None:
        """Wait until the store's clock has reached a time."""
        while await self.holds.now_ms() < time_ms:
            pass

    # --- looking -------------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        while await self.flusher.run_once():
            pass

    async def read(self) -> WalletReading:
        """What is there; an asset of which there is nothing counts as none."""
        reading = await self.holds.read(TENANT, WALLET, with_grants=True)
        reading.balances[:] = [
            balance
            for balance in reading.balances
            if balance.settled or balance.debt or balance.overdraft_limit or balance.grants or balance.scheduled
        ]
        return reading

    async def read_caps(self) -> ReadCapsReply:
        return await self.holds.read_caps(ReadCapsRequest(tenant_id=TENANT, wallet_id=WALLET, subjects=SUBJECTS))

    async def forget(self) -> None:
        """Valkey loses the wallet, but not the outbox."""
        partition = keys.partition_of(TENANT, WALLET, PARTITIONS)
        await self.redis.delete(*keys.wallet_keys(partition, 1, TENANT, WALLET)[3:])

    async def evict(self) -> None:
        """The wallet was idle for so long that its tombstones are gone, and leaves Valkey."""
        partition = keys.partition_of(TENANT, WALLET, PARTITIONS)
        names = keys.wallet_keys(partition, 1, TENANT, WALLET)
        tombstones = await self.redis.zrange(names[6], 0, -1)
        if tombstones:
            await self.redis.zadd(names[6], dict.fromkeys(tombstones, 1))
        await self.flush()
        await self.sweep()
        await make_idle(self.redis, names[3])
        (wallet,) = await self.ledger.recorded_wallets([(TENANT, WALLET)])
        reply = await self.holds.evict(EvictRequest(**msgspec.structs.asdict(wallet)))
        assert reply.status == "OK"
        assert await self.redis.exists(*names[3:]) == 0

    async def assert_reload_equal(self, *, evict: bool = False) -> None:
        """With nothing held: what Postgres has recorded is what is live, and a load brings it back."""
        await self.sweep()
        await self.flush()
        assert await self.ledger.list_dead_letters(limit=10) == []
        before, caps = await self.read(), await self.read_caps()
        assert before.open_holds == 0
        await self.assert_reconciled()
        await (self.evict() if evict else self.forget())
        assert await self.read() == before
        assert await self.read_caps() == caps
        await self.assert_reconciled()

    async def assert_reconciled(self) -> None:
        report = await reconcile_wallet(self.holds, self.ledger, TENANT, WALLET)
        assert [str(difference) for difference in report.differences] == []
        assert report.wallets == 1


@asynccontextmanager
async def open_books(valkey_url: str, postgres_url: str) -> AsyncIterator[Books]:
    """An installation with two assets and one empty wallet."""
    async with (
        open_store(postgres_url) as ledger,
        open_redis(valkey_url) as redis,
        open_connection(valkey_url, timeout_ms=10_000, in_flight_max=1_000) as connection,
    ):
        library = build_library()
        await load_library(redis, library)
        holds = HoldStore(connection, library, await open_partitions(OneNode(redis), ledger, PARTITIONS))
        changes = ChangeApplier(holds, ledger)
        loader = WalletLoader(holds, ledger, changes, loads_max=4, unknown_ttl_ms=1000)
        holds.on_missing_wallet(loader.load)
        admin = WalletAdmin(holds, ledger, AssetRegistry(ledger), changes, loader)
        for asset in ("USD", "TOK"):
            await ledger.create_asset(TENANT, asset, 0, "", OveragePolicy.CHARGE_AVAILABLE)
        await admin.create_wallet(TENANT, wallet_id=WALLET, display_name="", labels={})
        yield Books(redis, holds, ledger, admin, loader, make_flusher(redis, ledger))
