"""The outbox as the flusher gets it from whatever kind of store."""

from __future__ import annotations

import pytest

from contract.wallets import PARTITIONS
from drawdown_server.holds import keys
from drawdown_server.holds.nodes import Command
from drawdown_server.holds.opening import open_nodes
from drawdown_server.ledger import streams
from stores import superuser


@pytest.mark.parametrize("partition", range(PARTITIONS))
async def test_a_client_that_was_made_just_now_gives_events_as_they_are(store_url: str, partition: int) -> None:
    """A cluster's new primary is found amid a read: what redis-py would make of its events were no events."""
    outbox = keys.outbox(partition, 1)
    async with open_nodes(superuser(store_url), timeout_ms=10_000, partitions=PARTITIONS) as nodes:
        event_id = (await nodes.of(partition).xadd(outbox, {"e": b"event"})).decode()
        (reply,) = await nodes.run([Command(partition, ("XREAD", "COUNT", 10, "STREAMS", outbox, "0-0"))])
        assert dict(reply)[outbox.encode()] == [[event_id.encode(), [b"e", b"event"]]]  # type: ignore[call-overload]
        assert await streams.range_after(nodes, outbox, "0-0", 10) == [(event_id, b"event")]
