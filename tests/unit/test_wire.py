"""Fields that are put together by hand are those that protobuf makes."""

from __future__ import annotations

import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.rpc import wire


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 16_383, 16_384, 300_000])
def test_a_message_in_a_message(size: int) -> None:
    error = pb.OperationError(message="x" * size)
    made = wire.message_field(wire.message_key(pb.OperationResult.ERROR_FIELD_NUMBER), error.SerializeToString())
    assert made == pb.OperationResult(error=error).SerializeToString()


@pytest.mark.parametrize("tag", [1, 127, 128, 2**32, 2**63, 2**64 - 1])
def test_a_number(tag: int) -> None:
    made = wire.number_field(wire.number_key(pb.SessionResult.TAG_FIELD_NUMBER), tag)
    assert made == pb.SessionResult(tag=tag).SerializeToString()
