"""Holds the books against what a gateway was told: ``collect`` reads them, ``differences`` is pure.

This knows nothing of how the server works and shares no arithmetic with it: what the gateway was told (grants, debits)
is added up here, and must be what Valkey says, what the balance is made of, and what the ledger's entries add up to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import drawdown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from drawdown_server.dev.gateway import Acknowledged, Committed
    from drawdown_server.ledger.store import LedgerStore

_WalletAsset: TypeAlias = tuple[str, str]

POLL_S: Final = 0.05
PAGE: Final = 1_000
"""Wallets or entries read at once."""
READS_IN_FLIGHT: Final = 16
REVENUE: Final = "revenue"
GRANT: Final = "GRANT"
DEBIT: Final = "DEBIT"


class Entry(NamedTuple):
    """One line of the ledger, as Postgres has it."""

    wallet_id: str
    wallet_sequence: int
    line: int
    kind: str
    asset: str
    units: int
    debit_account: str
    credit_account: str
    hold_id: str


class Live(NamedTuple):
    """One asset of a wallet, as Valkey has it."""

    settled: int
    held: int
    available: int


@dataclass(slots=True)
class Books:
    """What both stores say when everything has come to rest."""

    live: dict[tuple[str, str], Live] = field(default_factory=dict)
    """By (wallet_id, asset)."""
    live_sequence: dict[str, int] = field(default_factory=dict)
    """The wallet's last event, by wallet_id."""
    recorded_sequence: dict[str, int] = field(default_factory=dict)
    """The wallet's last event that Postgres has, by wallet_id."""
    abandoned: dict[str, str] = field(default_factory=dict)
    """State of each hold that the gateway never settled, by hold_id."""
    entries: list[Entry] = field(default_factory=list)

    @property
    def expired(self) -> int:
        """Abandoned holds that have expired."""
        return sum(state == drawdown.HoldState.EXPIRED for state in self.abandoned.values())


