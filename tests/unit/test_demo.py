"""The demo's own parts without servers: its traces, its plan, and an audit that can fail."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from drawdown.load.trace import TraceError, TraceRow, read_trace
from drawdown_server.dev import demo
from drawdown_server.dev.audit import Books, Entry, Live, differences
from drawdown_server.dev.demo import DemoOptions, report, run_demo, summary
from drawdown_server.dev.demo import Outcome as DemoOutcome
from drawdown_server.dev.gateway import Acknowledged, Committed
from drawdown_server.dev.plan import ASSETS, UNKNOWN_WALLET, Outcome, Plan, PlannedRequest, make_plan
from drawdown_server.dev.trace import DEFAULT_TRACE, write_synthetic_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# --- traces ---


@pytest.fixture
def trace(data_dir: Path) -> Path:
    data_dir.mkdir()
    return data_dir / "trace.csv"


def test_the_trace_that_we_ship_is_the_one_that_the_code_makes(trace: Path) -> None:
    write_synthetic_trace(trace)
    assert DEFAULT_TRACE.read_text() == trace.read_text(), (
        "write it again: python -m drawdown_server.dev.trace " + DEFAULT_TRACE.name
    )
    assert len(read_trace(DEFAULT_TRACE)) == 2_000


def test_reads_what_others_write(trace: Path) -> None:
    """A byte-order mark, Windows line ends, no last line end, other columns, another order."""
    trace.write_bytes(
        b"\xef\xbb\xbfModel,GeneratedTokens,ContextTokens,TIMESTAMP\r\nx,44,374,2023-11-16\r\nx,0, 7 ,2023-11-16"
    )
    assert read_trace(trace) == [TraceRow(374, 44, "2023-11-16"), TraceRow(7, 0, "2023-11-16")]
    assert read_trace(trace, 1) == [TraceRow(374, 44, "2023-11-16")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks the columns TIMESTAMP, ContextTokens, GeneratedTokens"),
        (b"TIMESTAMP,Tokens,GeneratedTokens\nx,1,2\n", "lacks the columns ContextTokens; it must have TIMESTAMP,"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no requests"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,2\nx,1.5,2\n", "line 3: ContextTokens must be .* not '1.5'"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,-2\n", "line 2: GeneratedTokens must be .* not '-2'"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\nx,1\n", "line 2: GeneratedTokens must be .* not ''"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,10000001\n", "GeneratedTokens must be a whole number, 0 .. "),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nx,\u0663,1\n".encode(), "line 2: ContextTokens must be"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\nx,\xff,1\n", "cannot be read: .*utf-8"),
    ],
)
def test_says_what_is_wrong_with_a_trace(trace: Path, content: bytes, message: str) -> None:
    trace.write_bytes(content)
    with pytest.raises(TraceError, match=message):
        read_trace(trace)


def test_says_that_there_is_no_trace(data_dir: Path) -> None:
    with pytest.raises(TraceError, match="does not exist"):
        read_trace(data_dir)
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(data_dir.parent)


# --- the plan ---


def plan(seed: int = 1) -> Plan:
    return make_plan(read_trace(DEFAULT_TRACE), wallets=50, seed=seed)


def test_a_seed_decides_everything() -> None:
    assert plan(7) == plan(7)
    assert plan(7).requests != plan(8).requests


def test_customers_differ() -> None:
    planned = plan()
    per_wallet = [sum(r.wallet_id == wallet_id for r in planned.requests) for wallet_id in planned.wallets]
    assert per_wallet[0] > 5 * per_wallet[20] > 0, "few have most of the requests"
    assert {request.outcome for request in planned.requests} == set(Outcome)
    assert any(request.is_sent_twice for request in planned.requests)
    assert any(request.wallet_id == UNKNOWN_WALLET for request in planned.requests)
    assert any(request.wallet_id in planned.frozen for request in planned.requests)


def test_the_worst_case_covers_what_is_used() -> None:
    for request in plan().requests:
        for asset in ASSETS:
            assert 0 < request.used_units[asset] <= request.worst_units[asset]


def test_some_wallets_are_too_poor_and_most_are_not() -> None:
    planned = plan()
    poor = 0
    for wallet_id in planned.wallets:
        own = [request for request in planned.requests if request.wallet_id == wallet_id]
        for asset in ASSETS:
            funds = sum(g.units for g in planned.grants if (g.wallet_id, g.asset) == (wallet_id, asset))
            assert funds > 0
            poor += funds < sum(request.used_units[asset] for request in own)
    assert 0 < poor < len(planned.wallets) // 3


# --- the audit ---


def request(hold_id: str, outcome: Outcome) -> PlannedRequest:
    return PlannedRequest(hold_id, "w", {"USD": 60}, {"USD": 40}, outcome, is_sent_twice=False)


COMMITTED, RELEASED, ABANDONED = (
    request("h1", Outcome.COMMIT),
    request("h2", Outcome.RELEASE),
    request("h3", Outcome.ABANDON),
)


def acknowledged() -> Acknowledged:
    """A wallet with 100 USD units in one grant; 40 debited by h1, h2 released, h3 expired, one denied."""
    told = Acknowledged(
        approved={"h1": COMMITTED, "h2": RELEASED, "h3": ABANDONED},
        committed={"h1": Committed("w", {"USD": 40}, 2)},
        released={"h2": RELEASED},
        abandoned={"h3": ABANDONED},
        authorize_s=[0.001, 0.002, 0.003, 0.1],
    )
    told.granted["w", "USD"] = 100
    told.changes["w"] = 1
    told.denied["INSUFFICIENT_FUNDS"] = 1
    return told


GRANT_ENTRY = Entry("w", 1, 1, "GRANT", "USD", 100, "funding:purchase", "wallet:w", "")
# Two grants paid for it: two lines of one event.
DEBIT_ENTRIES = [
    Entry("w", 2, 1, "DEBIT", "USD", 30, "wallet:w", "revenue", "h1"),
    Entry("w", 2, 2, "DEBIT", "USD", 10, "wallet:w", "revenue", "h1"),
]


def books() -> Books:
    return Books(
        live={("w", "USD"): Live(settled=60, held=0, available=60)},
        live_sequence={"w": 2},
        recorded_sequence={"w": 2},
        abandoned={"h3": "EXPIRED"},
        entries=[GRANT_ENTRY, *DEBIT_ENTRIES],
    )


def test_books_that_agree_have_no_differences() -> None:
    assert differences(acknowledged(), books()) == []


def test_a_commit_of_nothing_is_an_event_without_entries() -> None:
    told, found = acknowledged(), books()
    told.approved["h4"] = request("h4", Outcome.COMMIT)
    told.committed["h4"] = Committed("w", {"USD": 0}, 3)
    found.live_sequence["w"] = found.recorded_sequence["w"] = 3
    assert differences(told, found) == []


def test_units_held_by_a_hold_that_is_still_open_are_accounted_for() -> None:
    found = books()
    found.abandoned["h3"] = "HELD"
    found.live["w", "USD"] = Live(settled=60, held=60, available=0)
    assert differences(acknowledged(), found) == ["hold h3 was never settled, its time is over, and it is HELD"]


def replaced(found: Books, old: Entry, **fields: object) -> None:
    found.entries[found.entries.index(old)] = old._replace(**fields)  # type: ignore[arg-type]


def live(found: Books, **fields: int) -> None:
    found.live["w", "USD"] = found.live["w", "USD"]._replace(**fields)


PLANTED: dict[str, tuple[Callable[[Acknowledged, Books], object], str]] = {
    "a unit too much in Valkey": (lambda _, b: live(b, settled=61, available=61), "= 60 .* settled in Valkey is 61"),
    "a wallet lost in Valkey": (lambda _, b: b.live.clear(), "settled in Valkey is 0"),
    "a wallet nobody made": (lambda _, b: b.live.update({("x", "USD"): Live(5, 0, 5)}), "wallet x USD: granted 0"),
    "a hold that leaks": (lambda _, b: live(b, held=60, available=0), "held is 60, the open holds have 0"),
    "units out of nothing": (lambda _, b: live(b, available=70), r"available 70 \+ held 0 is not settled 60"),
    "more available than there is": (lambda _, b: live(b, held=61, available=-1), "available -1"),
    "an acknowledged commit that is lost": (
        lambda _, b: b.entries.__delitem__(slice(1, 3)),
        "hold h1: {'USD': 40} committed, not in the ledger",
    ),
    "half of a commit": (lambda _, b: b.entries.pop(), "hold h1: {'USD': 40} committed, {'USD': 30} in the ledger"),
    "a commit recorded twice": (
        lambda _, b: b.entries.extend(entry._replace(wallet_sequence=3) for entry in DEBIT_ENTRIES),
        "hold h1: committed once, 2 events in the ledger",
    ),
    "a commit recorded as another event": (
        lambda _, b: b.entries.__setitem__(slice(1, 3), [e._replace(wallet_sequence=9) for e in DEBIT_ENTRIES]),
        r"acknowledged as event \('w', 2\), in the ledger as \('w', 9\)",
    ),
    "a debit nobody asked for": (
        lambda _, b: b.entries.append(Entry("w", 3, 1, "DEBIT", "USD", 5, "wallet:w", "revenue", "h2")),
        "hold h2: {'USD': 5} debited in the ledger, no Commit was acknowledged",
    ),
    "a debit of the wrong asset": (lambda _, b: replaced(b, DEBIT_ENTRIES[0], asset="EUR"), "wallet w EUR"),
    "an acknowledged grant that is lost": (
        lambda _, b: b.entries.remove(GRANT_ENTRY),
        "granted 100 as acknowledged, 0 in the ledger",
    ),
    "a grant recorded twice": (
        lambda _, b: b.entries.append(GRANT_ENTRY._replace(wallet_sequence=3)),
        "granted 100 as acknowledged, 200 in the ledger",
    ),
    "the same line twice": (lambda _, b: b.entries.append(GRANT_ENTRY), "entry w 1.1 is there twice"),
    "one account only": (lambda _, b: replaced(b, GRANT_ENTRY, debit_account=""), "moves 100 units from ''"),
    "the same account twice": (
        lambda _, b: replaced(b, GRANT_ENTRY, debit_account="wallet:w"),
        "moves 100 units from 'wallet:w' to 'wallet:w'",
    ),
    "a debit to somebody else": (lambda _, b: replaced(b, DEBIT_ENTRIES[0], credit_account="cash"), "to 'cash'"),
    "a debit from another wallet": (
        lambda _, b: replaced(b, DEBIT_ENTRIES[0], debit_account="wallet:x"),
        "is a DEBIT from 'wallet:x'",
    ),
    "a kind of entry that nothing explains": (
        lambda _, b: replaced(b, DEBIT_ENTRIES[0], kind="ADJUST"),
        "is a ADJUST: the gateway did nothing of the kind",
    ),
    "an event more in Valkey": (lambda _, b: b.live_sequence.update(w=3), "2 events acknowledged, 3 in Valkey"),
    "an event that is not recorded": (
        lambda _, b: b.recorded_sequence.update(w=1),
        "2 events in Valkey, 1 recorded in Postgres",
    ),
    "a hold that never expired": (lambda _, b: b.abandoned.update(h3="HELD"), "hold h3 was never settled"),
    "a hold that nobody looked at": (lambda _, b: b.abandoned.clear(), "it is unknown"),
    "an approved request without an end": (lambda a, _: a.released.clear(), "hold h2 was approved and has 0 ends"),
    "an approved request with two ends": (lambda a, _: a.released.update(h1=COMMITTED), "hold h1 .* has 2 ends"),
    "an end of a request that was denied": (lambda a, _: a.approved.pop("h2"), "hold h2 was settled and never"),
    "an answer that broke the contract": (lambda a, _: a.wrong.append("wallet w: odd"), "wallet w: odd"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_difference_is_found(name: str) -> None:
    plant, message = PLANTED[name]
    told, found = acknowledged(), books()
    plant(told, found)
    text = "\n".join(differences(told, found))
    assert re.search(message, text), text


def outcome(different: list[str]) -> DemoOutcome:
    return DemoOutcome(acknowledged(), books(), different, {"replay": 2.0})


def test_the_summary_counts_units_and_requests() -> None:
    usd = {"granted": 100, "debited": 40, "held": 0, "available": 60, "ledger_debited": 40}
    none = dict.fromkeys(usd, 0)
    counts = {"requests": 4, "approved": 3, "denied": 1, "committed": 1, "released": 1, "expired": 1}
    assets = {"USD": usd, "MODEL_TOKENS": none}
    assert summary(outcome([])) == counts | {"assets": assets, "conserved": True}
    assert summary(outcome(["odd"]))["conserved"] is False


def test_the_report_shows_each_difference_up_to_a_limit() -> None:
    lines = list(report(outcome([f"odd {number}" for number in range(60)])))
    assert "DIFFERENT: odd 0" in lines
    assert lines[-1] == "DIFFERENT: and 10 more"
    assert "denied     1  (1 INSUFFICIENT_FUNDS)" in lines


@pytest.mark.parametrize(("different", "status"), [([], 0), (["odd"], 1)])
async def test_the_exit_status_and_the_last_line_say_whether_all_is_well(
    different: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(_directory: Path, _plan: Plan, _concurrency: int) -> DemoOutcome:
        return outcome(different)

    monkeypatch.setattr(demo, "run_on_a_fresh_stack", run)
    options = DemoOptions(trace=DEFAULT_TRACE, wallets=1, concurrency=1, seed=1, requests=1)
    assert await run_demo(options) == status
    out, _ = capsys.readouterr()
    name, _, text = out.splitlines()[-1].partition(" ")
    assert (name, json.loads(text)["conserved"]) == ("demo:", status == 0)
    assert ("DIFFERENT: odd" in out) == (status == 1)
