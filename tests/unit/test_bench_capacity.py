"""The capacity model: sums of a run that is made of round numbers."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.table.capacity import Assumptions, CapacityError, Costs, limits, plan
from bench.table.capacity_page import BEGIN, END, replaced, tables

TESTS = Path(__file__).parents[1]
ASSUMED = Assumptions(
    busy=0.5,
    wallets=2**20,
    hold_s=24,
    tombstone_s=1_000,
    postgres_cores=4,
    postgres_wal_mb=10,
    core_hour=0.1,
    gib_hour=0.01,
    disk_gb_month=0.365 * 2,
    network_gb=0.02,
    wal_kept_days=5,
)


def row(server_us: float = 0, store_us: float = 0, **used: float) -> list[dict[str, Any]]:
    """Three rounds of 1,000 calls, of which the last is far off; ``used`` is per call."""
    per_call = {"server_cpu_s": server_us / 1e6, "store_cpu_s": store_us / 1e6} | used
    return [
        {
            "result": {"calls": 1_000, "bytes_in": 300_000, "bytes_out": 100_000, "seconds": 0.05},
            "used": {name: value * 1_000 * factor for name, value in per_call.items()},
            "busy": {},
        }
        for factor in (1, 1, 7)
    ]


RUN: dict[str, Any] = {
    "version": 2,
    "time": "2030-01-02T03:04:05+00:00",
    "machine": {"processor": "abacus", "cores": 2, "python": "3.11", "system": ""},
    "rows": {
        "authorize c32": row(400, 100, aof_bytes=500, turns=0.1),
        "commit c32": row(600, 100, aof_bytes=500, turns=0.1),
        "session c32": row(150, 90, aof_bytes=500, turns=0.1),
        "commit by session c32": row(100, 110, aof_bytes=1_500, turns=0.3),
        "batch of 32 c1": row(60),
        "fcall c32": row(0, 80),
        "session, everysec c32": row(150, 45),
        "flush, entries": row(flusher_cpu_s=20 / 1e6, postgres_cpu_s=5 / 1e6, wal_bytes=400),
        "memory, assets 1": [{"result": None, "used": {"wallet_bytes": 1024, "hold_bytes": 256}, "busy": {}}] * 3,
    },
}


def test_costs_are_medians_of_an_authorize_and_its_commit() -> None:
    costs = Costs.of(RUN)
    assert costs.routes["unary"].us == pytest.approx(1_000)
    assert costs.routes["Session"].us == pytest.approx(250)
    assert costs.routes["Session"].network_bytes == costs.store_bytes == 800
    assert (costs.batch_us, costs.store_us) == (pytest.approx(60), pytest.approx(200))
    assert (costs.store_always_us, costs.store_everysec_us) == (pytest.approx(90), pytest.approx(45))
    assert (costs.aof_bytes, costs.disk_waits) == (pytest.approx(2_000), pytest.approx(0.4))
    # An event of that row is two entries.
    assert (costs.flusher_us, costs.postgres_us, costs.wal_bytes) == (pytest.approx(40), pytest.approx(10), 800)
    assert costs.flushed_per_s == pytest.approx(10_000)


def test_what_is_full_first_comes_first() -> None:
    costs = Costs.of(RUN)
    found = {limit.name: limit.per_s for limit in limits(costs, ASSUMED)}
    assert list(found.items()) == [
        ("one worker, unary", pytest.approx(500)),
        ("one worker, Session", pytest.approx(2_000)),
        ("one Valkey primary", pytest.approx(2_500)),
        ("one flusher", pytest.approx(5_000)),
        ("one Postgres, its WAL", pytest.approx(12_500)),
        ("one Postgres of 4 cores", pytest.approx(200_000)),
    ]
    slow_disk = [limit.name for limit in limits(costs, replace(ASSUMED, postgres_wal_mb=0.1))]
    assert slow_disk[0] == "one Postgres, its WAL"


def test_a_rate_needs_so_much_of_each() -> None:
    needed = plan(Costs.of(RUN), ASSUMED, 10_000)
    assert needed.workers == {"unary": pytest.approx(20), "Session": pytest.approx(5)}
    assert (needed.primaries, needed.flushers) == (pytest.approx(4), pytest.approx(2))
    assert needed.postgres_cores == pytest.approx(0.2)
    assert (needed.aof_mb_per_s, needed.wal_mb_per_s) == (pytest.approx(20), pytest.approx(8))
    assert needed.disk_waits_per_s == pytest.approx(4_000)
    assert needed.network_gbit_per_s == pytest.approx(0.128)
    assert needed.memory_gib == pytest.approx(1 + 10_000 * 1_024 * 256 / 2**30)
    cores, disk_gb = 5 + 4 + 0.8 + 0.2, 2 * 10_000 * 800 * 86_400 * 5 / 1e9
    dollars = cores * 0.1 + needed.memory_gib * 0.01 + disk_gb * 0.001 + 10_000 * 3_600 * 1_600 / 1e9 * 0.02
    assert needed.dollars_per_hour == pytest.approx(dollars)
    assert needed.dollars_per_million == pytest.approx(dollars / 36)


def test_ten_times_the_rate_needs_ten_times_of_all_but_the_wallets() -> None:
    costs = Costs.of(RUN)
    one, ten = (plan(costs, replace(ASSUMED, wallets=0), rate) for rate in (1_000, 10_000))
    assert ten.dollars_per_hour == pytest.approx(10 * one.dollars_per_hour)
    assert ten.memory_gib == pytest.approx(10 * one.memory_gib)


def test_a_run_that_lacks_rows_names_them() -> None:
    run = copy.deepcopy(RUN)
    del run["rows"]["fcall c32"], run["rows"]["flush, entries"]
    with pytest.raises(CapacityError, match="lacks fcall c32, flush, entries"):
        Costs.of(run)


def test_a_run_of_another_version_is_refused() -> None:
    with pytest.raises(CapacityError, match="version 1, not 2"):
        Costs.of(RUN | {"version": 1})


def test_the_tables_say_where_and_under_what_assumptions() -> None:
    text = tables(RUN, ASSUMED, [10_000])
    assert "at 2030-01-02T03:04:05+00:00 on abacus, 2 cores, Python 3.11, in 3 rounds" in text
    assert "| server, Session | 150 + 100 | us of a core |" in text
    assert "| workers, unary | 20 |" in text
    assert "| flushers | 2 |" in text
    assert "| `--postgres-cores` | 4 |" in text
    assert all(line.count("|") in (0, 3, 4) for line in text.splitlines())


def test_a_page_keeps_all_but_what_is_between_its_marks() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replaced(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert replaced(replaced(page, "new"), "new") == replaced(page, "new")
    with pytest.raises(CapacityError, match="has no"):
        replaced("no marks", "new")


def test_the_page_in_the_repository_has_its_marks() -> None:
    replaced((TESTS / "bench" / "CAPACITY.md").read_text(), "new")


def test_the_command_computes_from_a_file_and_says_what_is_missing(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bench.capacity", *arguments],
            env={"PYTHONPATH": str(TESTS)},
            capture_output=True,
            text=True,
            check=False,
        )

    (tmp_path / "run.json").write_text(json.dumps(RUN))
    computed = run(str(tmp_path / "run.json"), "--rates", "500", "--busy", "0.5")
    assert (computed.returncode, "| workers, unary | 1 |" in computed.stdout) == (0, True)
    absent = run(str(tmp_path / "absent.json"))
    assert (absent.returncode, absent.stdout) == (1, "")
    assert "run make bench first" in absent.stderr
