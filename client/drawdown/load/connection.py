"""How the processes of a run reach the server: what a client is made from, in a form that other processes can take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import drawdown

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The arguments of ``drawdown.tls_credentials``: gRPC's own credentials cannot leave their process."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """The arguments of ``AsyncClient``."""

    target: str
    timeout_s: float
    tls: TlsFiles | None = None
    """None means plaintext."""
    api_key: str | None = field(default=None, repr=False)
    plaintext_api_key: bool = False

    def open(self) -> drawdown.AsyncClient:
        """A client; it connects with its first call.

        Raises:
            OSError: A file of TLS cannot be read.
            ValueError: A setting is out of range.
        """
        tls = self.tls
        credentials = None
        if tls is not None:
            credentials = drawdown.tls_credentials(tls.ca, certificate=tls.certificate, key=tls.key)
        return drawdown.AsyncClient(
            self.target,
            timeout_s=self.timeout_s,
            credentials=credentials,
            api_key=self.api_key,
            plaintext_api_key=self.plaintext_api_key,
        )
