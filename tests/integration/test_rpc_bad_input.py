"""Bad input, RPC by RPC: INVALID_ARGUMENT names every wrong field at once, and nothing has changed afterwards.

Each row is a valid request, one or more fields of which are made wrong.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import audit_service_pb2 as audit_pb
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import cap_service_pb2 as cap_pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown.v1 import ledger_service_pb2 as ledger_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.rpc.paging import encode_token
from integration.server import amounts, authorize_request, commit_request, duration, grant_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

WALLET = "victim"
HOLD = "open"
MOST = 2**53 - 1

BAD_IDS = {
    "empty": "",
    "129 characters": "x" * 129,
    "space": "a b",
    "separator": "a|b",
    "hash tag": "{a}",
    "brace": "a}",
    "newline": "a\n",
    "NUL": "a\0",
    "umlaut": "ü",
    "full-width digit": "\uff11",
    "right-to-left": "\u202ea",
    "surrogate pair": "😀",
    "wildcard": "a*",
    "quote": "a'",
}
BAD_ASSETS = {
    "empty": "",
    "33 characters": "X" * 33,
    "lower case": "usd",
    "digit first": "1USD",
    "underscore first": "_USD",
    "space": "US D",
    "newline": "USD\n",
    "NUL": "USD\0",
    "umlaut": "ÜSD",
    "separator": "U|SD",
    "the wallet's own field": "head",
}
BAD_TEXTS = {"257 characters": "x" * 257, "newline": "a\nb", "NUL": "a\0b", "escape": "\x1b[31m", "reversal": "\u202ea"}
BAD_UNITS = {"negative": -1, "2^53": MOST + 1, "most negative": -(2**63), "largest": 2**63 - 1}
BAD_LABELS: dict[str, tuple[dict[str, str], str]] = {
    "17 labels": ({str(n): "" for n in range(17)}, "labels"),
    "empty key": ({"": "v"}, "labels"),
    "key of 65": ({"k" * 65: "v"}, "labels"),
    "key with a newline": ({"a\n": "v"}, "labels"),
    "key with a NUL": ({"a\0": "v"}, "labels"),
    "value of 257": ({"k": "v" * 257}, "labels[k]"),
    "value with a NUL": ({"k": "\0"}, "labels[k]"),
}
UNKNOWN_ENUM = 99
FAR = 4_000_000_000
"""Seconds since 1970: the year 2096."""
BAD_TIMES = {
    "1970": Timestamp(),
    "before 1970": Timestamp(seconds=-1),
    "the year 10000": Timestamp(seconds=253_402_300_800),
    "huge": Timestamp(seconds=2**62),
    "most negative": Timestamp(seconds=-(2**63)),
    "nanoseconds of more than a second": Timestamp(seconds=FAR, nanos=1_000_000_000),
    "negative nanoseconds": Timestamp(seconds=FAR, nanos=-1),
}
MESSAGE_CHARS_MAX = 4096
"""A status travels in HTTP/2 headers, which have a limit."""

Change = dict[str, Any]
Row = tuple[Any, tuple[str, ...], str]

OPERATIONS_MAX = 256


def operations(wallet_id: str = WALLET) -> list[pb.Operation]:
    """One of each kind."""
    found = [pb.Operation(**{name: BASE[name.capitalize()]()}) for name in pb.Operation.DESCRIPTOR.fields_by_name]
    for operation in found:
        getattr(operation, operation.WhichOneof("operation")).wallet_id = wallet_id  # type: ignore[arg-type]
    return found


BASE: dict[str, Callable[[], Any]] = {
    "Authorize": lambda: authorize_request(WALLET, "new", USD=5),
    "Commit": lambda: commit_request(WALLET, HOLD, USD=5),
    "Release": lambda: pb.ReleaseRequest(wallet_id=WALLET, hold_id=HOLD, reason="because"),
    "Extend": lambda: pb.ExtendRequest(wallet_id=WALLET, hold_id=HOLD, ttl=duration(60), amounts=amounts(USD=20)),
    "Charge": lambda: pb.ChargeRequest(wallet_id=WALLET, charge_id="new", amounts=amounts(USD=5)),
    "Refund": lambda: pb.RefundRequest(wallet_id=WALLET, hold_id="settled", refund_id="new", amounts=amounts(USD=5)),
    "Batch": lambda: pb.BatchRequest(operations=operations()),
    "ForceRelease": lambda: pb.ForceReleaseRequest(wallet_id=WALLET, hold_id=HOLD, reason="because"),
    "GetHold": lambda: pb.GetHoldRequest(wallet_id=WALLET, hold_id=HOLD),
    "ListHolds": lambda: pb.ListHoldsRequest(wallet_id=WALLET),
    "CreateAsset": lambda: asset_pb.CreateAssetRequest(asset="NEW", scale=2),
    "GetAsset": lambda: asset_pb.GetAssetRequest(asset="USD"),
    "ListAssets": asset_pb.ListAssetsRequest,
    "CreateWallet": lambda: wallet_pb.CreateWalletRequest(wallet_id="new"),
    "GetWallet": lambda: wallet_pb.GetWalletRequest(wallet_id=WALLET),
    "ListWallets": wallet_pb.ListWalletsRequest,
    "FreezeWallet": lambda: wallet_pb.FreezeWalletRequest(wallet_id=WALLET),
    "UnfreezeWallet": lambda: wallet_pb.UnfreezeWalletRequest(wallet_id=WALLET),
    "CloseWallet": lambda: wallet_pb.CloseWalletRequest(wallet_id=WALLET, force=True, reason="because"),
    "SetOverdraftLimit": lambda: wallet_pb.SetOverdraftLimitRequest(wallet_id=WALLET, asset="USD", limit_units=5),
    "CreateGrant": lambda: grant_request(WALLET, "new", "USD", 5),
    "GetGrant": lambda: grant_pb.GetGrantRequest(wallet_id=WALLET, grant_id="g-USD"),
    "ListGrants": lambda: grant_pb.ListGrantsRequest(wallet_id=WALLET),
    "VoidGrant": lambda: grant_pb.VoidGrantRequest(wallet_id=WALLET, grant_id="g-USD", reason="because"),
    "SetGrantExpiry": lambda: grant_pb.SetGrantExpiryRequest(
        wallet_id=WALLET, grant_id="g-USD", expire_time=Timestamp(seconds=FAR), reason="because"
    ),
    "SetCap": lambda: cap_pb.SetCapRequest(
        wallet_id=WALLET, subject="key:*", asset="USD", window=types_pb2.CAP_WINDOW_DAY, limit_units=5
    ),
    "RemoveCap": lambda: cap_pb.RemoveCapRequest(wallet_id=WALLET, asset="USD", window=types_pb2.CAP_WINDOW_DAY),
    "ListCaps": lambda: cap_pb.ListCapsRequest(wallet_id=WALLET, subjects=["key:a"]),
    "GetBalance": lambda: balance_pb.GetBalanceRequest(wallet_id=WALLET),
    "ListEntries": lambda: ledger_pb.ListEntriesRequest(wallet_id=WALLET),
    "ListAuditRecords": lambda: audit_pb.ListAuditRecordsRequest(wallet_id=WALLET),
}
"""A valid request of every RPC but those of KeyService, whose bad input is in ``test_rpc_keys.py``, and Session."""

IDS = {
    "Authorize": ("wallet_id", "hold_id"),
    "Commit": ("wallet_id", "hold_id"),
    "Release": ("wallet_id", "hold_id"),
    "Extend": ("wallet_id", "hold_id"),
    "Charge": ("wallet_id", "charge_id"),
    "Refund": ("wallet_id", "hold_id", "refund_id"),
    "ForceRelease": ("wallet_id", "hold_id"),
    "GetHold": ("wallet_id", "hold_id"),
    "ListHolds": ("wallet_id",),
    "CreateWallet": ("wallet_id",),
    "GetWallet": ("wallet_id",),
    "FreezeWallet": ("wallet_id",),
    "UnfreezeWallet": ("wallet_id",),
    "CloseWallet": ("wallet_id",),
    "SetOverdraftLimit": ("wallet_id",),
    "CreateGrant": ("wallet_id", "grant_id"),
    "VoidGrant": ("wallet_id", "grant_id"),
    "SetGrantExpiry": ("wallet_id", "grant_id"),
    "SetCap": ("wallet_id",),
    "RemoveCap": ("wallet_id",),
    "ListCaps": ("wallet_id",),
    "GetGrant": ("wallet_id", "grant_id"),
    "ListGrants": ("wallet_id",),
    "GetBalance": ("wallet_id",),
    "ListEntries": ("wallet_id",),
}
OPTIONAL_IDS = {"ListEntries": ("hold_id",), "ListAuditRecords": ("wallet_id",)}
ASSET_FIELDS = dict.fromkeys(
    ("CreateAsset", "GetAsset", "CreateGrant", "SetOverdraftLimit", "SetCap", "RemoveCap"), "asset"
)
OPTIONAL_ASSET_FIELDS = {"ListGrants": "asset", "ListEntries": "asset"}
TEXTS = {
    "Release": "reason",
    "CreateAsset": "display_name",
    "CreateWallet": "display_name",
    "FreezeWallet": "reason",
    "UnfreezeWallet": "reason",
    "ForceRelease": "reason",
    "CloseWallet": "reason",
    "SetOverdraftLimit": "reason",
    "VoidGrant": "reason",
    "SetGrantExpiry": "reason",
}
LABELLED = ("Authorize", "Charge", "CreateWallet", "CreateGrant")
LISTS = ("ListHolds", "ListAssets", "ListWallets", "ListGrants", "ListEntries", "ListAuditRecords")
NOT_POSITIVE = {"zero": 0, **BAD_UNITS}
WITH_AMOUNTS = {
    "Authorize": NOT_POSITIVE,
    "Extend": NOT_POSITIVE,
    "Charge": NOT_POSITIVE,
    "Refund": NOT_POSITIVE,
    "Commit": BAD_UNITS,
}
WITH_SUBJECTS = ("Authorize", "Charge", "ListCaps")


def changed(rpc: str, **fields: Any) -> Any:  # noqa: ANN401 - any request
    """The valid request of an RPC with other fields; a list replaces, a dict updates."""
    request = copy.deepcopy(BASE[rpc]())
    for field, value in fields.items():
        if isinstance(value, list):
            request.ClearField(field)
            getattr(request, field).extend(value)
        elif isinstance(value, dict):
            getattr(request, field).update(value)
        elif hasattr(value, "DESCRIPTOR"):
            getattr(request, field).CopyFrom(value)
        else:
            setattr(request, field, value)
    return request


def id_rows() -> Iterator[tuple[str, Row]]:
    """Ids and asset codes, wherever they stand."""
    fields = [(rpc, field, False) for rpc, names in IDS.items() for field in names]
    fields += [(rpc, field, True) for rpc, names in OPTIONAL_IDS.items() for field in names]
    for rpc, field, optional in fields:
        for name, value in BAD_IDS.items():
            if value or not optional:
                yield f"{rpc} {field} {name}", (changed(rpc, **{field: value}), (field,), "INVALID_FIELD")
    for rpc, field in (ASSET_FIELDS | OPTIONAL_ASSET_FIELDS).items():
        for name, value in BAD_ASSETS.items():
            if value or rpc in ASSET_FIELDS:
                yield f"{rpc} {field} {name}", (changed(rpc, **{field: value}), (field,), "INVALID_FIELD")


def common_rows() -> Iterator[tuple[str, Row]]:
    """What many RPCs have in common: texts, labels, page sizes."""
    for rpc, field in TEXTS.items():
        for name, value in BAD_TEXTS.items():
            yield f"{rpc} {field} {name}", (changed(rpc, **{field: value}), (field,), "INVALID_FIELD")
    for rpc in LABELLED:
        for name, (labels, field) in BAD_LABELS.items():
            yield f"{rpc} {name}", (changed(rpc, labels=labels), (field,), "INVALID_FIELD")
    for rpc in LISTS:
        for value in (-1, -(2**31)):
            yield f"{rpc} page_size {value}", (changed(rpc, page_size=value), ("page_size",), "INVALID_FIELD")


def amount_rows() -> Iterator[tuple[str, Row]]:
    """Amounts of Authorize and Commit."""
    for rpc, bad_units in WITH_AMOUNTS.items():
        for name, value in bad_units.items():
            request = changed(rpc, amounts=amounts(TOKENS=1, USD=value))
            yield f"{rpc} units {name}", (request, ("amounts[1].units",), "INVALID_FIELD")
        for name, code in BAD_ASSETS.items():
            request = changed(rpc, amounts=[types_pb2.Amount(asset=code, units=1)])
            yield f"{rpc} asset {name}", (request, ("amounts[0].asset",), "INVALID_FIELD")
        if rpc == "Extend":  # needs a ttl or amounts
            yield "Extend nothing", (pb.ExtendRequest(wallet_id=WALLET, hold_id=HOLD), ("amounts",), "INVALID_FIELD")
        else:
            yield f"{rpc} no amounts", (changed(rpc, amounts=[]), ("amounts",), "INVALID_FIELD")
        many = amounts(**{f"A{n}": 1 for n in range(17)})
        yield f"{rpc} 17 amounts", (changed(rpc, amounts=many), ("amounts",), "INVALID_FIELD")
        twice = [*amounts(USD=1, EUR=1), *amounts(USD=1)]
        yield f"{rpc} an asset twice", (changed(rpc, amounts=twice), ("amounts[2].asset",), "INVALID_FIELD")
        for least in (6, -1, MOST + 1) if rpc == "Authorize" else (2, -1):
            partial = [types_pb2.Amount(asset="USD", units=5, min_units=least)]
            yield (
                f"{rpc} min_units {least}",
                (changed(rpc, amounts=partial), ("amounts[0].min_units",), "INVALID_FIELD"),
            )
    everything = changed(
        "Commit", wallet_id="", hold_id="a b", amounts=[types_pb2.Amount(asset="x", units=-1)], hold_token=b"x"
    )
    fields = ("wallet_id", "hold_id", "amounts[0].asset", "amounts[0].units", "hold_token")
    yield "Commit everything at once", (everything, fields, "INVALID_FIELD")
    yield "Commit hold_token", (changed("Commit", hold_token=b"x"), ("hold_token",), "INVALID_FIELD")


def hold_rows() -> Iterator[tuple[str, Row]]:
    """What only some verbs on holds have."""
    for rpc in ("Authorize", "Extend"):
        for name, ttl_s in {"zero": 0.0, "below a second": 0.999, "above a day": 86_400.001, "negative": -5.0}.items():
            yield f"{rpc} ttl {name}", (changed(rpc, ttl=duration(ttl_s)), ("ttl",), "INVALID_FIELD")
        huge = duration(1)
        huge.seconds = 2**62
        yield f"{rpc} ttl huge", (changed(rpc, ttl=huge), ("ttl",), "INVALID_FIELD")
    for rpc in WITH_SUBJECTS:
        for name, value in BAD_IDS.items():
            request = changed(rpc, subjects=["key:ok", value])
            yield f"{rpc} subject {name}", (request, ("subjects[1]",), "INVALID_FIELD")
        request = changed(rpc, subjects=["a", "b", "a"])
        yield f"{rpc} a subject twice", (request, ("subjects[2]",), "INVALID_FIELD")
        request = changed(rpc, subjects=[f"s{n}" for n in range(17)])
        yield f"{rpc} 17 subjects", (request, ("subjects",), "INVALID_FIELD")
    for rpc, field in (("Authorize", "overage_policy"), ("Charge", "overage_policy"), ("Authorize", "expiry_action")):
        for number in (UNKNOWN_ENUM, -1):
            yield f"{rpc} {field} {number}", (changed(rpc, **{field: number}), (field,), "INVALID_FIELD")
    many = [pb.Operation(release=pb.ReleaseRequest(wallet_id=WALLET, hold_id=HOLD))] * (OPERATIONS_MAX + 1)
    yield "Batch 257 operations", (pb.BatchRequest(operations=many), ("operations",), "INVALID_FIELD")
    yield "Batch no operations", (pb.BatchRequest(), ("operations",), "INVALID_FIELD")
    yield "ForceRelease no reason", (changed("ForceRelease", reason=""), ("reason",), "INVALID_FIELD")
    everything = pb.ExtendRequest(ttl=duration(0), amounts=[types_pb2.Amount(asset="x", units=0, min_units=1)])
    fields = ("wallet_id", "hold_id", "ttl", "amounts[0].asset", "amounts[0].units", "amounts[0].min_units")
    yield "Extend everything at once", (everything, fields, "INVALID_FIELD")
    yield "ForceRelease empty", (pb.ForceReleaseRequest(), ("wallet_id", "hold_id", "reason"), "INVALID_FIELD")
    fields = ("wallet_id", "hold_id", "refund_id", "amounts")
    yield "Refund empty", (pb.RefundRequest(), fields, "INVALID_FIELD")
    yield "Charge empty", (pb.ChargeRequest(), ("wallet_id", "charge_id", "amounts"), "INVALID_FIELD")


def alternative_rows() -> Iterator[tuple[str, Row]]:
    """Other ways to pay."""
    way = pb.Alternative(amounts=amounts(TOKENS=1))
    bad: dict[str, tuple[list[types_pb2.Amount], str]] = {
        "zero": (amounts(USD=0), "amounts[0].units"),
        "2^53": (amounts(TOKENS=1, USD=MOST + 1), "amounts[1].units"),
        "bad asset": ([types_pb2.Amount(asset="usd", units=1)], "amounts[0].asset"),
        "no amounts": ([], "amounts"),
        "17 amounts": (amounts(**{f"A{n}": 1 for n in range(17)}), "amounts"),
        "an asset twice": ([*amounts(USD=1), *amounts(USD=2)], "amounts[1].asset"),
        "min above units": ([types_pb2.Amount(asset="USD", units=5, min_units=6)], "amounts[0].min_units"),
    }
    for name, (wrong, field) in bad.items():
        request = changed("Authorize", alternatives=[way, pb.Alternative(amounts=wrong)])
        yield f"alternative {name}", (request, (f"alternatives[1].{field}",), "INVALID_FIELD")
    yield "9 alternatives", (changed("Authorize", alternatives=[way] * 9), ("alternatives",), "INVALID_FIELD")
    everything = changed(
        "Authorize",
        wallet_id="{x}",
        hold_id="",
        amounts=[types_pb2.Amount(asset="usd", units=0, min_units=1), *amounts(USD=MOST + 1)],
        ttl=duration(0),
        subjects=["", "ok", "ok"],
        alternatives=[way, pb.Alternative()],
        overage_policy=UNKNOWN_ENUM,
        expiry_action=UNKNOWN_ENUM,
        labels={"k": "\n"},
    )
    fields = (
        "wallet_id", "hold_id", "amounts[0].asset", "amounts[0].units", "amounts[0].min_units", "amounts[1].units",
        "ttl", "subjects[0]", "subjects[2]", "alternatives[1].amounts", "overage_policy", "expiry_action", "labels[k]",
    )  # fmt: skip
    yield "Authorize everything at once", (everything, fields, "INVALID_FIELD")


def admin_rows() -> Iterator[tuple[str, Row]]:
    """What only the administration has."""
    for scale in (-1, 13, 2**31 - 1):
        yield f"scale {scale}", (changed("CreateAsset", scale=scale), ("scale",), "INVALID_FIELD")
    field = "default_overage_policy"
    yield f"{field} unknown", (changed("CreateAsset", **{field: UNKNOWN_ENUM}), (field,), "INVALID_FIELD")
    for name, value in {"zero": 0, **BAD_UNITS}.items():
        yield f"CreateGrant units {name}", (changed("CreateGrant", units=value), ("units",), "INVALID_FIELD")
    for value in (-1, 101, 2**31 - 1):
        yield f"priority {value}", (changed("CreateGrant", priority=value), ("priority",), "INVALID_FIELD")
    for value in (types_pb2.GRANT_SOURCE_UNSPECIFIED, UNKNOWN_ENUM, -1):
        yield f"source {value}", (changed("CreateGrant", source=value), ("source",), "INVALID_FIELD")
    for rpc, field in (
        ("CreateGrant", "effective_time"),
        ("CreateGrant", "expire_time"),
        ("SetGrantExpiry", "expire_time"),
    ):
        for name, time in BAD_TIMES.items():
            yield f"{rpc} {field} {name}", (changed(rpc, **{field: time}), (field,), "INVALID_FIELD")
    request = changed("CreateGrant", expire_time=Timestamp(seconds=1_600_000_000))
    yield "CreateGrant already expired", (request, ("expire_time",), "INVALID_FIELD")
    request = changed("CreateGrant", expire_time=Timestamp(seconds=FAR), effective_time=Timestamp(seconds=FAR))
    yield "CreateGrant expires when effective", (request, ("expire_time",), "INVALID_FIELD")
    request = changed("CreateGrant", units=0, priority=101, expire_time=Timestamp(seconds=1))
    fields: tuple[str, ...] = ("units", "priority", "expire_time")
    yield "CreateGrant expired and more", (request, fields, "INVALID_FIELD")
    request = grant_pb.CreateGrantRequest()
    fields = ("wallet_id", "grant_id", "asset", "units", "source")
    yield "CreateGrant empty", (request, fields, "INVALID_FIELD")
    for name, value in BAD_ASSETS.items():
        request = changed("GetBalance", assets=["USD", value])
        yield f"GetBalance {name}", (request, ("assets[1]",), "INVALID_FIELD")
    request = changed("GetBalance", assets=["USD", "EUR", "USD"])
    yield "GetBalance an asset twice", (request, ("assets[2]",), "INVALID_FIELD")
    request = changed("GetBalance", assets=[f"A{n}" for n in range(17)])
    yield "GetBalance 17 assets", (request, ("assets",), "INVALID_FIELD")


def cap_and_wallet_rows() -> Iterator[tuple[str, Row]]:
    """Caps, overdraft limits, closing."""
    for rpc in ("SetCap", "SetOverdraftLimit"):
        for name, value in BAD_UNITS.items():
            yield f"{rpc} limit {name}", (changed(rpc, limit_units=value), ("limit_units",), "INVALID_FIELD")
    subjects = {name: value for name, value in BAD_IDS.items() if name not in ("empty", "wildcard")}
    subjects |= {"two wildcards": "a**", "wildcard inside": "a*b", "prefix of 128": "x" * 128 + "*"}
    for rpc in ("SetCap", "RemoveCap"):
        for name, value in subjects.items():
            yield f"{rpc} subject {name}", (changed(rpc, subject=value), ("subject",), "INVALID_FIELD")
        for number in (types_pb2.CAP_WINDOW_UNSPECIFIED, UNKNOWN_ENUM, -1):
            yield f"{rpc} window {number}", (changed(rpc, window=number), ("window",), "INVALID_FIELD")
    for number in (UNKNOWN_ENUM, -1):
        yield f"SetCap mode {number}", (changed("SetCap", mode=number), ("mode",), "INVALID_FIELD")
    everything = cap_pb.SetCapRequest(subject="a b", asset="x", limit_units=-1, mode=UNKNOWN_ENUM)  # type: ignore[arg-type]
    fields = ("wallet_id", "subject", "asset", "window", "limit_units", "mode")
    yield "SetCap everything at once", (everything, fields, "INVALID_FIELD")
    yield "CloseWallet by force without a reason", (changed("CloseWallet", reason=""), ("reason",), "INVALID_FIELD")


ROWS = dict(
    [
        *id_rows(),
        *common_rows(),
        *amount_rows(),
        *hold_rows(),
        *alternative_rows(),
        *admin_rows(),
        *cap_and_wallet_rows(),
    ]
)


async def books(server: Server) -> list[str]:
    """The money of the wallet: what no bad request may touch."""
    requests = [
        balance_pb.GetBalanceRequest(wallet_id=WALLET, include_grants=True),
        ledger_pb.ListEntriesRequest(wallet_id=WALLET),
        cap_pb.ListCapsRequest(wallet_id=WALLET),
        pb.ListHoldsRequest(wallet_id=WALLET),
    ]
    return [json_format.MessageToJson(await server.call(request)) for request in requests]


async def everything(server: Server) -> list[str]:
    """All that a caller can see of the wallet, the assets and the other wallets."""
    requests = [
        grant_pb.ListGrantsRequest(wallet_id=WALLET),
        wallet_pb.ListWalletsRequest(),
        asset_pb.ListAssetsRequest(),
    ]
    return await books(server) + [json_format.MessageToJson(await server.call(request)) for request in requests]


async def make_victim(server: Server) -> None:
    """A wallet with funds, an open hold and a debit."""
    wallets = (await server.call(wallet_pb.ListWalletsRequest())).wallets
    if WALLET not in {wallet.wallet_id for wallet in wallets}:
        await server.wallet(WALLET, USD=100, TOKENS=100)
        await server.authorize(WALLET, HOLD, ttl_s=3600, USD=10, TOKENS=10)
        await server.authorize(WALLET, "settled", USD=10)
        await server.commit(WALLET, "settled", USD=10)
        await server.debits(WALLET, at_least=1)


@pytest.mark.parametrize("rpc", BASE)
async def test_bad_input_names_every_field_and_changes_nothing(server: Server, rpc: str) -> None:
    await make_victim(server)
    before, all_before = await books(server), await everything(server)
    rows = {name: row for name, row in ROWS.items() if type(row[0]).__name__ == f"{rpc}Request"}
    assert rows
    for name, (request, fields, reason) in rows.items():
        failure = await server.failure(request)
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT, name
        assert (failure.fields, failure.reason) == (fields, reason), name
        assert failure.metadata == {"field": fields[0]}, name
        assert failure.retry_ms is None
        assert failure.message.isprintable(), name
        assert len(failure.message) < MESSAGE_CHARS_MAX, name
        assert await books(server) == before, name
    assert await everything(server) == all_before


WORST = {
    "Authorize": changed(
        "Authorize",
        wallet_id="",
        hold_id="",
        amounts=[types_pb2.Amount(asset="x", units=-1, min_units=-1)] * 17,
        ttl=duration(0),
        subjects=[" "] * 17,
        labels={f"{n:x<64}": "\0" for n in range(16)},
    ),
    "CreateGrant": changed("CreateGrant", labels={f"{n:ü<64}": "\0" for n in range(16)}),
}


@pytest.mark.parametrize("request_", WORST.values(), ids=WORST.keys())
async def test_the_longest_list_of_violations_still_fits_into_a_status(
    server: Server,
    request_: Any,  # noqa: ANN401 - any request
) -> None:
    await make_victim(server)
    failure = await server.failure(request_)
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT, failure.message
    assert failure.reason == "INVALID_FIELD"
    assert len(failure.fields) > 10


def forged_token(request: Any, *cursor: int | str) -> str:  # noqa: ANN401 - any list request
    """A token of this list with a cursor that no page ever ended with."""
    names = {
        "ListHolds": ("holds", WALLET),
        "ListGrants": ("grants", WALLET, ""),
        "ListEntries": ("entries", WALLET, "", ""),
        "ListWallets": ("wallets",),
        "ListAssets": ("assets",),
        "ListAuditRecords": ("audit", WALLET, "", "", "1", "253402300799999"),
    }
    return encode_token(names[type(request).__name__.removesuffix("Request")], cursor)


FORGED = {
    "ListGrants": [(2**63,), (-(2**63),), (2**64 - 1,)],
    "ListEntries": [(2**64 - 1, 1), (1, 2**63), (-1, -1)],
    "ListWallets": [("\0",), ("x" * 10_000,)],
    "ListAssets": [("\0",)],
    "ListAuditRecords": [(2**63 - 1, "x"), (2**63, "x"), (-1, "x"), (1, "\0")],
}


@pytest.mark.parametrize("rpc", [rpc for rpc in LISTS if rpc != "ListHolds"])
async def test_a_forged_page_token_is_no_fault_of_the_server(server: Server, rpc: str) -> None:
    await make_victim(server)
    for cursor in FORGED[rpc]:
        request = BASE[rpc]()
        request.page_token = forged_token(request, *cursor)
        try:
            await server.call(request)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, cursor


@pytest.mark.parametrize("rpc", BASE)
async def test_the_requests_that_the_rows_begin_with_are_valid(server: Server, rpc: str) -> None:
    await make_victim(server)
    if rpc in ("Commit", "Release", "Extend", "Refund", "ForceRelease"):
        wallet = await server.wallet(USD=40)
        await server.authorize(wallet, HOLD, USD=5)
        await server.authorize(wallet, "settled", USD=5)
        await server.commit(wallet, "settled", USD=5)
        await server.call(changed(rpc, wallet_id=wallet))
        await server.assert_conserved(wallet)
    elif rpc == "Batch":
        wallet = await server.wallet(USD=40)
        replies = await server.call(pb.BatchRequest(operations=operations(wallet)))
        assert replies.results[0].authorize.decision == pb.DECISION_APPROVED
        await server.assert_conserved(wallet)
    elif not rpc.startswith(("Get", "List")):
        own = await server.wallet(USD=10)
        other = {"asset": f"N{own[-8:].upper()}"} if rpc == "CreateAsset" else {"wallet_id": own}
        await server.call(changed(rpc, **other))
        await server.assert_conserved(own)
    else:
        await server.call(BASE[rpc]())


DENIED = {
    "unknown wallet": (authorize_request("nobody", "new", USD=5), "WALLET_NOT_FOUND"),
    "unknown asset": (authorize_request(WALLET, "new", NOPE=5), "ASSET_NOT_FOUND"),
    "an asset it has and an unknown one": (authorize_request(WALLET, "new", USD=5, NOPE=5), "ASSET_NOT_FOUND"),
    "an asset it never had": (authorize_request(WALLET, "new", EUR=5), "INSUFFICIENT_FUNDS"),
    "more than it has": (authorize_request(WALLET, "new", USD=81), "INSUFFICIENT_FUNDS"),
    "more than there can be": (authorize_request(WALLET, "new", USD=MOST), "INSUFFICIENT_FUNDS"),
    "one of two assets short": (authorize_request(WALLET, "new", USD=5, TOKENS=91), "INSUFFICIENT_FUNDS"),
}


@pytest.mark.parametrize(("request_", "reason"), DENIED.values(), ids=DENIED.keys())
async def test_what_is_well_formed_and_cannot_be_is_denied_and_changes_nothing(
    server: Server, request_: pb.AuthorizeRequest, reason: str
) -> None:
    await make_victim(server)
    before = await everything(server)
    reply = await server.call(request_)
    assert reply.decision == pb.DECISION_DENIED
    assert pb.DenialReason.Name(reply.denial.reason) == f"DENIAL_REASON_{reason}"
    assert await everything(server) == before
    await server.assert_conserved(WALLET)


async def test_every_rpc_has_rows() -> None:
    services = [
        file.DESCRIPTOR.services_by_name[name]
        for file, name in (
            (pb, "AuthorizationService"),
            (asset_pb, "AssetService"),
            (wallet_pb, "WalletService"),
            (grant_pb, "GrantService"),
            (balance_pb, "BalanceService"),
            (cap_pb, "CapService"),
            (ledger_pb, "LedgerService"),
            (audit_pb, "AuditService"),
        )
    ]
    names = {method.name for service in services for method in service.methods if not method.client_streaming}
    assert names == set(BASE)
