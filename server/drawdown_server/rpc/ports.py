"""The ports on which calls arrive: in plain text, over TLS, over TLS with certificates of the callers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drawdown_server.errors import ConfigurationError

if TYPE_CHECKING:
    import grpc

    from drawdown_server.config import Config
    from drawdown_server.rpc.tls import ServerCertificate


def bind(server: grpc.aio.Server, config: Config, certificate: ServerCertificate | None) -> int:
    """Bind the server's ports; the port of ``grpc_port``, which is a free one for port 0.

    Raises:
        ConfigurationError: A port is taken.
    """
    if config.grpc_certificate_port is None:
        asks = config.tls_client_ca is not None
        return _bind_one(server, config.grpc_host, config.grpc_port, "grpc_port", certificate, asks=asks)
    _bind_one(server, config.grpc_host, config.grpc_certificate_port, "grpc_certificate_port", certificate, asks=True)
    return _bind_one(server, config.grpc_host, config.grpc_port, "grpc_port", certificate, asks=False)


def _bind_one(
    server: grpc.aio.Server, host: str, port: int, setting: str, certificate: ServerCertificate | None, *, asks: bool
) -> int:
    address = f"{host}:{port}"
    try:
        if certificate is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificate.credentials(ask_for_certificates=asks))
    except RuntimeError:
        flag = setting.replace("_", "-")
        raise ConfigurationError(
            f"cannot listen on {address}: the port is taken or the address is not ours. "
            f"Choose another with --{flag} or DRAWDOWN_{setting.upper()}."
        ) from None
