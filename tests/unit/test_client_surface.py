"""What `import drawdown` offers: exactly `__all__`, and the two clients alike."""

from __future__ import annotations

import inspect
import re
import types

import grpc
import pytest

import drawdown
from drawdown import _responses, _rpcs
from drawdown._exceptions import BY_CODE, BY_REASON
from drawdown.v1 import authorization_service_pb2, error_reason_pb2, types_pb2
from fake_drawdown import SERVICES


def test_all_is_exactly_the_public_names() -> None:
    public = {
        name
        for name, value in vars(drawdown).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(drawdown.__all__)


def public_methods(client: type) -> dict[str, inspect.Signature]:
    return {name: inspect.signature(value) for name, value in vars(client).items() if name[0] != "_"}


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    asynchronous, synchronous = public_methods(drawdown.AsyncClient), public_methods(drawdown.Client)
    assert list(asynchronous) == list(synchronous)
    for name, signature in asynchronous.items():
        twin = synchronous[name]
        assert signature.parameters == twin.parameters, name
        assert str(signature.return_annotation).replace("Async", "") == str(twin.return_annotation), name
    assert (
        inspect.signature(drawdown.AsyncClient.__init__).parameters
        == inspect.signature(drawdown.Client.__init__).parameters
    )


def test_every_method_takes_keywords_only_and_a_timeout() -> None:
    for name, signature in public_methods(drawdown.AsyncClient).items():
        if name == "close":
            continue
        kinds = {p.kind for key, p in signature.parameters.items() if key != "self"}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}, name
        assert "timeout_s" in signature.parameters, name


def test_both_hold_contexts_have_the_same_methods() -> None:
    asynchronous, synchronous = public_methods(drawdown.AsyncHoldContext), public_methods(drawdown.HoldContext)
    assert {n: s.parameters for n, s in asynchronous.items()} == {n: s.parameters for n, s in synchronous.items()}


def test_no_rpc_of_the_api_is_missing() -> None:
    in_protos = {
        f"/{service.full_name}/{method.name}": method.input_type.full_name
        for service in SERVICES
        for method in service.methods
        if not method.client_streaming  # Session is a way to send the others
    }
    assert {rpc.path: rpc.request_type.DESCRIPTOR.full_name for rpc in _rpcs.ALL} == in_protos
    methods = set(public_methods(drawdown.Client))
    for path in in_protos:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", path.rpartition("/")[2]).lower()
        assert name in methods


def test_error_reasons_are_those_of_the_proto() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert {reason.value for reason in drawdown.ErrorReason} == names - {"UNSPECIFIED"}
    assert set(BY_REASON) < {reason.value for reason in drawdown.ErrorReason}


@pytest.mark.parametrize(
    ("kind", "wrapper", "prefix"),
    [
        (drawdown.Decision, authorization_service_pb2.Decision, "DECISION_"),
        (drawdown.DenialReason, authorization_service_pb2.DenialReason, "DENIAL_REASON_"),
        (drawdown.WalletState, types_pb2.WalletState, "WALLET_STATE_"),
        (drawdown.GrantSource, types_pb2.GrantSource, "GRANT_SOURCE_"),
        (drawdown.HoldState, types_pb2.HoldState, "HOLD_STATE_"),
        (drawdown.OveragePolicy, types_pb2.OveragePolicy, "OVERAGE_POLICY_"),
        (drawdown.ExpiryAction, types_pb2.ExpiryAction, "EXPIRY_ACTION_"),
        (drawdown.EntryKind, types_pb2.EntryKind, "ENTRY_KIND_"),
        (drawdown.CapWindow, types_pb2.CapWindow, "CAP_WINDOW_"),
        (drawdown.CapMode, types_pb2.CapMode, "CAP_MODE_"),
        (drawdown.Scope, types_pb2.Scope, "SCOPE_"),
    ],
)
def test_enums_are_those_of_the_protos(kind: type, wrapper: object, prefix: str) -> None:
    names = {value.name.removeprefix(prefix) for value in wrapper.DESCRIPTOR.values}  # type: ignore[attr-defined]
    assert {member.value for member in kind} == names  # type: ignore[attr-defined]


def test_an_enum_value_newer_than_the_client_is_unspecified() -> None:
    assert _responses._hold_state(99) is drawdown.HoldState.UNSPECIFIED


@pytest.mark.parametrize("decision", [0, 2, 99])
def test_only_a_clear_approval_is_one(decision: int) -> None:
    response = authorization_service_pb2.AuthorizeResponse(hold=types_pb2.Hold(hold_id="a"))
    response.decision = decision  # type: ignore[assignment]
    answer = _responses.authorize(response, "a")
    assert not answer.approved
    assert not answer


def test_an_approval_without_a_hold_is_none() -> None:
    response = authorization_service_pb2.AuthorizeResponse(decision="DECISION_APPROVED")
    assert not _responses.authorize(response, "a").approved


def test_every_code_but_ok_makes_an_error_and_a_denial_is_none() -> None:
    assert grpc.StatusCode.OK not in BY_CODE
    assert not issubclass(drawdown.Denied, drawdown.DrawdownError)


def test_results_are_plain_values_whose_annotations_resolve() -> None:
    assert inspect.get_annotations(drawdown.Hold, eval_str=True)["create_time"]
