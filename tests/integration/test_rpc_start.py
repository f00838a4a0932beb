"""What the server refuses to start with: one clear line on stderr, no traceback, exit status 1 (or 2 for usage)."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import asyncpg
import pytest
import structlog
from redis import Redis
from typer.testing import CliRunner

from drawdown_server.__main__ import commands
from drawdown_server.app import open_stores
from drawdown_server.config import Config
from drawdown_server.dev.process import free_port
from drawdown_server.ledger.migrations import load
from faults.processes import environment
from stores import superuser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from click.testing import Result

    from drawdown_server.dev.postgres import PostgresProcess

Run = "Callable[..., Result]"


@pytest.fixture
def run(config: Config) -> Iterator[Callable[..., Result]]:
    """The command line in this process, with the test's stores; keyword arguments are settings."""

    def invoke(*arguments: str, **others: object) -> Result:
        return CliRunner().invoke(commands, list(arguments), env=environment(config.model_copy(update=others)))

    yield invoke
    structlog.reset_defaults()  # the command line logs to the runner's stderr, which is closed now


def refusal(result: Result) -> str:
    """The one line with which it gave up."""
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith("{")]  # structured logs
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_no_valkey(run: Callable[..., Result]) -> None:
    port = free_port()
    line = refusal(run("serve", valkey_url=f"redis://127.0.0.1:{port}/0"))
    assert "valkey cannot be reached" in line


def test_no_postgres(run: Callable[..., Result]) -> None:
    port = free_port()
    line = refusal(run("serve", postgres_url=f"postgresql://u:hunter2@127.0.0.1:{port}/x?sslmode=disable"))
    assert "postgres" in line
    assert "hunter2" not in line


def test_no_such_database(run: Callable[..., Result], postgres_process: PostgresProcess) -> None:
    line = refusal(run("serve", postgres_url=postgres_process.url_of("nowhere")))
    assert "nowhere" in line


def test_a_wrong_password(run: Callable[..., Result], config: Config) -> None:
    password = config.postgres_url.partition("drawdown_server:")[2].partition("@")[0]
    line = refusal(run("serve", postgres_url=config.postgres_url.replace(password, "hunter2")))
    assert "hunter2" not in line


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:6379", "redis://127.0.0.1:nan/0"])
def test_a_valkey_url_that_is_none(run: Callable[..., Result], url: str) -> None:
    refusal(run("serve", valkey_url=url))


@pytest.mark.parametrize("url", ["nonsense", "mysql://127.0.0.1/x"])
def test_a_postgres_url_that_is_none(run: Callable[..., Result], url: str) -> None:
    refusal(run("serve", postgres_url=url))


@pytest.fixture
async def empty_database(postgres_process: PostgresProcess) -> AsyncIterator[str]:
    yield await postgres_process.create_database("empty")
    await postgres_process.drop_database("empty")


RIGHTS: Final = "drawdown_reader has its rights\ndrawdown_server has its rights\n"
"""What ``migrate`` says at the end where the roles of ``deploy/`` are."""


def test_missing_migrations_and_how_to_mend_it(run: Callable[..., Result], empty_database: str) -> None:
    line = refusal(run("serve", postgres_url=empty_database))
    assert "0001_init" in line
    assert "drawdown-server migrate" in line
    migrated = run("migrate", postgres_url=empty_database)
    applied = "".join(f"applied {migration.title}\n" for migration in load())
    assert (migrated.exit_code, migrated.stdout) == (0, applied + RIGHTS)
    assert applied.startswith("applied 0001_init\n")
    again = run("migrate", postgres_url=empty_database)
    assert (again.exit_code, again.stdout) == (0, "nothing to do\n" + RIGHTS)
    assert run("check-config", postgres_url=empty_database).exit_code == 0


def test_a_database_that_is_newer_than_the_server(run: Callable[..., Result], superuser_url: str) -> None:
    async def from_the_future() -> None:
        connection = await asyncpg.connect(superuser_url)
        try:
            await connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, 'future', 'x')"
            )
        finally:
            await connection.close()

    asyncio.run(from_the_future())
    assert "newer than this server" in refusal(run("serve"))
    assert "newer than this server" in refusal(run("migrate", postgres_url=superuser_url))


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_valkey_that_evicts(run: Callable[..., Result], config: Config, policy: str) -> None:
    with Redis.from_url(superuser(config.valkey_url)) as client:
        client.config_set("maxmemory-policy", policy)
        try:
            line = refusal(run("serve"))
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert policy in line
    assert "maxmemory-policy noeviction" in line


def test_another_number_of_partitions(run: Callable[..., Result], config: Config) -> None:
    async def install() -> None:
        async with open_stores(config):
            pass

    asyncio.run(install())
    for command in ("serve", "flush", "check-config"):
        result = run(command, partitions=config.partitions * 2)
        assert (result.exit_code, "Traceback" in result.output) == (1, False)
        assert f"DRAWDOWN_PARTITIONS={config.partitions}" in result.stderr.splitlines()[-1]


