"""The demo as people run it: one command, one line of truth at the end, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import drawdown
from drawdown.load.trace import read_trace
from drawdown_server.config import Config
from drawdown_server.dev.audit import collect, differences, wait_until_expired, wait_until_recorded
from drawdown_server.dev.gateway import Gateway, UnansweredError
from drawdown_server.dev.plan import make_plan
from drawdown_server.dev.process import free_port
from drawdown_server.dev.server import DrawdownProcess
from drawdown_server.dev.trace import DEFAULT_TRACE
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.store import LedgerStore

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-m", "drawdown_server", "demo"]
WAIT_S = 60.0
KILL_AFTER = 100
"""Requests done before the server is killed."""


@pytest.fixture
def scratch(data_dir: Path) -> Path:
    data_dir.mkdir()
    return data_dir


def environment(scratch: Path) -> dict[str, str]:
    """Its temporary directory is made here, where we see what is left in it."""
    return os.environ | {"TMPDIR": str(scratch)}


def first_lines(lines: int, scratch: Path) -> Path:
    trace = scratch.parent / "trace.csv"
    trace.write_text("\n".join(DEFAULT_TRACE.read_text().splitlines()[: lines + 1]))
    return trace


def test_every_unit_is_accounted_for(scratch: Path) -> None:
    run = subprocess.run(
        [*COMMAND, "--trace", first_lines(200, scratch), "--wallets", "20", "--concurrency", "16", "--seed", "9"],
        env=environment(scratch),
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * WAIT_S,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    name, _, text = run.stdout.splitlines()[-1].partition(" ")
    result = json.loads(text)
    assert (name, result["conserved"]) == ("demo:", True)
    assert result["requests"] == result["approved"] + result["denied"] == 200
    assert result["approved"] == result["committed"] + result["released"] + result["expired"]
    assert min(result["denied"], result["committed"], result["released"], result["expired"]) > 0
    for units in result["assets"].values():
        assert units["debited"] == units["ledger_debited"] > 0
        assert units["granted"] == units["debited"] + units["available"]
        assert units["held"] == 0
    assert "200 of 200 requests" in run.stderr
    assert list(scratch.iterdir()) == []


def test_a_bad_trace_is_one_line_and_no_stack(scratch: Path) -> None:
    run = subprocess.run(
        [*COMMAND, "--trace", scratch / "missing.csv"],
        env=environment(scratch),
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )
    assert run.returncode == 1
    assert run.stderr == f"error: trace {scratch}/missing.csv does not exist\n"
    assert run.stdout == ""


def test_ctrl_c_leaves_nothing_behind(scratch: Path) -> None:
    with subprocess.Popen(COMMAND, env=environment(scratch), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stderr is not None
        assert b"500 of 2,000" in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        out, error = run.communicate(timeout=WAIT_S)
    assert (run.returncode, out) == (1, b"")
    assert b"Traceback" not in error
    assert list(scratch.iterdir()) == []
    assert str(scratch) not in commands_running()


def commands_running() -> str:
    """The command lines of all processes; those of our servers name their directory."""
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


async def test_the_gateway_outlives_a_server_and_a_flusher_that_are_killed(
    scratch: Path, valkey_url: str, postgres_url: str
) -> None:
    # A short lease: the new flusher has to wait until the dead one's is over.
    config = Config(valkey_url=valkey_url, postgres_url=postgres_url, flusher=False, lease_ttl_ms=1_000)
    plan = make_plan(read_trace(DEFAULT_TRACE, 600), wallets=20, seed=3)
    server = DrawdownProcess(scratch / "server", config)
    flusher = DrawdownProcess(scratch / "flusher", config, command="flush")
    async with server, flusher, drawdown.AsyncClient(server.url) as client, open_pool(config) as pool:
        gateway = Gateway(client, plan, concurrency=16)
        await gateway.prepare()
        enough, done = asyncio.Event(), 0

        def count() -> None:
            nonlocal done
            done += 1
            if done == KILL_AFTER:
                enough.set()

        running = asyncio.create_task(gateway.run(count))
        await enough.wait()
        for process in (server, flusher):
            await asyncio.to_thread(process.kill)
        for process in (server, flusher):
            await asyncio.to_thread(process.start)
        told = await running
        ledger = LedgerStore(pool)
        assert await wait_until_expired(client, told, WAIT_S)
        assert await wait_until_recorded(client, ledger, config.tenant, plan.wallets, WAIT_S)
        found = await collect(client, ledger, config.tenant, plan.wallets, told)
    assert differences(told, found) == []
    assert told.requests == len(plan.requests)
    assert told.sent_again > 0


async def test_the_gateway_gives_up_in_the_end() -> None:
    plan = make_plan(read_trace(DEFAULT_TRACE, 1), wallets=1, seed=1)
    async with drawdown.AsyncClient(f"127.0.0.1:{free_port()}") as client:
        with pytest.raises(UnansweredError, match="no answer within 0"):
            await Gateway(client, plan, patience_s=0).prepare()
