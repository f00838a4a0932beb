"""A Drawdown server of canned answers, for tests of the client: real gRPC on a real port, run by threads.

Each RPC answers from a script: messages, ``Failure``s, or functions of the request. The last answer repeats.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

import drawdown
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

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from google.protobuf.descriptor import MethodDescriptor

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (asset_service_pb2, "AssetService"),
        (audit_service_pb2, "AuditService"),
        (authorization_service_pb2, "AuthorizationService"),
        (balance_service_pb2, "BalanceService"),
        (cap_service_pb2, "CapService"),
        (grant_service_pb2, "GrantService"),
        (key_service_pb2, "KeyService"),
        (ledger_service_pb2, "LedgerService"),
        (wallet_service_pb2, "WalletService"),
    )
)

THREADS = 8
WAIT_S = 20.0
"""Longest wait of a test for something that is about to happen."""


@dataclass(frozen=True)
class Failure:
    """A status instead of an answer."""

    code: grpc.StatusCode
    message: str = "it went wrong"
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    retry_delay_ms: int | None = None
    bare: bool = False
    """Without a google.rpc.Status, as a proxy would."""

    def abort(self, context: grpc.ServicerContext) -> NoReturn:
        """Ends the call."""
        if self.bare:
            context.abort(self.code, self.message)
        context.abort_with_status(rpc_status.to_status(self.status()))
        raise AssertionError("abort returns never")

    def status(self) -> status_pb2.Status:
        """As a google.rpc.Status."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        details: list[Message] = []
        if self.reason:
            details.append(
                error_details_pb2.ErrorInfo(
                    reason=f"ERROR_REASON_{self.reason}", domain="drawdown.dev", metadata=self.metadata
                )
            )
        if self.violations:
            bad_request = error_details_pb2.BadRequest()
            for name, rule in self.violations:
                bad_request.field_violations.add(field=name, description=rule)
            details.append(bad_request)
        if self.retry_delay_ms is not None:
            retry_info = error_details_pb2.RetryInfo()
            retry_info.retry_delay.FromMilliseconds(self.retry_delay_ms)
            details.append(retry_info)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status


Answer: TypeAlias = Message | Failure | Callable[[Any], Message | Failure]


@dataclass(frozen=True)
class Call:
    """One call that arrived."""

    rpc: str
    request: Any  # a message: the test knows which
    metadata: dict[str, str | bytes]


class FakeDrawdown:
    """The server; use it with ``with``.

    Args:
        sessions: Whether it knows Session, whose operations are answered from the scripts of their RPCs.
        takes_sessions: Whether a stream gets through to it, and not only as far as a proxy that waits for its end.
    """

    def __init__(self, *, sessions: bool = True, takes_sessions: bool = True) -> None:
        self._takes_sessions = takes_sessions
        self._script: dict[str, list[Answer]] = {}
        self._calls: list[Call] = []
        self._changed = threading.Condition()
        self._streams: list[tuple[threading.Event, SimpleQueue[authorization_service_pb2.SessionResponse | None]]] = []
        """Of each: whether it is muted, and its answers."""
        self._server = grpc.server(ThreadPoolExecutor(THREADS))
        self._workers = ThreadPoolExecutor(THREADS)
        for service in SERVICES:
            handlers = {method.name: self._handler(method) for method in service.methods if not method.client_streaming}
            if "Session" in service.methods_by_name and sessions:
                handlers["Session"] = grpc.stream_stream_rpc_method_handler(
                    self._session,
                    request_deserializer=authorization_service_pb2.SessionRequest.FromString,
                    response_serializer=authorization_service_pb2.SessionResponse.SerializeToString,
                )
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop(grace=None).wait(WAIT_S)
        self._workers.shutdown(wait=False)

    def answer(self, rpc: str, *answers: Answer) -> None:
        """Sets the script of an RPC."""
        self._script[rpc] = list(answers)

    def mute_sessions(self) -> None:
        """From here on nothing comes from the streams that are open now, as from a server that hangs."""
        for muted, _ in self._streams:
            muted.set()

    def end_sessions(self) -> None:
        """The streams that are open now end, without the answers of what is under way on them."""
        for _, answers in self._streams:
            answers.put(None)

    def calls(self, rpc: str) -> list[Call]:
        """The calls of an RPC that arrived so far."""
        with self._changed:
            return [call for call in self._calls if call.rpc == rpc]

    def wait_for(self, rpc: str, count: int = 1) -> list[Call]:
        """The calls of an RPC, as soon as there are ``count``."""
        with self._changed:
            arrived = self._changed.wait_for(
                lambda: sum(call.rpc == rpc for call in self._calls) >= count, timeout=WAIT_S
            )
        assert arrived, f"{rpc} was not called {count} times: {self._calls}"
        return self.calls(rpc)

    def _handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler[Message, Message]:
        def serve(request: Message, context: grpc.ServicerContext) -> Message:
            answer = self._answer(method.name, request, context)
            if isinstance(answer, Failure):
                answer.abort(context)
            return answer

        return grpc.unary_unary_rpc_method_handler(
            serve,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )

    def _answer(self, rpc: str, request: Message, context: grpc.ServicerContext) -> Message | Failure:
        metadata = {pair[0]: pair[1] for pair in context.invocation_metadata()}
        with self._changed:
            self._calls.append(Call(rpc, request, metadata))
            self._changed.notify_all()
            script = self._script.get(rpc, [])
            answer = script.pop(0) if len(script) > 1 else script[0] if script else None
        if answer is None:
            return Failure(grpc.StatusCode.UNIMPLEMENTED, f"the test has no answer for {rpc}")
        return answer(request) if callable(answer) else answer

    def _session(
        self, requests: Iterator[authorization_service_pb2.SessionRequest], context: grpc.ServicerContext
    ) -> Iterator[authorization_service_pb2.SessionResponse]:
        muted = threading.Event()
        answers: SimpleQueue[authorization_service_pb2.SessionResponse | None] = SimpleQueue()
        with self._changed:
            self._streams.append((muted, answers))
            self._calls.append(Call("Session", None, {}))
            self._changed.notify_all()
        if not self._takes_sessions:
            hang(context)
            return
        context.send_initial_metadata(())

        def perform(tagged: authorization_service_pb2.SessionOperation) -> None:
            name = str(tagged.operation.WhichOneof("operation"))
            answer = self._answer(name.capitalize(), getattr(tagged.operation, name), context)
            result = authorization_service_pb2.OperationResult()
            if isinstance(answer, Failure):
                result.error.ParseFromString(answer.status().SerializeToString())
            else:
                getattr(result, name).CopyFrom(answer)
            response = authorization_service_pb2.SessionResponse()
            response.results.add(tag=tagged.tag, result=result)
            answers.put(response)

        def take() -> None:
            with suppress(Exception):  # the client is gone
                wait([self._workers.submit(perform, tagged) for request in requests for tagged in request.operations])
            answers.put(None)

        threading.Thread(target=take, daemon=True).start()
        for answer in iter(answers.get, None):
            if not muted.is_set():
                yield answer
        if muted.is_set():
            hang(context)


