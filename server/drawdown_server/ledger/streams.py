"""The outbox streams in Valkey, as the flusher and the recovery use them: the few commands, typed.

A command of a cluster names keys of one slot, and each partition is in one of its own. So what is asked of many
partitions is a command for each, those of one node in one pipeline. Only the long read of a single server names all
streams at once and blocks; that of a cluster looks again and again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast

import msgspec
from redis.exceptions import MovedError, ResponseError, WatchError

from drawdown_server import clock
from drawdown_server.holds import keys
from drawdown_server.holds.nodes import Command
from drawdown_server.holds.startup import unavailable
from drawdown_server.ledger.events import FIELD
from drawdown_server.ledger.rows import POSITION_START

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from redis.asyncio import Redis

    from drawdown_server.holds.nodes import Nodes

LOOK_PAUSE_S: Final = 0.002
"""Pause of a long read of a cluster that found nothing; doubles up to ``LOOK_PAUSE_MAX_S``."""
LOOK_PAUSE_MAX_S: Final = 0.025
"""How late an event may be seen after a quiet time. 40 looks a second at 64 empty outboxes."""

StreamEntry: TypeAlias = tuple[str, bytes]
"""Stream id, value of the event's field."""

_RawEntry: TypeAlias = "tuple[bytes, list[bytes] | None]"


class StreamInfo(msgspec.Struct, frozen=True):
    """What XINFO STREAM says; all empty for a stream that does not exist."""

    last_id: str = POSITION_START
    """Last id ever given, also when the entry is trimmed."""
    first_id: str = ""
    """Id of the first entry that is there; empty = none."""
    length: int = 0
    entries_added: int = 0
    """Entries ever added; more than ``length`` means that some were trimmed."""


def id_key(stream_id: str) -> tuple[int, int]:
    """A stream id as something that compares."""
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number or 0)


class Reading(NamedTuple):
    """What was read of streams."""

    entries: dict[str, list[StreamEntry]]
    """Stream key -> entries in order; only streams that have some."""
    lost: dict[str, Exception]
    """Stream key -> why it could not be read."""


async def read_streams(
    nodes: Nodes, positions: Mapping[str, str], *, count: int, block_ms: int
) -> dict[str, list[StreamEntry]]:
    """Entries after the given positions.

    Args:
        nodes: Of the store; the clients may block.
        positions: Stream key -> id after which to read.
        count: Most entries per stream.
        block_ms: Longest wait for the first entry; 0 = no wait.

    Returns:
        Stream key -> entries in order; only streams that have some.
    """
    found = await try_read_streams(nodes, positions, count=count, block_ms=block_ms)
    for error in found.lost.values():
        raise error
    return found.entries


async def try_read_streams(nodes: Nodes, positions: Mapping[str, str], *, count: int, block_ms: int) -> Reading:
    """As ``read_streams``; a stream that cannot be read keeps nobody from reading the others."""
    if not nodes.is_cluster:
        return await _read_at_once(nodes, positions, count=count, block_ms=block_ms)
    loop = asyncio.get_running_loop()
    until_s, pause_s = loop.time() + block_ms / 1000, LOOK_PAUSE_S
    while True:
        reading = await _read_each(nodes, positions, count)
        left_s = until_s - loop.time()
        if reading.entries or reading.lost or left_s <= 0:
            return reading
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, LOOK_PAUSE_MAX_S)


async def _read_at_once(nodes: Nodes, positions: Mapping[str, str], *, count: int, block_ms: int) -> Reading:
    """All streams with one command."""
    words: list[str | int] = ["XREAD", "COUNT", count]
    if block_ms:
        words += ["BLOCK", block_ms]
    try:
        reply = await nodes.of(0).execute_command(  # type: ignore[no-untyped-call]
            *words, "STREAMS", *positions.keys(), *positions.values()
        )
    except Exception as error:
        raise unavailable(error) from error
    return Reading(_entries(reply), {})


async def _read_each(nodes: Nodes, positions: Mapping[str, str], count: int) -> Reading:
    """Each stream with its own command."""
    replies = await nodes.run(
        [
            Command(keys.partition_in(key), ("XREAD", "COUNT", count, "STREAMS", key, position))
            for key, position in positions.items()
        ]
    )
    reading = Reading({}, {})
    for key, reply in zip(positions, replies, strict=True):
        if isinstance(reply, Exception):
            reading.lost[key] = unavailable(reply)
            if reading.lost[key] is reply:
                raise reply  # no store in trouble: a mistake of ours
        else:
            reading.entries.update(_entries(reply))
    return reading


async def range_after(nodes: Nodes, key: str, after: str, count: int) -> list[StreamEntry]:
    """Entries of one stream after an id."""
    found = await read_streams(nodes, {key: after}, count=count, block_ms=0)
    return found.get(key, [])


async def trim(nodes: Nodes, positions: Mapping[str, str]) -> None:
    """Drop the entries before each position.

    The entry at the position stays: it proves that this stream and Postgres have the same history (``recovery``), and
    tells the sweep how far Postgres is (``sweep.lua``).
    """
    await _values(
        nodes,
        [Command(keys.partition_in(key), ("XTRIM", key, "MINID", position)) for key, position in positions.items()],
    )


