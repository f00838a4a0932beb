"""A rollout: version N and N+1 of the server, of its scripts and of its events beside each other on the same stores."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from drawdown_server import app
from drawdown_server.holds import keys
from drawdown_server.holds.library import Library, build_library, read_sources
from drawdown_server.holds.nodes import OneNode
from drawdown_server.ledger import events, posting
from drawdown_server.ledger.flusher import Flusher
from drawdown_server.ledger.streams import id_key
from faults.mutations import MUTATIONS, anonymous, prepared, story
from faults.processes import program
from integration.server import PARTITIONS, run_server, until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from drawdown_server.config import Config
    from integration.server import Server


def older_library() -> Library:
    """The scripts of a version before, which did the same in other words."""
    sources = read_sources()
    return build_library(sources | {"store.lua": f"{sources['store.lua']}\n-- in other words\n"})


def newer_library() -> Library:
    """The scripts of a version to come: its events have one more field at their end."""
    sources = read_sources()
    old_version, old_end = "local EVENT_VERSION = 1", "    wallet.cap_usage,\n  }))"
    assert sources["store.lua"].count(old_version) == sources["store.lua"].count(old_end) == 1
    text = sources["store.lua"].replace(old_version, "local EVENT_VERSION = 2")
    return build_library(sources | {"store.lua": text.replace(old_end, "    wallet.cap_usage,\n    'new',\n  }))")})


async def test_two_versions_of_the_scripts_serve_the_same_wallets(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever server a call reaches, and whichever gets its repeat: one effect, the same answer."""
    old, new = older_library(), build_library()
    assert old.name != new.name
    async with run_server(config) as newer:
        monkeypatch.setattr(app, "build_library", lambda: old)
        async with run_server(config, assets=False) as older:
            loaded = {library[1].decode() for library in await newer.audit.stores.nodes.of(0).function_list()}
            assert loaded >= {old.name, new.name}
            twins = {}
            for number, (name, mutation) in enumerate(MUTATIONS.items()):
                before, after = (older, newer) if number % 2 else (newer, older)
                wallet, twin = await prepared(before, mutation), await prepared(newer, mutation)
                twins[name] = (wallet, twin)
                reply, once = await after.call(mutation.request(wallet)), await newer.call(mutation.request(twin))
                assert anonymous(reply, wallet) == anonymous(once, twin), name
                again = await before.call(mutation.request(wallet))
                if hasattr(again, "replayed"):
                    assert again.replayed, name
                    again.replayed = reply.replayed
                assert anonymous(again, wallet) == anonymous(reply, wallet), name
            for name, (wallet, twin) in twins.items():
                await newer.assert_conserved(wallet, twin)
                assert await story(older, wallet) == await story(newer, twin), name


async def outbox_of(server: Server, wallet: str) -> tuple[int, str]:
    """The wallet's partition and its outbox."""
    partition = keys.partition_of(server.config.tenant, wallet, PARTITIONS)
    rows = await server.audit.stores.ledger.read_partitions()
    return partition, keys.outbox(partition, rows[partition].epoch)


def understand_version_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a flusher of the next version, whose events have one more field at their end."""

    def decode(raw: bytes) -> events.Event:
        values = msgspec.msgpack.decode(raw)
        return events.decode(msgspec.msgpack.encode([1, *values[1:-1]]) if values[0] == 2 else raw)

    monkeypatch.setattr(posting, "decode", decode)


async def test_an_older_flusher_leaves_events_of_a_newer_version_to_a_newer_one(
    config: Config, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It records what came before them, and all other partitions; it loses nothing and buries nothing."""
    settings = config.model_copy(update={"flusher": False})
    async with run_server(settings) as server, program("flush", config, directory) as older:
        wallet = await server.wallet(USD=100)
        partition, outbox = await outbox_of(server, wallet)
        elsewhere = await wallet_elsewhere(server, partition)
        await server.assert_conserved(wallet, elsewhere)
        client, ledger = server.audit.stores.nodes.of(0), server.audit.stores.ledger

        monkeypatch.setattr(app, "build_library", newer_library)
        async with run_server(settings, assets=False) as newer_server:
            await newer_server.authorize(wallet, "h", USD=10)
            await newer_server.commit(wallet, "h", USD=7)
        await server.authorize(wallet, "h2", USD=10)
        await server.commit(wallet, "h2", USD=1)

        async def left() -> bool:
            return any(line["event"] == "flusher_too_old" for line in older.log_lines())

        await until(left)
        await server.authorize(elsewhere, "h", USD=10)
        await server.commit(elsewhere, "h", USD=10)
        await server.assert_conserved(elsewhere)
        row = (await ledger.read_partitions())[partition]
        (newer_id, _), *_ = await client.xrange(outbox, f"({row.position}")
        assert id_key(row.position) < id_key(newer_id.decode()), "it waits in the outbox"
        assert await ledger.list_dead_letters(limit=10) == []

        understand_version_2(monkeypatch)
        newer = Flusher(
            OneNode(client),
            ledger,
            owner="newer",
            batch_max=100,
            block_ms=10,
            linger_ms=0,
            lease_ttl_ms=config.lease_ttl_ms,
        )
        stop = asyncio.Event()
        work = asyncio.create_task(newer.run(stop))
        await server.assert_conserved(wallet, elsewhere)
        assert [entry.units for entry in await server.debits(wallet, at_least=2)] == [7, 1]
        stop.set()
        await work
        assert await ledger.list_dead_letters(limit=10) == []


async def wallet_elsewhere(server: Server, partition: int) -> str:
    """A funded wallet of another partition."""
    while True:
        wallet = await server.wallet(USD=100)
        if keys.partition_of(server.config.tenant, wallet, PARTITIONS) != partition:
            return wallet
