"""The outbox streams in Valkey, as the flusher and the recovery use them: the few commands, typed.

One connection pool of redis-py, for one server. On a Cluster a multi-stream XREAD needs one reader per node, each
with the partitions of that node; the functions below then get that node's client.
The client must not decode replies, must not retry by itself, and its socket timeout must be longer than the block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec
from redis.exceptions import ResponseError, WatchError

from drawdown_server.holds import keys
from drawdown_server.holds.startup import unavailable
from drawdown_server.ledger.events import FIELD
from drawdown_server.ledger.rows import POSITION_START

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

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


async def read_streams(
    redis: Redis, positions: Mapping[str, str], *, count: int, block_ms: int
) -> dict[str, list[StreamEntry]]:
    """Entries after the given positions.

    Args:
        redis: A client whose connection may block.
        positions: Stream key -> id after which to read.
        count: Most entries per stream.
        block_ms: Longest wait for the first entry; 0 = no wait.

    Returns:
        Stream key -> entries in order; only streams that have some.
    """
    # redis-py's own callback would build a dict per entry and depends on the protocol version.
    redis.set_response_callback("XREAD", _RawReply())
    arguments: list[str | int] = ["COUNT", count]
    if block_ms:
        arguments += ["BLOCK", block_ms]
    try:
        reply = await redis.execute_command(  # type: ignore[no-untyped-call]
            "XREAD", *arguments, "STREAMS", *positions.keys(), *positions.values()
        )
    except Exception as error:
        raise unavailable(error) from error
    if not reply:
        return {}
    pairs = reply.items() if isinstance(reply, dict) else reply
    return {name.decode(): [_entry(raw) for raw in entries] for name, entries in pairs}


async def range_after(redis: Redis, key: str, after: str, count: int) -> list[StreamEntry]:
    """Entries of one stream after an id."""
    found = await read_streams(redis, {key: after}, count=count, block_ms=0)
    return found.get(key, [])


async def trim(redis: Redis, positions: Mapping[str, str]) -> None:
    """Drop the entries before each position.

    The entry at the position stays: it proves that this stream and Postgres have the same history (``recovery``), and
    tells the sweep how far Postgres is (``sweep.lua``).
    """
    pipeline = redis.pipeline(transaction=False)
    for key, position in positions.items():
        pipeline.execute_command("XTRIM", key, "MINID", position)
    await _replies(pipeline)


async def _replies(pipeline: Pipeline) -> list[object]:
    """The replies of a pipeline; the first error among them as it is, without redis-py's own words before it."""
    try:
        replies = cast("list[object]", await pipeline.execute(raise_on_error=False))
    except Exception as error:
        raise unavailable(error) from error
    for reply in replies:
        if isinstance(reply, Exception):
            raise unavailable(reply)
    return replies


async def read_infos(redis: Redis, names: Sequence[str]) -> list[StreamInfo]:
    """XINFO STREAM of several streams."""
    pipeline = redis.pipeline(transaction=False)
    for name in names:
        pipeline.xinfo_stream(name)
    try:
        replies = await pipeline.execute(raise_on_error=False)
    except Exception as error:
        raise unavailable(error) from error
    infos = []
    for reply in replies:
        if isinstance(reply, ResponseError) and "no such key" in str(reply).lower():
            infos.append(StreamInfo())
        elif isinstance(reply, Exception):
            raise unavailable(reply)
        else:
            infos.append(_info(cast("dict[bytes | str, object]", reply)))
    return infos


async def now_ms(redis: Redis) -> int:
    """The store's clock, which stream ids come from."""
    try:
        seconds, microseconds = await redis.time()
    except Exception as error:
        raise unavailable(error) from error
    return int(seconds) * 1000 + int(microseconds) // 1000


async def read_epochs(redis: Redis, partitions: Sequence[int]) -> list[int]:
    """The epoch in each partition's meta key; 0 = there is none."""
    pipeline = redis.pipeline(transaction=False)
    for partition in partitions:
        pipeline.hget(keys.meta(partition), "epoch")
    return [int(cast("bytes | None", value) or 0) for value in await _replies(pipeline)]


async def has_entries(redis: Redis, ids: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether each (stream key, id) is there."""
    pipeline = redis.pipeline(transaction=False)
    for key, stream_id in ids:
        pipeline.xrange(key, stream_id, stream_id, 1)
    return [bool(found) for found in await _replies(pipeline)]


async def raise_epoch(redis: Redis, partition: int, epoch: int, *, beside: tuple[str, str] | None = None) -> int:
    """Set the epoch in the partition's meta key, unless it is higher there.

    Args:
        redis: A client.
        partition: Which one.
        epoch: The epoch.
        beside: Set it only where this (stream key, id) is, looked at in the same step as it is set.

    Returns:
        What is there afterwards; 0 = nothing, because ``beside`` is not there.
    """
    key = keys.meta(partition)
    try:
        while True:
            async with redis.pipeline(transaction=True) as pipeline:
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
        raise unavailable(error) from error


async def scan(redis: Redis, pattern: str, cursor: int, count: int) -> tuple[int, list[str]]:
    """The next cursor (0: that was all) and the names that one SCAN found, looking at about ``count`` keys."""
    try:
        cursor, found = await redis.scan(cursor, match=pattern, count=count)
    except Exception as error:
        raise unavailable(error) from error
    return int(cursor), [cast("bytes", name).decode() for name in found]


async def unlink(redis: Redis, names: Sequence[str]) -> None:
    """Delete keys; their memory is freed in the background."""
    if not names:
        return
    try:
        await redis.unlink(*names)
    except Exception as error:
        raise unavailable(error) from error


class _RawReply:
    """A response callback that leaves the reply as it is."""

    def __call__(self, response: Any, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002 - redis-py's protocol
        return response


def _entry(raw: _RawEntry) -> StreamEntry:
    """An entry's id and event.

    One that has no event field keeps what it has, as a msgpack array: it will not decode as an event and becomes a
    dead letter with all its bytes.
    """
    stream_id, values = raw
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
