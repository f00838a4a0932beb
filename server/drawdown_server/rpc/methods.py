"""The methods of our services by name, as gRPC looks for them.

In place of gRPC's interceptors, which make a handler anew for every call: a handler is wrapped once, and found in one
dictionary, whatever its service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drawdown_server.rpc.gate import Gate

    Handler = grpc.RpcMethodHandler[object, object]


class Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    """Methods behind a gate.

    It takes the place of a server where generated code adds a servicer to one.

    Args:
        gate: Every call of them goes through it.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._handlers: dict[str, Handler] = {}

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Generated code's: the methods of a service."""
        for name, handler in method_handlers.items():
            self._handlers[f"/{service_name}/{name}"] = self._gate.wrap(f"{service_name}/{name}", handler)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: object) -> None:
        """Generated code's: the same methods, for servers that know no registered ones."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """GRPC's: the handler of a method; None when it is none of these."""
        return self._handlers.get(handler_call_details.method)


class UnknownMethods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    """Asked for a method that nobody else has: it only counts the call, and gRPC answers.

    Args:
        gate: Hears of it.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
        """GRPC's: no handler."""
        self._gate.unknown_method()
