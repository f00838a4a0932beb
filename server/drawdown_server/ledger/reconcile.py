"""Compares a wallet in Valkey with the same wallet in Postgres, and says in plain words where they differ.

Both sides are read at one cut: Valkey's reading carries the wallet's sequence, and Postgres is read (in one snapshot)
until it has recorded exactly that event; a wallet that is busy is read again, a bounded number of times. Then

    available + held            = settled + overdraft limit        (Valkey, per asset)
    settled                     = sum of live grants - debt        (Valkey, per asset)
    settled, debt               = the row in balances
    free + pinned of each grant = grants.remaining_units
    sums of entries             = the row in balances, and units - debited - expired of each grant
    state, change number        = the changes applied
    no event of the wallet is a dead letter

It never repairs anything: a difference is a bug or a lost write, and a person decides.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drawdown_server.holds.model import AssetBalance, WalletReading
    from drawdown_server.ledger.entries import WalletAudit
    from drawdown_server.ledger.store import LedgerStore

_Finding: TypeAlias = tuple[str, str, int | str, int | str]

CUT_TIMEOUT_S: Final = 10.0
"""Longest wait for the flusher to reach what was read from Valkey."""
CUT_PAUSE_S: Final = 0.02
"""Pause between two looks: about one flush."""
PAGE: Final = 500
"""Wallets listed at once."""


class LiveWallets(Protocol):
    """Where the live balances are read."""

    async def read_live(self, tenant_id: str, wallet_id: str) -> WalletReading | None:
        """The wallet with its grants, at one instant; None when it is not in Valkey."""


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not as it must be."""

    tenant_id: str
    wallet_id: str
    asset: str
    """Empty: the wallet as a whole."""
    what: str
    valkey: str
    postgres: str

    def __str__(self) -> str:
        """For people."""
        asset = f" {self.asset}" if self.asset else ""
        return f"wallet {self.wallet_id}{asset}: {self.what}: {self.valkey} in Valkey, {self.postgres} in Postgres"


class Report(msgspec.Struct):
    """What was compared and what differed."""

    wallets: int = 0
    """Wallets compared on both sides."""
    not_live: int = 0
    """Wallets that are not in Valkey; only Postgres was checked."""
    differences: list[Difference] = []

    @property
    def clean(self) -> bool:
        """Nothing differs."""
        return not self.differences


async def reconcile(
    live: LiveWallets, store: LedgerStore, tenant_id: str, *, cut_timeout_s: float = CUT_TIMEOUT_S
) -> Report:
    """Compare every wallet of a tenant."""
    report = Report()
    after = ""
    while rows := await store.list_wallets(tenant_id, after, PAGE):
        for row in rows:
            one = await reconcile_wallet(live, store, tenant_id, row.wallet_id, cut_timeout_s=cut_timeout_s)
            report.wallets += one.wallets
            report.not_live += one.not_live
            report.differences += one.differences
        after = rows[-1].wallet_id
    return report


async def reconcile_wallet(
    live: LiveWallets, store: LedgerStore, tenant_id: str, wallet_id: str, *, cut_timeout_s: float = CUT_TIMEOUT_S
) -> Report:
    """Compare one wallet.

    Args:
        live: Where Valkey is read.
        store: The ledger.
        tenant_id: The tenant.
        wallet_id: The wallet.
        cut_timeout_s: Longest wait for both sides to be at the same event; past it that is the difference.
    """
    deadline = asyncio.get_running_loop().time() + cut_timeout_s
    while True:
        reading = await live.read_live(tenant_id, wallet_id)
        audit = await store.audit_wallet(tenant_id, wallet_id)
        if reading is None or audit is None or reading.sequence == audit.snapshot.wallet.sequence:
            break
        if asyncio.get_running_loop().time() >= deadline:
            break
        await asyncio.sleep(CUT_PAUSE_S)
    report = Report(wallets=int(reading is not None), not_live=int(reading is None))
    report.differences = [
        Difference(tenant_id, wallet_id, asset, what, str(in_valkey), str(in_postgres))
        for asset, what, in_valkey, in_postgres in compare(reading, audit)
    ]
    return report