async def _values(nodes: Nodes, commands: Sequence[Command]) -> list[object]:
    """The replies to commands; the first error among them is raised as it is."""
    replies = await nodes.run(commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise unavailable(reply) from reply
    return replies


async def read_infos(nodes: Nodes, names: Sequence[str]) -> list[StreamInfo]:
    """XINFO STREAM of several streams."""
    replies = await nodes.run([Command(keys.partition_in(name), ("XINFO STREAM", name)) for name in names])
    infos = []
    for reply in replies:
        if isinstance(reply, ResponseError) and "no such key" in str(reply).lower():
            infos.append(StreamInfo())
        elif isinstance(reply, Exception):
            raise unavailable(reply) from reply
        else:
            infos.append(_info(cast("dict[bytes | str, object]", reply)))
    return infos


async def now_ms(client: Redis) -> int:
    """The clock of a node, which the ids of its streams come from."""
    try:
        return clock.store_ms(*await client.time())
    except Exception as error:
        raise unavailable(error) from error


async def clocks(nodes: Nodes, partitions: Collection[int]) -> dict[int, int]:
    """The clock that each partition goes by, in milliseconds: the nodes' own differ."""
    homes = {partition: nodes.of(partition) for partition in partitions}  # a partition may move meanwhile
    by_client = {client: await now_ms(client) for client in dict.fromkeys(homes.values())}
    return {partition: by_client[client] for partition, client in homes.items()}


async def read_epochs(nodes: Nodes, partitions: Sequence[int]) -> list[int]:
    """The epoch in each partition's meta key; 0 = there is none."""
    values = await _values(
        nodes, [Command(partition, ("HGET", keys.meta(partition), "epoch")) for partition in partitions]
    )
    return [int(cast("bytes | None", value) or 0) for value in values]


async def has_entries(nodes: Nodes, ids: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether each (stream key, id) is there."""
    found = await _values(
        nodes,
        [Command(keys.partition_in(key), ("XRANGE", key, stream_id, stream_id, "COUNT", 1)) for key, stream_id in ids],
    )
    return [bool(entries) for entries in found]


async def raise_epoch(nodes: Nodes, partition: int, epoch: int, *, beside: tuple[str, str] | None = None) -> int:
    """Set the epoch in the partition's meta key, unless it is higher there.

    Args:
        nodes: Of the store.
        partition: Which one.
        epoch: The epoch.
        beside: Set it only where this (stream key, id) is, looked at in the same step as it is set.

    Returns:
        What is there afterwards; 0 = nothing, because ``beside`` is not there.
    """
    key = keys.meta(partition)
    try:
        while True:
            async with nodes.of(partition).pipeline(transaction=True) as pipeline:
                await pipeline.watch(key, *([] if beside is None else [beside[0]]))
                current = int(await pipeline.hget(key, "epoch") or 0)
                if current >= epoch:
                    return current
                if beside is not None and not await pipeline.xrange(beside[0], beside[1], beside[1], 1):
                    return 0
                pipeline.multi()  # type: ignore[no-untyped-call]
                pipeline.hset(key, "epoch", str(epoch))
                try:
                    await pipeline.execute()
                except WatchError:
                    continue  # another server wrote it meanwhile: look again
                return epoch
    except Exception as error:
        if isinstance(error, MovedError):
            await nodes.refresh()  # for whoever tries again
        raise unavailable(error) from error


async def scan(client: Redis, pattern: str, cursor: int, count: int) -> tuple[int, list[str]]:
    """The next cursor (0: that was all) and the names that one SCAN of a node found among about ``count`` keys."""
    try:
        cursor, found = await client.scan(cursor, match=pattern, count=count)
    except Exception as error:
        raise unavailable(error) from error
    return int(cursor), [cast("bytes", name).decode() for name in found]


async def unlink(nodes: Nodes, names: Sequence[str]) -> None:
    """Delete keys; their memory is freed in the background."""
    by_partition: dict[int, list[str]] = {}
    for name in names:
        by_partition.setdefault(keys.partition_in(name), []).append(name)
    await _values(nodes, [Command(partition, ("UNLINK", *found)) for partition, found in by_partition.items()])


def _entries(reply: object) -> dict[str, list[StreamEntry]]:
    """What XREAD answers, in either version of the protocol."""
    if not reply:
        return {}
    pairs = reply.items() if isinstance(reply, dict) else cast("list[tuple[bytes, list[_RawEntry]]]", reply)
    return {name.decode(): [_entry(raw) for raw in entries] for name, entries in pairs}


def _entry(raw: _RawEntry) -> StreamEntry:
    """An entry's id and event.

    One that has no event field keeps what it has, as a msgpack array: it will not decode as an event and becomes a
    dead letter with all its bytes.
    """
    stream_id, values = raw
    assert values is None or isinstance(values, list), "a reply that redis-py has changed is no poison"  # noqa: S101
    if values is not None and len(values) == 2 and values[0] == FIELD:  # noqa: PLR2004 - one field, one value
        return stream_id.decode(), values[1]
    return stream_id.decode(), msgspec.msgpack.encode(values)


def _info(reply: dict[bytes | str, object]) -> StreamInfo:
    values = {(name.decode() if isinstance(name, bytes) else name): value for name, value in reply.items()}
    first = cast("tuple[bytes, object] | None", values["first-entry"])
    return StreamInfo(
        last_id=cast("bytes", values["last-generated-id"]).decode(),
        first_id=first[0].decode() if first else "",
        length=cast("int", values["length"]),
        entries_added=cast("int", values["entries-added"]),
    )
