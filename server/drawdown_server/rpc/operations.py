"""Calls of the data plane that come many to a message: each goes the way of a call of its own, and fails by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.errors import DrawdownError, InvalidRequestError, Violation, request_too_large
from drawdown_server.rpc import wire
from drawdown_server.rpc.statuses import status_of
from drawdown_server.rpc.transport import OPERATION_BYTES_MAX

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from drawdown_server.rpc.authorization import AuthorizationService
    from drawdown_server.rpc.gate import CallContext, Gate, Handle, Metadata

SERVICE: Final = "drawdown.v1.AuthorizationService"
VERBS: Final = {field.name: field.name.capitalize() for field in pb.Operation.DESCRIPTOR.fields}
"""Field of Operation and of OperationResult: the method that it stands for."""
_ERROR: Final = wire.message_key(pb.OperationResult.ERROR_FIELD_NUMBER)


class Verb(NamedTuple):
    """What an operation may be."""

    method: str
    """Full name without the leading slash."""
    handle: Handle[Message, Message]
    key: bytes
    """Of its field in OperationResult."""


class Operations:
    """Runs operations as the calls that they stand for.

    Args:
        service: Does them.
        gate: What every call goes through.
    """

    def __init__(self, service: AuthorizationService, gate: Gate) -> None:
        self._gate = gate
        results = pb.OperationResult.DESCRIPTOR.fields_by_name
        self._verbs = {
            name: Verb(f"{SERVICE}/{method}", getattr(service, method), wire.message_key(results[name].number))
            for name, method in VERBS.items()
        }

    async def perform(
        self, operation: pb.Operation, metadata: Metadata, context: CallContext, time_left_s: float
    ) -> bytes:
        """Run one.

        Args:
            operation: It.
            metadata: With the credential and the trace that it runs under.
            context: Of the call that carries it.
            time_left_s: For how long its caller waits.

        Returns:
            A serialized OperationResult.
        """
        name = operation.WhichOneof("operation")
        if name is None:
            return _failed(InvalidRequestError([Violation("operation", f"must be one of {', '.join(VERBS)}")]))
        verb = self._verbs[name]

        def request() -> Message:
            if operation.ByteSize() > OPERATION_BYTES_MAX:
                raise request_too_large(OPERATION_BYTES_MAX)
            return getattr(operation, name)  # type: ignore[no-any-return]  # of the messages of the oneof

        try:
            answer = await self._gate.run(verb.method, metadata, context, time_left_s, request, verb.handle)
        except DrawdownError as error:
            return _failed(error)
        return wire.message_field(verb.key, answer.SerializeToString())


def wallet_of(operation: pb.Operation) -> str:
    """The wallet that an operation names; empty for one that is nothing."""
    name = operation.WhichOneof("operation")
    return "" if name is None else getattr(operation, name).wallet_id


def _failed(error: DrawdownError) -> bytes:
    """A serialized OperationResult; an OperationError has the bytes of a google.rpc.Status."""
    return wire.message_field(_ERROR, status_of(error).SerializeToString())
