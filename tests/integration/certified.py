"""A server that knows its callers by their certificates, and an authority that signs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc

from certificates import Authority, Issued
from integration.credentials import with_keys

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config

CA: Final = Authority()
EDGE: Final = "spiffe://test/edge"
CONSOLE: Final = "console.test.internal"
CALLERS: Final = f"""
[[caller]]
san = "{EDGE}"
tenant = "default"
scopes = ["authorize"]

[[caller]]
san = "{CONSOLE}"
tenant = "default"
scopes = ["authorize"]

[[caller]]
san = "spiffe://test/others/*"
tenant = "another"
scopes = ["authorize"]
"""


def trusting(own: Issued | None = None) -> grpc.ChannelCredentials:
    """Credentials of a caller."""
    own_files = (None, None) if own is None else (own.key, own.certificate)
    return grpc.ssl_channel_credentials(CA.pem, *own_files)


def with_certificates(config: Config, directory: Path, identity: str) -> Config:
    """Settings of a server that has a certificate, and asks for those of its callers."""
    certificate, key = CA.issue().write(directory, "server")
    (directory / "ca.crt").write_bytes(CA.pem)
    (directory / "callers.toml").write_text(CALLERS)
    update = {
        "identity": identity,
        "tls_certificate": certificate,
        "tls_key": key,
        "tls_client_ca": directory / "ca.crt",
        "certificate_callers": directory / "callers.toml",
    }
    return with_keys(config).model_copy(update=update)
