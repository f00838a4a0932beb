"""Every setting, from the environment (``DRAWDOWN_...``) or from flags of the command line.

Each default starts on a laptop. ``drawdown-server check-config`` prints what is in force, with secrets masked.
"""

from __future__ import annotations

import re
from base64 import b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003  # pydantic needs the type at run time
from secrets import token_bytes, token_hex
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

PARTITIONS_DEFAULT: Final = 64
"""Enough to spread over the primaries of a large cluster, few enough that each outbox is worth a read."""
PARTITIONS_MAX: Final = 1024
"""Each costs one stream read per flusher cycle and one look per sweep."""
WORKERS_MAX: Final = 64
"""Each has connections of its own to both stores; larger machines run several servers."""
OUTBOX_BACKLOG_LIMIT_DEFAULT: Final = 100_000
"""An event takes about 250 bytes of Valkey's memory: 25 MB per partition, 1.6 GB if all of 64 were full."""
CONNECTIONS_MAX_DEFAULT: Final = 1_000
"""Each is a file descriptor, of which a process often has 1,024, and clients need only one for all their calls."""
CALLS_MAX_DEFAULT: Final = 4_000
"""2,000 may wait for the ledger and do no harm; 2,000 more that work take half a second of a busy process, after which
a gateway's user would not wait for the answer any more."""
RECONCILE_INTERVAL_S_DEFAULT: Final = 86_400
"""Every entry of every wallet is read once in that time: a day is soon enough for what should never differ."""
API_KEY_STALE_MAX_S_DEFAULT: Final = 3_600
"""Holds go on without Postgres, so keys do. An hour is an outage that is mended; who lost it for longer may be cut off
from revocations on purpose."""
KEY_BYTES_MIN: Final = 32
"""As long as the digest: less would be the weakest part of an HMAC-SHA256."""
MASK: Final = "***"
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_PASSWORD_BEFORE_HOST: Final = re.compile(r"(://[^/?#:@]*:).*(?=@)")
_PASSWORD_IN_QUERY: Final = re.compile(r"([?&]\w*password=)[^&#]*", re.IGNORECASE)


def _none_if_empty(value: object) -> object:
    """An empty variable is one that is not set, and so is what ``check-config`` prints for it."""
    return None if value in ("", "None") else value


