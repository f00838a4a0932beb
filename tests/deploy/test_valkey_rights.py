"""What the users of `deploy/valkey/users.acl` may not do. What a server may do, every other test shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

import stores
from drawdown_server.dev.valkey import ValkeyProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES: Final = Path(stores.__file__).parents[1] / "server" / "drawdown_server"
OURS: Final = "{dd00}:meta"


@pytest.fixture
def server(store_server: ValkeyProcess) -> Iterator[Redis]:
    """A client with the user of a server."""
    with Redis.from_url(stores.as_user(store_server.url, stores.SERVER_USER)) as client:
        yield client


@pytest.mark.parametrize(
    "command",
    [
        "EVAL|return 1|0",
        "EVALSHA|0000000000000000000000000000000000000000|0",
        "SCRIPT|LOAD|return 1",
        "SCRIPT|FLUSH",
        "FUNCTION|FLUSH",
        "FUNCTION|DELETE|drawdown",
        "FUNCTION|DUMP",
        "FUNCTION|KILL",
        "FLUSHALL",
        "FLUSHDB",
        "SWAPDB|0|0",
        "KEYS|*",
        "CONFIG|SET|maxmemory-policy|allkeys-lru",
        "CONFIG|REWRITE",
        "ACL|LIST",
        "ACL|SETUSER|drawdown|+@all",
        "CLIENT|KILL|TYPE|normal",
        "CLIENT|LIST",
        "CLIENT|PAUSE|1",
        "REPLICAOF|NO|ONE",
        "PSYNC|?|-1",
        "SHUTDOWN",
        "SAVE",
        "BGREWRITEAOF",
        "MONITOR",
        "MODULE|LIST",
        f"DUMP|{OURS}",
        f"RESTORE|{OURS}|0|x",
        f"RENAME|{OURS}|{{dd00}}:other",
        f"EXPIRE|{OURS}|1",
        f"SET|{OURS}|1",
        f"HGETALL|{OURS}",
        "PUBLISH|channel|message",
    ],
)
def test_a_server_may_not(server: Redis, command: str) -> None:
    with pytest.raises(NoPermissionError, match="no permissions to run"):
        server.execute_command(*command.split("|"))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", ["other", "dd00", "{de00}:meta", "session:1"])
def test_keys_that_are_not_ours_are_closed(server: Redis, name: str) -> None:
    with pytest.raises(NoPermissionError, match="key"):
        server.hget(name, "epoch")
    assert server.hget(OURS, "epoch") is None


def test_a_function_that_a_server_brings_may_do_no_more_than_the_server(server: Redis) -> None:
    server.function_load(
        "#!lua name=theirs\n"
        "redis.register_function('wipe', function() return redis.call('FLUSHALL') end)\n"
        "redis.register_function('peek', function(keys) return redis.call('HGET', keys[1], 'f') end)\n"
    )
    with pytest.raises(ResponseError, match=r"ACL|can't run this command"):
        server.fcall("wipe", 0)
    with pytest.raises(NoPermissionError):
        server.fcall("peek", 1, "not-ours")


def test_every_command_that_a_server_may_send_is_one_that_it_sends() -> None:
    (line,) = [line for line in stores.acl_file().splitlines() if line.startswith(f"user {stores.SERVER_USER} ")]
    allowed = re.findall(r"\+([a-z|]+)", line)
    lua = "\n".join(file.read_text() for file in SOURCES.rglob("*.lua"))
    python = "\n".join(
        file.read_text() for folder in ("holds", "ledger", "wallets") for file in (SOURCES / folder).glob("*.py")
    )
    implied = {"unwatch", "exec", "discard"}  # redis-py sends them around what is between WATCH and MULTI
    unused = {
        command
        for command in allowed
        if command not in implied
        and f"'{command.partition('|')[0].upper()}'" not in lua
        and not re.search(rf"\.{command.replace('|', '_')}\(|\"{command.upper()}\"|b\"{command.upper()}\"", python)
    }
    assert unused == set()


def test_nobody_gets_in_without_a_password(data_dir: Path) -> None:
    """The file as it is, which for all other tests has a superuser without a password instead."""
    data_dir.parent.mkdir(exist_ok=True)
    with ValkeyProcess(data_dir, appendfsync="no", extra=stores.with_users(data_dir.parent)) as valkey:
        (data_dir.parent / "users.acl").write_text(stores.acl_file())
        with Redis.from_url(valkey.url) as still_in:
            assert still_in.acl_load()
        with Redis.from_url(valkey.url) as anonymous, pytest.raises(AuthenticationError):
            anonymous.ping()
        with Redis.from_url(stores.as_user(valkey.url, "admin")) as admin:
            assert sorted(admin.acl_users()) == ["admin", "default", stores.SERVER_USER]
            assert admin.ping()
        with Redis.from_url(stores.as_user(valkey.url, stores.SERVER_USER)) as server:
            assert server.ping()
