"""The server's certificate: read from files, and read again when they change, without a restart.

gRPC asks for the certificate at every handshake, from threads of its own. A look at the files (a stat each) tells
whether they changed; by their identity too, because Kubernetes swaps a secret by turning a symlink. What has changed
is read whole and checked before it is used: a pair that does not fit together, is half written or has expired is not
served, the one before it stays, and an error in the log and a metric say so. Connections that stand are not touched.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from drawdown_server.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from drawdown_server.config import Config

log = structlog.get_logger(__name__)

Stamp: TypeAlias = "tuple[tuple[int, int, int, int] | None, ...]"
"""Which files these are, and as of when; None for one that is not there."""

READS_MAX: Final = 3
"""Files that change while they are read are read again; ever changing ones wait for the next handshake."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a handshake needs."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    expire_s: float
    """When the first certificate of the chain expires, since the Unix epoch."""


class ServerCertificate:
    """The certificate in force, its key, and whom the server trusts to sign the certificates of callers.

    Args:
        certificate: PEM file: the server's certificate, then those between it and its root.
        key: PEM file: its private key, not encrypted.
        client_ca: PEM file: roots of the callers' certificates; None: callers are not asked for one.

    Raises:
        ConfigurationError: A file cannot be read or used; the message names its setting.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._files = {"tls_certificate": certificate, "tls_key": key}
        if client_ca is not None:
            self._files["tls_client_ca"] = client_ca
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._pair = self._read()
        self.reloads_total = 0
        """Times that other files were taken."""
        self.failures_total = 0
        """Times that other files could not be used."""

    @property
    def expire_s(self) -> float:
        """When the certificate in force expires, since the Unix epoch."""
        return self._pair.expire_s

    def credentials(self, *, ask_for_certificates: bool) -> grpc.ServerCredentials:
        """For a port: TLS 1.2 or newer, always with the newest certificate.

        Args:
            ask_for_certificates: Whether a caller must bring a certificate of ``client_ca``. A handshake without one
                fails; gRPC for Python knows no port on which it is optional.
        """
        given = self._pair

        def newest() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            self.refresh()
            if self._pair is given:
                return None
            given = self._pair
            return _configuration(given)

        # Its stub knows no None, which is how gRPC hears that nothing changed.
        fetcher = cast("Callable[[], grpc.ServerCertificateConfiguration]", newest)
        return grpc.dynamic_ssl_server_credentials(_configuration(given), fetcher, ask_for_certificates)

    def refresh(self) -> None:
        """Look whether the files changed, and take them if they can be used."""
        with self._lock:
            for _ in range(READS_MAX):
                stamp = self._stamp()
                if stamp == self._seen:
                    return
                try:
                    pair, problem = self._read(), ""
                except ConfigurationError as error:
                    pair, problem = self._pair, str(error)
                if self._stamp() == stamp:  # else what was read is of two generations
                    self._seen = stamp
                    self._take(pair, problem)
                    return

    def _take(self, pair: Pair, problem: str) -> None:
        if problem:
            self.failures_total += 1
            log.error("tls.not_reloaded", problem=problem, kept="the certificate that was in force before")
        elif pair != self._pair:  # the same content under another name is no news
            self._pair = pair
            self.reloads_total += 1
            log.info("tls.reloaded", expire_s=pair.expire_s)

    def _stamp(self) -> Stamp:
        stamps: list[tuple[int, int, int, int] | None] = []
        for file in self._files.values():
            try:
                stat = file.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(stamps)

    def _read(self) -> Pair:
        """Read and check all files."""
        texts = {}
        for setting, file in self._files.items():
            try:
                texts[setting] = file.read_bytes()
            except OSError as error:
                raise ConfigurationError(f"{setting}: {file} cannot be read: {error.strerror}") from None
        return checked_pair(texts["tls_certificate"], texts["tls_key"], texts.get("tls_client_ca"))


def open_certificate(config: Config) -> ServerCertificate | None:
    """The certificate of these settings; None when there is none, and calls come in plain text.

    Raises:
        ConfigurationError: A file cannot be read or used; the message names its setting.
    """
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return ServerCertificate(config.tls_certificate, config.tls_key, config.tls_client_ca)


def checked_pair(certificate: bytes, key: bytes, client_ca: bytes | None) -> Pair:
    """A certificate and its key that fit together, and are valid by now.

    Raises:
        ConfigurationError: With the setting that must be put right, and nothing of the key.
    """
    chain = _certificates("tls_certificate", certificate)
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        raise ConfigurationError("tls_key: is encrypted; the server has no password for it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError("tls_key: has no private key in PEM") from None
    try:
        public = _spki(chain[0].public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError("tls_certificate: its key is of a kind that is not known here") from None
    if _spki(private.public_key()) != public:
        raise ConfigurationError("tls_key: is not the key of tls_certificate's first certificate")
    expire = chain[0].not_valid_after_utc
    if expire <= datetime.now(UTC):
        raise ConfigurationError(f"tls_certificate: expired at {expire:%Y-%m-%dT%H:%M:%SZ}")
    if client_ca is not None:
        _certificates("tls_client_ca", client_ca)
    return Pair(certificate, key, client_ca, expire.timestamp())


def _certificates(setting: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigurationError(f"{setting}: has no certificate in PEM, or one that is broken") from None


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], root_certificates=pair.client_ca)
