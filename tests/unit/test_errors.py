from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from drawdown.v1 import authorization_service_pb2, error_reason_pb2
from drawdown_server.errors import (
    CODES,
    DrawdownError,
    ErrorReason,
    InvalidRequestError,
    StoreUnavailableError,
    Violation,
)
from drawdown_server.holds.model import DenialReason
from drawdown_server.holds.refusals import ledger_backlog
from drawdown_server.rpc.statuses import BACKLOG_RETRY_DELAY_MS, ERROR_DOMAIN, RETRY_DELAY_MS, status_of

if TYPE_CHECKING:
    from google.protobuf.message import Message

PROTO = Path(__file__).parents[2] / "protos/drawdown/v1/error_reason.proto"


def details(error: DrawdownError) -> dict[str, Message]:
    """The details of its status by type."""
    found: dict[str, Message] = {}
    for packed in status_of(error).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            detail = kind()
            if packed.Unpack(detail):
                found[kind.DESCRIPTOR.name] = detail
    assert len(found) == len(status_of(error).details)
    return found


def documented() -> dict[str, tuple[str, str]]:
    """name -> (sentences, example) of each reason in the proto's comments."""
    text = PROTO.read_text(encoding="utf-8")
    found = {}
    for comment, name in re.findall(r"((?: *//.*\n)+) *(ERROR_REASON_\w+) = \d+;", text):
        lines = [line.strip().removeprefix("//") for line in comment.splitlines()]
        found[name] = (
            " ".join(line.strip() for line in lines if not line.startswith("     ")).strip(),
            "".join(line for line in lines if line.startswith("     ")).strip(),
        )
    return found


def test_the_table_the_enum_and_the_proto_have_the_same_reasons() -> None:
    in_proto = set(error_reason_pb2.ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
    assert in_proto == {reason.value for reason in ErrorReason}
    assert set(CODES) == set(ErrorReason)
    assert all(reason.value == f"ERROR_REASON_{reason.name}" for reason in ErrorReason)


def test_the_denial_reasons_are_those_of_the_proto() -> None:
    in_proto = set(authorization_service_pb2.DenialReason.keys()) - {"DENIAL_REASON_UNSPECIFIED"}
    assert in_proto == {f"DENIAL_REASON_{reason.name}" for reason in DenialReason}


@pytest.mark.parametrize("reason", ErrorReason)
def test_every_reason_is_documented_with_its_code_and_an_example(reason: ErrorReason) -> None:
    sentences, text = documented()[reason.value]
    assert CODES[reason].name in sentences
    example = json.loads(text)
    assert example["reason"] == reason.value
    assert example["domain"] == ERROR_DOMAIN
    assert all(isinstance(value, str) for value in example["metadata"].values())


def test_only_what_may_be_over_soon_and_is_nobodys_fault_is_to_be_retried() -> None:
    retryable = [reason for reason, code in CODES.items() if code is grpc.StatusCode.UNAVAILABLE]
    assert retryable == [ErrorReason.STORE_UNAVAILABLE, ErrorReason.LEDGER_BACKLOG, ErrorReason.OVERLOADED]


def test_a_ledger_that_is_behind_asks_for_more_patience_than_a_store_that_is_down() -> None:
    delays = []
    for error in (StoreUnavailableError("valkey"), ledger_backlog()):
        retry = details(error)["RetryInfo"]
        assert isinstance(retry, error_details_pb2.RetryInfo)
        delays.append(retry.retry_delay.ToMilliseconds())
    assert delays == [RETRY_DELAY_MS, BACKLOG_RETRY_DELAY_MS]


@pytest.mark.parametrize("reason", ErrorReason)
def test_every_status_carries_its_reason(reason: ErrorReason) -> None:
    error = DrawdownError(reason, "what happened", wallet_id="w")
    status = status_of(error)
    assert status.code == code_pb2.Code.Value(CODES[reason].name)
    assert status.message == "what happened"
    info = details(error)["ErrorInfo"]
    assert info == error_details_pb2.ErrorInfo(reason=reason.value, domain=ERROR_DOMAIN, metadata={"wallet_id": "w"})
    assert ("RetryInfo" in details(error)) == (CODES[reason] is grpc.StatusCode.UNAVAILABLE)
    assert "BadRequest" not in details(error)


def test_a_bad_request_lists_every_violation_in_order() -> None:
    error = InvalidRequestError([Violation("b", "must be x"), Violation("a[0]", "must be y")])
    assert details(error)["BadRequest"] == error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field="b", description="must be x"),
            error_details_pb2.BadRequest.FieldViolation(field="a[0]", description="must be y"),
        ]
    )
    assert status_of(error).message == "b must be x; a[0] must be y"


def test_a_store_that_is_down_says_which_and_when_to_try_again() -> None:
    found = details(StoreUnavailableError("valkey"))
    assert isinstance(found["RetryInfo"], error_details_pb2.RetryInfo)
    assert found["RetryInfo"].retry_delay.ToMilliseconds() > 0
    assert found["ErrorInfo"] == error_details_pb2.ErrorInfo(
        reason=ErrorReason.STORE_UNAVAILABLE.value, domain=ERROR_DOMAIN, metadata={"store": "valkey"}
    )
