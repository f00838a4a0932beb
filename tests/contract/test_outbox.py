"""The outbox as the flusher gets it from whatever kind of store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contract.wallets import PARTITIONS
from drawdown_server.holds import keys
from drawdown_server.holds.nodes import Command, OneNode
from drawdown_server.holds.opening import open_nodes
from drawdown_server.holds.startup import open_client
from drawdown_server.ledger import streams
from stores import superuser

if TYPE_CHECKING:
    from redis.asyncio import Redis


@pytest.mark.parametrize("partition", range(PARTITIONS))
async def test_a_client_that_was_made_just_now_gives_events_as_they_are(store_url: str, partition: int) -> None:
    """A cluster's new primary is found amid a read: what redis-py would make of its events were no events."""
    outbox = keys.outbox(partition, 1)
    async with open_nodes(superuser(store_url), timeout_ms=10_000, partitions=PARTITIONS) as nodes:
        event_id = (await nodes.of(partition).xadd(outbox, {"e": b"event"})).decode()
        (reply,) = await nodes.run([Command(partition, ("XREAD", "COUNT", 10, "STREAMS", outbox, "0-0"))])
        assert dict(reply)[outbox.encode()] == [[event_id.encode(), [b"e", b"event"]]]  # type: ignore[call-overload]
        assert await streams.range_after(nodes, outbox, "0-0", 10) == [(event_id, b"event")]


async def test_a_partition_that_moves_while_clocks_are_read_has_that_of_one_of_its_homes(valkey_url: str) -> None:
    async with open_client(valkey_url, timeout_ms=10_000) as old, open_client(valkey_url, timeout_ms=10_000) as new:

        class Moving(OneNode):
            def of(self, partition: int) -> Redis:
                asked.append(partition)
                return old if len(asked) == 1 else new

        asked: list[int] = []
        before_ms = await streams.now_ms(old)
        (time_ms,) = (await streams.clocks(Moving(old, valkey_url, PARTITIONS), [1])).values()
        assert before_ms <= time_ms <= await streams.now_ms(old)