async def wait_until(is_so: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
    """Look again and again until it is so; False when it never was. A server that restarts is no reason to stop."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while loop.time() < deadline:
        with contextlib.suppress(drawdown.UnavailableError, drawdown.DeadlineExceededError):
            if await is_so():
                return True
        await asyncio.sleep(POLL_S)
    return False


async def wait_until_expired(client: drawdown.AsyncClient, acknowledged: Acknowledged, timeout_s: float) -> bool:
    """Wait until none of the abandoned holds is open; what is open after that is for ``differences`` to report."""
    waiting = {request.wallet_id for request in acknowledged.abandoned.values()}

    async def none_open() -> bool:
        for wallet_id in sorted(waiting):
            if (await client.get_balance(wallet_id=wallet_id)).open_holds:
                return False
            waiting.discard(wallet_id)
        return True

    return await wait_until(none_open, timeout_s)


async def wait_until_recorded(
    client: drawdown.AsyncClient, ledger: LedgerStore, tenant_id: str, wallets: Sequence[str], timeout_s: float
) -> bool:
    """Wait until Postgres has recorded every event of the wallets; what is missing is for ``differences`` to report."""
    waiting = set(wallets)

    async def all_recorded() -> bool:
        recorded = await _recorded_sequences(ledger, tenant_id)
        for wallet_id in sorted(waiting):
            if recorded.get(wallet_id, 0) < (await client.get_balance(wallet_id=wallet_id)).wallet_sequence:
                return False
            waiting.discard(wallet_id)
        return True

    return await wait_until(all_recorded, timeout_s)


async def collect(
    client: drawdown.AsyncClient,
    ledger: LedgerStore,
    tenant_id: str,
    wallets: Sequence[str],
    acknowledged: Acknowledged,
) -> Books:
    """Read everything that ``differences`` needs; nothing may be in flight."""
    books = Books(recorded_sequence=await _recorded_sequences(ledger, tenant_id))
    limit = asyncio.Semaphore(READS_IN_FLIGHT)

    async def read_wallet(wallet_id: str) -> None:
        async with limit:
            reading = await client.get_balance(wallet_id=wallet_id)
            books.entries += await _entries(ledger, tenant_id, wallet_id)
        books.live_sequence[wallet_id] = reading.wallet_sequence
        for asset, balance in reading.balances.items():
            live = Live(balance.settled_units, balance.held_units, balance.available_units)
            books.live[wallet_id, asset] = live

    async def read_hold(wallet_id: str, hold_id: str) -> None:
        async with limit:
            hold = await client.get_hold(wallet_id=wallet_id, hold_id=hold_id)
        books.abandoned[hold_id] = hold.state.value

    async with asyncio.TaskGroup() as reads:
        for wallet_id in wallets:
            reads.create_task(read_wallet(wallet_id))
        for hold_id, request in acknowledged.abandoned.items():
            reads.create_task(read_hold(request.wallet_id, hold_id))
    return books


async def _recorded_sequences(ledger: LedgerStore, tenant_id: str) -> dict[str, int]:
    sequences: dict[str, int] = {}
    after = ""
    while rows := await ledger.list_wallets(tenant_id, after, PAGE):
        sequences |= {row.wallet_id: row.sequence for row in rows}
        after = rows[-1].wallet_id
    return sequences


async def _entries(ledger: LedgerStore, tenant_id: str, wallet_id: str) -> list[Entry]:
    entries: list[Entry] = []
    after = (0, 0)
    while rows := await ledger.list_entries(tenant_id, wallet_id, after=after, limit=PAGE):
        entries += [
            Entry(
                row.wallet_id,
                row.wallet_sequence,
                row.line,
                row.kind,
                row.asset,
                row.units,
                row.debit_account,
                row.credit_account,
                row.hold_id,
            )
            for row in rows
        ]
        after = (rows[-1].wallet_sequence, rows[-1].line)
    return entries


def differences(acknowledged: Acknowledged, books: Books) -> list[str]:
    """Everything that is not as it must be, in words; empty when every unit is accounted for."""
    return [
        *acknowledged.wrong,
        *_check_holds(acknowledged, books),
        *_check_balances(acknowledged, books),
        *_check_commits(acknowledged, books),
        *_check_entries(books),
        *_check_sequences(acknowledged, books),
    ]


def _check_holds(acknowledged: Acknowledged, books: Books) -> Iterator[str]:
    """Every approved request has come to exactly one end."""
    ends = Counter([*acknowledged.committed, *acknowledged.released, *acknowledged.abandoned])
    for hold_id in acknowledged.approved:
        if ends[hold_id] != 1:
            yield f"hold {hold_id} was approved and has {ends[hold_id]} ends"
    for hold_id in ends.keys() - acknowledged.approved.keys():
        yield f"hold {hold_id} was settled and never approved"
    for hold_id in acknowledged.abandoned:
        state = books.abandoned.get(hold_id, "unknown")
        if state != drawdown.HoldState.EXPIRED:
            yield f"hold {hold_id} was never settled, its time is over, and it is {state}"


def _check_balances(acknowledged: Acknowledged, books: Books) -> Iterator[str]:
    """Per wallet and asset: granted - debited, as acknowledged, is what both stores have."""
    debited, held = _acknowledged_debits(acknowledged), _held_by_abandoned(acknowledged, books)
    in_ledger, funded = _ledger_sums(books)
    for key in sorted({*acknowledged.granted, *debited, *books.live, *in_ledger}):
        name = f"wallet {key[0]} {key[1]}"
        granted, expected = acknowledged.granted[key], acknowledged.granted[key] - debited[key]
        told = f"{name}: granted {granted} - debited {debited[key]} = {expected} as acknowledged"
        live = books.live.get(key, Live(0, 0, 0))
        if live.settled != expected:
            yield f"{told}, settled in Valkey is {live.settled}"
        if in_ledger[key] != expected:
            yield f"{told}, the ledger's entries add up to {in_ledger[key]}"
        if funded[key] != granted:
            yield f"{name}: granted {granted} as acknowledged, {funded[key]} in the ledger"
        if live.held != held[key]:
            yield f"{name}: held is {live.held}, the open holds have {held[key]}"
        if live.available + live.held != live.settled or live.available < 0:
            yield f"{name}: available {live.available} + held {live.held} is not settled {live.settled}"


def _acknowledged_debits(acknowledged: Acknowledged) -> Counter[_WalletAsset]:
    debited: Counter[_WalletAsset] = Counter()
    for commit in acknowledged.committed.values():
        debited.update({(commit.wallet_id, asset): units for asset, units in commit.units.items()})
    return debited


def _held_by_abandoned(acknowledged: Acknowledged, books: Books) -> Counter[_WalletAsset]:
    held: Counter[_WalletAsset] = Counter()
    for hold_id, request in acknowledged.abandoned.items():
        if books.abandoned.get(hold_id) == drawdown.HoldState.HELD:
            held.update({(request.wallet_id, asset): units for asset, units in request.worst_units.items()})
    return held


def _ledger_sums(books: Books) -> tuple[Counter[_WalletAsset], Counter[_WalletAsset]]:
    """What the entries leave in each wallet's account, and what its grants put in."""
    left: Counter[_WalletAsset] = Counter()
    funded: Counter[_WalletAsset] = Counter()
    for entry in books.entries:
        account, key = f"wallet:{entry.wallet_id}", (entry.wallet_id, entry.asset)
        left[key] += entry.units * ((entry.credit_account == account) - (entry.debit_account == account))
        if entry.kind == GRANT:
            funded[key] += entry.units
    return left, funded


def _check_commits(acknowledged: Acknowledged, books: Books) -> Iterator[str]:
    """Each acknowledged Commit is in the ledger exactly once, with its units; and nothing else is debited."""
    debits: dict[str, list[Entry]] = defaultdict(list)
    for entry in books.entries:
        if entry.kind == DEBIT:
            debits[entry.hold_id].append(entry)
    for hold_id, commit in acknowledged.committed.items():
        yield from _check_commit(hold_id, commit, debits.pop(hold_id, []))
    for hold_id, entries in debits.items():
        yield f"hold {hold_id}: {_units(entries)} debited in the ledger, no Commit was acknowledged"


def _check_commit(hold_id: str, commit: Committed, entries: Sequence[Entry]) -> Iterator[str]:
    expected = {asset: units for asset, units in commit.units.items() if units}
    events = {(entry.wallet_id, entry.wallet_sequence) for entry in entries}
    if expected and not entries:
        yield f"hold {hold_id}: {expected} committed, not in the ledger"
        return
    if len(events) > 1:
        yield f"hold {hold_id}: committed once, {len(events)} events in the ledger"
    elif events and events != {(commit.wallet_id, commit.wallet_sequence)}:
        acknowledged = (commit.wallet_id, commit.wallet_sequence)
        yield f"hold {hold_id}: acknowledged as event {acknowledged}, in the ledger as {events.pop()}"
    if _units(entries) != expected:
        yield f"hold {hold_id}: {expected} committed, {_units(entries)} in the ledger"


def _units(entries: Sequence[Entry]) -> dict[str, int]:
    units: Counter[str] = Counter()
    for entry in entries:
        units[entry.asset] += entry.units
    return dict(units)


def _check_entries(books: Books) -> Iterator[str]:
    """Each entry moves units from one account to another, and is there once."""
    seen: set[tuple[str, int, int]] = set()
    for entry in books.entries:
        name = f"entry {entry.wallet_id} {entry.wallet_sequence}.{entry.line}"
        key = (entry.wallet_id, entry.wallet_sequence, entry.line)
        if key in seen:
            yield f"{name} is there twice"
        seen.add(key)
        accounts = (entry.debit_account, entry.credit_account)
        if not all(accounts) or accounts[0] == accounts[1] or entry.units < 1:
            yield f"{name} moves {entry.units} units from {accounts[0]!r} to {accounts[1]!r}"
        wallet = f"wallet:{entry.wallet_id}"
        if entry.kind not in {GRANT, DEBIT}:
            yield f"{name} is a {entry.kind}: the gateway did nothing of the kind"
        elif (entry.kind == GRANT and accounts[1] != wallet) or (entry.kind == DEBIT and accounts != (wallet, REVENUE)):
            yield f"{name} is a {entry.kind} from {accounts[0]!r} to {accounts[1]!r}"


def _check_sequences(acknowledged: Acknowledged, books: Books) -> Iterator[str]:
    """Every wallet has as many events as were acknowledged, and Postgres has them all."""
    events = acknowledged.changes + Counter(commit.wallet_id for commit in acknowledged.committed.values())
    for wallet_id in sorted({*events, *books.live_sequence, *books.recorded_sequence}):
        live, recorded = books.live_sequence.get(wallet_id, 0), books.recorded_sequence.get(wallet_id, 0)
        if live != events[wallet_id]:
            yield f"wallet {wallet_id}: {events[wallet_id]} events acknowledged, {live} in Valkey"
        if recorded != live:
            yield f"wallet {wallet_id}: {live} events in Valkey, {recorded} recorded in Postgres"
