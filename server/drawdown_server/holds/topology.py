"""Which primary of a cluster has which partition, as the nodes themselves tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from drawdown_server.holds import keys
from drawdown_server.holds.address import Address
from drawdown_server.holds.nodes import run_on
from drawdown_server.holds.startup import unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

_Node: TypeAlias = "list[bytes | int | list[object] | None]"
"""Host (None: the one that was asked), port, id; newer servers tell more."""


class View(NamedTuple):
    """What one node knows."""

    rank: tuple[bool, int, int]
    """The greatest is right: whether it is in touch with most others, the newest change that it has heard of, and the
    newest that it (or its primary) made itself. Nodes vote for a failover before they know its outcome: of those that
    have heard of it, the one that was promoted knows who has what."""
    homes: dict[int, Address]
    """The primary of each partition; one whose slot nobody has is not in it."""
    replicas: frozenset[Address]
    """Nodes that may become primaries of partitions."""


async def read_view(client: Redis, asked: Address, partitions: int) -> View:
    """Ask one node.

    Args:
        client: Of that node.
        asked: Its address, which stands for a host that it does not know itself.
        partitions: How many there are.

    Raises:
        StoreUnavailableError: It did not answer, or is no part of a cluster.
    """
    ranges, info = await run_on(client, [("CLUSTER SLOTS",), ("CLUSTER INFO",)])
    for reply in (ranges, info):
        if isinstance(reply, Exception):
            raise unavailable(reply) from reply
    owners: dict[int, Address] = {}
    replicas: set[Address] = set()
    by_slot: dict[int, list[int]] = {}
    for partition in range(partitions):
        by_slot.setdefault(keys.slot(partition), []).append(partition)
    for first, last, primary, *others in cast("list[tuple[int, int, _Node, *tuple[_Node, ...]]]", ranges):
        ours = [partition for slot, found in by_slot.items() if first <= slot <= last for partition in found]
        if ours:
            owners.update(dict.fromkeys(ours, _address(primary, asked)))
            replicas.update(_address(other, asked) for other in others)
    return View(_rank(cast("bytes", info).decode()), owners, frozenset(replicas))


def _rank(info: str) -> tuple[bool, int, int]:
    values = dict(line.partition(":")[::2] for line in info.splitlines())
    heard, made = (int(values.get(name, 0)) for name in ("cluster_current_epoch", "cluster_my_epoch"))
    return values.get("cluster_state") == "ok", heard, made


def _address(node: _Node, asked: Address) -> Address:
    host = node[0].decode() if isinstance(node[0], bytes) else ""
    return Address(host if host not in ("", "?") else asked.host, cast("int", node[1]))
