"""Both clients against a real gRPC server of canned answers: requests, answers, errors, retries, deadlines, pages."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import drawdown
from drawdown._channel import Settings
from drawdown.v1 import (
    asset_service_pb2,
    audit_service_pb2,
    authorization_service_pb2,
    balance_service_pb2,
    cap_service_pb2,
    grant_service_pb2,
    key_service_pb2,
    ledger_service_pb2,
    types_pb2,
    wallet_service_pb2,
)
from fake_drawdown import Caller, Failure, FakeDrawdown, approved, committed, denied, released
from faults.processes import sockets_to
from integration.server import until
from transports import transport  # noqa: F401 - every test over both transports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from google.protobuf.message import Message


@pytest.fixture
def fake() -> Iterator[FakeDrawdown]:
    with FakeDrawdown() as server:
        yield server


@pytest.fixture(params=["async", "sync"])
def call(request: pytest.FixtureRequest, fake: FakeDrawdown) -> Caller:
    return Caller(request.param, fake.target)


# --- requests and answers ---


async def test_authorize_says_everything_and_reads_everything(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer("Authorize", approved({"USD": 500_000, "MODEL_TOKENS": 1_000}))
    answer = await call(
        "authorize",
        wallet_id="demo",
        hold_id="req_1",
        amounts=[drawdown.Amount("USD", 500_000, min_units=5), drawdown.Amount("MODEL_TOKENS", 1_000)],
        ttl_s=1.5,
        subjects=["key:sk_1"],
        alternatives=[{"IMAGE_CREDIT": 1}],
        overage_policy=drawdown.OveragePolicy.CHARGE_FULL,
        expiry_action=drawdown.ExpiryAction.COMMIT_FULL,
        labels={"team": "search"},
    )
    assert answer
    assert answer.approved
    assert answer.denial is None
    assert answer.hold.state is drawdown.HoldState.HELD
    assert answer.hold.amounts["USD"].held_units == 500_000
    assert list(answer.hold.amounts) == ["USD", "MODEL_TOKENS"]
    assert answer.hold.create_time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert answer.hold.settle_time is None
    assert answer.balances["USD"].available_units == 12_000_000
    [arrived] = fake.calls("Authorize")
    assert arrived.metadata["authorization"] == "Bearer x"
    expected = authorization_service_pb2.AuthorizeRequest(
        wallet_id="demo",
        hold_id="req_1",
        amounts=[
            types_pb2.Amount(asset="USD", units=500_000, min_units=5),
            types_pb2.Amount(asset="MODEL_TOKENS", units=1_000),
        ],
        subjects=["key:sk_1"],
        overage_policy="OVERAGE_POLICY_CHARGE_FULL",
        expiry_action="EXPIRY_ACTION_COMMIT_FULL",
        labels={"team": "search"},
    )
    expected.ttl.FromMilliseconds(1_500)
    expected.alternatives.add().amounts.add(asset="IMAGE_CREDIT", units=1)
    assert arrived.request == expected


async def test_a_hold_id_is_made_up_when_none_is_given(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer("Authorize", denied())
    first = await call("authorize", wallet_id="demo", amounts={"USD": 100})
    second = await call("authorize", wallet_id="demo", amounts={"USD": 100})
    sent = [arrived.request.hold_id for arrived in fake.calls("Authorize")]
    assert sent == [first.hold_id, second.hold_id]
    assert len(set(sent)) == 2


async def test_a_denial_is_an_answer(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer("Authorize", denied("WALLET_FROZEN", asset=""))
    answer = await call("authorize", wallet_id="demo", amounts={"USD": 100})
    assert not answer
    assert answer.hold is None
    assert answer.denial.reason is drawdown.DenialReason.WALLET_FROZEN
    assert answer.denial.cap is None
    assert answer.denial.retry_time is None


async def test_commit_and_release(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer("Commit", committed({"USD": 500}, {"USD": 200}))
    fake.answer("Release", released())
    result = await call("commit", wallet_id="demo", hold_id="req_1", amounts={"USD": 200}, hold_token=b"token")
    assert (result.debited, result.released, result.uncollected) == ({"USD": 200}, {"USD": 300}, {})
    assert result.hold.state is drawdown.HoldState.COMMITTED
    assert result.wallet_sequence == 5
    assert not fake.calls("Commit")[0].request.HasField("final")  # unset means true
    await call("commit", wallet_id="demo", hold_id="req_1", amounts={"USD": 200}, final=False)
    assert fake.calls("Commit")[1].request.HasField("final")
    assert not fake.calls("Commit")[1].request.final
    answer = await call("release", wallet_id="demo", hold_id="req_1", reason="cancelled")
    assert answer.hold.state is drawdown.HoldState.RELEASED
    assert fake.calls("Release")[0].request.reason == "cancelled"


async def test_commit_charge_and_refund_can_wait_for_the_ledger(fake: FakeDrawdown, call: Caller) -> None:
    commit = committed({"USD": 500}, {"USD": 200})
    commit.in_ledger = True
    fake.answer("Commit", commit)
    charge = authorization_service_pb2.ChargeResponse(decision="DECISION_APPROVED", hold=commit.hold, in_ledger=True)
    fake.answer("Charge", charge)
    fake.answer("Refund", authorization_service_pb2.RefundResponse(hold=commit.hold, in_ledger=True))
    requests: dict[str, dict[str, object]] = {
        "Commit": {"hold_id": "req_1"},
        "Charge": {"charge_id": "c1"},
        "Refund": {"hold_id": "req_1", "refund_id": "r1"},
    }
    for rpc, ids in requests.items():
        arguments = {"wallet_id": "demo", "amounts": {"USD": 200}} | ids
        assert (await call(rpc.lower(), **arguments, wait_for_ledger_s=1.5)).in_ledger
        assert (await call(rpc.lower(), **arguments)).in_ledger
        waits, at_once = (arrived.request for arrived in fake.calls(rpc))
        assert (waits.wait_for_ledger.seconds, waits.wait_for_ledger.nanos) == (1, 500_000_000)
        assert not at_once.HasField("wait_for_ledger")


def test_the_default_deadline_begins_after_the_wait_for_the_ledger() -> None:
    settings = Settings.of("host:1", 2, None, ())
    assert settings.timeout(settings.timeout_waiting(drawdown.USE_CLIENT_DEFAULT, 5)) == 7
    assert settings.timeout(settings.timeout_waiting(drawdown.USE_CLIENT_DEFAULT, None)) == 2
    assert settings.timeout(settings.timeout_waiting(drawdown.USE_CLIENT_DEFAULT, -5)) == 2
    assert settings.timeout(settings.timeout_waiting(3, 5)) == 3


async def test_grants_carry_times_in_utc(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer(
        "CreateGrant",
        lambda request: grant_service_pb2.CreateGrantResponse(
            grant=types_pb2.Grant(
                grant_id=request.grant_id,
                units=request.units,
                source=request.source,
                priority=request.priority,
                expire_time=request.expire_time,
            ),
            balance=types_pb2.Balance(asset="USD", settled_units=-5),
            replayed=True,
        ),
    )
    expiry = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    result = await call(
        "create_grant",
        wallet_id="demo",
        grant_id="invoice_7",
        asset="USD",
        units=5,
        source=drawdown.GrantSource.TOP_UP,
        priority=0,
        expire_time=expiry,
    )
    assert fake.calls("CreateGrant")[0].request.HasField("priority")
    assert not fake.calls("CreateGrant")[0].request.HasField("effective_time")
    assert result.grant.source is drawdown.GrantSource.TOP_UP
    assert result.grant.expire_time == expiry
    assert result.grant.expire_time.tzinfo is UTC
    assert result.balance.settled_units == -5
    assert result.replayed


async def test_extend(fake: FakeDrawdown, call: Caller) -> None:
    hold = approved({"USD": 500}).hold
    fake.answer("Extend", authorization_service_pb2.ExtendResponse(decision="DECISION_APPROVED", hold=hold))
    assert await call("extend", wallet_id="demo", hold_id="req_1", ttl_s=90)
    assert await call("extend", wallet_id="demo", hold_id="req_1", amounts={"USD": 700})
    first, second = (arrived.request for arrived in fake.calls("Extend"))
    assert (first.ttl.seconds, list(first.amounts)) == (90, [])
    assert not second.HasField("ttl")
    assert [(a.asset, a.units) for a in second.amounts] == [("USD", 700)]
    denial = denied().denial
    fake.answer("Extend", authorization_service_pb2.ExtendResponse(decision=2, denial=denial, hold=hold))
    answer = await call("extend", wallet_id="demo", hold_id="req_1", amounts={"USD": 700})
    assert not answer
    assert answer.denial.reason is drawdown.DenialReason.INSUFFICIENT_FUNDS
    assert answer.hold.state is drawdown.HoldState.HELD


async def test_charge(fake: FakeDrawdown, call: Caller) -> None:
    hold = committed({"USD": 500}, {"USD": 300}).hold
    answer = authorization_service_pb2.ChargeResponse(decision="DECISION_APPROVED", hold=hold, wallet_sequence=4)
    answer.debited.add(asset="USD", units=300)
    answer.uncollected.add(asset="USD", units=200)
    fake.answer("Charge", answer)
    result = await call(
        "charge",
        wallet_id="demo",
        charge_id="c1",
        amounts={"USD": 500},
        subjects=["key:a"],
        overage_policy=drawdown.OveragePolicy.CHARGE_AVAILABLE,
        labels={"k": "v"},
    )
    assert result
    assert (result.debited, result.uncollected, result.charge_id) == ({"USD": 300}, {"USD": 200}, "c1")
    assert fake.calls("Charge")[0].request == authorization_service_pb2.ChargeRequest(
        wallet_id="demo",
        charge_id="c1",
        amounts=[types_pb2.Amount(asset="USD", units=500)],
        subjects=["key:a"],
        overage_policy="OVERAGE_POLICY_CHARGE_AVAILABLE",
        labels={"k": "v"},
    )
    fake.answer("Charge", authorization_service_pb2.ChargeResponse(decision=2, denial=denied().denial))
    result = await call("charge", wallet_id="demo", amounts={"USD": 500})
    assert not result
    assert result.charge_id == fake.calls("Charge")[1].request.charge_id
    assert result.hold is None


async def test_refund(fake: FakeDrawdown, call: Caller) -> None:
    hold = committed({"USD": 500}, {"USD": 300}).hold
    hold.amounts[0].refunded_units = 100
    fake.answer("Refund", authorization_service_pb2.RefundResponse(hold=hold, wallet_sequence=6))
    result = await call("refund", wallet_id="demo", hold_id="req_1", refund_id="r1", amounts={"USD": 100})
    assert (result.hold.amounts["USD"].refunded_units, result.wallet_sequence, result.replayed) == (100, 6, False)
    assert fake.calls("Refund")[0].request == authorization_service_pb2.RefundRequest(
        wallet_id="demo", hold_id="req_1", refund_id="r1", amounts=[types_pb2.Amount(asset="USD", units=100)]
    )


async def test_a_denial_by_a_cap_tells_all_of_it(fake: FakeDrawdown, call: Caller) -> None:
    answer = denied("CAP_EXCEEDED")
    answer.denial.cap.MergeFrom(
        types_pb2.CapStatus(
            subject="key:a", cap_subject="key:*", asset="USD", window="CAP_WINDOW_DAY", mode="CAP_MODE_ENFORCE"
        )
    )
    answer.denial.cap.reset_time.FromJsonString("2026-01-03T00:00:00Z")
    answer.denial.retry_time.FromJsonString("2026-01-03T00:00:00Z")
    fake.answer("Authorize", answer)
    denial = (await call("authorize", wallet_id="demo", amounts={"USD": 100})).denial
    assert (denial.cap.subject, denial.cap.cap_subject, denial.cap.mode) == ("key:a", "key:*", drawdown.CapMode.ENFORCE)
    assert denial.retry_time == denial.cap.reset_time == datetime(2026, 1, 3, tzinfo=UTC)


ONE_CALL = [
    ("create_asset", {"asset": "USD", "scale": 6}, asset_service_pb2.CreateAssetResponse(), "Asset"),
    ("get_asset", {"asset": "USD"}, asset_service_pb2.GetAssetResponse(), "Asset"),
    ("create_wallet", {"wallet_id": "a", "labels": {"k": "v"}}, wallet_service_pb2.CreateWalletResponse(), "Wallet"),
    ("get_wallet", {"wallet_id": "a"}, wallet_service_pb2.GetWalletResponse(), "Wallet"),
    ("freeze_wallet", {"wallet_id": "a", "reason": "r"}, wallet_service_pb2.FreezeWalletResponse(), "Wallet"),
    ("unfreeze_wallet", {"wallet_id": "a"}, wallet_service_pb2.UnfreezeWalletResponse(), "Wallet"),
    (
        "close_wallet",
        {"wallet_id": "a", "force": True, "reason": "r"},
        wallet_service_pb2.CloseWalletResponse(),
        "Wallet",
    ),
    (
        "set_overdraft_limit",
        {"wallet_id": "a", "asset": "USD", "limit_units": 5, "reason": "r"},
        wallet_service_pb2.SetOverdraftLimitResponse(),
        "Balance",
    ),
    (
        "void_grant",
        {"wallet_id": "a", "grant_id": "g", "reason": "r"},
        grant_service_pb2.VoidGrantResponse(),
        "GrantUpdate",
    ),
    (
        "set_grant_expiry",
        {"wallet_id": "a", "grant_id": "g", "reason": "r", "expire_time": None},
        grant_service_pb2.SetGrantExpiryResponse(),
        "GrantUpdate",
    ),
    (
        "set_cap",
        {
            "wallet_id": "a",
            "asset": "USD",
            "subject": "key:*",
            "limit_units": 5,
            "window": drawdown.CapWindow.DAY,
            "mode": drawdown.CapMode.OBSERVE,
        },
        cap_service_pb2.SetCapResponse(),
        "Cap",
    ),
    (
        "remove_cap",
        {"wallet_id": "a", "asset": "USD", "subject": "key:*", "window": drawdown.CapWindow.DAY},
        cap_service_pb2.RemoveCapResponse(),
        "NoneType",
    ),
    (
        "list_caps",
        {"wallet_id": "a", "subjects": ["key:b"]},
        cap_service_pb2.ListCapsResponse(caps=[types_pb2.Cap()], usage=[types_pb2.CapStatus()]),
        "WalletCaps",
    ),
    (
        "force_release",
        {"wallet_id": "a", "hold_id": "h", "reason": "r"},
        authorization_service_pb2.ForceReleaseResponse(),
        "ReleaseResult",
    ),
    (
        "rotate_api_key",
        {"key_id": "k", "rotation_id": "r", "overlap_s": None},
        key_service_pb2.RotateApiKeyResponse(key=types_pb2.ApiKey(secrets=[types_pb2.ApiKeySecret()])),
        "ApiKeyResult",
    ),
    ("revoke_api_key", {"key_id": "k"}, key_service_pb2.RevokeApiKeyResponse(), "ApiKey"),
    (
        "create_wallet_token",
        {"wallet_id": "a", "ttl_s": None},
        key_service_pb2.CreateWalletTokenResponse(),
        "WalletToken",
    ),
    ("get_grant", {"wallet_id": "a", "grant_id": "g"}, grant_service_pb2.GetGrantResponse(), "Grant"),
    ("get_hold", {"wallet_id": "a", "hold_id": "h"}, authorization_service_pb2.GetHoldResponse(), "Hold"),
    (
        "get_balance",
        {"wallet_id": "a", "assets": ["USD"], "include_grants": True},
        balance_service_pb2.GetBalanceResponse(balances=[types_pb2.Balance(grants=[types_pb2.GrantBalance()])]),
        "WalletBalance",
    ),
]


@pytest.mark.parametrize(("method", "arguments", "response", "kind"), ONE_CALL, ids=[row[0] for row in ONE_CALL])
async def test_arguments_are_the_fields_of_the_request(
    fake: FakeDrawdown, call: Caller, method: str, arguments: dict[str, object], response: Message, kind: str
) -> None:
    rpc = "".join(word.capitalize() for word in method.split("_"))
    fake.answer(rpc, response)
    assert type(await call(method, **arguments)).__name__ == kind
    [arrived] = fake.calls(rpc)
    for name, value in arguments.items():
        field = name.removesuffix("_s")  # a Duration carries its unit
        sent = getattr(arrived.request, field)
        if isinstance(value, drawdown.CapWindow | drawdown.CapMode):
            names = types_pb2.CapWindow if isinstance(value, drawdown.CapWindow) else types_pb2.CapMode
            assert names.Name(sent).endswith(value)
        elif value is None:
            assert not arrived.request.HasField(field)
        else:
            assert (list(sent) if isinstance(value, list) else sent) == value


# --- values that cannot be sent ---


@pytest.mark.parametrize("units", [0.5, True, "1", None])
async def test_units_that_are_no_int_are_a_type_error(fake: FakeDrawdown, call: Caller, units: object) -> None:
    with pytest.raises(TypeError, match=r"amounts\[0\]\.units is an int"):
        await call("authorize", wallet_id="demo", amounts={"USD": units})
    assert not fake.calls("Authorize")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"amounts": {"USD": 2**53}}, "amounts[0].units"),
        ({"amounts": {"USD": 2**70}}, "amounts[0].units"),
        ({"amounts": {"USD": 1}, "ttl_s": float("nan")}, ""),
        ({"amounts": {"USD": 1}, "ttl_s": float("inf")}, ""),
        ({"amounts": {"\ud800": 1}}, ""),
    ],
)
async def test_what_a_message_cannot_carry_is_an_invalid_request(
    fake: FakeDrawdown, call: Caller, arguments: dict[str, object], field: str
) -> None:
    with pytest.raises(drawdown.InvalidRequestError) as caught:
        await call("authorize", wallet_id="demo", **arguments)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert caught.value.reason == drawdown.ErrorReason.INVALID_FIELD
    assert not fake.calls("Authorize")


async def test_a_time_without_a_zone_is_refused(call: Caller) -> None:
    with pytest.raises(drawdown.InvalidRequestError, match="time zone"):
        await call(
            "create_grant",
            wallet_id="a",
            grant_id="g",
            asset="USD",
            units=1,
            source=drawdown.GrantSource.PURCHASE,
            expire_time=datetime(2026, 1, 1),  # noqa: DTZ001 - that is the point
        )


async def test_one_text_is_no_list_of_texts(call: Caller) -> None:
    with pytest.raises(TypeError, match="not one text"):
        await call("authorize", wallet_id="demo", amounts={"USD": 1}, subjects="key:sk_1")


# --- pages ---

FIRST, SECOND = "t1", "t2"
"""Page tokens."""


async def test_one_page(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer(
        "ListEntries",
        ledger_service_pb2.ListEntriesResponse(
            entries=[types_pb2.Entry(kind="ENTRY_KIND_DEBIT", units=3, subjects=["key:a"])], next_page_token=SECOND
        ),
    )
    page = await call(
        "list_entries", wallet_id="demo", asset="USD", hold_id="h", page_size=1, page_token=FIRST, timeout_s=20
    )
    assert page.next_page_token == SECOND
    assert page.items[0].kind is drawdown.EntryKind.DEBIT
    assert page.items[0].subjects == ("key:a",)
    request = fake.calls("ListEntries")[0].request
    assert (request.asset, request.hold_id, request.page_size, request.page_token) == ("USD", "h", 1, FIRST)


async def test_a_page_of_the_audit_log(fake: FakeDrawdown, call: Caller) -> None:
    record = audit_service_pb2.AuditRecord(
        audit_id="a1",
        principal="key:ops",
        method="WalletService/FreezeWallet",
        wallet_id="demo",
        target="wallet:demo",
        request_json='{"wallet_id":"demo"}',
        before_json='{"state":"ACTIVE","labels":{"k":"v"}}',
        outcome=audit_service_pb2.AUDIT_OUTCOME_DONE,
    )
    record.audit_time.FromSeconds(1_800_000_000)
    fake.answer("ListAuditRecords", audit_service_pb2.ListAuditRecordsResponse(records=[record]))
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    page = await call(
        "list_audit_records",
        wallet_id="demo",
        target="wallet:demo",
        principal="key:ops",
        start_time=start,
        end_time=end,
        page_size=1,
        page_token=FIRST,
    )
    assert page.items[0] == drawdown.AuditRecord(
        audit_id="a1",
        audit_time=datetime.fromtimestamp(1_800_000_000, UTC),
        principal="key:ops",
        method="WalletService/FreezeWallet",
        wallet_id="demo",
        target="wallet:demo",
        request={"wallet_id": "demo"},
        before={"state": "ACTIVE", "labels": {"k": "v"}},
        after=None,
        outcome=drawdown.AuditOutcome.DONE,
        trace_id="",
    )
    request = fake.calls("ListAuditRecords")[0].request
    assert (request.wallet_id, request.target, request.principal) == ("demo", "wallet:demo", "key:ops")
    assert (request.start_time.ToDatetime(UTC), request.end_time.ToDatetime(UTC)) == (start, end)
    assert (request.page_size, request.page_token) == (1, FIRST)


LISTS = [
    ("iter_assets", {}, "ListAssets", asset_service_pb2.ListAssetsResponse, "assets", "asset"),
    ("iter_wallets", {}, "ListWallets", wallet_service_pb2.ListWalletsResponse, "wallets", "wallet_id"),
    ("iter_grants", {"wallet_id": "a"}, "ListGrants", grant_service_pb2.ListGrantsResponse, "grants", "grant_id"),
    ("iter_holds", {"wallet_id": "a"}, "ListHolds", authorization_service_pb2.ListHoldsResponse, "holds", "hold_id"),
    ("iter_entries", {"wallet_id": "a"}, "ListEntries", ledger_service_pb2.ListEntriesResponse, "entries", "hold_id"),
    (
        "iter_audit_records",
        {},
        "ListAuditRecords",
        audit_service_pb2.ListAuditRecordsResponse,
        "records",
        "audit_id",
    ),
]


@pytest.mark.parametrize(("method", "arguments", "rpc", "kind", "field", "key"), LISTS, ids=[row[0] for row in LISTS])
async def test_iterators_go_through_all_pages(
    fake: FakeDrawdown,
    call: Caller,
    method: str,
    arguments: dict[str, object],
    rpc: str,
    kind: Any,  # noqa: ANN401
    field: str,
    key: str,
) -> None:
    pages = {"": (["a", "b"], FIRST), FIRST: ([], SECOND), SECOND: (["c"], "")}  # an empty page is not the end

    def answer(request: Any) -> Message:  # noqa: ANN401
        items, token = pages[request.page_token]
        response: Message = kind(**{field: [{key: item} for item in items]}, next_page_token=token)
        return response

    fake.answer(rpc, answer)
    items = await call(method, **arguments, page_size=2)
    assert [getattr(item, key) for item in items] == ["a", "b", "c"]
    assert [arrived.request.page_size for arrived in fake.calls(rpc)] == [2, 2, 2]


async def test_a_server_that_goes_in_a_circle_does_not_take_us_along(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer("ListAssets", asset_service_pb2.ListAssetsResponse(next_page_token=FIRST))
    with pytest.raises(drawdown.InternalError, match="same page twice"):
        await call("iter_assets")


# --- lifecycle ---

UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE)


async def test_a_client_can_be_closed_twice_and_not_used_after(fake: FakeDrawdown) -> None:
    client = drawdown.AsyncClient(fake.target)
    fake.answer("GetWallet", wallet_service_pb2.GetWalletResponse())
    await client.get_wallet(wallet_id="demo")  # opens by itself
    await client.close()
    await client.close()
    assert repr(client) == f"<drawdown.AsyncClient {fake.target} closed>"
    with pytest.raises(RuntimeError, match="this client is closed"):
        await client.get_wallet(wallet_id="demo")
    with pytest.raises(RuntimeError, match="this client is closed"):
        async with client:
            pass


def test_a_sync_client_can_be_closed_twice_and_not_used_after(fake: FakeDrawdown) -> None:
    client = drawdown.Client(fake.target)
    fake.answer("GetWallet", wallet_service_pb2.GetWalletResponse())
    client.get_wallet(wallet_id="demo")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="this client is closed"):
        client.get_wallet(wallet_id="demo")
    with pytest.raises(RuntimeError, match="this client is closed"), client:
        pass


async def test_closing_under_a_call_is_no_cancellation_of_the_caller(fake: FakeDrawdown) -> None:
    stuck = threading.Event()
    fake.answer("GetWallet", lambda _: wallet_service_pb2.GetWalletResponse() if stuck.wait(20) else UNAVAILABLE)
    client = drawdown.AsyncClient(fake.target, timeout_s=20)
    call = asyncio.create_task(client.get_wallet(wallet_id="demo"))
    try:
        await asyncio.to_thread(fake.wait_for, "GetWallet")
        await client.close()
        with pytest.raises(RuntimeError, match="closed while this call was in flight"):
            await call
    finally:
        stuck.set()


def test_closing_under_a_sync_call_says_so(fake: FakeDrawdown) -> None:
    stuck = threading.Event()
    fake.answer("GetWallet", lambda _: wallet_service_pb2.GetWalletResponse() if stuck.wait(20) else UNAVAILABLE)
    client = drawdown.Client(fake.target, timeout_s=20)
    errors: list[BaseException] = []

    def get() -> None:
        try:
            client.get_wallet(wallet_id="demo")
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=get)
    thread.start()
    try:
        fake.wait_for("GetWallet")
        client.close()
        thread.join(20)
    finally:
        stuck.set()
    assert "closed while this call was in flight" in str(errors[0])


async def test_a_cancelled_call_stays_cancelled(fake: FakeDrawdown) -> None:
    stuck = threading.Event()
    fake.answer("GetWallet", lambda _: wallet_service_pb2.GetWalletResponse() if stuck.wait(20) else UNAVAILABLE)
    async with drawdown.AsyncClient(fake.target, timeout_s=20) as client:
        call = asyncio.create_task(client.get_wallet(wallet_id="demo"))
        try:
            await asyncio.to_thread(fake.wait_for, "GetWallet")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        finally:
            stuck.set()


def test_a_client_made_without_an_event_loop_opens_in_the_one_that_uses_it(fake: FakeDrawdown) -> None:
    fake.answer("GetWallet", wallet_service_pb2.GetWalletResponse())
    client = drawdown.AsyncClient(fake.target)

    async def use() -> None:
        async with client:
            await client.get_wallet(wallet_id="demo")

    asyncio.run(use())


async def test_calls_take_turns_over_as_many_connections_as_asked_for(fake: FakeDrawdown) -> None:
    fake.answer("GetWallet", wallet_service_pb2.GetWalletResponse())
    port = int(fake.target.rpartition(":")[2])
    async with drawdown.AsyncClient(fake.target, connections=3) as client:
        for _ in range(6):
            await client.get_wallet(wallet_id="demo")
        assert sockets_to(port) == 3

    async def closed() -> bool:
        return sockets_to(port) == 0

    await until(closed)

    def synchronous() -> int:
        with drawdown.Client(fake.target, connections=2) as client:
            for _ in range(6):
                client.get_wallet(wallet_id="demo")
            return sockets_to(port)

    assert await asyncio.to_thread(synchronous) == 2


@pytest.mark.parametrize(
    ("connections", "error"), [(0, ValueError), (65, ValueError), (True, TypeError), (1.5, TypeError)]
)
def test_a_number_of_connections_is_checked(connections: Any, error: type[Exception]) -> None:  # noqa: ANN401
    with pytest.raises(error, match="connections"):
        drawdown.Client(connections=connections)
    with pytest.raises(error, match="connections"):
        drawdown.AsyncClient(connections=connections)


async def test_credentials_mean_tls(fake: FakeDrawdown) -> None:
    credentials = grpc.ssl_channel_credentials()  # the fake speaks plaintext, so a handshake must fail
    async with drawdown.AsyncClient(fake.target, credentials=credentials) as client:
        with pytest.raises(drawdown.UnavailableError):
            await client.get_wallet(wallet_id="demo")

    def synchronous() -> None:
        with (
            drawdown.Client(fake.target, credentials=credentials) as client,
            pytest.raises(drawdown.UnavailableError),
        ):
            client.get_wallet(wallet_id="demo")

    await asyncio.to_thread(synchronous)
    assert not fake.calls("GetWallet")


def test_a_certificate_of_the_client_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    for half in ({"certificate": tmp_path / "x"}, {"key": str(tmp_path / "x")}):
        with pytest.raises(ValueError, match="go together"):
            drawdown.tls_credentials(**half)
    with pytest.raises(FileNotFoundError):
        drawdown.tls_credentials(tmp_path / "missing")


def test_settings_with_a_token_do_not_show_it() -> None:
    client = drawdown.Client(metadata=[("authorization", "Bearer secret")])
    assert "secret" not in repr(client)
    assert "secret" not in repr(client._settings)