class Config(BaseSettings):
    """The server's settings."""

    model_config = SettingsConfigDict(env_prefix="DRAWDOWN_", frozen=True, extra="ignore", hide_input_in_errors=True)

    valkey_url: Annotated[
        str,
        Field(
            description="redis:// rediss:// or unix:// URL of Valkey >= 8 or Redis >= 7; of a Cluster, with the "
            "addresses of some nodes: redis://a:6379,b:6379/0"
        ),
    ] = "redis://127.0.0.1:6379/0"
    postgres_url: Annotated[str, Field(description="postgresql:// URL of the ledger's database")] = (
        "postgresql://127.0.0.1:5432/drawdown"
    )
    grpc_host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    grpc_port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 50051
    tls_certificate: Annotated[
        Path | None,
        BeforeValidator(_none_if_empty),
        Field(description="PEM file of the server's certificate and its chain; empty: calls come in plain text"),
    ] = None
    tls_key: Annotated[
        Path | None,
        BeforeValidator(_none_if_empty),
        Field(description="PEM file of its private key", validate_default=True),
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        BeforeValidator(_none_if_empty),
        Field(description="PEM file of roots: callers must bring a certificate that one of them signed"),
    ] = None
    grpc_certificate_port: Annotated[
        Annotated[int, Field(ge=0, le=65535)] | None,
        BeforeValidator(_none_if_empty),
        Field(description="port on which callers must bring a certificate; grpc_port then takes those without one"),
    ] = None
    tenant: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9._:@/-]{1,128}$", description="tenant of every call with identity none"),
    ] = "default"
    identity: Annotated[
        Literal["none", "keys", "certificates", "either"],
        Field(description="who may call: everybody, who brings an API key, who brings a certificate, or either"),
    ] = "none"
    certificate_callers: Annotated[
        Path | None,
        BeforeValidator(_none_if_empty),
        Field(description="TOML file: tenant and scopes by the names in callers' certificates"),
    ] = None
    api_key_pepper: Annotated[
        str,
        Field(
            repr=False,
            description="id:secret[,id:secret...] of `new-token-key`: with the first new API keys are stored, with all "
            "they are checked",
        ),
    ] = ""
    api_key_stale_max_s: Annotated[
        int,
        Field(ge=10, le=604_800, description="how long known API keys work while Postgres tells of no revocation"),
    ] = API_KEY_STALE_MAX_S_DEFAULT
    insecure_network: Annotated[
        bool, Field(description="serve beyond this machine although without identity or without TLS")
    ] = False
    partitions: Annotated[
        int, Field(ge=1, le=PARTITIONS_MAX, description="number of partitions; fixed for the life of an installation")
    ] = PARTITIONS_DEFAULT

    reflection: Annotated[bool, Field(description="serve gRPC reflection (for grpcurl); off in production")] = False
    flusher: Annotated[bool, Field(description="run the flusher inside serve; off when `flush` runs beside it")] = True

    valkey_timeout_ms: Annotated[
        int, Field(ge=1, le=60_000, description="a script takes < 1 ms; past this the store is down for a call")
    ] = 2_000
    valkey_in_flight_max: Annotated[
        int, Field(ge=1, le=1_000_000, description="calls in flight to Valkey per process; more wait, but not Commits")
    ] = 4_096
    postgres_connections_max: Annotated[int, Field(ge=2, le=1_000, description="Postgres connections per process")] = 8
    postgres_timeout_ms: Annotated[int, Field(ge=1, le=600_000, description="longest wait for one statement")] = 10_000
    loads_max: Annotated[int, Field(ge=1, le=10_000, description="wallets loaded from Postgres at once")] = 128
    unknown_wallet_ttl_ms: Annotated[
        int, Field(ge=0, le=60_000, description="how long an unknown wallet is remembered as unknown")
    ] = 1_000

    calls_max: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="calls in flight per process; more are refused, a quarter of it is for those that settle",
        ),
    ] = CALLS_MAX_DEFAULT
    connections_max: Annotated[
        int, Field(ge=1, le=1_000_000, description="connections per process; more are closed at once")
    ] = CONNECTIONS_MAX_DEFAULT
    caller_calls_per_s: Annotated[
        int,
        Field(ge=0, le=10_000_000, description="calls per second of one credential, per process; 0: no limit"),
    ] = 0

    ttl_default_ms: Annotated[int, Field(ge=1_000, le=86_400_000, description="ttl of a hold without one")] = 300_000
    open_holds_max: Annotated[int, Field(ge=1, le=1_000_000, description="open holds per wallet")] = 10_000
    tombstone_ms: Annotated[
        int, Field(ge=1_000, le=86_400_000, description="how long a settled hold is remembered in Valkey")
    ] = 900_000
    outbox_backlog_limit: Annotated[
        int,
        Field(
            ge=0,
            le=10_000_000,
            description="events per partition that may wait for Postgres; past this new Authorizes and Charges answer "
            "UNAVAILABLE, everything else works; 0: never",
        ),
    ] = OUTBOX_BACKLOG_LIMIT_DEFAULT
    evict_idle_s: Annotated[
        int,
        Field(
            ge=0,
            le=31_536_000,
            description="wallets nobody used for so long leave Valkey; a day, so that today's are there; 0: never",
        ),
    ] = 86_400
    evict_interval_ms: Annotated[
        int, Field(ge=10, le=3_600_000, description="pause between looks at 10,000 keys for idle wallets")
    ] = 10_000
    hold_token_keys: Annotated[
        str,
        Field(
            repr=False,
            description="id:secret[,id:secret...] of `new-token-key`: the first signs hold tokens, all verify them",
        ),
    ] = ""
    sweep_interval_ms: Annotated[int, Field(ge=10, le=60_000, description="pause between sweeps of due holds")] = 500

    flush_batch_max: Annotated[int, Field(ge=1, le=100_000, description="events per Postgres transaction")] = 2_000
    flush_block_ms: Annotated[int, Field(ge=1, le=60_000, description="longest wait for new events")] = 500
    flush_linger_ms: Annotated[
        int, Field(ge=0, le=10_000, description="least time between two transactions, so that batches form under load")
    ] = 10
    lease_ttl_ms: Annotated[
        int, Field(ge=500, le=600_000, description="how long a flusher that went silent keeps its partitions")
    ] = 5_000

    reconcile_interval_s: Annotated[
        int,
        Field(
            ge=0,
            le=31_536_000,
            description="least time between two comparisons of all wallets with the ledger in the background; 0: never",
        ),
    ] = RECONCILE_INTERVAL_S_DEFAULT

    workers: Annotated[
        int,
        Field(
            ge=1,
            le=WORKERS_MAX,
            description="processes that serve the port, about one per core; a dead one is restarted, SIGHUP restarts "
            "all in turn; 1: this process itself",
        ),
    ] = 1
    connection_age_s: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            description="then a client is told to connect anew, so that load spreads over workers, and servers that "
            "came later; 0: never",
        ),
    ] = 300
    drain_grace_s: Annotated[
        float, Field(ge=0, le=600, description="how long calls in flight may take at shutdown")
    ] = 20
    drain_delay_s: Annotated[
        float, Field(ge=0, le=120, description="wait after NOT_SERVING, so that clients and load balancers notice")
    ] = 0.5
    admin_host: Annotated[str, Field(description="address of the admin port; it has no credentials")] = "127.0.0.1"
    admin_port: Annotated[
        Annotated[int, Field(ge=0, le=65535)] | None,
        BeforeValidator(_none_if_empty),
        Field(
            description="port of /metrics, /healthz, /readyz; 0 takes a free one, empty: none; each worker has the next"
        ),
    ] = None
    trace_sample_ratio: Annotated[
        float, Field(ge=0, le=1, description="share of the calls without a traceparent that are traced")
    ] = 0.01
    log_sample_ratio: Annotated[
        float, Field(ge=0, le=1, description="share of the data plane's successful calls that are logged")
    ] = 0.01
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="least level logged")] = "INFO"
    log_format: Annotated[Literal["json", "console"], Field(description="how log lines are written")] = "json"

    @field_validator("tls_key")
    @classmethod
    def _check_key(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_certificate") is None):
            raise ValueError("a certificate and its key go together: set tls_certificate and tls_key")
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _check_client_ca(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_certificate") is None:
            raise ValueError("callers can bring a certificate over TLS only: set tls_certificate and tls_key")
        return value

    @field_validator("grpc_certificate_port")
    @classmethod
    def _check_certificate_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("tls_client_ca") is None:
            raise ValueError("needs tls_client_ca: who signs the certificates of callers")
        if value and value == info.data.get("grpc_port"):
            raise ValueError("must be another port than grpc_port")
        return value

    @field_validator("hold_token_keys", "api_key_pepper")
    @classmethod
    def _check_token_keys(cls, value: str) -> str:
        token_secrets(value)
        return value

    @classmethod
    def from_flags(cls, arguments: list[str], *, program: str) -> Self:
        """The settings from flags (``--grpc-port 50052``) and, for the rest, from the environment.

        Exits with a usage message on an unknown flag, and with the list of settings on ``--help``.

        Raises:
            pydantic.ValidationError: A value breaks its rule.
        """
        source: CliSettingsSource[Self] = CliSettingsSource(
            cls,
            cli_parse_args=arguments,
            cli_prog_name=program,
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_hide_none_type=True,
            cli_avoid_json=True,
        )
        return cls(_cli_settings_source=source)  # type: ignore[call-arg]  # of BaseSettings, which its plugin hides

    def masked(self) -> dict[str, str]:
        """Every setting as text, passwords inside URLs and the secrets of keys masked."""
        values = {name: str(value) for name, value in self.model_dump().items()}
        for name in ("valkey_url", "postgres_url"):
            values[name] = mask_url(values[name])
        values["hold_token_keys"] = _mask_secrets(self.hold_token_keys) or "none: holds are not signed"
        values["api_key_pepper"] = _mask_secrets(self.api_key_pepper) or "none"
        return values


def token_secrets(text: str) -> dict[str, bytes]:
    """The keys of hold tokens, or the peppers of API keys, in their order: secrets by id.

    Raises:
        ValueError: The text breaks a rule. The message says which, and nothing of the secrets.
    """
    secrets: dict[str, bytes] = {}
    for key in text.split(",") if text else ():
        key_id, colon, secret = key.strip().partition(":")
        if not (colon and _KEY_ID.fullmatch(key_id)):
            raise ValueError("must be id:secret[,id:secret...], each id 1-32 of [A-Za-z0-9_-]")
        if key_id in secrets:
            raise ValueError(f"names the key {key_id} twice")
        try:
            decoded = b64decode(secret, altchars=b"-_", validate=True)
        except ValueError:
            decoded = b""
        if len(decoded) < KEY_BYTES_MIN:
            raise ValueError(f"the secret of {key_id} must be base64 (URL-safe) of at least {KEY_BYTES_MIN} bytes")
        secrets[key_id] = decoded
    return secrets


def _mask_secrets(text: str) -> str:
    return ",".join(f"{key_id}:{MASK}" for key_id in token_secrets(text))


def new_token_key() -> str:
    """A new key for hold tokens, or a new pepper, its id the day it was made."""
    return f"{datetime.now(UTC):%Y%m%d}-{token_hex(2)}:{urlsafe_b64encode(token_bytes(KEY_BYTES_MIN)).decode()}"


def mask_url(url: str) -> str:
    """The URL with its password, if any, masked: the one before the host, and one among the parameters."""
    for pattern in (_PASSWORD_BEFORE_HOST, _PASSWORD_IN_QUERY):
        url = pattern.sub(rf"\1{MASK}", url)
    return url
