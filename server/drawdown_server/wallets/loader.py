"""Wallets come to Redis on their first use.

One load per wallet at a time however many calls wait for it, a bounded number of loads at once, and a wallet that does
not exist costs Postgres one query and is then remembered as unknown for a moment.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from drawdown_server import clock, deadline
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds.messages import LoadedAsset, LoadRequest, PackedGrant

if TYPE_CHECKING:
    from drawdown_server.holds.store import HoldStore
    from drawdown_server.ledger.rows import GrantRow, WalletSnapshot
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.wallets.changes import ChangeApplier

UNKNOWN_ENTRIES_MAX: Final = 100_000
"""Unknown wallets remembered; past this all are forgotten."""
CHANGES_PER_LOAD: Final = 500
"""Changes applied in the same script as the load, about 10 us each; more than that are applied one by one after it."""
TICKET_ATTEMPTS_MAX: Final = 3
"""A load whose read of Postgres took longer than a ticket lives, or saw the epoch change, is tried again."""


class WalletLoader:
    """Loads wallets from Postgres.

    Args:
        loads_max: Loads at once; more wait their turn, so that a cold start does not drown Postgres.
        unknown_ttl_ms: How long an unknown wallet is remembered as unknown.
    """

    def __init__(
        self, holds: HoldStore, ledger: LedgerStore, changes: ChangeApplier, *, loads_max: int, unknown_ttl_ms: int
    ) -> None:
        self._holds = holds
        self._ledger = ledger
        self._changes = changes
        self._room = asyncio.Semaphore(loads_max)
        self._unknown_ttl_s = unknown_ttl_ms / 1000
        self._unknown_until_s: dict[tuple[str, str], float] = {}
        self._loading: dict[tuple[str, str], asyncio.Task[bool]] = {}
        self._creations = 0

    async def load(self, tenant_id: str, wallet_id: str) -> bool:
        """Load a wallet, or wait for the load that is under way. False if there is no such wallet.

        Raises:
            StoreUnavailableError: A store did not answer.
        """
        key = (tenant_id, wallet_id)
        if self._unknown_until_s.get(key, 0.0) > clock.monotonic_s():
            return False
        task = self._loading.get(key)
        if task is None:
            task = asyncio.create_task(self._load(tenant_id, wallet_id), name=f"load {wallet_id}")
            self._loading[key] = task
            task.add_done_callback(lambda done: self._loading.pop(key) if self._loading.get(key) is done else None)
        # Shielded: a caller that gives up must not take the load away from the others.
        return await asyncio.shield(task)

    def forget_unknown(self, tenant_id: str, wallet_id: str) -> None:
        """The wallet exists: what was looked up before counts no more, nor what is being looked up now."""
        self._creations += 1
        self._unknown_until_s.pop((tenant_id, wallet_id), None)
        self._loading.pop((tenant_id, wallet_id), None)

    async def _load(self, tenant_id: str, wallet_id: str) -> bool:
        deadline.forget()  # it is for all who wait, and for the next one
        async with self._room:
            for _ in range(TICKET_ATTEMPTS_MAX):
                creations = self._creations
                ticket = await self._holds.ticket(tenant_id, wallet_id)
                if ticket.is_live:  # another server was first
                    return True
                snapshot = await self._ledger.load_wallet(tenant_id, wallet_id)
                if snapshot is None:
                    if creations == self._creations:
                        self._remember_unknown(tenant_id, wallet_id)
                    return False
                reply = await self._holds.load(load_request(snapshot, ticket.time_ms), ticket)
                if reply.status == "OK":
                    if not reply.loaded or len(snapshot.pending) > CHANGES_PER_LOAD:
                        await self._changes.catch_up(tenant_id, wallet_id)
                    return True
        raise StoreUnavailableError("postgres", "postgres took too long to load the wallet")

    def _remember_unknown(self, tenant_id: str, wallet_id: str) -> None:
        if len(self._unknown_until_s) >= UNKNOWN_ENTRIES_MAX:
            self._unknown_until_s.clear()
        self._unknown_until_s[tenant_id, wallet_id] = clock.monotonic_s() + self._unknown_ttl_s


def load_request(snapshot: WalletSnapshot, ticket_ms: int) -> LoadRequest:
    """A wallet as Postgres recorded it, as ``load.lua`` takes it, with the changes that were recorded since.

    Nothing is held: holds live in Redis only.
    """
    wallet = snapshot.wallet
    return LoadRequest(
        tenant_id=wallet.tenant_id,
        wallet_id=wallet.wallet_id,
        ticket_ms=ticket_ms,
        state=snapshot.applied_state,
        sequence=wallet.sequence,
        change_number=wallet.applied_change_number,
        assets=_loaded_assets(snapshot),
        caps=snapshot.caps,
        cap_usage=snapshot.cap_usage,
        changes=[change.change for change in snapshot.pending[:CHANGES_PER_LOAD]],
    )


def _loaded_assets(snapshot: WalletSnapshot) -> list[LoadedAsset]:
    """By code. An asset may have scheduled grants only: it has no balance yet."""
    balances = {balance.asset: balance for balance in snapshot.balances}
    grants: dict[str, list[PackedGrant]] = {asset: [] for asset in balances}
    scheduled: dict[str, list[PackedGrant]] = {asset: [] for asset in balances}
    for grant in snapshot.grants:
        grants.setdefault(grant.asset, []).append(_packed(grant))
    for grant in snapshot.scheduled:
        scheduled.setdefault(grant.asset, []).append(_packed(grant))
    loaded = []
    for asset in sorted({*grants, *scheduled}):
        balance = balances.get(asset)
        loaded.append(
            LoadedAsset(
                asset=asset,
                debt=balance.debt_units if balance else 0,
                overdraft_limit=balance.overdraft_limit_units if balance else 0,
                grants=grants.get(asset, []),
                scheduled=scheduled.get(asset, []),
            )
        )
    return loaded


def _packed(grant: GrantRow) -> PackedGrant:
    return PackedGrant(
        grant_id=grant.grant_id,
        free=grant.remaining_units,
        pinned=0,
        priority=grant.priority,
        expire_ms=grant.applied_expire_ms,
        source=grant.source,
        effective_ms=grant.effective_ms,
        create_ms=grant.create_ms,
        voided=grant.applied_void,
    )
