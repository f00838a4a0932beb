"""``drawdown-server status``: what an operator sees of an installation that is well, and of one that is not."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgspec

from drawdown_server.holds import keys
from drawdown_server.ledger import status
from drawdown_server.ledger.status import PartitionStatus, Status
from integration.server import run_server, until
from integration.test_commands import command

if TYPE_CHECKING:
    import pytest

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey import ValkeyProcess
    from integration.server import Server


async def told(config: Config) -> tuple[int, dict[str, Any]]:
    """Exit status and the JSON object."""
    done = await command(config, "status", "--json")
    (line,) = done.lines
    return done.code, json.loads(line)


async def spend(server: Server, wallet: str) -> int:
    """One event in an outbox; its partition."""
    await server.authorize(wallet, "h", USD=1)
    await server.commit(wallet, "h", USD=1)
    return keys.partition_of(server.config.tenant, wallet, server.config.partitions)


async def recorded(server: Server) -> None:
    """Wait until a flusher has all partitions."""

    async def leased() -> bool:
        return len(await server.audit.stores.ledger.list_leases()) == server.config.partitions

    await until(leased)


async def test_an_installation_that_is_well_is_healthy(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=10)
        await spend(server, wallet)
        await server.debits(wallet, at_least=1)
        await recorded(server)
        code, shown = await told(config)
        assert (code, shown["healthy"], shown["problems"]) == (0, True, [])
        assert (shown["waiting_events"], shown["waiting_s"], shown["dead_letters"]) == (0, 0, 0)
        assert shown["run_id"] in {one["run_id"] for one in shown["servers"]}
        assert [one["partition"] for one in shown["partitions"]] == list(range(config.partitions))
        assert {(one["epoch"], one["action"], len(one["problems"])) for one in shown["partitions"]} == {(1, "serve", 0)}
        assert all(0 < one["lease_s"] <= config.lease_ttl_ms / 1000 for one in shown["partitions"])
        done = await command(config, "status")
        assert (done.code, done.lines[-1]) == (0, "healthy")
        assert "partitions    4, epoch 1" in done.lines
        assert "dead letters  0" in done.lines
        everything = await command(config, "status", "--all")
        assert len(everything.lines) == len(done.lines) + 1 + config.partitions, "a row for each, and a head"
        await server.assert_conserved(wallet)


async def test_events_that_nobody_records_are_counted_and_named(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_server(config.model_copy(update={"flusher": False})) as server:
        wallet = await server.wallet(USD=10)
        partition = await spend(server, wallet)
        code, shown = await told(config)
        assert (code, shown["healthy"]) == (1, False)
        assert shown["problems"] == ["4 partitions (0, 1, 2, 3): nobody records it"]
        waiting = shown["partitions"][partition]
        assert shown["waiting_events"] == waiting["waiting_events"] == 2, "the grant and the commit"
        assert shown["waiting_s"] == waiting["waiting_s"] > 0
        assert (waiting["flusher"], waiting["lease_s"]) == ("", 0)
        monkeypatch.setattr(status, "LAG_MAX_S", 0.0)
        stores = server.audit.stores
        late = await status.read_status(stores.nodes, stores.ledger, partitions=config.partitions, backlog_limit=1)
        assert set(late.problems) == {
            f"partition {partition}: events have waited for the ledger for more than 0 s",
            f"partition {partition}: more than 1 events wait (outbox_backlog_limit): new holds are refused",
            "4 partitions (0, 1, 2, 3): nobody records it",
        }
        done = await command(config, "status")
        assert (done.code, done.lines[-1]) == (1, "not healthy")
        assert any(line.split()[:3] == [str(partition), "1", "2"] for line in done.lines)


async def test_dead_letters_are_a_problem(config: Config) -> None:
    async with run_server(config) as server:
        await recorded(server)
        await server.audit.stores.nodes.of(0).xadd(keys.outbox(0, 1), {"e": b"\xc1"})

        async def dead() -> bool:
            return await server.audit.stores.ledger.count_dead_letters() == 1

        await until(dead)
        code, shown = await told(config)
        assert (code, shown["dead_letters"]) == (1, 1)
        assert shown["problems"] == ["dead letters (1): drawdown-server dead-letters lists them"]


async def test_a_partition_that_lost_its_state_is_named_and_left_alone(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=10)
        partition = await spend(server, wallet)
        await server.debits(wallet, at_least=1)
        # Its history and its epoch: what a Valkey that was restored from an older backup lacks.
        await server.audit.stores.nodes.of(0).delete(keys.outbox(partition, 1), keys.meta(partition))
        code, shown = await told(config)
        assert code == 1
        assert shown["partitions"][partition]["action"] == "begin a new epoch"
        assert any(f"partition {partition}: a server would begin a new epoch" in one for one in shown["problems"])
        rows = await server.audit.stores.ledger.read_partitions()
        assert rows[partition].epoch == 1, "a look begins nothing"


async def test_without_valkey_it_says_so_and_what_postgres_knows(config: Config, valkey_server: ValkeyProcess) -> None:
    async with run_server(config) as server:
        await recorded(server)
        await asyncio.to_thread(valkey_server.kill)
        try:
            code, shown = await told(config)
            assert (code, shown["healthy"], shown["partitions"]) == (1, False, [])
            assert shown["problems"][0].startswith("valkey cannot be reached")
            assert shown["dead_letters"] == 0
        finally:
            await asyncio.to_thread(valkey_server.start)


async def test_before_any_server_has_run_it_is_not_healthy_and_nothing_is_created(config: Config) -> None:
    code, shown = await told(config)
    assert (code, shown["partitions"]) == (1, [])
    assert shown["problems"] == ["no server runs, or none reaches both stores"]
    async with run_server(config.model_copy(update={"partitions": config.partitions * 2})):
        code, shown = await told(config)
        assert code == 1
        assert f"DRAWDOWN_PARTITIONS={config.partitions * 2}" in shown["problems"][0]


def test_the_json_has_the_fields_that_programs_rely_on() -> None:
    """A field may be added here; one that is renamed or taken away breaks somebody's alert."""
    assert {field.encode_name for field in msgspec.structs.fields(Status)} >= {
        "healthy", "problems", "run_id", "servers", "waiting_events", "waiting_s", "dead_letters", "partitions",
    }  # fmt: skip
    assert {field.encode_name for field in msgspec.structs.fields(PartitionStatus)} >= {
        "partition", "epoch", "action", "why", "waiting_events", "waiting_s", "flusher", "lease_s", "problems",
    }  # fmt: skip
