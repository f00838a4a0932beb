"""Is this Redis fit to hold money? Checked before the server serves; refused with what to change."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
    WatchError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from drawdown_server.errors import ConfigurationError, StoreUnavailableError
from drawdown_server.holds.cancelling import make_cancellable
from drawdown_server.holds.socket import KILLED, UNAVAILABLE_PREFIXES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = structlog.get_logger(__name__)

_UNAVAILABLE: Final = (
    OSError,
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    AskError,  # and MovedError: another node has the partition, or is about to
    ClusterDownError,
    MasterDownError,
    TryAgainError,
)
_CUT: Final = (AttributeError, RuntimeError, WatchError)
"""What redis-py raises beside its own errors when somebody disconnects its pool (``ledger/presence.py`` does) while a
command is on its way: it finds no writer any more, or a transport that is closed, or has lost what it watched."""
VALKEY_MAJOR_MIN: Final = 8
REDIS_MAJOR_MIN: Final = 7
"""Functions with flags need Redis 7; Valkey before 8 is not tested."""


def unavailable(error: Exception) -> Exception:
    """The error to raise for one of redis-py: ours if the store is not there now, else the error itself."""
    # redis-py takes some prefixes off the text and makes classes of them.
    text = str(error)
    if isinstance(error, _UNAVAILABLE + _CUT) or text.startswith(UNAVAILABLE_PREFIXES) or KILLED in text:
        return StoreUnavailableError("valkey")
    return error


def new_client(url: str, *, timeout_ms: int) -> Redis:
    """A redis-py client for start-up, administration and the flusher.

    Args:
        url: As in the configuration, with one host.
        timeout_ms: Of one command. It must be longer than the longest blocking read.

    No retries: redis-py would send a command again whose outcome it does not know, ten times by default.

    Raises:
        ConfigurationError: The URL is malformed.
    """
    timeout_s = timeout_ms / 1000
    try:
        client: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            client_name="drawdown-admin",
        )
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)  # knows every option
    except (ValueError, TypeError):  # their texts may have a part of the password
        raise ConfigurationError(
            "the URL of valkey is not of the form redis://user:password@host:port/0, rediss://... or unix://..., or an "
            "option of it does not exist (characters such as / in a password are written %2F)"
        ) from None
    make_cancellable(client.connection_pool)
    return client


@asynccontextmanager
async def open_client(url: str, *, timeout_ms: int) -> AsyncIterator[Redis]:
    """A ``new_client`` that is closed after the block."""
    client = new_client(url, timeout_ms=timeout_ms)
    try:
        yield client
    finally:
        await client.aclose()


async def check_store(client: Redis) -> None:
    """Check version, role, eviction policy and persistence.

    Raises:
        ConfigurationError: With what to change.
        StoreUnavailableError: It cannot be reached.
    """
    try:
        info = await client.info("server")
        replication = await client.info("replication")
    except (AuthenticationError, NoPermissionError) as error:
        raise ConfigurationError(
            f"valkey refuses us: {error}. Put a user that may do this, and its password, into the URL "
            "(redis://user:password@host:port/0)."
        ) from None
    except (RedisError, *_CUT) as error:
        log.warning("valkey.unreachable", error=str(error))
        raise StoreUnavailableError("valkey", f"valkey cannot be reached: {error}") from error
    _check_version(info)
    if replication.get("role") != "master":
        primary = f"{replication.get('master_host')}:{replication.get('master_port')}"
        raise ConfigurationError(f"this valkey is a replica of {primary}: it takes no writes. Use its primary.")
    policy = await _setting(client, "maxmemory-policy")
    if policy not in ("noeviction", None):
        raise ConfigurationError(
            f"valkey evicts keys when memory is full (maxmemory-policy {policy}): balances would vanish. "
            "Set maxmemory-policy noeviction."
        )
    if await _setting(client, "appendonly") == "no":
        log.warning(
            "valkey.not_durable",
            hint="appendonly is off: a restart loses open holds and everything that Postgres has not recorded yet",
        )
    elif await _setting(client, "appendfsync") not in ("always", None):
        log.warning(
            "valkey.not_always_durable",
            hint="appendfsync is not always: a power loss can take acknowledged answers of the last seconds with it",
        )


def _check_version(info: dict[str, str | int]) -> None:
    valkey, redis = str(info.get("valkey_version", "")), str(info.get("redis_version", "0"))
    if valkey:
        if int(valkey.partition(".")[0]) < VALKEY_MAJOR_MIN:
            raise ConfigurationError(f"Valkey {valkey} is too old: {VALKEY_MAJOR_MIN} or later is needed.")
    elif int(redis.partition(".")[0]) < REDIS_MAJOR_MIN:
        raise ConfigurationError(f"Redis {redis} is too old: {REDIS_MAJOR_MIN} or later is needed.")


async def _setting(client: Redis, name: str) -> str | None:
    """A setting of the store, or None where CONFIG is not allowed, as on most managed ones."""
    try:
        settings = await client.config_get(name)
    except ResponseError:
        log.warning("valkey.setting_unknown", setting=name, hint="CONFIG GET is not allowed here: check it by hand")
        return None
    return settings.get(name)
