"""The redis-py client beside the hot path: who cancels a task that uses it is heard."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from drawdown_server.holds.startup import open_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from redis.asyncio import Redis
    from redis.asyncio.connection import AbstractConnection

    from drawdown_server.dev.valkey import ValkeyProcess


@pytest.fixture
async def client(store_server: ValkeyProcess) -> AsyncIterator[Redis]:
    async with open_client(store_server.url, timeout_ms=5_000) as client:
        await client.ping()
        yield client


def after_a_write(client: Redis, patch: pytest.MonkeyPatch, happens: Callable[[], Awaitable[None]]) -> None:
    """From now on this happens in the step in which a command is written."""
    written: type[Any] = client.connection_pool.connection_class
    write = written._send_packed_command

    async def write_and_more(connection: AbstractConnection, command: bytes) -> None:
        await write(connection, command)
        await happens()

    patch.setattr(written, "_send_packed_command", write_and_more)


async def test_a_cancellation_in_the_step_in_which_a_command_is_written_is_not_lost(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancel() -> None:
        asking.cancel()

    with monkeypatch.context() as patch:
        after_a_write(client, patch, cancel)
        asking = asyncio.create_task(client.echo("lost"))
        await asyncio.wait([asking])
    assert asking.cancelled()
    assert await client.echo("asked") == b"asked", "and its reply is nobody else's"


async def test_a_timeout_in_the_step_in_which_a_command_is_written_is_one(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def be_over() -> None:
        limit.reschedule(0)  # it was over long ago
        await asyncio.sleep(0)

    after_a_write(client, monkeypatch, be_over)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60) as limit:
            await client.echo("late")
    assert asyncio.current_task().cancelling() == 0
