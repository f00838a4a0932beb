"""From a client certificate to its caller: the names in it, looked up in a file that operators write.

    [[caller]]
    san = "spiffe://example.org/ns/gateway/sa/edge"    # a URI, as it stands in the certificate
    tenant = "acme"
    scopes = ["authorize", "read"]

    [[caller]]
    san = "spiffe://example.org/ns/billing/*"          # every URI below that path
    tenant = "acme"
    scopes = ["funds"]

    [[caller]]
    san = "console.acme.internal"                      # a DNS name, whole
    tenant = "acme"
    scopes = ["read", "wallets"]

A whole URI comes before a path, a longer path before a shorter one. Only the names for programs count: URIs and DNS
names of the subject's alternative names. The common name does not, because whoever signs certificates for people writes
what they like into it. A certificate whose names lead to different callers names nobody. The transport has checked by
then that the certificate is signed by one of ``tls_client_ca``, and valid.

The file is looked at every ``LOOK_S`` and taken when it changed and has no mistake, so that a caller that was taken out
of it is refused within that time, also on a connection that stands.
"""

from __future__ import annotations

import asyncio
import re
import tomllib
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import structlog

from drawdown_server.errors import ConfigurationError
from drawdown_server.identity.caller import Caller
from drawdown_server.identity.scopes import Scope  # noqa: TC001  # msgspec needs the type at run time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from drawdown_server.identity.credentials import Peer

log = structlog.get_logger(__name__)

LOOK_S: Final = 2.0
"""Pause between looks at the file: a caller that is taken out must not call for longer than a revoked key, 5 s."""
FILE_BYTES_MAX: Final = 1_000_000
"""Some ten thousand callers; a larger file is a mistake."""
KNOWN_MAX: Final = 10_000
"""Certificates whose caller is remembered. A certificate more costs a few microseconds, not memory."""
URI_CHARS_MAX: Final = 2_048
"""Of a SPIFFE id. A longer name would not fit into the index of the audit log."""
URI: Final = "peer_uri"
DNS: Final = "peer_dns"
"""How gRPC calls the names in a certificate."""

_URI_FORM: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#*]+(/[^\s?#*]*)?")
_DNS_FORM: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(\.(?!-)[a-z0-9-]{1,63})*\.?")
_ADDRESS_FORM: Final = re.compile(r"[0-9.]+")
_TENANT_FORM: Final = re.compile(r"[A-Za-z0-9._:@/-]{1,128}")
_ODD_PATH: Final = re.compile(r"%|//|/\.\.?(/|$)")
"""What SPIFFE forbids in a path, and what could mean another path than it says."""

Names: TypeAlias = "tuple[tuple[bytes, ...], tuple[bytes, ...]]"
"""URIs and DNS names."""


class CallerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One caller of the file."""

    san: str
    tenant: str
    scopes: frozenset[Scope]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    caller: list[CallerEntry]


class CallerTable:
    """Who is who.

    Raises:
        ValueError: An entry breaks a rule; the message says which and how.
    """

    def __init__(self, entries: Sequence[CallerEntry]) -> None:
        self._uris: dict[str, CallerEntry] = {}
        self._paths: dict[str, CallerEntry] = {}
        self._dns: dict[str, CallerEntry] = {}
        for number, entry in enumerate(entries, 1):
            try:
                self._add(entry)
            except ValueError as error:
                raise ValueError(f"caller {number} ({entry.san}): {error}") from None
        self._lengths = sorted({len(path) for path in self._paths}, reverse=True)

    def _add(self, entry: CallerEntry) -> None:
        if not _TENANT_FORM.fullmatch(entry.tenant):
            raise ValueError("tenant must be 1-128 of [A-Za-z0-9._:@/-]")
        if not entry.scopes:
            raise ValueError("scopes must name at least one")
        name = entry.san
        if "://" in name:
            is_path = name.endswith("/*")
            table, key = (self._paths, name.removesuffix("*")) if is_path else (self._uris, name)
            if not _URI_FORM.fullmatch(key):
                raise ValueError("san must be a whole URI, or a path of one that ends with /*")
        else:
            table, key = self._dns, name.lower().removesuffix(".")
            if not _DNS_FORM.fullmatch(key) or _ADDRESS_FORM.fullmatch(key):
                raise ValueError("san must be a URI or a whole DNS name, no address and no wildcard")
        if key in table:
            raise ValueError("san is there twice")
        table[key] = entry

    def caller(self, names: Names) -> Caller | None:
        """The caller that these names lead to; None when they lead to none, or to several."""
        uris, dns = names
        found: dict[tuple[str, frozenset[Scope]], str] = {}
        for name, entry in (
            *((uri, self._of_uri(uri)) for uri in map(_text, uris)),
            *((host, self._dns.get(host.lower().removesuffix("."))) for host in map(_text, dns)),
        ):
            if entry is not None:
                found.setdefault((entry.tenant, entry.scopes), name)
        if len(found) != 1:
            return None
        ((tenant_id, scopes), name), *_ = found.items()
        return Caller(tenant_id, f"certificate:{name}", scopes)

    def _of_uri(self, uri: str) -> CallerEntry | None:
        if len(uri) > URI_CHARS_MAX:
            return None
        whole = self._uris.get(uri)
        if whole is not None or _ODD_PATH.search(uri.partition("://")[2]):
            return whole
        for length in self._lengths:
            entry = self._paths.get(uri[:length]) if len(uri) > length else None
            if entry is not None:
                return entry
        return None


class MappedCertificates:
    """Who calls, by the certificate of the connection.

    Args:
        file: The callers.

    Raises:
        ConfigurationError: The file cannot be read, or has a mistake.
    """

    def __init__(self, file: Path) -> None:
        self._path = file
        self._content = _read(file)
        self._table = _parse(file, self._content)
        self._known: dict[Names, Caller | None] = {}
        self.reloads_total = 0
        """Times that another file was taken."""
        self.failures_total = 0
        """Times that another file had a mistake."""
        self._refused: str = ""

    def caller_of(self, peer: Peer) -> Caller | None:
        """The caller that the certificate names; None without a certificate, or with one that names nobody."""
        told = peer.auth_context()
        names = (tuple(told.get(URI, ())), tuple(told.get(DNS, ())))
        try:
            return self._known[names]
        except KeyError:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            caller = self._known[names] = self._table.caller(names)
            return caller

    async def run(self, stop: asyncio.Event) -> None:
        """Look at the file until told to stop."""
        while not stop.is_set():
            self.run_once()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)

    def run_once(self) -> None:
        """Take the file if it changed. One with a mistake is told once, and the callers before it stay."""
        try:
            content = _read(self._path)
            if content == self._content:
                self._refused = ""
                return
            table = _parse(self._path, content)
        except ConfigurationError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                self.failures_total += 1
                log.error(  # noqa: TRY400  # a sentence, not a fault of ours
                    "certificate_callers.not_reloaded", problem=self._refused, kept="the callers that were known"
                )
            return
        self._content, self._table, self._refused = content, table, ""
        self._known.clear()
        self.reloads_total += 1
        log.info("certificate_callers.reloaded")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"certificate_callers: {file} cannot be read: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise ConfigurationError(f"certificate_callers: {file} is larger than {FILE_BYTES_MAX} bytes")
    return content


def _parse(file: Path, content: bytes) -> CallerTable:
    try:
        decoded = msgspec.convert(tomllib.loads(content.decode()), type=_File)
        return CallerTable(decoded.caller)
    except (ValueError, msgspec.MsgspecError) as error:  # TOML's and UTF-8's errors are ValueErrors
        raise ConfigurationError(f"certificate_callers: {file}: {error}") from None


def _text(name: bytes) -> str:
    """A name as text; what is no ASCII matches nothing."""
    return name.decode("ascii", "replace")
