"""Fault 9: Valkey loses the hold scripts while a server serves, or has those of another version."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds.library import build_library, read_sources
from faults.gateway import Gateway
from integration.audit import open_audit
from integration.server import run_server, settings

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config
    from drawdown_server.holds.library import Library

FLUSHES: Final = 8
COMMITS_BETWEEN: Final = 25


def other_version() -> Library:
    """The scripts of a server that is older, or newer."""
    sources = read_sources()
    return build_library({**sources, "store.lua": sources["store.lua"] + "-- another version\n"})


async def test_functions_flushed_under_load_fail_no_call(config: Config) -> None:
    async with run_server(config) as server:
        gateway = Gateway(server, [await server.wallet(USD=1_000_000) for _ in range(4)])
        load = asyncio.create_task(gateway.run())
        client = server.audit.stores.nodes.of(0)
        for _ in range(FLUSHES):
            await gateway.reaches(COMMITS_BETWEEN)
            await client.function_flush("SYNC")
        await gateway.reaches(COMMITS_BETWEEN)
        gateway.stop.set()
        await load
        assert gateway.retries == 0, "the scripts were loaded and the call sent again, before it was answered"
        assert not server.task.done()
        async with open_audit(config) as audit:
            await gateway.assert_recorded(audit)


@pytest.mark.parametrize("loses_ours", [True, False])
async def test_a_valkey_that_comes_back_with_another_versions_scripts_gets_ours(
    data_dir: Path, postgres_url: str, loses_ours: bool
) -> None:
    async with ValkeyProcess(data_dir, appendfsync="always") as valkey:
        config = settings(valkey.url, postgres_url, valkey_timeout_ms=500)
        async with run_server(config) as server:
            gateway = Gateway(server, [await server.wallet(USD=1_000_000) for _ in range(2)])
            load = asyncio.create_task(gateway.run())
            await gateway.reaches(COMMITS_BETWEEN)
            client, other = server.audit.stores.nodes.of(0), other_version()
            await client.function_load(other.code)
            if loses_ours:
                await client.function_delete(build_library().name)
            await asyncio.to_thread(valkey.restart)
            await gateway.reaches(COMMITS_BETWEEN)
            gateway.stop.set()
            await load
            async with open_audit(config) as audit:
                names = {library[1].decode() for library in await audit.stores.nodes.of(0).function_list()}
                assert names == {other.name, build_library().name}, "both serve side by side"
                await gateway.assert_recorded(audit)
