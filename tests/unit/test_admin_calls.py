"""What calls of administrators leave in the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf.message_factory import GetMessageClass
from structlog.testing import capture_logs

from drawdown.v1 import asset_service_pb2, cap_service_pb2, grant_service_pb2, wallet_service_pb2
from drawdown_server import clock
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.identity.admin_call import AdminCall
from drawdown_server.identity.caller import Caller
from drawdown_server.identity.scopes import ALL_SCOPES
from drawdown_server.rpc.admin_calls import OUT_OF_RANGE, PACKAGE, TARGETS, admin_call, as_plain, denied_call
from drawdown_server.rpc.denials import DENIALS_MAX, WINDOW_S, Denials
from drawdown_server.rpc.gate import is_administration
from faults.mutations import SERVICE_FILES, STORES_NOTHING

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, MethodDescriptor
    from google.protobuf.message import Message

OPERATORS: set[str] = {"AuthorizationService/ForceRelease"}
"""Of the data plane's service, and an operator's all the same."""
METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}/{method.name}": method
    for file in SERVICE_FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
SECRET_WORDS = ("secret", "password", "token", "pepper", "digest")
CALLER = Caller("acme", "key:ops", ALL_SCOPES)


def test_every_method_of_administrators_leaves_a_record() -> None:
    """One that is missing: give it a target in TARGETS, and let its transaction call write_audit."""
    changing = {
        name
        for name in METHODS
        if is_administration(f"/{PACKAGE}{name}") and name.partition("/")[2] not in STORES_NOTHING
    }
    assert set(TARGETS) == changing | OPERATORS


@pytest.mark.parametrize("method", TARGETS)
def test_a_target_is_made_of_fields_of_the_request(method: str) -> None:
    request = GetMessageClass(METHODS[method].input_type)()
    for field in request.DESCRIPTOR.fields:
        if isinstance(getattr(request, field.name), str):
            setattr(request, field.name, f"<{field.name}>")
    target = admin_call(f"{PACKAGE}{method}", CALLER, request, "").target
    kind, _, name = target.partition(":")
    assert kind in {"asset", "cap", "grant", "hold", "key", "overdraft", "wallet"}
    assert name.startswith("<"), "the field is not in the request"


def names_in(message: Descriptor) -> set[str]:
    """The names of all fields, inside as well."""
    found: set[str] = set()
    for field in message.fields:
        found.add(field.name)
        if field.message_type is not None and not field.message_type.full_name.startswith("google."):
            found |= names_in(field.message_type)
    return found


def test_no_request_that_is_recorded_has_a_field_for_a_secret() -> None:
    for method in TARGETS:
        for name in names_in(METHODS[method].input_type):
            assert not any(word in name for word in SECRET_WORDS), f"{method} {name}"


@pytest.mark.parametrize(
    ("request_", "plain"),
    [
        (
            wallet_service_pb2.CreateWalletRequest(wallet_id="w", labels={"b": "2", "a": "1"}),
            {"wallet_id": "w", "labels": {"a": "1", "b": "2"}},
        ),
        (
            cap_service_pb2.SetCapRequest(wallet_id="w", window="CAP_WINDOW_PER_REQUEST", limit_units=2**53 - 1),
            {"wallet_id": "w", "window": "PER_REQUEST", "limit_units": 2**53 - 1},
        ),
        (wallet_service_pb2.CloseWalletRequest(wallet_id="w", force=True), {"wallet_id": "w", "force": True}),
        (asset_service_pb2.CreateAssetRequest(), {}),
    ],
)
def test_a_request_as_a_record_shows_it(request_: Message, plain: dict[str, object]) -> None:
    assert as_plain(request_) == plain


def test_times_and_numbers_of_a_newer_version_are_shown_as_they_are() -> None:
    request = grant_service_pb2.CreateGrantRequest(source=99)  # type: ignore[arg-type]
    request.expire_time.FromSeconds(4_102_444_800)
    assert as_plain(request) == {"source": 99, "expire_time": "2100-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("wallet_id", "told", "target"),
    [("w", "w", "wallet:w"), ("w\0", "", ""), ("\n", "", ""), ("w" * 513, "", ""), (None, "", "")],
)
def test_a_denied_call_says_who_and_what_and_nothing_that_nobody_has_checked(
    wallet_id: str | None, told: str, target: str
) -> None:
    request = None if wallet_id is None else wallet_service_pb2.FreezeWalletRequest(wallet_id=wallet_id, reason="x\0")
    call = denied_call("drawdown.v1.WalletService/FreezeWallet", CALLER, request, "t")
    assert call == AdminCall("acme", "key:ops", "WalletService/FreezeWallet", told, target, {}, "t")


def test_a_time_that_no_calendar_has_is_no_fault_of_the_server() -> None:
    request = grant_service_pb2.SetGrantExpiryRequest()
    request.expire_time.seconds = 2**62
    assert as_plain(request) == {"expire_time": OUT_OF_RANGE}


class Store:
    """Postgres."""

    def __init__(self) -> None:
        self.recorded: list[AdminCall] = []
        self.failure: Exception | None = None

    async def record_denied(self, call: AdminCall) -> None:
        if self.failure is not None:
            raise self.failure
        self.recorded.append(call)


def denied(tenant_id: str = "acme") -> AdminCall:
    return AdminCall(tenant_id, "key:ops", "WalletService/FreezeWallet", "w", "wallet:w", {}, "")


async def test_denied_calls_are_recorded_up_to_a_number_per_tenant_and_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    store, now_s = Store(), 1_000.0
    denials = Denials(store)
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
    for _ in range(DENIALS_MAX + 5):
        await denials.note(denied())
    assert len(store.recorded) == DENIALS_MAX
    await denials.note(denied("other"))
    assert len(store.recorded) == DENIALS_MAX + 1
    now_s += WINDOW_S
    await denials.note(denied())
    assert len(store.recorded) == DENIALS_MAX + 2


@pytest.mark.parametrize("failure", [StoreUnavailableError("postgres"), ValueError("a row that does not fit")])
async def test_a_refusal_does_not_depend_on_its_record(failure: Exception) -> None:
    store = Store()
    store.failure = failure
    with capture_logs() as logs:
        await Denials(store).note(denied())
    assert store.recorded == []
    assert [line["event"] for line in logs] == ["audit.denial_not_recorded"]
