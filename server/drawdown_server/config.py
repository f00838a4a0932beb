"""Every setting, from the environment (``DRAWDOWN_...``) or from flags of the command line.

Each default starts on a laptop. ``drawdown-server check-config`` prints what is in force, with secrets masked.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

PARTITIONS_DEFAULT: Final = 64
"""Enough to spread over the primaries of a large cluster, few enough that each outbox is worth a read."""
PARTITIONS_MAX: Final = 1024
"""Each costs one stream read per flusher cycle and one look per sweep."""
OUTBOX_BACKLOG_LIMIT_DEFAULT: Final = 100_000
"""An event takes about 250 bytes of Valkey's memory: 25 MB per partition, 1.6 GB if all of 64 were full."""
RECONCILE_INTERVAL_S_DEFAULT: Final = 86_400
"""Every entry of every wallet is read once in that time: a day is soon enough for what should never differ."""
MASK: Final = "***"
_PASSWORD_BEFORE_HOST: Final = re.compile(r"(://[^/?#:@]*:).*(?=@)")
_PASSWORD_IN_QUERY: Final = re.compile(r"([?&]password=)[^&#]*", re.IGNORECASE)


def _none_if_empty(value: object) -> object:
    """An empty variable is one that is not set, and so is what ``check-config`` prints for it."""
    return None if value in ("", "None") else value


class Config(BaseSettings):
    """The server's settings."""

    model_config = SettingsConfigDict(env_prefix="DRAWDOWN_", frozen=True, extra="ignore")

    valkey_url: Annotated[str, Field(description="redis:// rediss:// or unix:// URL of Valkey >= 8 or Redis >= 7")] = (
        "redis://127.0.0.1:6379/0"
    )
    postgres_url: Annotated[str, Field(description="postgresql:// URL of the ledger's database")] = (
        "postgresql://127.0.0.1:5432/drawdown"
    )
    grpc_host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    grpc_port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 50051
    tenant: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9._:@/-]{1,128}$", description="tenant of every call until identity is configured"),
    ] = "default"
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
        Field(description="port of /metrics, /healthz, /readyz; 0 takes a free one, empty: none"),
    ] = None
    trace_sample_ratio: Annotated[
        float, Field(ge=0, le=1, description="share of the calls without a traceparent that are traced")
    ] = 0.01
    log_sample_ratio: Annotated[
        float, Field(ge=0, le=1, description="share of the data plane's successful calls that are logged")
    ] = 0.01
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="least level logged")] = "INFO"
    log_format: Annotated[Literal["json", "console"], Field(description="how log lines are written")] = "json"

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
        """Every setting as text, passwords inside URLs masked."""
        values = {name: str(value) for name, value in self.model_dump().items()}
        for name in ("valkey_url", "postgres_url"):
            values[name] = mask_url(values[name])
        return values


def mask_url(url: str) -> str:
    """The URL with its password, if any, masked: the one before the host, and one among the parameters."""
    for pattern in (_PASSWORD_BEFORE_HOST, _PASSWORD_IN_QUERY):
        url = pattern.sub(rf"\1{MASK}", url)
    return url
