"""Fault 34: whatever happens in which order, the trim never passes what Postgres has confirmed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds.keys import outbox, partition_of
from drawdown_server.holds.nodes import OneNode
from drawdown_server.ledger import streams
from drawdown_server.ledger.recording import FencedError
from ledgers import PARTITIONS, TENANT, Live, make_flusher, open_redis, open_store
from stores import superuser

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from drawdown_server.ledger.flusher import Flusher
    from drawdown_server.ledger.store import LedgerStore

WALLETS = ("a", "b", "c")
PLACES = {wallet: partition_of(TENANT, wallet, PARTITIONS) for wallet in WALLETS}
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(WALLETS), st.integers(1, 5)),
        st.tuples(st.just("flush"), st.integers(0, 1), st.sampled_from(["", "before record", "after record"])),
        st.tuples(st.just("trim again"), st.integers(0, 1), st.just("")),
        st.tuples(st.just("take over"), st.integers(0, 1), st.just("")),
    ),
    min_size=5,
    max_size=25,
)


class CrashError(StoreUnavailableError):
    """A process that ended at this point."""

    def __init__(self) -> None:
        super().__init__("postgres")


class World:
    """Two flushers on the same outboxes, and what was ever added to these."""

    def __init__(self, redis: Redis, store: LedgerStore) -> None:
        self.redis, self.store = redis, store
        self.live = Live(redis, store)
        self.flushers = [make_flusher(redis, store, batch_max=4) for _ in range(2)]
        self.added: dict[int, list[str]] = {partition: [] for partition in range(PARTITIONS)}

    async def move(self, kind: str, who: str | int, what: str | int) -> None:
        if kind == "add":
            assert isinstance(who, str)
            for _ in range(int(what)):
                self.added[PLACES[who]].append(await self.live.commit(who, USD=1))
            return
        flusher = self.flushers[int(who)]
        try:
            if kind == "flush":
                await self.flush(flusher, str(what))
            elif kind == "take over":
                async with self.store._connection() as connection:
                    await connection.execute("UPDATE partitions SET lease_expire_time = now() - interval '1 second'")
                flusher._lease_due = 0.0
                await flusher.run_once()
            elif flusher.owned_partitions:  # with whatever it believes, perhaps long outdated
                await flusher._trim(set(flusher.owned_partitions))
        except (CrashError, FencedError):
            pass

    async def flush(self, flusher: Flusher, crash: str) -> None:
        record = self.store.record

        async def crashing(*arguments: object) -> object:
            if crash == "before record":
                raise CrashError
            await record(*arguments)  # type: ignore[arg-type]
            raise CrashError

        if crash:
            flusher._store = _With(self.store, crashing)  # type: ignore[assignment]
        try:
            await flusher.run_once()
        finally:
            flusher._store = self.store

    async def check(self) -> None:
        """All that is not confirmed is there, and the confirmed entry itself is the oldest one kept at most."""
        for row in await self.store.read_partitions():
            key = outbox(row.partition, 1)
            there = [stream_id for stream_id, _ in await streams.range_after(OneNode(self.redis), key, "0-0", 10_000)]
            position = streams.id_key(row.position)
            waiting = [stream_id for stream_id in self.added[row.partition] if streams.id_key(stream_id) > position]
            assert there[len(there) - len(waiting) :] == waiting
            if position != (0, 0):
                assert row.position in there, "the entry that proves the same history"


class _With:
    """A store of which one function is another."""

    def __init__(self, store: LedgerStore, record: object) -> None:
        self._store = store
        self.record = record

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
@given(moves=MOVES)
def test_34_the_trim_never_passes_what_postgres_has_confirmed(
    valkey_url: str, postgres_url: str, superuser_url: str, moves: list[tuple[str, str | int, str | int]]
) -> None:
    async def run() -> None:
        async with open_store(postgres_url) as store, open_redis(valkey_url) as redis:
            async with open_redis(superuser(valkey_url)) as admin:
                await admin.flushall()
            async with open_store(superuser_url) as emptied, emptied._connection() as connection:
                await connection.execute(
                    "TRUNCATE entries, settled_holds, hold_events, balances, grants, wallet_changes, wallets,"
                    " dead_letters"
                )
                await connection.execute("UPDATE partitions SET position = '0-0', lease_owner = ''")
            world = World(redis, store)
            for wallet in WALLETS:
                await world.live.create_wallet(wallet, USD=1000)
                world.added[PLACES[wallet]] = [
                    stream_id
                    for stream_id, _ in await streams.range_after(OneNode(redis), outbox(PLACES[wallet], 1), "0-0", 100)
                ]
            for move in moves:
                await world.move(*move)
                await world.check()
            last = make_flusher(redis, store)
            async with store._connection() as connection:
                await connection.execute("UPDATE partitions SET lease_owner = ''")
            assert await last.drain(20)
            await world.check()
            assert await store.list_dead_letters(limit=1) == []
            for wallet in WALLETS:
                row = await store.get_wallet(TENANT, wallet)
                assert row is not None
                assert row.sequence == world.live.wallets[wallet].sequence

    asyncio.run(run())
