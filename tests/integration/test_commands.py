"""What operators run by hand, beside a running server: reconcile, rebuild, dead-letters."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from drawdown_server.holds import keys
from faults.processes import environment
from integration.server import run_server, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config
    from integration.server import Server

PARTITION_LINES = 4


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


async def command(config: Config, *arguments: str) -> Ended:
    """Run ``drawdown-server`` as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "drawdown_server",
        *arguments,
        env=environment(config),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def running(config: Config) -> AsyncIterator[Server]:
    async with run_server(config) as server:
        yield server


async def spend(server: Server, wallet: str, hold_id: str, units: int) -> None:
    await server.authorize(wallet, hold_id, USD=units)
    await server.commit(wallet, hold_id, USD=units)


async def test_reconcile_of_books_that_are_right(running: Server) -> None:
    for wallet in ("a", "b"):
        await running.wallet(wallet, USD=100)
        await spend(running, wallet, "h", 7)
    done = await command(running.config, "reconcile")
    assert (done.code, done.lines) == (0, ["compared 2 wallets in Valkey with the ledger", "nothing differs"])
    done = await command(running.config, "reconcile", "--tenant", "nobody")
    assert (done.code, done.lines[0]) == (0, "compared 0 wallets in Valkey with the ledger")
    done = await command(running.config, "reconcile", "--wallet", "a", "--json")
    assert (done.code, json.loads(done.out)) == (0, {"wallets": 1, "not_live": 0, "differences": []})


async def test_reconcile_says_what_differs_and_fails(running: Server) -> None:
    await running.wallet("a", USD=100)
    await spend(running, "a", "h", 7)
    await running.debits("a", at_least=1)
    async with running.audit.stores.ledger._connection() as connection:
        await connection.execute("UPDATE balances SET settled_units = 92, debited_units = 8 WHERE wallet_id = 'a'")
    done = await command(running.config, "reconcile")
    assert done.code == 1
    assert "tenant default, wallet a USD: settled units: 93 in Valkey, 92 in Postgres" in done.lines
    assert done.lines[-1] == "2 differences in 1 wallet; nothing was changed"
    done = await command(running.config, "reconcile", "--json")
    assert done.code == 1
    assert {d["what"] for d in json.loads(done.out)["differences"]} >= {"settled units"}


async def test_a_dry_run_says_what_a_server_would_do_with_each_partition(running: Server) -> None:
    done = await command(running.config, "rebuild", "--dry-run")
    assert (done.code, len(done.lines)) == (0, PARTITION_LINES)
    assert done.lines[0] == "partition 0, epoch 1: serve (both stores have the same history)"
    done = await command(running.config, "rebuild", "--dry-run", "--partition", "2", "--json")
    assert json.loads(done.out) == {
        "partition": 2,
        "epoch": 1,
        "action": "serve",
        "why": "both stores have the same history",
        "unrecorded": 0,
    }


async def test_rebuild_asks_first_and_knows_its_partitions(running: Server) -> None:
    for arguments, part in (
        (("rebuild",), "name what to rebuild"),
        (("rebuild", "--partition", "4", "--yes"), "there is no partition 4: they are 0 to 3"),
        (("rebuild", "--partition", "1"), "Aborted"),  # nobody answers
    ):
        done = await command(running.config, *arguments)
        assert done.code == 1
        assert part in done.err
    assert {row.epoch for row in await running.audit.stores.ledger.read_partitions()} == {1}


async def test_a_rebuild_beside_a_running_server_loads_its_wallets_from_the_ledger_again(running: Server) -> None:
    wallet, other = await running.wallet("a", USD=100), await running.wallet("b", USD=100)
    partition, spared = (
        keys.partition_of(running.config.tenant, w, running.config.partitions) for w in (wallet, other)
    )
    assert partition != spared
    for name in (wallet, other):
        await spend(running, name, "h", 30)
        await running.authorize(name, "open", USD=50)
        await running.debits(name, at_least=1)
    done = await command(running.config, "rebuild", "--partition", str(partition), "--yes")
    assert done.code == 0
    assert done.lines[-1] == "rebuilt 1 partition; 0 new dead letters"
    assert "open holds" in done.err
    balance = await running.balance(wallet)
    assert (balance.available_units, balance.held_units) == (70, 0)
    assert (await running.balance(other)).held_units == 50, "its partition was not named"
    await spend(running, wallet, "again", 70)
    await running.debits(wallet, at_least=2)
    await running.assert_conserved(wallet, other)


async def test_dead_letters_are_listed_with_what_they_say(running: Server) -> None:
    assert (await command(running.config, "dead-letters")).lines == ["no dead letters"]
    wallet = await running.wallet("a", USD=100)
    await spend(running, wallet, "h", 30)
    await running.debits(wallet, at_least=1)
    outbox = keys.outbox(keys.partition_of(running.config.tenant, wallet, running.config.partitions), 1)
    client, ledger = running.audit.stores.nodes.of(0), running.audit.stores.ledger
    ((_, fields),) = await client.xrevrange(outbox, count=1)
    await client.xadd(outbox, fields)  # the same event again
    await client.xadd(outbox, {"e": b"\xc1"})

    async def both() -> bool:
        return len(await ledger.list_dead_letters(limit=10)) == 2

    await until(both)
    repeat, garbage, last = (await command(running.config, "dead-letters")).lines
    assert (
        "wallet a, event 2, COMMIT of hold h (DEBIT 30 USD of grant g-USD): repeat in the wallet's sequence" in repeat
    )
    assert "1 bytes that are no event" in garbage
    assert last == "2 dead letters"
    first, second = map(json.loads, (await command(running.config, "dead-letters", "--json")).lines)
    assert (first["wallet_id"], first["event"]["kind"], first["event"]["hold_id"]) == ("a", "COMMIT", "h")
    assert (second["event"], second["raw"]) == (None, "wQ==")
