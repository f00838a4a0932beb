"""The auditor of the end-to-end tests: what must hold for a wallet, whatever a test has done to it.

It reads both stores itself, past the server under test, and ends with the product's own ``reconcile``. The letters
are those of the invariants in server/README.md:

    I1  per asset available + held = settled + overdraft limit, and held is the sum of the open holds
    I2  every entry has a debit and a credit account, one of which is the wallet's
    I3  what the ledger has of a hold is what was debited and refunded under it, each once
    I4  an event is one set of entries: the sequence has no gap, no repeat and no dead letter
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from drawdown_server.app import open_stores
from drawdown_server.errors import DrawdownError, ErrorReason, StoreUnavailableError
from drawdown_server.holds.messages import ListHoldsRequest, ReadCapsReply, ReadCapsRequest
from drawdown_server.ledger.events import LineKind
from drawdown_server.ledger.reconcile import reconcile_wallet
from stores import superuser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config
    from drawdown_server.holds.model import WalletReading
    from drawdown_server.ledger.rows import EntryRow
    from drawdown_server.stores import Stores

LIMIT = 100_000
"""More rows than any test makes."""
CUT_TIMEOUT_S = 60.0
BACK_TIMEOUT_S, BACK_POLL_S = 30.0, 0.05


class Audit:
    """Reads wallets in both stores, and never loads, sweeps or repairs anything."""

    def __init__(self, stores: Stores, tenant_id: str) -> None:
        self.stores = stores
        self.tenant_id = tenant_id

    async def read_live(self, tenant_id: str, wallet_id: str) -> WalletReading | None:
        """The wallet with its grants; None when it is not in Valkey. (``reconcile.LiveWallets``)"""
        async with asyncio.timeout(BACK_TIMEOUT_S):
            while True:
                try:
                    return await self.stores.holds.read(tenant_id, wallet_id, with_grants=True)
                except StoreUnavailableError:  # after a failover the auditor, too, waits until the old one is given up
                    await asyncio.sleep(BACK_POLL_S)
                except DrawdownError as error:
                    if error.reason is ErrorReason.WALLET_NOT_FOUND:
                        return None
                    raise

    async def read_caps(self, request: ReadCapsRequest) -> ReadCapsReply:
        """Its caps and how they stand. (``reconcile.LiveWallets``)"""
        return await self.stores.holds.read_caps(request)

    async def entries(self, wallet_id: str) -> list[EntryRow]:
        return await self.stores.ledger.list_entries(self.tenant_id, wallet_id, limit=LIMIT)

    async def assert_conserved(self, *wallet_ids: str) -> None:
        """Wait until the ledger has what Valkey has, then check every invariant of these wallets."""
        for wallet_id in wallet_ids:
            report = await reconcile_wallet(
                self, self.stores.ledger, self.tenant_id, wallet_id, cut_timeout_s=CUT_TIMEOUT_S
            )
            assert report.clean, "\n".join(map(str, report.differences))
            reading = await self.read_live(self.tenant_id, wallet_id)
            if reading is not None:
                await self._check_live(wallet_id, reading)
            await self._check_ledger(wallet_id)

    async def _check_live(self, wallet_id: str, reading: WalletReading) -> None:
        request = ListHoldsRequest(tenant_id=self.tenant_id, wallet_id=wallet_id, after_ms=0, after_id="", limit=LIMIT)
        holds = await self.stores.holds.list_holds(request)
        held: Counter[str] = Counter()
        for hold in holds:
            assert hold.state == "HELD"
            for amount in hold.amounts:
                assert 0 <= amount.held <= amount.authorized
                assert amount.refunded <= amount.debited
                held[amount.asset] += amount.held
        assert len(holds) == reading.open_holds
        for balance in reading.balances:
            assert balance.available + balance.held == balance.settled + balance.overdraft_limit, balance
            assert balance.held == held[balance.asset], (wallet_id, balance)
            free = sum(grant.free for grant in balance.grants)
            pinned = sum(grant.pinned for grant in balance.grants)
            assert balance.settled == free + pinned - balance.debt, balance
            assert balance.debt <= 0 or free == 0, f"debt stands beside free units: {balance}"

    async def _check_ledger(self, wallet_id: str) -> None:
        entries = await self.entries(wallet_id)
        own = {f"wallet:{wallet_id}", f"debt:{wallet_id}"}
        debited: dict[str, Counter[str]] = defaultdict(Counter)
        refunded: dict[str, Counter[str]] = defaultdict(Counter)
        for entry in entries:
            assert entry.units >= 1
            assert own & {entry.debit_account, entry.credit_account}
            assert entry.debit_account != entry.credit_account
            if entry.kind is LineKind.DEBIT:
                debited[entry.hold_id][entry.asset] += entry.units
            elif entry.kind is LineKind.REFUND:
                refunded[entry.hold_id][entry.asset] += entry.units
        places = [(entry.wallet_sequence, entry.line) for entry in entries]
        assert len(places) == len(set(places))
        assert refunded.keys() <= debited.keys()
        for hold_id, units in debited.items():
            settled = await self.stores.ledger.get_settled_hold(self.tenant_id, wallet_id, hold_id)
            assert settled is not None
            assert {a.asset: a.debited for a in settled.amounts if a.debited} == dict(units)
            assert {a.asset: a.refunded for a in settled.amounts if a.refunded} == dict(refunded[hold_id])


@asynccontextmanager
async def open_audit(config: Config) -> AsyncIterator[Audit]:
    """An auditor with connections of its own; on them a test may also do to Valkey what a server may not."""
    config = config.model_copy(update={"valkey_url": superuser(config.valkey_url)})

    async def load_nothing(_tenant_id: str, _wallet_id: str) -> bool:
        return False

    async with open_stores(config) as stores:
        stores.holds.on_missing_wallet(load_nothing)
        yield Audit(stores, config.tenant)