def test_a_taken_port(run: Callable[..., Result]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refusal(run("serve", grpc_port=port))
    assert f"127.0.0.1:{port}" in line
    assert "--grpc-port" in line


@pytest.mark.parametrize("command", ["serve", "flush", "migrate", "check-config"])
def test_bad_values_are_all_named_at_once(command: str) -> None:
    env = {"DRAWDOWN_GRPC_PORT": "70000", "DRAWDOWN_PARTITIONS": "many", "DRAWDOWN_TENANT": "a b"}
    result = CliRunner().invoke(commands, [command], env=env)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    assert [line.split(":")[:2] for line in lines] == [
        ["error", " DRAWDOWN_GRPC_PORT"],
        ["error", " DRAWDOWN_TENANT"],
        ["error", " DRAWDOWN_PARTITIONS"],
    ]


def test_check_config_prints_every_setting_without_passwords(run: Callable[..., Result], config: Config) -> None:
    result = run("check-config")
    assert result.exit_code == 0
    printed = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[:-1])
    assert set(printed) == set(Config.model_fields)
    assert result.stdout.splitlines()[-1] == "ok: a server can start with these settings"
    password = config.postgres_url.partition("drawdown_server:")[2].partition("@")[0]
    assert password
    assert password not in result.output
    assert "drawdown_server:***@" in printed["postgres_url"]


def test_check_config_warns_of_variables_that_are_no_settings(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DRAWDOWN_POSTGRESS_URL", "DRAWDOWN_XYZ", "DRAWDOWN_TARGET", "drawdown_log_level"):
        monkeypatch.setenv(name, "INFO")
    result = run("check-config")
    assert [line for line in result.stderr.splitlines() if not line.startswith("{")] == [
        "warning: DRAWDOWN_POSTGRESS_URL is no setting, DRAWDOWN_POSTGRES_URL is",
        "warning: DRAWDOWN_XYZ is no setting",
    ]
    assert result.exit_code == 0, "a server starts with them"


def test_check_config_says_which_keys_sign_holds(run: Callable[..., Result]) -> None:
    key = run("new-token-key").stdout.strip()
    key_id, _, secret = key.partition(":")
    result = run("check-config", hold_token_keys=key)
    assert result.exit_code == 0
    assert f" {key_id}:***\n" in result.stdout
    assert secret not in result.output
    assert " none: holds are not signed\n" in run("check-config").stdout
    assert "error: DRAWDOWN_HOLD_TOKEN_KEYS: " in run("check-config", hold_token_keys=secret).stderr


def test_check_config_changes_nothing(run: Callable[..., Result], config: Config) -> None:
    """A look with a wrong number of partitions must not fix that number for ever."""
    assert run("check-config", partitions=2).exit_code == 0
    assert run("check-config", partitions=4).exit_code == 0
    with Redis.from_url(superuser(config.valkey_url)) as client:
        assert client.dbsize() == 0


def test_check_config_says_everything_that_is_wrong_at_once(run: Callable[..., Result]) -> None:
    nowhere = free_port()
    result = run(
        "check-config",
        valkey_url=f"redis://:hunter2@127.0.0.1:{nowhere}/0",
        postgres_url=f"postgresql://u:hunter2@127.0.0.1:{nowhere}/x",
        admin_port=65535,
        workers=2,
        grpc_port=65535,
        grpc_host="0.0.0.0",  # noqa: S104
    )
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split(":")[1].strip() for line in errors[:-1]] == [
        "DRAWDOWN_POSTGRES_URL",
        "DRAWDOWN_VALKEY_URL",
        "DRAWDOWN_ADMIN_PORT",
        "DRAWDOWN_ADMIN_PORT",
    ]
    assert "DRAWDOWN_IDENTITY" in errors[-1]
    assert "hunter2" not in result.output
    assert "valkey_url " in result.stdout, "the settings are printed all the same"


def test_check_config_fails_like_serve(run: Callable[..., Result]) -> None:
    result = run("check-config", valkey_url=f"redis://127.0.0.1:{free_port()}/0")
    assert (result.exit_code, result.stderr.splitlines()[-1].startswith("error: ")) == (1, True)


def test_help_lists_every_setting(run: Callable[..., Result]) -> None:
    told = run("serve", "--help")
    assert told.exit_code == 0
    assert all(f"--{name.replace('_', '-')}" in told.stdout for name in Config.model_fields)


def test_a_process_says_why_and_exits_with_1(config: Config) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "drawdown_server", "serve"],
        env=environment(config.model_copy(update={"postgres_url": f"postgresql://127.0.0.1:{free_port()}/x"})),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode == 1
    assert [line for line in refused.stderr.splitlines() if not line.startswith("{")] == [
        "error: postgres cannot be reached"
    ]
