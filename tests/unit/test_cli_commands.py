"""The command line against a real gRPC server of canned answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from typing import Any

import grpc
import pytest
import typer

from drawdown.cli.values import parse_amount, parse_amounts, parse_duration, parse_labels
from drawdown.v1 import (
    asset_service_pb2,
    audit_service_pb2,
    authorization_service_pb2,
    balance_service_pb2,
    grant_service_pb2,
    ledger_service_pb2,
    types_pb2,
    wallet_service_pb2,
)
from fake_drawdown import Failure, FakeDrawdown, approved, committed, denied, hold_message, released

SCALES = {"USD": 6, "MODEL_TOKENS": 0}
LONG_ID = "org:acme/" + "x" * 119  # as long as an id can be
NO_ASSET = Failure(grpc.StatusCode.NOT_FOUND, "there is no such asset", "ASSET_NOT_FOUND")


# --- authorize, commit, release ---


def test_authorize_by_hand(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("Authorize", approved({"USD": 500_000, "MODEL_TOKENS": 1_000}))
    result = run(
        "authorize", "demo", "0.50 USD", "1000 MODEL_TOKENS", "--hold-id", "req_1", "--ttl", "60s",
        "--subject", "key:sk_1", "--subject", "user:42", "--label", "team=search",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("approved\n")
    assert re.search(r"^hold +req_1$", result.out, re.MULTILINE)
    assert re.search(r"^authorized +0.50 USD, 1000 MODEL_TOKENS$", result.out, re.MULTILINE)
    assert re.search(r"^USD +12.00 +0.50 +12.50 +0.00 +0.00$", result.out, re.MULTILINE)
    paste = f"drawdown --target {fake.target} commit demo req_1 '0.50 USD' '1000 MODEL_TOKENS'"
    assert f"\n  {paste}\n" in result.out
    request = fake.calls("Authorize")[0].request
    assert [(a.asset, a.units) for a in request.amounts] == [("USD", 500_000), ("MODEL_TOKENS", 1_000)]
    assert request.ttl.seconds == 60
    assert list(request.subjects) == ["key:sk_1", "user:42"]
    assert dict(request.labels) == {"team": "search"}


def test_the_commands_to_paste_work(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("Authorize", approved({"USD": 500_000}, hold_id="-odd"))
    fake.answer("Commit", committed({"USD": 500_000}, {"USD": 200_000}))
    fake.answer("Release", released())
    lines = [line.split() for line in run("authorize", "demo", "0.50 USD").out.splitlines() if "drawdown" in line]
    for words in lines:
        assert run(*[word.strip("'") for word in words[3:]]).code == 0
    assert fake.calls("Commit")[0].request.hold_id == fake.calls("Release")[0].request.hold_id == "-odd"
    assert fake.calls("Commit")[0].request.amounts[0].units == 500_000


def test_authorize_in_json(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("Authorize", approved({"USD": 500_000}))
    result = run("authorize", "demo", "0.50 USD", "--hold-id", "req_1", "--json")
    answer = result.json
    assert answer["approved"] is True
    assert answer["decision"] == "APPROVED"
    assert answer["hold_id"] == "req_1"
    assert answer["denial"] is None
    assert answer["hold"]["state"] == "HELD"
    assert answer["hold"]["create_time"] == "2026-01-02T03:04:05Z"
    assert answer["hold"]["hold_token"] == "dG9rZW4="  # noqa: S105 - made up
    assert answer["hold"]["amounts"] == [
        {
            "asset": "USD",
            "authorized_units": 500_000,
            "authorized": "0.50",
            "held_units": 500_000,
            "held": "0.50",
            "debited_units": 0,
            "debited": "0.00",
            "uncollected_units": 0,
            "uncollected": "0.00",
            "refunded_units": 0,
            "refunded": "0.00",
            "overage_policy": "UNSPECIFIED",
        }
    ]
    assert answer["balances"][0]["available_units"] == 12_000_000
    assert answer["balances"][0]["available"] == "12.00"


def test_the_token_of_a_hold_goes_from_authorize_to_commit(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("Authorize", approved({"USD": 500_000}))
    fake.answer("Commit", committed({"USD": 500_000}, {"USD": 200_000}))
    token = run("authorize", "demo", "0.50 USD", "--json").json["hold"]["hold_token"]
    assert run("commit", "demo", "req_1", "0.20 USD", "--hold-token", token).code == 0
    assert fake.calls("Commit")[0].request.hold_token == b"token"
    assert run("commit", "demo", "req_1", "0.20 USD").code == 0
    assert fake.calls("Commit")[1].request.hold_token == b""
    result = run("commit", "demo", "req_1", "0.20 USD", "--hold-token", "no token!")
    assert result.code == 2
    assert "base64" in result.err


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_denial_is_exit_code_3(fake: FakeDrawdown, run: Any, place: str) -> None:  # noqa: ANN401
    fake.answer("Authorize", denied(required_units=5_000_000, available_units=200_000))
    result = run("authorize", "demo", "5 USD")
    assert (result.code, result.err) == (3, "")
    assert result.out == "denied: INSUFFICIENT_FUNDS, 5.00 USD needed, 0.20 USD available\n"
    words = ["authorize", "demo", "5 USD"]
    result = run(*(["--json", *words] if place == "before" else [*words, "--json"]))
    assert result.code == 3
    assert result.json["approved"] is False
    assert result.json["denial"] == {
        "reason": "INSUFFICIENT_FUNDS",
        "asset": "USD",
        "required_units": 5_000_000,
        "required": "5.00",
        "available_units": 200_000,
        "available": "0.20",
        "cap": None,
        "retry_time": None,
    }


def test_a_denial_by_a_cap_names_it(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    answer = denied("CAP_EXCEEDED", required_units=5_000_000, available_units=9_000_000)
    answer.denial.cap.MergeFrom(
        types_pb2.CapStatus(
            cap_subject="key:*",
            subject="key:sk_1",
            asset="USD",
            window="CAP_WINDOW_DAY",
            limit_units=10_000_000,
            used_units=6_000_000,
        )
    )
    answer.denial.retry_time.FromJsonString("2026-01-03T00:00:00Z")
    fake.answer("Authorize", answer)
    assert (
        "cap key:* for key:sk_1: 6.00 of 10.00 USD used per day, try again at 2026-01-03T00:00:00Z"
        in run("authorize", "demo", "5 USD").out
    )


def test_commit(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("Commit", committed({"USD": 500_000}, {"USD": 200_000}))
    result = run("commit", "demo", "req_1", "0.20", "USD")  # the shell took the quotes away
    assert re.search(r"^debited +0.20 USD$", result.out, re.MULTILINE)
    assert re.search(r"^released +0.30 USD$", result.out, re.MULTILINE)
    assert re.search(r"^uncollected +-$", result.out, re.MULTILINE)
    answer = run("commit", "demo", "req_1", "200000u USD", "--json").json
    assert answer["debited"] == [{"asset": "USD", "units": 200_000, "amount": "0.20"}]
    assert {tuple(a.units for a in call.request.amounts) for call in fake.calls("Commit")} == {(200_000,)}


def test_commit_charge_and_refund_wait_for_the_ledger(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    commit = committed({"USD": 500_000}, {"USD": 200_000})
    charge = authorization_service_pb2.ChargeResponse(decision="DECISION_APPROVED", hold=commit.hold)
    refund = authorization_service_pb2.RefundResponse(hold=commit.hold)
    for rpc, answer, words in (
        ("Commit", commit, ["commit", "demo", "req_1", "0.20 USD"]),
        ("Charge", charge, ["charge", "demo", "0.20 USD"]),
        ("Refund", refund, ["refund", "demo", "req_1", "0.20 USD"]),
    ):
        fake.answer(rpc, answer)
        assert "in ledger" not in run(*words).out
        assert re.search(r"^in ledger +not within 2s$", run(*words, "--wait", "2s").out, re.MULTILINE)
        assert fake.calls(rpc)[1].request.wait_for_ledger.seconds == 2
        answer.in_ledger = True
        fake.answer(rpc, answer)
        assert re.search(r"^in ledger +yes$", run(*words, "--wait", "2s").out, re.MULTILINE)
        assert run(*words, "--wait", "2s", "--json").json["in_ledger"] is True


def test_release(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("Release", released())
    assert re.search(r"^state +RELEASED$", run("release", "demo", "req_1", "--reason", "late").out, re.MULTILINE)
    assert fake.calls("Release")[0].request.reason == "late"
    assert run("release", "demo", "req_1", "--json").json["hold"]["state"] == "RELEASED"


def test_holds(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    hold = hold_message({"USD": 500_000}, hold_id=LONG_ID)
    fake.answer("ListHolds", authorization_service_pb2.ListHoldsResponse(holds=[hold]))
    fake.answer("GetHold", authorization_service_pb2.GetHoldResponse(hold=hold))
    assert f"{LONG_ID}  0.50 USD" in run("hold", "list", "demo").out
    assert run("hold", "list", "demo", "--json").json["holds"][0]["hold_id"] == LONG_ID
    assert re.search(r"^USD +0.50 +0.50 +0.00 +0.00 +0.00 +", run("hold", "get", "demo", LONG_ID).out, re.MULTILINE)
    assert run("hold", "get", "demo", LONG_ID, "--json").json["state"] == "HELD"


# --- assets, wallets, grants, balances, entries ---


def test_assets(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    asset = types_pb2.Asset(asset="USD", scale=6, display_name="US dollar")
    fake.answer("CreateAsset", asset_service_pb2.CreateAssetResponse(asset=asset))
    fake.answer("ListAssets", asset_service_pb2.ListAssetsResponse(assets=[asset]))
    assert re.search(r"^scale +6$", run("asset", "create", "USD", "--scale", "6", "--name", "x").out, re.MULTILINE)
    request = fake.calls("CreateAsset")[0].request
    assert (request.asset, request.scale, request.display_name) == ("USD", 6, "x")
    assert run("asset", "list").out.splitlines()[1].split() == ["USD", "6", "US", "dollar", "-"]
    assert run("asset", "list", "--json").json == {
        "assets": [
            {
                "asset": "USD",
                "scale": 6,
                "display_name": "US dollar",
                "default_overage_policy": "UNSPECIFIED",
                "create_time": None,
            }
        ],
        "more": False,
    }
    assert run("asset", "get", "USD", "--json").json["create_time"] == "2026-01-02T03:04:05Z"
    assert run("asset", "create", "USD", "--scale", "13").code == 2


def test_wallets(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    wallet = types_pb2.Wallet(wallet_id="demo", state="WALLET_STATE_ACTIVE", labels={"k": "v"})
    frozen = types_pb2.Wallet(wallet_id="demo", state="WALLET_STATE_FROZEN")
    fake.answer("CreateWallet", wallet_service_pb2.CreateWalletResponse(wallet=wallet))
    fake.answer("GetWallet", wallet_service_pb2.GetWalletResponse(wallet=wallet))
    fake.answer("FreezeWallet", wallet_service_pb2.FreezeWalletResponse(wallet=frozen))
    fake.answer("UnfreezeWallet", wallet_service_pb2.UnfreezeWalletResponse(wallet=wallet))
    fake.answer("ListWallets", wallet_service_pb2.ListWalletsResponse(wallets=[wallet, wallet]))
    assert "ACTIVE" in run("wallet", "create", "demo", "--label", "k=v=w", "--name", "Demo").out
    assert dict(fake.calls("CreateWallet")[0].request.labels) == {"k": "v=w"}
    assert re.search(r"^labels +k=v$", run("wallet", "get", "demo").out, re.MULTILINE)
    assert run("wallet", "freeze", "demo", "--reason", "fraud", "--json").json["state"] == "FROZEN"
    assert "ACTIVE" in run("wallet", "unfreeze", "demo").out
    result = run("wallet", "list", "--limit", "1")
    assert len(result.out.splitlines()) == 2
    assert "--limit shows more" in result.err
    assert run("wallet", "list", "--limit", "1", "--json").json["more"] is True


def test_grants(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    grant = types_pb2.Grant(
        wallet_id="demo", grant_id="g1", asset="USD", units=12_500_000, remaining_units=12_000_001, priority=50,
        source="GRANT_SOURCE_TOP_UP",
    )  # fmt: skip
    balance = types_pb2.Balance(asset="USD", settled_units=12_500_000, available_units=12_500_000)
    fake.answer("CreateGrant", grant_service_pb2.CreateGrantResponse(grant=grant, balance=balance, replayed=True))
    fake.answer("GetGrant", grant_service_pb2.GetGrantResponse(grant=grant))
    fake.answer("ListGrants", grant_service_pb2.ListGrantsResponse(grants=[grant]))
    result = run("grant", "create", "demo", "12.50 USD", "--id", "g1", "--source", "top_up", "--priority", "0")
    assert re.search(r"^granted +12.50 USD$", result.out, re.MULTILINE)
    assert "made before" in result.out
    request = fake.calls("CreateGrant")[0].request
    assert (request.grant_id, request.asset, request.units, request.source) == ("g1", "USD", 12_500_000, 3)
    assert request.HasField("priority")
    answer = run("grant", "create", "demo", "12.50 USD", "--json").json
    assert answer["grant"]["units"] == 12_500_000
    assert answer["grant"]["amount"] == "12.50"
    assert answer["grant"]["remaining"] == "12.000001"
    ids = [call.request.grant_id for call in fake.calls("CreateGrant")]
    assert len(ids[1]) == 32  # made up
    assert fake.calls("CreateGrant")[1].request.source == types_pb2.GRANT_SOURCE_PURCHASE
    assert run("grant", "get", "demo", "g1", "--json").json["source"] == "TOP_UP"
    assert "TOP_UP" in run("grant", "get", "demo", "g1").out


def test_balance(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    response = balance_service_pb2.GetBalanceResponse(
        wallet_sequence=7, state="WALLET_STATE_ACTIVE", open_holds=2,
        balances=[
            types_pb2.Balance(asset="USD", settled_units=-5, debt_units=5, grants=[
                types_pb2.GrantBalance(grant_id="g1", available_units=3, priority=50, source="GRANT_SOURCE_PURCHASE")
            ])
        ],
    )  # fmt: skip
    fake.answer("GetBalance", response)
    assert re.search(r"^USD +0.00 +0.00 +-0.000005 +0.000005 +0.00$", run("balance", "demo").out, re.MULTILINE)
    assert re.search(
        r"^ +1 +g1 +0.000003 +0.00 +USD +PURCHASE +50 +never$", run("balance", "demo", "--grants").out, re.MULTILINE
    )
    assert [call.request.include_grants for call in fake.calls("GetBalance")] == [False, True]
    answer = run("balance", "demo", "--asset", "USD", "--json").json
    assert (answer["wallet_id"], answer["wallet_sequence"], answer["open_holds"]) == ("demo", 7, 2)
    assert answer["balances"][0]["grants"][0]["available"] == "0.000003"


def test_audit_list(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    record = audit_service_pb2.AuditRecord(
        audit_id="a1",
        principal="key:ops",
        method="CapService/SetCap",
        wallet_id="demo",
        target="cap:|USD|DAY",
        request_json='{"wallet_id":"demo","limit_units":5}',
        before_json='{"limit_units":9,"mode":"ENFORCE"}',
        after_json='{"limit_units":5,"mode":"ENFORCE"}',
        outcome=audit_service_pb2.AUDIT_OUTCOME_DONE,
    )
    record.audit_time.FromSeconds(1_800_000_000)
    fake.answer("ListAuditRecords", audit_service_pb2.ListAuditRecordsResponse(records=[record]))
    asked = ("audit", "list", "--wallet", "demo", "--about", "cap:|USD|DAY", "--principal", "key:ops")
    row = run(*asked, "--since", "7d", "--until", "2027-01-31").out.splitlines()[1].split()
    assert row == [
        "2027-01-15T08:00:00Z", "key:ops", "CapService/SetCap", "demo", "cap:|USD|DAY", "DONE", "limit_units=9",
        "limit_units=5",
    ]  # fmt: skip
    request = fake.calls("ListAuditRecords")[0].request
    assert (request.wallet_id, request.target, request.principal) == ("demo", "cap:|USD|DAY", "key:ops")
    assert abs(request.start_time.seconds - (time.time() - 7 * 86_400)) < 60
    assert request.end_time.seconds == 1_801_353_600
    document = run(*asked, "--json").json["records"][0]
    assert document["request"] == {"wallet_id": "demo", "limit_units": 5}
    assert document["before"] == {"limit_units": 9, "mode": "ENFORCE"}


def test_entries(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    entry = types_pb2.Entry(
        wallet_id=LONG_ID, wallet_sequence=2, line=1, kind="ENTRY_KIND_DEBIT", asset="USD", units=200_000,
        debit_account=f"wallet:{LONG_ID}", credit_account="revenue", grant_id="g1", hold_id="req_1",
    )  # fmt: skip
    fake.answer("ListEntries", ledger_service_pb2.ListEntriesResponse(entries=[entry]))
    row = run("entries", LONG_ID, "--asset", "USD", "--hold", "req_1").out.splitlines()[1].split()
    assert row == ["2", "1", "-", "DEBIT", "0.20", "USD", f"wallet:{LONG_ID}", "revenue", "g1", "req_1"]
    answer = run("entries", LONG_ID, "--json").json
    assert (answer["entries"][0]["units"], answer["entries"][0]["amount"]) == (200_000, "0.20")


def test_an_unknown_asset_is_shown_in_units(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("GetAsset", NO_ASSET)
    fake.answer("Authorize", denied("ASSET_NOT_FOUND", asset="EUR", required_units=100, available_units=0))
    assert run("authorize", "demo", "100u EUR").out == "denied: ASSET_NOT_FOUND, 100u EUR needed, 0u EUR available\n"
    assert run("authorize", "demo", "100u EUR", "--json").json["denial"]["required"] is None


def test_a_credential_that_may_not_look_at_assets_is_shown_units_and_gives_units(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("GetAsset", Failure(grpc.StatusCode.PERMISSION_DENIED, "no scope read", "PERMISSION_DENIED"))
    fake.answer("Authorize", approved({"USD": 500_000}))
    result = run("authorize", "demo", "500000u USD", "--hold-id", "req_1")
    assert (result.code, result.err) == (0, "")
    assert re.search(r"^authorized +500000u USD$", result.out, re.MULTILINE)
    assert len(fake.calls("GetAsset")) == 1
    result = run("authorize", "demo", "0.5 USD", "--hold-id", "req_1")
    assert result.code == 2
    assert "give units such as '1000u USD'" in " ".join(result.err.split())
    assert len(fake.calls("Authorize")) == 1


def test_names_cannot_drive_the_terminal(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    wallet = types_pb2.Wallet(wallet_id="demo", display_name="\x1b[31m[red]:boom:\nx")
    fake.answer("GetWallet", wallet_service_pb2.GetWalletResponse(wallet=wallet))
    assert "\\x1b[31m[red]:boom:\\x0ax" in run("wallet", "get", "demo").out


# --- errors ---


def test_errors_are_one_line(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    violations = (("wallet_id", "must be 1-128\nof [a-z]"), ("ttl", "must be at most 24 h"))
    fake.answer("GetWallet", Failure(grpc.StatusCode.INVALID_ARGUMENT, "x", "INVALID_FIELD", violations=violations))
    result = run("wallet", "get", "demo")
    assert (result.code, result.out) == (1, "")
    assert result.err == "error: wallet_id must be 1-128 of [a-z]; ttl must be at most 24 h\n"
    fake.answer("GetWallet", Failure(grpc.StatusCode.NOT_FOUND, "no wallet demo", "WALLET_NOT_FOUND", {"a": "b"}))
    assert run("wallet", "get", "demo").err == "error: no wallet demo\n"
    result = run("wallet", "get", "demo", "--json")
    assert json.loads(result.err)["error"] == {
        "code": "NOT_FOUND",
        "reason": "WALLET_NOT_FOUND",
        "message": "no wallet demo",
        "metadata": {"a": "b"},
        "violations": [],
    }


@pytest.mark.parametrize(
    "words",
    [
        ["authorize", "demo"],
        ["authorize", "demo", "0.50"],
        ["authorize", "demo", "0.0000001 USD"],
        ["authorize", "demo", "1 USD", "2 USD"],
        ["authorize", "demo", "1.5 EUR"],
        ["authorize", "demo", "1 USD", "--ttl", "60"],
        ["authorize", "demo", "1 USD", "--timeout", "0"],
        ["grant", "create", "demo", "1 USD", "1 MODEL_TOKENS"],
        ["grant", "create", "demo", "1 USD", "--source", "theft"],
        ["wallet", "create", "demo", "--label", "k"],
        ["wallet", "list", "--limit", "0"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(fake: FakeDrawdown, run: Any, words: list[str]) -> None:  # noqa: ANN401
    if "EUR" in " ".join(words):
        fake.answer("GetAsset", NO_ASSET)
    result = run(*words)
    assert (result.code, result.out) == (2, "")
    assert "Error: " in result.err
    assert not fake.calls("Authorize")


# --- as a program ---


def program(*words: str, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "drawdown"] if code is None else [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    return subprocess.run([*start, *words], env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_module_runs_and_a_narrow_terminal_cuts_nothing(fake: FakeDrawdown) -> None:
    wallet = types_pb2.Wallet(wallet_id=LONG_ID, state="WALLET_STATE_ACTIVE")
    fake.answer("ListWallets", wallet_service_pb2.ListWalletsResponse(wallets=[wallet]))
    result = program("wallet", "list", DRAWDOWN_TARGET=fake.target, COLUMNS="20")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1].split() == [LONG_ID, "ACTIVE", "-", "-"]
    assert "\x1b" not in result.stdout


def test_a_flag_beats_the_environment(fake: FakeDrawdown) -> None:
    fake.answer("ListAssets", asset_service_pb2.ListAssetsResponse())
    for words in (["--target", fake.target, "asset", "list"], ["asset", "list", "--target", fake.target]):
        assert program(*words, DRAWDOWN_TARGET="127.0.0.1:1").returncode == 0
    result = program("asset", "list", DRAWDOWN_TARGET="127.0.0.1:1")
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot reach 127.0.0.1:1: ")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from drawdown.__main__ import main; main()"
    result = program(code=code)
    assert result.returncode == 1
    assert result.stderr == "error: the command line needs more packages: pip install 'drawdown[cli]'\n"


def test_help_says_the_amounts_and_the_exit_codes() -> None:
    text = " ".join(program("--help").stdout.split())
    for part in ("'12.50 USD'", "'12500000u USD'", "3 denied", "DRAWDOWN_TARGET"):
        assert part in text


# --- what people type ---


def scale_of(asset: str) -> int | None:
    return SCALES.get(asset)


@pytest.mark.parametrize(
    ("words", "amounts"),
    [
        (["12.50 USD"], {"USD": 12_500_000}),
        (["12.50", "USD"], {"USD": 12_500_000}),
        (["12.50 USD", "1000 MODEL_TOKENS"], {"USD": 12_500_000, "MODEL_TOKENS": 1_000}),
        (["12.50", "USD", "1000", "MODEL_TOKENS"], {"USD": 12_500_000, "MODEL_TOKENS": 1_000}),
        (["7u USD"], {"USD": 7}),
        (["7u NOBODY_KNOWS"], {"NOBODY_KNOWS": 7}),
        (["0 USD"], {"USD": 0}),
    ],
)
def test_amounts(words: list[str], amounts: dict[str, int]) -> None:
    assert parse_amounts(words, scale_of) == amounts


@pytest.mark.parametrize("text", ["", "USD", "USD 5", "5USD", "1.5u USD", "1e3 USD", "5 NOBODY_KNOWS", "1,5 USD"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_amount([text], scale_of)


def test_durations_and_labels() -> None:
    assert [parse_duration(text) for text in ("90s", "5m", "2h")] == [90, 300, 7_200]
    assert parse_labels(["a=b", "c="]) == {"a": "b", "c": ""}
    assert parse_labels(None) == {}
    for text in ("60", "1d", "-5s", "1.5h", ""):
        with pytest.raises(typer.BadParameter):
            parse_duration(text)
    for pairs in (["a"], ["=b"], ["a=b", "a=c"]):
        with pytest.raises(typer.BadParameter):
            parse_labels(pairs)
