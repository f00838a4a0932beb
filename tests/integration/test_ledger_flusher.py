from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from drawdown_server.config import Config
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds.keys import outbox, partition_of
from drawdown_server.holds.nodes import OneNode
from drawdown_server.ledger import streams
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.events import EventKind, Line, LineKind
from drawdown_server.ledger.recording import FencedError
from drawdown_server.ledger.store import LedgerStore
from ledgers import (
    PARTITIONS,
    TENANT,
    Live,
    change_event,
    commit_event,
    create_grant,
    make_flusher,
    open_redis,
    open_store,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from drawdown_server.dev.valkey import ValkeyProcess
    from drawdown_server.ledger.flusher import Flusher

PARTITION = partition_of(TENANT, "w", PARTITIONS)


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[LedgerStore]:
    async with open_store(postgres_url) as store:
        yield store


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    async with open_redis(valkey_url) as redis:
        yield redis


@pytest.fixture
async def live(store: LedgerStore, redis: Redis) -> Live:
    """Valkey's side, with the funded wallet ``w``; its grant is not flushed yet."""
    live = Live(redis, store)
    await live.create_wallet("w", USD=1000)
    return live


async def position(store: LedgerStore, partition: int = PARTITION) -> str:
    row = await store.read_partition(partition)
    assert row is not None
    return row.position


async def settled(store: LedgerStore, wallet_id: str = "w", asset: str = "USD") -> int:
    snapshot = await store.load_wallet(TENANT, wallet_id)
    assert snapshot is not None
    return next(row.settled_units for row in snapshot.balances if row.asset == asset)


async def assert_conserved(store: LedgerStore, *wallets: str) -> None:
    """Per wallet and asset: entries, balances and grants say the same; every entry has two sides."""
    for wallet_id in wallets:
        audit = await store.audit_wallet(TENANT, wallet_id)
        assert audit is not None
        entries = await store.list_entries(TENANT, wallet_id, limit=100_000)
        accounts: dict[tuple[str, str], int] = defaultdict(int)
        of_grant: dict[str, int] = defaultdict(int)
        for entry in entries:
            accounts[entry.asset, entry.debit_account] -= entry.units
            accounts[entry.asset, entry.credit_account] += entry.units
            of_grant[entry.grant_id] += entry.units if entry.kind is LineKind.GRANT else -entry.units
        for row in audit.snapshot.balances:
            assert sum(units for (asset, _), units in accounts.items() if asset == row.asset) == 0
            assert accounts[row.asset, f"debt:{wallet_id}"] == -row.debt_units
            assert accounts[row.asset, f"wallet:{wallet_id}"] - row.debt_units == row.settled_units
            grants = [grant for grant in audit.snapshot.grants if grant.asset == row.asset]
            assert sum(grant.remaining_units for grant in grants) - row.debt_units == row.settled_units
            assert {g.grant_id: g.remaining_units for g in grants} == {g.grant_id: of_grant[g.grant_id] for g in grants}
        assert len({(entry.wallet_sequence, entry.line) for entry in entries}) == len(entries)


async def test_events_become_entries_balances_remainders_and_a_position(
    store: LedgerStore, redis: Redis, live: Live
) -> None:
    last = await live.commit("w", USD=300)
    flusher = make_flusher(redis, store)
    assert await flusher.run_once() == 2
    assert await flusher.run_once() == 0
    wallet = await store.get_wallet(TENANT, "w")
    assert wallet is not None
    assert (wallet.sequence, wallet.applied_change_number) == (2, 1)
    grant, debit = await store.list_entries(TENANT, "w", limit=10)
    assert (grant.debit_account, grant.credit_account, grant.units) == ("funding:purchase", "wallet:w", 1000)
    assert (debit.debit_account, debit.credit_account, debit.units) == ("wallet:w", "revenue", 300)
    assert (debit.hold_id, debit.grant_id, debit.subjects) == ("hold-2", "g-USD", ["key:sk_1", "model:m"])
    assert (await settled(store), await position(store)) == (700, last)
    assert (flusher.events_total, flusher.batches_total, flusher.last_batch_size, flusher.dead_letters_total) == (
        2,
        1,
        2,
        0,
    )
    await assert_conserved(store, "w")


async def test_the_outbox_is_trimmed_to_the_confirmed_event(store: LedgerStore, redis: Redis, live: Live) -> None:
    last = await live.commit("w", USD=1)
    await make_flusher(redis, store).run_once()
    assert await redis.xlen(outbox(PARTITION, 1)) == 1
    assert await streams.has_entries(OneNode(redis), [(outbox(PARTITION, 1), last)]) == [True]


async def test_a_crash_between_commit_and_trim_records_nothing_twice(
    store: LedgerStore, redis: Redis, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    await live.commit("w", USD=1)
    crashed = make_flusher(redis, store)

    async def no_trim(*_: object) -> None:
        raise StoreUnavailableError("valkey")

    with monkeypatch.context() as patch:
        patch.setattr(streams, "trim", no_trim)
        with pytest.raises(StoreUnavailableError):
            await crashed.run_once()
    assert await redis.xlen(outbox(PARTITION, 1)) == 2
    await store.release_leases(crashed._owner)
    restarted = make_flusher(redis, store)
    assert await restarted.run_once() == 0
    assert await redis.xlen(outbox(PARTITION, 1)) == 1, "what the crash left behind is trimmed"
    await live.commit("w", USD=1)
    assert await restarted.run_once() == 1
    assert await settled(store) == 998
    await assert_conserved(store, "w")


async def test_an_outcome_that_got_lost_is_read_again_not_written_again(
    store: LedgerStore, redis: Redis, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    await live.commit("w", USD=1)
    flusher = make_flusher(redis, store)
    record = store.record

    async def lost(*arguments: object) -> None:
        await record(*arguments)  # type: ignore[arg-type]
        raise StoreUnavailableError("postgres")

    with monkeypatch.context() as patch:
        patch.setattr(store, "record", lost)
        with pytest.raises(StoreUnavailableError):
            await flusher.run_once()
    assert await flusher.run_once() == 0
    assert (await settled(store), len(await store.list_entries(TENANT, "w", limit=10))) == (999, 2)


async def test_a_flusher_that_lost_its_lease_is_fenced(store: LedgerStore, redis: Redis, live: Live) -> None:
    slow = make_flusher(redis, store, lease_ttl_ms=60_000)
    assert await slow.run_once() == 1
    async with store._transaction() as connection:
        await connection.execute("UPDATE partitions SET lease_expire_time = now() - interval '1 second'")
    await live.commit("w", USD=10)
    quick = make_flusher(redis, store)
    assert await quick.run_once() == 1
    await live.commit("w", USD=10)
    with pytest.raises(FencedError):
        await slow.run_once()
    assert await settled(store) == 990, "the fenced flusher recorded nothing"
    assert await slow.run_once() == 0
    assert slow.owned_partitions == []
    assert await quick.run_once() == 1
    await assert_conserved(store, "w")


async def test_a_flusher_that_read_before_another_one_wrote_is_fenced(
    store: LedgerStore, redis: Redis, live: Live
) -> None:
    """Even with the same token: the position is part of the fence."""
    one, twin = make_flusher(redis, store), make_flusher(redis, store)
    twin._owner = one._owner
    assert await one.run_once() == 1
    assert await twin.run_once() == 0
    await live.commit("w", USD=1)
    assert await one.run_once() == 1
    with pytest.raises(FencedError):
        await twin.run_once()
    assert await settled(store) == 999


async def test_one_flusher_works_and_the_other_stands_by(store: LedgerStore, redis: Redis, live: Live) -> None:
    first, second = make_flusher(redis, store), make_flusher(redis, store)
    assert await first.run_once() == 1
    await live.commit("w", USD=1)
    assert await second.run_once() == 0
    assert (first.owned_partitions, second.owned_partitions) == ([0, 1, 2, 3], [])
    assert await first.drain(10)
    second._lease_due = 0
    await live.commit("w", USD=1)
    assert await second.run_once() == 1
    assert await settled(store) == 998


async def test_a_new_epoch_fences_the_old_outbox(store: LedgerStore, redis: Redis, live: Live) -> None:
    flusher = make_flusher(redis, store)
    await flusher.run_once()
    assert await store.bump_epoch(PARTITION, 1) == 2
    await live.commit("w", USD=1)
    with pytest.raises(FencedError):
        await flusher.run_once()
    assert await flusher.run_once() == 0
    live.epoch = 2
    live.wallets["w"].sequence = 1
    await live.commit("w", USD=1)
    assert await flusher.run_once() == 1
    assert await settled(store) == 999


async def test_poison_among_good_ones(store: LedgerStore, redis: Redis, live: Live) -> None:
    """Each kind of poison, found by the plan or only by Postgres, between events of two wallets."""
    await live.create_wallet("v", USD=50)
    await live.commit("w", USD=1)  # 2
    await live.emit_raw(PARTITION, b"\xc1 no event")
    await redis.xadd(outbox(PARTITION, 1), {"other": "field"})
    await live.emit(commit_event("w", 3, [Line(LineKind.DEBIT, "USD", 1, "unknown grant")]))
    await live.emit(commit_event("w", 4, [Line(LineKind.DEBIT, "USD", 999_999, "g-USD")]))  # more than there is
    await live.emit(commit_event("w", 5, labels="{not json"))
    await live.emit(commit_event("w", 6, hold_id="hold-2", hold_create_ms=7))  # no poison: an id used again
    await live.emit(commit_event("w", 7, labels='{"nul":"\\u0000"}'))
    await live.emit(commit_event("nobody", 1), PARTITION)
    live.wallets["w"].sequence = 7
    await live.commit("w", USD=5)  # 8
    await live.commit("v", USD=7)
    flusher = make_flusher(redis, store)
    while await flusher.run_once():
        pass
    assert (await settled(store, "w"), await settled(store, "v")) == (994, 43)
    letters = await store.list_dead_letters(limit=100)
    assert len(letters) == flusher.dead_letters_total == 7
    errors = [letter.error for letter in letters if letter.partition == PARTITION]
    for number, part in enumerate(
        [
            "not an event",
            "not an event",
            "a grant that the wallet does not have",
            "CheckViolationError",
            "InvalidTextRepresentationError",
            "UntranslatableCharacterError",
            "wallet nobody does not exist",
        ]
    ):
        assert part in errors[number]
    assert letters[0].raw == b"\xc1 no event"
    assert await flusher.run_once() == 0
    wallet = await store.get_wallet(TENANT, "w")
    assert wallet is not None
    assert wallet.sequence == 8
    await assert_conserved(store, "w", "v")


async def test_a_hold_id_used_again_is_recorded_again(store: LedgerStore, redis: Redis, live: Live) -> None:
    """Valkey admits an id again once its tombstone is gone; both debits are real, the latest answers."""
    line = Line(LineKind.DEBIT, "USD", 1, "g-USD")
    await live.emit(commit_event("w", 2, [line], hold_id="again", hold_create_ms=1))
    await live.emit(commit_event("w", 3, [line], hold_id="again", hold_create_ms=2))
    flusher = make_flusher(redis, store)
    while await flusher.run_once():
        pass
    assert flusher.dead_letters_total == 0
    row = await store.get_settled_hold(TENANT, "w", "again")
    assert row is not None
    assert row.wallet_sequence == 3
    entries = await store.list_entries(TENANT, "w", hold_id="again", limit=10)
    assert [entry.wallet_sequence for entry in entries] == [2, 3]
    await assert_conserved(store, "w")


async def test_a_gap_or_a_repeat_is_seen_and_later_events_flow(store: LedgerStore, redis: Redis, live: Live) -> None:
    line = Line(LineKind.DEBIT, "USD", 1, "g-USD")
    flusher = make_flusher(redis, store, batch_max=2)
    for sequence in (2, 4, 5, 5, 6):
        await live.emit(commit_event("w", sequence, [line], hold_id=f"h{sequence}"))
    while await flusher.run_once():
        pass
    letters = await store.list_dead_letters(limit=10)
    assert [(letter.wallet_id, letter.wallet_sequence) for letter in letters] == [("w", 4), ("w", 5)]
    assert [letter.error.split(" in ")[0] for letter in letters] == ["gap", "repeat"]
    assert [e.wallet_sequence for e in await store.list_entries(TENANT, "w", limit=10)] == [1, 2, 5, 6]
    await assert_conserved(store, "w")


async def test_a_change_that_skips_another_is_poison(store: LedgerStore, redis: Redis, live: Live) -> None:
    for number in (2, 3, 4):
        await create_grant(store, "w", f"g{number}", "USD", 1)
    await live.emit(change_event("w", 2, 3, EventKind.GRANT, [Line(LineKind.GRANT, "USD", 1, "g3")]))
    await live.emit(change_event("w", 3, 4, EventKind.GRANT, [Line(LineKind.GRANT, "USD", 1, "g4")]))
    await make_flusher(redis, store).run_once()
    (letter,) = await store.list_dead_letters(limit=10)
    assert letter.error == "change 3 applied after change 1"
    assert await settled(store) == 1001


async def test_debt_is_a_debit_without_a_grant(store: LedgerStore, redis: Redis, live: Live) -> None:
    await store.create_wallet(TENANT, "poor", partition_of(TENANT, "poor", PARTITIONS), "", {})
    await live.emit(commit_event("poor", 1, [Line(LineKind.DEBIT, "USD", 30, "")]))
    flusher = make_flusher(redis, store)
    await flusher.run_once()
    assert await settled(store, "poor") == -30
    await create_grant(store, "poor", "g", "USD", 100)
    lines = [
        Line(LineKind.GRANT, "USD", 100, "g"),
        Line(LineKind.REPAY, "USD", 30, "g"),
    ]
    await live.emit(change_event("poor", 2, 1, EventKind.GRANT, lines))
    await flusher.run_once()
    snapshot = await store.load_wallet(TENANT, "poor")
    assert snapshot is not None
    assert [(b.settled_units, b.debited_units, b.debt_units) for b in snapshot.balances] == [(70, 30, 0)]
    assert [g.remaining_units for g in snapshot.grants] == [70]
    assert flusher.dead_letters_total == 0


async def test_batches_follow_what_is_there(store: LedgerStore, redis: Redis, live: Live) -> None:
    """One hot partition gets whole batches soon, and many full ones do not make one giant read."""
    for _ in range(60):
        await live.commit("w", USD=1)
    flusher = make_flusher(redis, store, batch_max=16)
    sizes = []
    while taken := await flusher.run_once():
        sizes.append(taken)
        assert flusher.last_batch_size <= 16
    assert sizes[:3] == [4, 8, 16]
    assert sum(sizes) == 61
    await assert_conserved(store, "w")


async def test_run_records_until_it_is_stopped_and_drain_finishes(store: LedgerStore, redis: Redis, live: Live) -> None:
    flusher = make_flusher(redis, store)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(flusher.run(stop))
        for _ in range(50):
            await live.commit("w", USD=1)
        await flusher.drained()
        assert await settled(store) == 950
        stop.set()
    await live.commit("w", USD=1)
    assert await flusher.drain(10)
    assert await settled(store) == 949
    assert (await store.lease_partitions("next", 1000))[0].partition == 0, "leases are given back"
    await assert_conserved(store, "w")


async def test_run_goes_on_after_valkey_was_away(
    store: LedgerStore, valkey_server: ValkeyProcess, redis: Redis, live: Live
) -> None:
    flusher = make_flusher(redis, store)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(flusher.run(stop))
        await flusher.drained()
        await asyncio.to_thread(valkey_server.kill)
        await asyncio.to_thread(valkey_server.start)
        await redis.ping()
        await live.commit("w", USD=1)
        await flusher.drained()
        assert not running.done()
        stop.set()
    assert await settled(store) == 999


async def test_run_goes_on_after_postgres_threw_everybody_out(
    postgres_url: str, store: LedgerStore, redis: Redis, live: Live
) -> None:
    async with open_pool(Config(postgres_url=postgres_url)) as pool:
        flusher = make_flusher(redis, LedgerStore(pool))
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(flusher.run(stop))
            await flusher.drained()
            for _ in range(5):
                async with store._connection() as connection:
                    await connection.fetch(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                await live.commit("w", USD=1)
            await drained(flusher)
            stop.set()
    assert await settled(store) == 995
    await assert_conserved(store, "w")


async def drained(flusher: Flusher) -> None:
    """``flusher.drained``, asked again when the question itself met a connection that was cut."""
    while True:
        try:
            await flusher.drained()
        except StoreUnavailableError:
            continue
        return


async def test_two_flushers_that_take_turns_record_everything_once(
    store: LedgerStore, redis: Redis, live: Live
) -> None:
    """Leases so short that they change hands all the time."""
    wallets = [f"w{number}" for number in range(6)]
    for wallet_id in wallets:
        await live.create_wallet(wallet_id, USD=1000)
    flushers = [make_flusher(redis, store, lease_ttl_ms=1, block_ms=1, batch_max=8) for _ in range(2)]
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for flusher in flushers:
            group.create_task(flusher.run(stop))
        for number in range(120):
            await live.commit(wallets[number % 6], USD=1)
        while True:
            rows = [await store.get_wallet(TENANT, wallet_id) for wallet_id in wallets]
            if all(row and row.sequence == 21 for row in rows):
                break
        stop.set()
    assert [await settled(store, wallet_id) for wallet_id in wallets] == [980] * 6
    assert await store.list_dead_letters(limit=10) == []
    await assert_conserved(store, "w", *wallets)


async def test_what_postgres_has_forgotten_after_it_was_trimmed_is_not_skipped(
    store: LedgerStore, redis: Redis, live: Live
) -> None:
    """A failover of Postgres to a replica that lagged: it lacks the last transaction, whose events are gone."""
    flusher = make_flusher(redis, store)
    await flusher.run_once()
    lagging = await position(store)
    await live.commit("w", USD=1)
    await live.commit("w", USD=2)
    await flusher.run_once()
    await live.commit("w", USD=4)
    async with store._connection() as connection:
        await connection.execute("UPDATE partitions SET position = $1 WHERE partition = $2", lagging, PARTITION)
    with capture_logs() as logs:
        with pytest.raises(FencedError):  # the failover cut nothing: it notices when it records
            await flusher.run_once()
        for after_the_failover in (flusher, make_flusher(redis, store)):
            assert await after_the_failover.run_once() == 0
            assert PARTITION not in after_the_failover.owned_partitions
    told = [line["partition"] for line in logs if line["event"] == "flusher_ledger_behind"]
    assert told == [PARTITION, PARTITION]
    assert await position(store) == lagging
    assert await store.list_dead_letters(limit=1) == []


async def test_an_event_that_lua_packs_is_understood(
    store: LedgerStore, redis: Redis, admin: Redis, live: Live
) -> None:
    """cmsgpack writes empty tables as arrays and whole doubles as integers."""
    script = """
        local event = {1, 'COMMIT', ARGV[1], 'w', 2, 1800000000000, 0, 'hold',
            {{'DEBIT', 'USD', 7, 'g-USD'}}, {{'USD', 10, 7, 0}}, {}, '', 1800000000000, false, true, '', {}}
        return redis.call('XADD', KEYS[1], '*', 'e', cmsgpack.pack(event))
    """
    await admin.eval(script, 1, outbox(PARTITION, 1), TENANT)
    flusher = make_flusher(redis, store)
    await flusher.run_once()
    assert (flusher.dead_letters_total, await settled(store)) == (0, 993)
    live.wallets["w"].sequence = 2
    await live.commit("w", USD=1)
    assert await flusher.run_once() == 1
