"""Fault 5: the disk takes no more of Valkey's log. Nothing that was acknowledged is lost, and callers hear of it.

A limit on the size of files stands in for the disk. Valkey must not die of the signal that goes with it, as it doesn't
of a full disk; a shell in front of it sees to that.
"""

from __future__ import annotations

import asyncio
import resource
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from drawdown_server.dev.valkey import ValkeyProcess, valkey_binary
from faults.gateway import Gateway
from integration.audit import open_audit
from integration.server import authorize_request, commit_request, run_server, settings, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drawdown_server.dev.valkey import Appendfsync

ROOM_BYTES: Final = 20_000
"""What still fits into the log once its disk is failing: some dozens of holds."""


@asynccontextmanager
async def valkey_on_a_disk(directory: Path, appendfsync: Appendfsync) -> AsyncIterator[ValkeyProcess]:
    """A Valkey that sees an error, and not a signal, when a file cannot grow."""
    binary = directory / "valkey"
    binary.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {valkey_binary()} \"$@\"\n", encoding="ascii")
    binary.chmod(0o700)
    async with ValkeyProcess(directory / "data", binary=binary, appendfsync=appendfsync) as valkey:
        yield valkey


def fill_disk(valkey: ValkeyProcess) -> None:
    log = max(path.stat().st_size for path in (valkey.directory / "data").rglob("*.aof"))
    resource.prlimit(valkey.pid, resource.RLIMIT_FSIZE, (log + ROOM_BYTES, resource.RLIM_INFINITY))


def empty_disk(valkey: ValkeyProcess) -> None:
    resource.prlimit(valkey.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


async def test_always_ends_valkey_and_loses_nothing_that_was_acknowledged(directory: Path, postgres_url: str) -> None:
    async with valkey_on_a_disk(directory, "always") as valkey:
        config = settings(valkey.url, postgres_url, valkey_timeout_ms=500)
        async with run_server(config) as server:
            gateway = Gateway(server, [await server.wallet(USD=1_000_000) for _ in range(3)])
            load = asyncio.create_task(gateway.run())
            await gateway.reaches(20)
            fill_disk(valkey)
            process = valkey._process
            assert process is not None

            async def has_ended() -> bool:
                return process.poll() is not None

            await until(has_ended)
            failure = await server.failure(authorize_request(gateway.wallets[0], "while-down", USD=1))
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            await asyncio.to_thread(valkey.kill)  # what is left of it; the new one has room
            await asyncio.to_thread(valkey.start)
            await gateway.reaches(20)
            gateway.stop.set()
            await load
            assert process.returncode == 1, "it gave up by itself"
            assert not server.task.done()
            async with open_audit(config) as audit:
                await gateway.assert_recorded(audit)
                assert {row.epoch for row in await audit.stores.ledger.read_partitions()} == {1}


async def test_everysec_refuses_writes_until_there_is_room(directory: Path, postgres_url: str) -> None:
    async with valkey_on_a_disk(directory, "everysec") as valkey:
        config = settings(valkey.url, postgres_url, valkey_timeout_ms=500)
        async with run_server(config) as server:
            wallet = await server.wallet(USD=1_000_000)
            fill_disk(valkey)
            approved: list[str] = []

            async def refused() -> bool:
                try:
                    await server.authorize(wallet, f"h{len(approved)}", ttl_s=600, USD=10)
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    return True
                approved.append(f"h{len(approved)}")
                return False

            await until(refused)
            failure = await server.failure(commit_request(wallet, "h0", USD=10))
            assert (failure.code, failure.metadata, failure.retry_ms) == (
                grpc.StatusCode.UNAVAILABLE,
                {"store": "valkey"},
                50,
            )
            assert (await server.balance(wallet)).held_units == 10 * len(approved), "it can still be read"
            empty_disk(valkey)

            async def committed() -> bool:
                try:
                    return bool((await server.commit(wallet, "h0", USD=10)).wallet_sequence)
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    return False

            await until(committed)
            for hold_id in approved[1:]:
                await server.commit(wallet, hold_id, USD=10)
            assert len(await server.debits(wallet, at_least=len(approved))) == len(approved)
            assert not server.task.done()
            await server.assert_conserved(wallet)


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
async def test_the_shell_in_front_of_valkey_is_not_what_is_tested(
    directory: Path, postgres_url: str, appendfsync: Appendfsync
) -> None:
    """With room on the disk this Valkey is like any other."""
    async with (
        valkey_on_a_disk(directory, appendfsync) as valkey,
        run_server(settings(valkey.url, postgres_url)) as server,
    ):
        wallet = await server.wallet(USD=10)
        await server.authorize(wallet, "h", USD=10)
        await server.commit(wallet, "h", USD=10)
        await server.assert_conserved(wallet)
