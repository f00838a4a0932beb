"""Everything that happens to a wallet gets to Postgres, and comes back from there as it was."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import pytest

from books import SUBJECTS, TTL_MS, WALLET, Books, open_books
from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds import keys
from drawdown_server.holds.messages import ExtendRequest, TotalUsed
from drawdown_server.holds.model import (
    Cap,
    CapMode,
    CapWindow,
    ExpiryAction,
    GrantSource,
    HoldState,
    OveragePolicy,
    WalletState,
)
from drawdown_server.holds.recorded import RecordedDebit  # noqa: TC001 - msgspec needs the type at run time
from drawdown_server.ledger.reconcile import reconcile_wallet
from ledgers import PARTITIONS, TENANT, make_flusher, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ASSETS = ["USD", "TOK"]
SOON_MS = 40
LATE_MS = 3_600_000
WINDOWS = [CapWindow.PER_REQUEST, CapWindow.DAY, CapWindow.WEEK, CapWindow.MONTH, CapWindow.LIFETIME]
STEPS = 120
BATCHES = [1, 5, 100]
"""Events per transaction: an event of a hold is in the same one as the one before it, or finds it in Postgres."""


@pytest.fixture
async def books(valkey_url: str, postgres_url: str) -> AsyncIterator[Books]:
    async with open_books(valkey_url, postgres_url) as books:
        yield books


class Chance:
    """Random operations on the wallet; refusals are as good as approvals."""

    def __init__(self, books: Books, seed: int) -> None:
        self.books = books
        self.random = random.Random(seed)  # noqa: S311  # not a secret
        self.grants: list[str] = []
        self.holds: dict[str, dict[str, int]] = {}
        self.refunds = 0

    async def step(self) -> None:
        verbs: list[tuple[int, Callable[[], Awaitable[object]]]] = [
            (4, self.grant),
            (1, self.void),
            (2, self.expiry),
            (1, self.overdraft),
            (2, self.cap),
            (1, self.cap_removal),
            (1, self.state),
            (8, self.authorize),
            (10, self.commit),
            (3, self.release),
            (2, self.extend),
            (4, self.charge),
            (6, self.refund),
            (1, self.books.sweep),
            (1, self.books.flush),
        ]
        (verb,) = self.random.choices([verb for _, verb in verbs], [weight for weight, _ in verbs])
        try:
            await verb()
        except DrawdownError as error:
            assert error.reason.value not in ("ERROR_REASON_INTERNAL", "ERROR_REASON_STORE_UNAVAILABLE"), error

    async def when(self) -> int:
        """Never, in a moment, or long after the test."""
        now_ms = await self.books.holds.now_ms()
        return self.random.choice([0, now_ms + self.random.randint(1, SOON_MS), now_ms + LATE_MS])

    async def grant(self) -> None:
        grant_id = f"g{len(self.grants)}"
        self.grants.append(grant_id)
        await self.books.grant(
            grant_id,
            self.random.randint(1, 60),
            asset=self.random.choice(ASSETS),
            priority=self.random.randint(0, 2),
            source=self.random.choice(list(GrantSource)),
            effective_ms=await self.when(),
            expire_ms=await self.when(),
        )

    async def void(self) -> None:
        if self.grants:
            await self.books.admin.void_grant(TENANT, WALLET, self.random.choice(self.grants), "")

    async def expiry(self) -> None:
        if self.grants:
            grant_id = self.random.choice(self.grants)
            await self.books.admin.set_grant_expiry(TENANT, WALLET, grant_id, await self.when(), "")

    async def overdraft(self) -> None:
        asset, limit = self.random.choice(ASSETS), self.random.choice([0, 5, 50])
        await self.books.admin.set_overdraft_limit(TENANT, WALLET, asset, limit, "")

    async def cap(self) -> None:
        await self.books.cap(
            self.random.choice(["", "key:1", "key:*", "user:*", "us*"]),
            self.random.choice([3, 40, 1000]),
            asset=self.random.choice(ASSETS),
            window=self.random.choice(WINDOWS),
            mode=self.random.choice(list(CapMode)),
        )

    async def cap_removal(self) -> None:
        caps = await self.books.ledger.list_caps(TENANT, WALLET)
        if caps:
            cap = self.random.choice(caps)
            await self.books.admin.remove_cap(TENANT, WALLET, subject=cap.subject, asset=cap.asset, window=cap.window)

    async def state(self) -> None:
        await self.books.admin.set_state(
            TENANT, WALLET, self.random.choice([WalletState.ACTIVE, WalletState.ACTIVE, WalletState.FROZEN]), ""
        )

    def units(self) -> dict[str, int]:
        assets = self.random.sample(ASSETS, self.random.randint(1, 2))
        return {asset: self.random.randint(1, 25) for asset in assets}

    async def authorize(self) -> None:
        hold_id, units = f"h{len(self.holds)}", self.units()
        self.holds[hold_id] = units
        await self.books.authorize(
            hold_id,
            units,
            policy=self.random.choice(list(OveragePolicy)),
            ttl_ms=self.random.choice([SOON_MS, TTL_MS]),
            action=self.random.choice(list(ExpiryAction)),
            subjects=self.random.sample(SUBJECTS, self.random.randint(0, 2)),
        )

    async def charge(self) -> None:
        hold_id, units = f"h{len(self.holds)}", self.units()
        self.holds[hold_id] = units
        await self.books.charge(hold_id, units, policy=self.random.choice(list(OveragePolicy)))

    def hold(self) -> tuple[str, dict[str, int]]:
        hold_id = self.random.choice(list(self.holds)) if self.holds else "none"
        wanted = self.holds.get(hold_id, {"USD": 1})
        return hold_id, {asset: self.random.randint(0, units + 5) for asset, units in wanted.items()}

    async def commit(self) -> None:
        hold_id, units = self.hold()
        await self.books.commit(hold_id, units, final=self.random.random() < 0.5)

    async def release(self) -> None:
        await self.books.release(self.hold()[0], forced=self.random.random() < 0.5)

    async def extend(self) -> None:
        hold_id, units = self.hold()
        await self.books.holds.extend(
            ExtendRequest(
                tenant_id=TENANT,
                wallet_id=WALLET,
                hold_id=hold_id,
                ttl_ms=self.random.choice([0, TTL_MS]),
                amounts=[TotalUsed(asset, amount + 10) for asset, amount in units.items()],
                tombstone_ms=TTL_MS,
            )
        )

    async def refund(self) -> None:
        hold_id, units = self.hold()
        asset = self.random.choice(list(units))
        self.refunds += 1
        refund_id = f"r{self.random.randint(0, self.refunds)}"
        await self.books.refund(hold_id, refund_id, {asset: self.random.randint(1, 8)})

    async def come_to_rest(self) -> None:
        """Nothing is held, and nothing is due before the test is over."""
        for hold_id in self.holds:
            try:
                await self.books.release(hold_id)
            except DrawdownError:
                continue
        await self.books.until(await self.books.holds.now_ms() + SOON_MS + 1)


class PackedAmount(msgspec.Struct, array_like=True):
    """As ``holds.lua`` packs it."""

    asset: str
    authorized: int
    held: int
    debited: int
    uncollected: int
    refunded: int
    policy: int
    pins: list[RecordedDebit]
    debits: list[RecordedDebit]
    counts: list[tuple[list[str], int, int]]


class PackedHold(msgspec.Struct, array_like=True):
    """As ``holds.lua`` packs it."""

    state: HoldState
    fingerprint: str
    create_ms: int
    expire_ms: int
    settle_ms: int
    action: int
    amounts: list[PackedAmount]
    subjects: list[str]
    labels: str
    late: bool
    wallet_sequence: int
    way: int
    refunds: list[tuple[str, str]]


async def assert_holds_recorded(books: Books) -> int:
    """What the ledger would bring back of every hold is what Valkey has. Returns how many had usage."""
    partition = keys.partition_of(TENANT, WALLET, PARTITIONS)
    held = keys.wallet_keys(partition, 1, TENANT, WALLET)[4]
    packed = {hold_id: await books.redis.hget(held, hold_id) for hold_id in await books.redis.hkeys(held)}
    compared = 0
    for hold_id, value in packed.items():
        hold = msgspec.msgpack.decode(value, type=PackedHold)
        recorded = await books.ledger.recorded_hold(TENANT, WALLET, hold_id.decode())
        row = await books.ledger.get_settled_hold(TENANT, WALLET, hold_id.decode())
        if recorded is None or row is None:
            assert hold.state is not HoldState.COMMITTED
            assert all(amount.debited == amount.uncollected == 0 for amount in hold.amounts), hold_id
            continue
        compared += 1
        assert [(a.asset, a.authorized, a.debited, a.uncollected, a.refunded, a.debits) for a in recorded.amounts] == [
            (a.asset, a.authorized, a.debited, a.uncollected, a.refunded, a.debits) for a in hold.amounts
        ]
        assert (recorded.create_ms, recorded.subjects, recorded.labels) == (hold.create_ms, hold.subjects, hold.labels)
        assert (recorded.late, sorted(recorded.refunds)) == (hold.late, sorted(hold.refunds))
        is_recalled = hold.fingerprint == "-"  # comes back as committed, whatever it was
        assert is_recalled or row.final == (hold.state is HoldState.COMMITTED)
        for amount, settled in zip(hold.amounts, row.amounts, strict=True):
            usage: Counter[str] = Counter()
            for counters, _, units in amount.counts:
                usage.update(dict.fromkeys(counters, units))
            assert +usage == Counter(settled.usage), hold_id
        entries = await books.ledger.list_entries(TENANT, WALLET, hold_id=hold_id.decode(), limit=1000)
        every = await books.ledger.list_entries(TENANT, WALLET, limit=100_000)
        assert entries == [entry for entry in every if entry.hold_id == hold_id.decode()]
    return compared


@pytest.mark.parametrize("seed", range(6))
async def test_after_anything_a_load_brings_back_what_was_live(books: Books, seed: int) -> None:
    chance = Chance(books, seed)
    books.flusher = make_flusher(books.redis, books.ledger, batch_max=BATCHES[seed % len(BATCHES)])
    await books.grant("first", 200, asset="USD")
    compared = 0
    for evict in (False, True, False, True):
        for _ in range(STEPS):
            await chance.step()
        await chance.come_to_rest()
        await books.flush()
        compared += await assert_holds_recorded(books)
        await books.assert_reload_equal(evict=evict)
        await books.admin.set_state(TENANT, WALLET, WalletState.ACTIVE, "")
    assert compared > 0


async def test_a_refund_long_after_brings_a_hold_and_a_used_up_grant_back(books: Books) -> None:
    await books.cap("", 100)
    await books.grant("first", 10, priority=0)
    await books.grant("second", 10, priority=1)
    await books.authorize("h", {"USD": 20})
    await books.commit("h", {"USD": 4}, final=False)
    await books.commit("h", {"USD": 15})
    assert (await books.refund("h", "r1", {"USD": 1})).status == "OK"
    await books.flush()
    await books.forget()
    assert (await books.refund("h", "r1", {"USD": 1})).replayed, "the ledger knows the refund"
    with pytest.raises(DrawdownError, match="r1"):
        await books.refund("h", "r1", {"USD": 2})
    with pytest.raises(DrawdownError) as refused:
        await books.refund("h", "r2", {"USD": 15})
    assert refused.value.metadata["refundable_units"] == "14"
    assert not (await books.refund("h", "r2", {"USD": 12})).replayed
    (balance,) = (await books.read()).balances
    assert {grant.grant_id: grant.free for grant in balance.grants} == {"first": 8, "second": 10}
    (status,) = (await books.read_caps()).usage[:1]
    assert status.used == 2
    await books.assert_reload_equal()
    hold = await books.ledger.get_settled_hold(TENANT, WALLET, "h")
    assert hold is not None
    assert [refund_id for refund_id, _ in hold.refunds] == ["r1", "r2"]
    assert [entry.kind.value for entry in await books.ledger.list_entries(TENANT, WALLET, hold_id="h", limit=20)] == [
        "DEBIT",
        "DEBIT",
        "DEBIT",
        "REFUND",
        "REFUND",
        "REFUND",
    ]


async def test_a_scheduled_grant_is_loaded_as_one_and_becomes_money_in_time(books: Books) -> None:
    soon_ms = await books.holds.now_ms() + 1500
    await books.grant("later", 50, effective_ms=soon_ms)
    await books.charge("c", {"USD": 20})
    await books.flush()
    await books.forget()
    (balance,) = (await books.read()).balances
    assert (balance.settled, balance.debt, [grant.grant_id for grant in balance.scheduled]) == (-20, 20, ["later"])
    await books.until(soon_ms)
    (balance,) = (await books.read()).balances
    assert (balance.settled, balance.debt, balance.scheduled) == (30, 0, [])
    await books.assert_reload_equal()
    grant, repay = (await books.ledger.list_entries(TENANT, WALLET, limit=20))[1:]
    assert (grant.kind.value, grant.debit_account, grant.credit_account) == ("GRANT", "funding:purchase", "wallet:w")
    assert (repay.kind.value, repay.debit_account, repay.credit_account) == ("REPAY", "wallet:w", "debt:w")


async def test_a_scheduled_grant_that_was_taken_back_never_comes(books: Books) -> None:
    await books.grant("later", 50, effective_ms=await books.holds.now_ms() + LATE_MS)
    row, balance = await books.admin.void_grant(TENANT, WALLET, "later", "a mistake")
    assert row.void_ms
    assert balance.settled == 0
    await books.assert_reload_equal()
    assert (await books.read()).balances == []
    grant = await books.ledger.get_grant(TENANT, WALLET, "later")
    assert grant is not None
    assert (grant.remaining_units, grant.live, grant.applied_void) == (0, False, True)


async def test_pending_changes_of_every_kind_are_applied_by_the_load(books: Books) -> None:
    """Recorded in Postgres by a server that died: the load applies them as they were recorded, in order."""
    await books.grant("g", 100)
    await books.grant("other", 7)
    await books.flush()
    await books.forget()
    ledger, expire_ms = books.ledger, await books.holds.now_ms() + LATE_MS
    await ledger.set_grant_expiry(TENANT, WALLET, "g", expire_ms, "")
    await ledger.void_grant(TENANT, WALLET, "other", "")
    await ledger.set_overdraft_limit(TENANT, WALLET, "USD", 25, "")
    await ledger.set_cap(TENANT, WALLET, Cap("key:*", "USD", CapWindow.MONTH, 9, CapMode.OBSERVE))
    await ledger.set_cap(TENANT, WALLET, Cap("", "USD", CapWindow.DAY, 90, CapMode.ENFORCE))
    await ledger.remove_cap(TENANT, WALLET, subject="key:*", asset="USD", window=CapWindow.MONTH)
    await ledger.set_wallet_state(TENANT, WALLET, WalletState.FROZEN, "")
    snapshot = await ledger.load_wallet(TENANT, WALLET)
    assert snapshot is not None
    assert snapshot.applied_state is WalletState.ACTIVE
    assert [(grant.grant_id, grant.applied_expire_ms, grant.expire_ms) for grant in snapshot.grants] == [
        ("g", 0, expire_ms),
        ("other", 0, 0),
    ]
    assert (snapshot.caps, snapshot.balances[0].overdraft_limit_units) == ([], 0)
    assert [row.change.kind for row in snapshot.pending] == [
        "EXPIRY",
        "VOID",
        "OVERDRAFT",
        "CAP",
        "CAP",
        "CAP_REMOVAL",
        "STATE",
    ]
    reading = await books.read()
    (balance,) = reading.balances
    assert (reading.state, balance.settled, balance.overdraft_limit) == (WalletState.FROZEN, 100, 25)
    assert [(grant.grant_id, grant.expire_ms) for grant in balance.grants] == [("g", expire_ms)]
    assert [cap.limit for cap in (await books.read_caps()).caps] == [90]
    await books.assert_reload_equal()
    assert (await books.ledger.list_wallets_with_pending_changes(0, 10, range(PARTITIONS))) == []


async def test_a_wallet_is_closed_only_when_it_is_empty_or_by_force(books: Books) -> None:
    await books.grant("g", 10)
    await books.authorize("h", {"USD": 10})

    async def refused() -> str:
        with pytest.raises(DrawdownError) as error:
            await books.admin.close_wallet(TENANT, WALLET, force=False, reason="")
        assert error.value.reason is ErrorReason.WALLET_NOT_EMPTY
        assert (await books.read()).state is WalletState.ACTIVE
        return error.value.message

    assert await refused() == "wallet w has open holds: it is closed by force only"
    await books.commit("h", {"USD": 9})
    assert await refused() == "wallet w has a balance of USD: it is closed by force only"
    await books.charge("c", {"USD": 1})
    await books.grant("later", 5, effective_ms=await books.holds.now_ms() + LATE_MS)
    assert await refused() == "wallet w has a grant that is not effective yet: later: it is closed by force only"
    await books.admin.void_grant(TENANT, WALLET, "later", "")
    row = await books.admin.close_wallet(TENANT, WALLET, force=False, reason="left")
    assert row.state is WalletState.CLOSED
    again = await books.admin.close_wallet(TENANT, WALLET, force=False, reason="left")
    assert again.change_number == row.change_number
    await books.assert_reload_equal()


async def test_a_wallet_with_money_is_closed_by_force_and_its_holds_still_settle(books: Books) -> None:
    await books.grant("g", 10)
    await books.authorize("h", {"USD": 10})
    await books.admin.close_wallet(TENANT, WALLET, force=True, reason="fraud")
    assert (await books.commit("h", {"USD": 4})).status == "OK"
    with pytest.raises(DrawdownError) as refused:
        await books.grant("more", 1)
    assert refused.value.reason is ErrorReason.WALLET_CLOSED
    await books.assert_reload_equal()


async def test_an_admin_call_that_changes_nothing_takes_no_number(books: Books) -> None:
    expire_ms = await books.holds.now_ms() + LATE_MS
    await books.grant("g", 10)
    for _ in range(2):
        await books.cap("key:1", 5)
        await books.admin.set_grant_expiry(TENANT, WALLET, "g", expire_ms, "")
        await books.admin.set_overdraft_limit(TENANT, WALLET, "USD", 5, "")
        await books.admin.void_grant(TENANT, WALLET, "g", "")
        await books.grant("g", 10)  # its first content, whatever became of it
    for _ in range(2):
        await books.admin.remove_cap(TENANT, WALLET, subject="key:1", asset="USD", window=CapWindow.LIFETIME)
    wallet = await books.ledger.get_wallet(TENANT, WALLET)
    assert wallet is not None
    assert wallet.change_number == 6
    with pytest.raises(DrawdownError) as refused:
        await books.grant("g", 10, expire_ms=expire_ms)
    assert refused.value.metadata["field"] == "expire_ms"
    await books.assert_reload_equal()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            "UPDATE balances SET overdraft_limit_units = 6",
            ["USD: overdraft limit units: 5 in Valkey, 6 in Postgres"],
        ),
        (
            "UPDATE grants SET remaining_units = 49 WHERE grant_id = 'later'",
            ["USD: units of scheduled grant later: 50 in Valkey, 49 in Postgres"],
        ),
        (
            "UPDATE grants SET applied_expire_time = 'epoch' WHERE grant_id = 'g'",
            ["USD: expiry of grant g: {expire_ms} in Valkey, 0 in Postgres"],
        ),
        (
            "UPDATE applied_caps SET limit_units = 70 WHERE subject = ''",
            ["USD: cap of '' per LIFETIME: 90 ENFORCE in Valkey, 70 ENFORCE in Postgres"],
        ),
        (
            "UPDATE cap_usage SET units = 4 WHERE counter LIKE 'key:1|%'",
            ["USD: used under the cap of 'key:1' per MONTH: 5 in Valkey, 4 in Postgres"],
        ),
        (
            "DELETE FROM cap_usage; DELETE FROM applied_caps",
            [
                "USD: cap of '' per LIFETIME: 90 ENFORCE in Valkey, none in Postgres",
                "USD: cap of 'key:*' per MONTH: 50 OBSERVE in Valkey, none in Postgres",
                "USD: used under the cap of '' per LIFETIME: 5 in Valkey, 0 in Postgres",
            ],
        ),
        (
            "UPDATE entries SET credit_account = 'wallet:w' WHERE kind = 'REPAY'",
            ["entries leave 10 of grant g, its row says 5", "entries leave -5 of the debt, its row says 0"],
        ),
    ],
)
async def test_planted_differences_of_the_rules(
    books: Books, superuser_url: str, damage: str, expected: list[str]
) -> None:
    await books.cap("", 90)
    await books.cap("key:*", 50, window=CapWindow.MONTH, mode=CapMode.OBSERVE)
    await books.admin.set_overdraft_limit(TENANT, WALLET, "USD", 5, "")
    await books.charge("c", {"USD": 5})
    expire_ms = await books.holds.now_ms() + LATE_MS
    await books.grant("g", 10, expire_ms=expire_ms)
    await books.grant("later", 50, effective_ms=expire_ms)
    await books.flush()
    await books.assert_reconciled()
    async with open_store(superuser_url) as damaged, damaged._connection() as connection:
        for statement in damage.split("; "):
            await connection.execute("ALTER TABLE entries DROP CONSTRAINT IF EXISTS entries_check")
            await connection.execute(statement)
    report = await reconcile_wallet(books.holds, books.ledger, TENANT, WALLET, cut_timeout_s=0)
    found = [str(difference) for difference in report.differences]
    for part in expected:
        assert any(part.format(expire_ms=expire_ms) in difference for difference in found), (part, found)
    assert len(found) <= len(expected) + 1


async def test_units_of_open_holds_count_in_caps_of_valkey_alone(books: Books) -> None:
    await books.cap("", 90)
    await books.grant("g", 50)
    await books.authorize("h", {"USD": 20})
    await books.commit("h", {"USD": 5}, final=False)
    await books.flush()
    await books.assert_reconciled()
    assert [status.used for status in (await books.read_caps()).usage if status.subject == ""] == [20]
    await books.forget()
    assert [status.used for status in (await books.read_caps()).usage if status.subject == ""] == [5]
    assert (await books.read()).balances[0].available == 45
