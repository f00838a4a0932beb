"""The redis-py client beside the hot path: who cancels a task that uses it is heard."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from drawdown_server.holds.startup import open_client

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from drawdown_server.dev.valkey import ValkeyProcess


async def test_a_cancellation_in_the_step_in_which_a_command_is_written_is_not_lost(
    store_server: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client(store_server.url, timeout_ms=5_000) as client:
        await client.ping()
        written: type[Any] = client.connection_pool.connection_class
        write = written._send_packed_command

        async def write_and_cancel(connection: AbstractConnection, command: bytes) -> None:
            await write(connection, command)
            asking.cancel()

        monkeypatch.setattr(written, "_send_packed_command", write_and_cancel)
        asking = asyncio.create_task(client.echo("lost"))
        await asyncio.wait([asking])
        monkeypatch.undo()
        assert asking.cancelled()
        assert await client.echo("asked") == b"asked", "and its reply is nobody else's"


async def test_a_timeout_in_the_step_in_which_a_command_is_written_is_one(
    store_server: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client(store_server.url, timeout_ms=5_000) as client:
        await client.ping()
        written: type[Any] = client.connection_pool.connection_class
        write = written._send_packed_command

        async def write_until_over(connection: AbstractConnection, command: bytes) -> None:
            await write(connection, command)
            limit.reschedule(0)  # it was over long ago
            await asyncio.sleep(0)

        monkeypatch.setattr(written, "_send_packed_command", write_until_over)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60) as limit:
                await client.echo("late")
        assert asyncio.current_task().cancelling() == 0
