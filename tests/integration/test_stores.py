"""The fixtures keep their promise: a test gets its stores empty, whatever the test before did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest
import redis

if TYPE_CHECKING:
    from drawdown_server.dev.valkey import ValkeyProcess

FUNCTION = "#!lua name=leftover\nredis.register_function('leftover', function() return 1 end)"


@pytest.mark.parametrize("turn", [1, 2])
def test_a_store_is_empty_and_can_be_killed(store_server: ValkeyProcess, turn: int) -> None:
    with redis.Redis(port=store_server.port, single_connection_client=True) as store:
        assert store.dbsize() == 0
        store.set("turn", turn)
        store.function_load(FUNCTION)  # refused if it were there already
    store_server.kill()
    store_server.start()


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_database_is_migrated_and_empty(superuser_url: str, turn: int) -> None:
    connection = await asyncpg.connect(superuser_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM wallets") == 0
        await connection.execute("CREATE TABLE leftover (turn int)")
        await connection.execute("INSERT INTO leftover VALUES ($1)", turn)
    finally:
        await connection.close()