def compare(reading: WalletReading | None, audit: WalletAudit | None) -> Iterator[_Finding]:
    """(asset, what, in Valkey, in Postgres) of everything that differs."""
    if audit is None:
        if reading is not None:
            yield "", "exists", "yes", "no"
        return
    yield from _check_ledger(audit)
    if reading is None:
        return
    wallet = audit.snapshot.wallet
    if reading.sequence != wallet.sequence:
        yield "", "last ledger event (waited in vain)", reading.sequence, wallet.sequence
        return  # not the same cut: everything else would differ too
    if reading.change_number != wallet.applied_change_number:
        yield "", "last applied change", reading.change_number, wallet.applied_change_number
    if reading.state is not audit.snapshot.applied_state:
        yield "", "state", reading.state.value, audit.snapshot.applied_state.value
    yield from _check_balances(reading, audit)
    yield from _check_grants(reading, audit)


def _check_balances(reading: WalletReading, audit: WalletAudit) -> Iterator[_Finding]:
    """Every asset, on both sides."""
    in_postgres = {row.asset: row for row in audit.snapshot.balances}
    for balance in reading.balances:
        yield from _check_live(balance)
        row = in_postgres.pop(balance.asset, None)
        settled, debt = (row.settled_units, row.debt_units) if row else (0, 0)
        if balance.settled != settled:
            yield balance.asset, "settled units", balance.settled, settled
        if balance.debt != debt:
            yield balance.asset, "debt units", balance.debt, debt
    for asset, row in in_postgres.items():
        if row.settled_units or row.debt_units:
            yield asset, "settled units", "none", row.settled_units


def _check_live(balance: AssetBalance) -> Iterator[_Finding]:
    """What must hold inside Valkey alone."""
    left, right = balance.available + balance.held, balance.settled + balance.overdraft_limit
    if left != right:
        yield balance.asset, f"available + held is {left}, settled + overdraft limit is {right}", left, "-"
    of_grants = sum(grant.free + grant.pinned for grant in balance.grants) - balance.debt
    if of_grants != balance.settled:
        yield balance.asset, f"live grants - debt is {of_grants}, settled is {balance.settled}", of_grants, "-"


def _check_grants(reading: WalletReading, audit: WalletAudit) -> Iterator[_Finding]:
    """Every live grant, on both sides."""
    recorded = {(grant.asset, grant.grant_id): grant.remaining_units for grant in audit.snapshot.grants}
    for balance in reading.balances:
        for grant in balance.grants:
            units = grant.free + grant.pinned
            in_postgres = recorded.pop((balance.asset, grant.grant_id), 0)
            if units != in_postgres:
                yield balance.asset, f"remaining units of grant {grant.grant_id}", units, in_postgres
    for (asset, grant_id), units in recorded.items():
        yield asset, f"remaining units of grant {grant_id}", 0, units


def _check_ledger(audit: WalletAudit) -> Iterator[_Finding]:
    """What must hold inside Postgres alone."""
    if audit.dead_letters:
        yield "", "events that could not be recorded", "-", audit.dead_letters
    by_asset: dict[str, int] = defaultdict(int)
    by_grant: dict[tuple[str, str], int] = defaultdict(int)
    for entry in audit.sums:
        by_asset[entry.asset] += entry.credited_units - entry.debited_units
        by_grant[entry.asset, entry.grant_id] += entry.credited_units - entry.debited_units
    debts = {}
    for row in audit.snapshot.balances:
        settled = by_asset.pop(row.asset, 0)
        if settled != row.settled_units:
            yield row.asset, f"entries add up to {settled}, the balance row says {row.settled_units}", "-", settled
        debts[row.asset] = row.debt_units
    for asset, settled in by_asset.items():
        yield asset, f"entries add up to {settled}, there is no balance row", "-", settled
    for grant in audit.snapshot.grants:
        remaining = by_grant.pop((grant.asset, grant.grant_id), 0)
        if remaining != grant.remaining_units:
            what = f"entries leave {remaining} of grant {grant.grant_id}, its row says {grant.remaining_units}"
            yield grant.asset, what, "-", remaining
    for (asset, grant_id), remaining in by_grant.items():
        # What is not among the live grants has nothing left; entries without a grant are the debt.
        expected = 0 if grant_id else -debts.get(asset, 0)
        if remaining != expected:
            name = f"grant {grant_id}" if grant_id else "the debt"
            yield asset, f"entries leave {remaining} of {name}, its row says {expected}", "-", remaining
