"""The command line for the wallet rules: ways to pay, progress, charges, refunds, stacks, caps, overdrafts."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import typer

from drawdown.cli.output import in_words
from drawdown.cli.values import parse_time
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import cap_service_pb2 as cap_pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from fake_drawdown import Failure, approved, committed, denied, hold_message, released

if TYPE_CHECKING:
    from fake_drawdown import FakeDrawdown

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def ahead(**span: float) -> datetime:
    """A moment that is this far away, with room for a slow machine."""
    return datetime.now(UTC) + timedelta(**span) + timedelta(seconds=30)


def amounts_of(amounts: Any) -> list[tuple[str, int, int]]:  # noqa: ANN401
    return [(amount.asset, amount.units, amount.min_units) for amount in amounts]


def test_authorize_with_alternatives_partial_and_policies(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    answer = approved({"USD": 40_000})
    answer.hold.alternative_index = answer.alternative_index = 1
    answer.observed_caps.add(
        cap_subject="key:*", subject="key:a", asset="USD", window="CAP_WINDOW_DAY", limit_units=5_000_000,
        used_units=4_990_000, mode="CAP_MODE_OBSERVE",
    )  # fmt: skip
    fake.answer("Authorize", answer)
    result = run(
        "authorize", "demo", "1 IMAGE_CREDIT", "--or", "0.04 USD", "--or", "0.02 USD 100 MODEL_TOKENS", "--min",
        "0.01 USD", "--overage", "full", "--on-expiry", "commit",
    )  # fmt: skip
    assert result.code == 0
    assert re.search(r"^paid by +alternative 1$", result.out, re.MULTILINE)
    assert "over cap key:* for key:a: 4.99 of 5.00 USD used per day (only observed)" in result.out
    request = fake.calls("Authorize")[0].request
    assert amounts_of(request.amounts) == [("IMAGE_CREDIT", 1, 0)]
    assert [amounts_of(way.amounts) for way in request.alternatives] == [
        [("USD", 40_000, 10_000)],
        [("USD", 20_000, 10_000), ("MODEL_TOKENS", 100, 0)],
    ]
    assert request.overage_policy == types_pb2.OVERAGE_POLICY_CHARGE_FULL
    assert request.expiry_action == types_pb2.EXPIRY_ACTION_COMMIT_FULL
    assert run("authorize", "demo", "1 USD", "--min", "1 IMAGE_CREDIT").code == 2
    assert run("authorize", "demo", "1 USD", "--overage", "maybe").code == 2


def test_commit_of_progress(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    answer = pb.CommitResponse(hold=hold_message({"USD": 500_000}, debited={"USD": 200_000}), wallet_sequence=5)
    answer.hold.amounts[0].held_units = 300_000
    answer.debited.add(asset="USD", units=200_000)
    fake.answer("Commit", answer)
    result = run("commit", "demo", "req_1", "0.20 USD", "--progress")
    assert re.search(r"^still held +0.30 USD$", result.out, re.MULTILINE)
    assert "released" not in result.out
    assert fake.calls("Commit")[0].request.HasField("final")
    assert not fake.calls("Commit")[0].request.final
    fake.answer("Commit", committed({"USD": 500_000}, {"USD": 200_000}))
    assert "released" in run("commit", "demo", "req_1", "0.20 USD").out
    assert not fake.calls("Commit")[1].request.HasField("final")


def test_extend(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    hold = hold_message({"USD": 500_000})
    fake.answer("Extend", pb.ExtendResponse(decision="DECISION_APPROVED", hold=hold))
    assert run("extend", "demo", "req_1", "--ttl", "10m").out.startswith("approved\n")
    assert run("extend", "demo", "req_1", "0.70 USD", "--json").json["approved"] is True
    first, second = (call.request for call in fake.calls("Extend"))
    assert (first.ttl.seconds, list(first.amounts)) == (600, [])
    assert not second.HasField("ttl")
    assert amounts_of(second.amounts) == [("USD", 700_000, 0)]
    denial = denied(required_units=200_000, available_units=0).denial
    fake.answer("Extend", pb.ExtendResponse(decision="DECISION_DENIED", denial=denial, hold=hold))
    result = run("extend", "demo", "req_1", "0.70 USD")
    assert result.code == 3
    assert result.out.startswith("denied: INSUFFICIENT_FUNDS, 0.20 USD needed, 0.00 USD available; the hold is as it")


def test_charge(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    hold = hold_message({"USD": 500_000}, state="COMMITTED", debited={"USD": 300_000}, hold_id="c1")
    answer = pb.ChargeResponse(decision="DECISION_APPROVED", hold=hold, wallet_sequence=3)
    answer.debited.add(asset="USD", units=300_000)
    answer.uncollected.add(asset="USD", units=200_000)
    fake.answer("Charge", answer)
    result = run("charge", "demo", "0.50 USD", "--id", "c1", "--overage", "available", "--subject", "key:a")
    assert result.code == 0
    assert re.search(r"^debited +0.30 USD$", result.out, re.MULTILINE)
    assert re.search(r"^uncollected +0.20 USD$", result.out, re.MULTILINE)
    request = fake.calls("Charge")[0].request
    assert (request.charge_id, list(request.subjects), request.overage_policy) == ("c1", ["key:a"], 2)
    fake.answer(
        "Charge", pb.ChargeResponse(decision="DECISION_DENIED", denial=denied("WALLET_FROZEN", asset="").denial)
    )
    result = run("charge", "demo", "0.50 USD", "--json")
    assert (result.code, result.json["approved"], result.json["denial"]["reason"]) == (3, False, "WALLET_FROZEN")
    assert len(fake.calls("Charge")[1].request.charge_id) == 32
    assert run("charge", "demo", "0.50 USD").out == "denied: WALLET_FROZEN\n"


def test_refund(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    hold = hold_message({"USD": 500_000}, state="COMMITTED", debited={"USD": 300_000})
    hold.amounts[0].refunded_units = 250_000
    fake.answer("Refund", pb.RefundResponse(hold=hold, wallet_sequence=9, replayed=True))
    result = run("refund", "demo", "req_1", "0.10 USD", "--id", "r1")
    assert re.search(r"^refunded +0.10 USD \(before\)$", result.out, re.MULTILINE)
    assert re.search(r"^in total +0.25 USD$", result.out, re.MULTILINE)
    request = fake.calls("Refund")[0].request
    assert (request.hold_id, request.refund_id, amounts_of(request.amounts)) == ("req_1", "r1", [("USD", 100_000, 0)])
    assert run("refund", "demo", "req_1", "0.10 USD", "--json").json["wallet_sequence"] == 9
    assert len(fake.calls("Refund")[1].request.refund_id) == 32


def test_force_release(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("ForceRelease", pb.ForceReleaseResponse(hold=hold_message({"USD": 500_000}, state="EXPIRED")))
    result = run("hold", "force-release", "demo", "req_1", "--reason", "stuck")
    assert re.search(r"^released +0.50 USD$", result.out, re.MULTILINE)
    assert fake.calls("ForceRelease")[0].request.reason == "stuck"
    assert run("hold", "force-release", "demo", "req_1").code == 2
    fake.answer("Release", released())
    assert run("release", "demo", "req_1").code == 0


def test_a_grant_with_times(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer(
        "CreateGrant",
        lambda request: grant_pb.CreateGrantResponse(
            grant=types_pb2.Grant(grant_id="g", asset="USD", units=1, expire_time=request.expire_time),
            balance=types_pb2.Balance(asset="USD"),
        ),
    )
    result = run("grant", "create", "demo", "5 USD", "--expires", "30d", "--effective", "2026-01-31")
    assert re.search(r"^expires +\S+Z, in (29|30) days$", result.out, re.MULTILINE)
    assert re.search(r"^effective +at once$", result.out, re.MULTILINE)
    request = fake.calls("CreateGrant")[0].request
    assert abs(request.expire_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC) - timedelta(days=30)) < timedelta(hours=1)
    assert request.effective_time.ToJsonString() == "2026-01-31T00:00:00Z"
    assert run("grant", "create", "demo", "5 USD", "--expires", "soon").code == 2


def test_void_and_expiry(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    grant = types_pb2.Grant(grant_id="g", asset="USD", units=1)
    grant.void_time.FromDatetime(NOW)
    fake.answer("VoidGrant", grant_pb.VoidGrantResponse(grant=grant, balance=types_pb2.Balance(asset="USD")))
    fake.answer("SetGrantExpiry", grant_pb.SetGrantExpiryResponse(grant=grant, balance=types_pb2.Balance(asset="USD")))
    result = run("grant", "void", "demo", "g", "--reason", "fraud")
    assert re.search(r"^void since +2026-01-02T03:04:05Z$", result.out, re.MULTILINE)
    assert fake.calls("VoidGrant")[0].request.reason == "fraud"
    assert run("grant", "expiry", "demo", "g", "2027-01-31T12:00:00+02:00", "--json").json["grant"]["grant_id"] == "g"
    assert run("grant", "expiry", "demo", "g", "never").code == 0
    first, second = (call.request for call in fake.calls("SetGrantExpiry"))
    assert first.expire_time.ToJsonString() == "2027-01-31T10:00:00Z"
    assert not second.HasField("expire_time")


def stacked_balance() -> balance_pb.GetBalanceResponse:
    balance = types_pb2.Balance(asset="USD", settled_units=13_000_000, available_units=12_000_000, held_units=1_000_000)
    promo = balance.grants.add(
        grant_id="promo", available_units=2_000_000, held_units=1_000_000, priority=10, source="GRANT_SOURCE_PROMOTION"
    )
    promo.expire_time.FromDatetime(ahead(days=12))
    balance.grants.add(grant_id="paid", available_units=10_000_000, priority=50, source="GRANT_SOURCE_PURCHASE")
    soon = balance.scheduled_grants.add(
        grant_id="next", available_units=5_000_000, priority=50, source="GRANT_SOURCE_TOP_UP"
    )
    soon.effective_time.FromDatetime(ahead(days=3))
    return balance_pb.GetBalanceResponse(
        balances=[balance], state="WALLET_STATE_ACTIVE", open_holds=1, wallet_sequence=7
    )


def test_the_stack_reads_in_burn_order(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    ids = {"used": {}, "promo": {}, "void": {"void_time": NOW}, "old": {"expire_time": NOW}, "paid": {}, "next": {}}
    grants = [
        types_pb2.Grant(grant_id=name, asset="USD", units=20_000_000, source="GRANT_SOURCE_PURCHASE", **times)  # type: ignore[arg-type]
        for name, times in ids.items()
    ]
    fake.answer("GetBalance", stacked_balance())
    fake.answer("ListGrants", grant_pb.ListGrantsResponse(grants=grants))
    result = run("grant", "list", "demo", "--asset", "USD")
    rows = [re.split(r"  +", line.strip()) for line in result.out.splitlines()]
    assert rows == [
        ["BURNS", "GRANT", "LEFT", "HELD", "GRANTED", "ASSET", "SOURCE", "PRIORITY", "EXPIRES"],
        ["1", "promo", "2.00", "1.00", "20.00", "USD", "PROMOTION", "10", "in 12 days"],
        ["2", "paid", "10.00", "0.00", "20.00", "USD", "PURCHASE", "50", "never"],
        ["in 3 days", "next", "5.00", "0.00", "20.00", "USD", "TOP_UP", "50", "never"],
    ]
    assert result.err == "3 more are used up, expired or void; --all shows them\n"
    every = [re.split(r"  +", line.strip()) for line in run("grant", "list", "demo", "--all").out.splitlines()]
    ends = {row[1]: row[8].split()[0] for row in every[4:]}
    assert ends == {"used": "used", "void": "voided", "old": "expired"}
    answer = run("grant", "list", "demo", "--all", "--json").json
    assert [(line["position"], line["state"], line["grant_id"]) for line in answer["grants"]] == [
        (1, "LIVE", "promo"), (2, "LIVE", "paid"), (0, "SCHEDULED", "next"),
        (0, "USED_UP", "used"), (0, "VOID", "void"), (0, "EXPIRED", "old"),
    ]  # fmt: skip
    assert answer["grants"][0]["available"] == "2.00"
    assert run("grant", "list", "demo", "--limit", "1", "--json").json["more"] is True


def caps_answer() -> cap_pb.ListCapsResponse:
    common = {"asset": "USD", "limit_units": 5_000_000, "mode": "CAP_MODE_ENFORCE"}
    answer = cap_pb.ListCapsResponse()
    answer.caps.add(wallet_id="demo", subject="", window="CAP_WINDOW_MONTH", **common)  # type: ignore[arg-type]
    answer.caps.add(wallet_id="demo", subject="key:*", window="CAP_WINDOW_DAY", **common)  # type: ignore[arg-type]
    answer.caps.add(wallet_id="demo", subject="model:x", window="CAP_WINDOW_PER_REQUEST", **common)  # type: ignore[arg-type]
    usage = answer.usage.add(subject="", cap_subject="", window="CAP_WINDOW_MONTH", used_units=1_250_000, **common)  # type: ignore[arg-type]
    usage.reset_time.FromDatetime(ahead(days=4))
    answer.usage.add(subject="model:x", cap_subject="model:x", window="CAP_WINDOW_PER_REQUEST", **common)  # type: ignore[arg-type]
    return answer


def test_caps(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("SetCap", lambda request: cap_pb.SetCapResponse(
        cap=types_pb2.Cap(
            wallet_id=request.wallet_id, subject=request.subject, asset=request.asset, window=request.window,
            limit_units=request.limit_units, mode=request.mode,
        )
    ))  # fmt: skip
    fake.answer("RemoveCap", cap_pb.RemoveCapResponse())
    fake.answer("ListCaps", caps_answer())
    words = ["cap", "set", "demo", "--subject", "key:*", "--limit", "5.00", "--asset", "USD", "--per", "day"]
    result = run(*words)
    assert re.search(r"^limit +5.00 USD per day$", result.out, re.MULTILINE)
    assert re.search(r"^mode +ENFORCE$", result.out, re.MULTILINE)
    assert run(*words, "--observe", "--json").json["mode"] == "OBSERVE"
    assert fake.calls("SetCap")[0].request.limit_units == 5_000_000
    assert run("cap", "set", "demo", "--limit", "5", "--asset", "USD", "--per", "year").code == 2
    rows = [
        re.split(r"  +", line.strip()) for line in run("cap", "list", "demo", "--subject", "key:a").out.splitlines()
    ]
    assert rows[1][:8] == ["(wallet)", "(wallet)", "1.25", "5.00", "3.75", "USD", "month", "ENFORCE"]
    assert rows[1][8].startswith("in 4 days, 20")
    assert rows[2] == ["model:x", "model:x", "-", "5.00", "-", "USD", "request", "ENFORCE", "-"]
    assert rows[3] == ["each", "key:*", "-", "5.00", "-", "USD", "day", "ENFORCE", "-"]
    assert list(fake.calls("ListCaps")[0].request.subjects) == ["key:a"]
    answer = run("cap", "list", "demo", "--json").json
    assert (answer["caps"][1]["subject"], answer["usage"][0]["used"]) == ("key:*", "1.25")
    result = run("cap", "remove", "demo", "--subject", "key:*", "--asset", "USD", "--per", "day")
    assert result.out == "removed: key:*, USD per day\n"
    assert fake.calls("RemoveCap")[0].request.window == types_pb2.CAP_WINDOW_DAY
    assert run("cap", "remove", "demo", "--asset", "USD", "--per", "request", "--json").json == {"removed": True}


def test_overdraft_and_close(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    balance = types_pb2.Balance(asset="USD", available_units=10_000_000, overdraft_limit_units=10_000_000)
    fake.answer("SetOverdraftLimit", wallet_pb.SetOverdraftLimitResponse(balance=balance))
    closed = types_pb2.Wallet(wallet_id="demo", state="WALLET_STATE_CLOSED")
    fake.answer("CloseWallet", wallet_pb.CloseWalletResponse(wallet=closed))
    assert re.search(r"^USD +10.00 +.*10.00$", run("wallet", "overdraft", "demo", "10 USD").out, re.MULTILINE)
    assert fake.calls("SetOverdraftLimit")[0].request.limit_units == 10_000_000
    assert run("wallet", "overdraft", "demo", "0 USD", "--json").json["overdraft_limit"] == "10.00"
    assert "CLOSED" in run("wallet", "close", "demo", "--force", "--reason", "moved away").out
    request = fake.calls("CloseWallet")[0].request
    assert (request.force, request.reason) == (True, "moved away")


def test_wallet_show(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("GetWallet", wallet_pb.GetWalletResponse(wallet=types_pb2.Wallet(wallet_id="demo")))
    fake.answer("GetBalance", stacked_balance())
    fake.answer("ListCaps", caps_answer())
    fake.answer("ListHolds", pb.ListHoldsResponse(holds=[hold_message({"USD": 1_000_000})]))
    out = run("wallet", "show", "demo").out
    titles = [line for line in out.splitlines() if line in ("balances", "grants, in burn order", "caps", "open holds")]
    assert titles == ["balances", "grants, in burn order", "caps", "open holds"]
    assert re.search(r"^ +1 +promo ", out, re.MULTILINE)
    assert re.search(r"^req_1 +1.00 USD ", out, re.MULTILINE)
    answer = run("wallet", "show", "demo", "--json").json
    assert set(answer) == {"wallet", "balance", "caps", "holds"}
    assert answer["balance"]["balances"][0]["scheduled_grants"][0]["grant_id"] == "next"
    fake.answer("GetBalance", balance_pb.GetBalanceResponse())
    fake.answer("ListCaps", cap_pb.ListCapsResponse())
    fake.answer("ListHolds", pb.ListHoldsResponse())
    assert "open holds: none" in run("wallet", "show", "demo").out


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(days=12, hours=5), "in 12 days"),
        (timedelta(hours=36), "in 36 hours"),
        (timedelta(seconds=90), "in 90 seconds"),
        (timedelta(seconds=1), "in 1 second"),
        (timedelta(0), "now"),
        (timedelta(minutes=-3), "3 minutes ago"),
        (timedelta(days=800), "in 2 years"),
    ],
)
def test_times_in_words(span: timedelta, words: str) -> None:
    assert in_words(NOW + span, NOW) == words
    assert in_words(None, NOW) == "never"


def test_times_that_people_type() -> None:
    assert parse_time("30d", NOW) == NOW + timedelta(days=30)
    assert parse_time("2w", NOW) == NOW + timedelta(weeks=2)
    assert parse_time("2027-01-31", NOW) == datetime(2027, 1, 31, tzinfo=UTC)
    assert parse_time("2027-01-31T12:00:00Z", NOW) == datetime(2027, 1, 31, 12, tzinfo=UTC)
    for text in ("", "30", "soon", "-1d", "999999w", "2027-13-01"):
        with pytest.raises(typer.BadParameter):
            parse_time(text, NOW)


@pytest.mark.parametrize(
    ("rpc", "field", "option", "command"),
    [
        ("CreateGrant", "grant_id", "--id", ["grant", "create", "demo", "5 USD"]),
        ("Authorize", "hold_id", "--hold-id", ["authorize", "demo", "5 USD"]),
        ("Charge", "charge_id", "--id", ["charge", "demo", "5 USD"]),
        ("Refund", "refund_id", "--id", ["refund", "demo", "h1", "5 USD"]),
    ],
)
def test_a_lost_answer_names_the_id_that_was_made_up(
    fake: FakeDrawdown,
    run: Any,  # noqa: ANN401
    rpc: str,
    field: str,
    option: str,
    command: list[str],
) -> None:
    lost = Failure(grpc.StatusCode.DEADLINE_EXCEEDED)
    fake.answer(rpc, *[lost] * 20)
    result = run(*command)
    made_up = getattr(fake.calls(rpc)[0].request, field)
    assert result.code == 1
    assert f"it may have happened: to repeat the same call, add {option} {made_up}" in result.err
    assert json.loads(run("--json", *command).err)["repeat_with"].startswith(option)
    assert "it may have happened" not in run(*command, option, "mine").err


def test_an_error_about_amounts_speaks_in_decimals(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    message = "5000000 units of USD are more than the 210000 debited and not refunded yet"
    metadata = {"asset": "USD", "units": "5000000", "refundable_units": "210000"}
    failure = Failure(grpc.StatusCode.FAILED_PRECONDITION, message, "EXCEEDS_DEBITED", metadata)
    fake.answer("Refund", failure)
    assert run("refund", "demo", "h1", "5 USD").err == (
        "error: 5.00 USD are more than the 0.21 debited and not refunded yet\n"
    )


def test_an_empty_list_says_so(fake: FakeDrawdown, run: Any) -> None:  # noqa: ANN401
    fake.answer("ListHolds", pb.ListHoldsResponse())
    assert run("hold", "list", "demo").out == "none\n"


def test_a_limit_is_a_number_and_its_asset_an_option(run: Any) -> None:  # noqa: ANN401
    result = run("cap", "set", "demo", "--limit", "5 USD", "--asset", "USD", "--per", "day")
    assert result.code == 2
    assert "the number alone, as in --limit 5.00 --asset USD" in " ".join(result.err.split())