def hang(context: grpc.ServicerContext) -> None:
    """Say nothing until the client gives the call up, or the server ends."""
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait()


class Caller:
    """One flavour of client: calls a method by name, or lists what an iterator gives."""

    def __init__(self, flavour: str, target: str) -> None:
        self.flavour = flavour
        self.target = target

    async def __call__(self, method: str, **arguments: Any) -> Any:  # noqa: ANN401 - one test, every method
        if self.flavour == "sync":
            return await asyncio.to_thread(self._call, method, arguments)
        async with drawdown.AsyncClient(self.target, metadata=[("authorization", "Bearer x")]) as client:
            result = getattr(client, method)(**arguments)
            return [item async for item in result] if method.startswith("iter_") else await result

    def _call(self, method: str, arguments: dict[str, object]) -> Any:  # noqa: ANN401
        with drawdown.Client(self.target, metadata=[("authorization", "Bearer x")]) as client:
            result = getattr(client, method)(**arguments)
            return list(result) if method.startswith("iter_") else result


def hold_message(
    amounts: dict[str, int], *, hold_id: str = "req_1", state: str = "HELD", debited: dict[str, int] | None = None
) -> types_pb2.Hold:
    """A hold of the wallet ``demo``."""
    used: dict[str, int] = defaultdict(int, debited or {})
    hold = types_pb2.Hold(wallet_id="demo", hold_id=hold_id, state=f"HOLD_STATE_{state}", hold_token=b"token")
    for asset, units in amounts.items():
        held = units if state == "HELD" else 0
        hold.amounts.add(asset=asset, authorized_units=units, held_units=held, debited_units=used[asset])
    hold.create_time.FromJsonString("2026-01-02T03:04:05Z")
    hold.expire_time.FromJsonString("2026-01-02T03:09:05Z")
    return hold


def approved(amounts: dict[str, int], *, hold_id: str = "req_1") -> authorization_service_pb2.AuthorizeResponse:
    """An approval."""
    response = authorization_service_pb2.AuthorizeResponse(
        decision="DECISION_APPROVED", hold=hold_message(amounts, hold_id=hold_id)
    )
    for asset, units in amounts.items():
        response.balances.add(
            asset=asset, settled_units=units * 25, held_units=units, available_units=units * 24, overdraft_limit_units=0
        )
    return response


def denied(
    reason: str = "INSUFFICIENT_FUNDS", *, asset: str = "USD", required_units: int = 100, available_units: int = 7
) -> authorization_service_pb2.AuthorizeResponse:
    """A denial."""
    return authorization_service_pb2.AuthorizeResponse(
        decision="DECISION_DENIED",
        denial=authorization_service_pb2.Denial(
            reason=f"DENIAL_REASON_{reason}",
            asset=asset,
            required_units=required_units,
            available_units=available_units,
        ),
    )


def committed(amounts: dict[str, int], debited: dict[str, int]) -> authorization_service_pb2.CommitResponse:
    """A settled commit."""
    response = authorization_service_pb2.CommitResponse(
        hold=hold_message(amounts, state="COMMITTED", debited=debited), wallet_sequence=5
    )
    for asset, units in amounts.items():
        response.debited.add(asset=asset, units=debited.get(asset, 0))
        response.released.add(asset=asset, units=units - debited.get(asset, 0))
        response.balances.add(asset=asset, settled_units=10**7, available_units=10**7)
    return response


def released() -> authorization_service_pb2.ReleaseResponse:
    """A release."""
    return authorization_service_pb2.ReleaseResponse(hold=hold_message({}, state="RELEASED"))
