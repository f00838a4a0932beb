"""Compares a wallet in Valkey with the same wallet in Postgres, and says in plain words where they differ.

Both sides are read at one cut: Valkey's reading carries the wallet's sequence, and Postgres is read (in one snapshot)
until it has recorded exactly that event; a wallet that is busy is read again, a bounded number of times. Then

    available + held            = settled + overdraft limit        (Valkey, per asset)
    settled                     = sum of live grants - debt        (Valkey, per asset)
    settled, debt, limit        = the row in balances
    free + pinned of each grant = grants.remaining_units
    scheduled grants            = those that were applied and are not live
    caps, usage of each counter = the caps applied, cap_usage      (usage: at least that much while holds are open)
    sums of entries             = the row in balances, and units - debited - expired of each grant
    state, change number        = the changes applied
    no event of the wallet is a dead letter

Valkey shows what time has done before its event is made, by the next use of the wallet or by the sweep: what differs
is looked at again for a moment. It never repairs anything: a difference is a bug or a lost write, and a person decides.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import msgspec

from drawdown_server.holds.messages import ReadCapsRequest
from drawdown_server.holds.model import CapWindow
from drawdown_server.ledger.counters import parse_counter
from drawdown_server.ledger.database import to_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drawdown_server.holds.messages import ReadCapsReply
    from drawdown_server.holds.model import AssetBalance, GrantBalance, WalletReading
    from drawdown_server.ledger.entries import WalletAudit
    from drawdown_server.ledger.rows import GrantRow
    from drawdown_server.ledger.store import LedgerStore

_Finding: TypeAlias = tuple[str, str, int | str, int | str]

CUT_TIMEOUT_S: Final = 10.0
"""Longest wait for the flusher to reach what was read from Valkey."""
CUT_PAUSE_S: Final = 0.02
"""Pause between two looks: about one flush."""
GRACE_S: Final = 3.0
"""Longest wait for the event of what time did: the sweep looks every second."""
PAGE: Final = 500
"""Wallets listed at once."""


class LiveWallets(Protocol):
    """Where the live balances are read."""

    async def read_live(self, tenant_id: str, wallet_id: str) -> WalletReading | None:
        """The wallet with its grants, at one instant; None when it is not in Valkey."""

    async def read_caps(self, request: ReadCapsRequest) -> ReadCapsReply:
        """Its caps, and how they stand."""


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
    loop = asyncio.get_running_loop()
    cut_by = loop.time() + cut_timeout_s
    same_by = loop.time() + min(cut_timeout_s, GRACE_S)
    while True:
        reading = await live.read_live(tenant_id, wallet_id)
        audit = await store.audit_wallet(tenant_id, wallet_id)
        findings: list[_Finding] = []
        if reading is None or audit is None or reading.sequence == audit.snapshot.wallet.sequence:
            caps = await _read_caps(live, audit) if reading is not None and audit is not None else None
            findings = list(compare(reading, audit, caps))
            if not findings or loop.time() >= same_by:
                break
        elif loop.time() >= cut_by:
            findings = list(compare(reading, audit, None))
            break
        await asyncio.sleep(CUT_PAUSE_S)
    report = Report(wallets=int(reading is not None), not_live=int(reading is None))
    report.differences = [
        Difference(tenant_id, wallet_id, asset, what, str(in_valkey), str(in_postgres))
        for asset, what, in_valkey, in_postgres in findings
    ]
    return report


async def _read_caps(live: LiveWallets, audit: WalletAudit) -> ReadCapsReply:
    """Also for the subjects that a ``prefix*`` cap covers, as far as the ledger knows them."""
    subjects = sorted({parse_counter(usage.counter).subject for usage in audit.snapshot.cap_usage} - {""})
    wallet = audit.snapshot.wallet
    return await live.read_caps(
        ReadCapsRequest(tenant_id=wallet.tenant_id, wallet_id=wallet.wallet_id, subjects=subjects)
    )


def compare(reading: WalletReading | None, audit: WalletAudit | None, caps: ReadCapsReply | None) -> Iterator[_Finding]:
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
    yield from _check_scheduled(reading, audit)
    if caps is not None:
        yield from _check_caps(caps, audit, exact=reading.open_holds == 0)


def _check_balances(reading: WalletReading, audit: WalletAudit) -> Iterator[_Finding]:
    """Every asset, on both sides."""
    in_postgres = {row.asset: row for row in audit.snapshot.balances}
    for balance in reading.balances:
        yield from _check_live(balance)
        row = in_postgres.pop(balance.asset, None)
        settled, debt, limit = (row.settled_units, row.debt_units, row.overdraft_limit_units) if row else (0, 0, 0)
        if balance.settled != settled:
            yield balance.asset, "settled units", balance.settled, settled
        if balance.debt != debt:
            yield balance.asset, "debt units", balance.debt, debt
        if balance.overdraft_limit != limit:
            yield balance.asset, "overdraft limit units", balance.overdraft_limit, limit
    for asset, row in in_postgres.items():
        if row.settled_units or row.debt_units or row.overdraft_limit_units:
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
    in_valkey = [(balance.asset, grant) for balance in reading.balances for grant in balance.grants]
    yield from _compare_grants("remaining units of grant", in_valkey, audit.snapshot.grants)


def _check_scheduled(reading: WalletReading, audit: WalletAudit) -> Iterator[_Finding]:
    """Every grant that is not effective yet, on both sides."""
    in_valkey = [(balance.asset, grant) for balance in reading.balances for grant in balance.scheduled]
    yield from _compare_grants("units of scheduled grant", in_valkey, audit.snapshot.scheduled)


def _compare_grants(
    what: str, in_valkey: list[tuple[str, GrantBalance]], in_postgres: list[GrantRow]
) -> Iterator[_Finding]:
    recorded = {(grant.asset, grant.grant_id): grant for grant in in_postgres}
    for asset, grant in in_valkey:
        row = recorded.pop((asset, grant.grant_id), None)
        units = grant.free + grant.pinned
        if units != (row.remaining_units if row else 0):
            yield asset, f"{what} {grant.grant_id}", units, row.remaining_units if row else 0
        elif row and row.applied_expire_ms != grant.expire_ms:
            yield asset, f"expiry of grant {grant.grant_id}", grant.expire_ms, row.applied_expire_ms
    for (asset, grant_id), row in recorded.items():
        yield asset, f"{what} {grant_id}", 0, row.remaining_units


def _check_caps(caps: ReadCapsReply, audit: WalletAudit, *, exact: bool) -> Iterator[_Finding]:
    """The caps, and what counts in them: Valkey also counts what open holds hold."""
    there = {(cap.subject, cap.asset, cap.window): cap for cap in audit.snapshot.caps}
    for cap in caps.caps:
        row = there.pop((cap.subject, cap.asset, cap.window), None)
        if row != cap:
            recorded = f"{row.limit} {row.mode}" if row else "none"
            yield cap.asset, f"cap of {cap.subject!r} per {cap.window}", f"{cap.limit} {cap.mode}", recorded
    for row in there.values():
        yield row.asset, f"cap of {row.subject!r} per {row.window}", "none", f"{row.limit} {row.mode}"
    usage: dict[tuple[str, str, str, int], int] = {}
    for counter in audit.snapshot.cap_usage:
        subject, asset, window, _ = counter.counter.split("|")
        usage[subject, asset, window, to_ms(parse_counter(counter.counter).end_time)] = counter.units
    for status in caps.usage:
        if status.window is CapWindow.PER_REQUEST:
            continue
        units = usage.get((status.subject, status.asset, status.window, status.reset_ms), 0)
        if status.used < units or (exact and status.used != units):
            yield status.asset, f"used under the cap of {status.subject!r} per {status.window}", status.used, units


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
        # What is not among the live grants has nothing left; the debt's account is listed without a grant.
        expected = 0 if grant_id else -debts.get(asset, 0)
        if remaining != expected:
            name = f"grant {grant_id}" if grant_id else "the debt"
            yield asset, f"entries leave {remaining} of {name}, its row says {expected}", "-", remaining
