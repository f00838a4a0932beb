"""What it costs to know a caller by its certificate, per call, on a real connection.

The loop runs inside a call, so nothing of the call itself is in it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import grpc

sys.path.insert(0, str(Path(__file__).parents[1]))

from certificates import Authority
from drawdown_server.identity.certificates import MappedCertificates

ROUNDS: Final = 21
CALLS: Final = 2_000
CALLERS: Final = '[[caller]]\nsan = "spiffe://bench/gateways/*"\ntenant = "acme"\nscopes = ["authorize"]\n'


class Measuring(grpc.GenericRpcHandler):
    """Answers any method with the microseconds that one look at the caller takes, the best of ``ROUNDS``."""

    def __init__(self, callers: MappedCertificates) -> None:
        self._callers = callers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:  # noqa: ARG002
        return grpc.unary_unary_rpc_method_handler(self._measure)

    async def _measure(self, _request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        assert self._callers.caller_of(context) is not None
        found = []
        for look in (context.auth_context, lambda: self._callers.caller_of(context)):
            rounds = []
            for _ in range(ROUNDS):
                since = time.perf_counter()
                for _ in range(CALLS):
                    look()
                rounds.append((time.perf_counter() - since) / CALLS * 1e6)
            found.append(min(rounds))
        return b"%.2f %.2f" % tuple(found)


async def main() -> None:
    """Print the table."""
    ca = Authority()
    own, other = ca.issue(), ca.issue_spiffe("spiffe://bench/gateways/1")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "callers.toml"
        file.write_text(CALLERS)
        server = grpc.aio.server(handlers=[Measuring(MappedCertificates(file))])
        credentials = grpc.ssl_server_credentials([(own.key, own.certificate)], ca.pem, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        channel_credentials = grpc.ssl_channel_credentials(ca.pem, other.key, other.certificate)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", channel_credentials) as channel:
            answer = await channel.unary_unary("/bench/Measure")(b"")
        await server.stop(None)
    transport, whole = answer.decode().split()
    print("what                                            us per call")  # noqa: T201
    print(f"what gRPC knows of the peer, from its transport {transport:>11}")  # noqa: T201
    print(f"the caller, that included                       {whole:>11}")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
