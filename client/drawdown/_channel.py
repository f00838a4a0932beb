"""How the clients reach the server: settings, deadlines, retries. Each constant says why it is what it is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import grpc

from drawdown import _rpcs

if TYPE_CHECKING:
    from os import PathLike

API_KEY_ENVIRONMENT: Final = "DRAWDOWN_API_KEY"

AUTHORIZATION: Final = "authorization"
"""In whose value a credential goes, as ``Bearer ddk_...``. gRPC refuses names in capitals."""

_API_KEY: Final = re.compile(r"[!-~]+")
"""What a header can carry."""

TARGET_DEFAULT: Final = "127.0.0.1:50051"
"""Where `make run` serves."""

Transport: TypeAlias = Literal["unary", "session"]
"""How the calls of the data plane travel: each as an RPC of its own, or together over a few long-lived Sessions."""

TIMEOUT_S_DEFAULT: Final = 2.0
"""An answer takes about a millisecond; a request that waits for its Authorize longer than this is better refused."""

TIMEOUT_S_MAX: Final = 86_400
"""Nobody waits longer for an answer; and what stands for "no deadline", such as ``sys.maxsize``, fits no message."""

ATTEMPTS_MAX: Final = 3
"""The first and two more: enough for a server that restarts behind a load balancer, few enough not to pile up."""

BACKOFF_S: Final = 0.05
"""Before the second attempt, with jitter; a draining server is gone from the list by then."""

BACKOFF_MAX_S: Final = 0.5
"""Between two attempts. All share the call's one deadline."""

BACKOFF_FACTOR: Final = 3

RETRY_TOKENS: Final = 600
RETRY_TOKENS_BACK: Final = 0.1

SESSION_PATH: Final = "/drawdown.v1.AuthorizationService/Session"

_NOT_REPEATED: Final = {
    "name": [
        dict(zip(("service", "method"), path.strip("/").split("/"), strict=True))
        for path in (SESSION_PATH, *(rpc.path for rpc in _rpcs.ALL if rpc.operation is not None))
    ]
}
"""By gRPC, in a client with Sessions: it sends these again itself (_retries.py), whichever way they went before."""

_REPEATED: Final = {
    "name": [{}],  # methods without an entry: reads are safe, and each mutation is idempotent by the id that it carries
    "retryPolicy": {
        "maxAttempts": ATTEMPTS_MAX,
        "initialBackoff": f"{BACKOFF_S}s",
        "maxBackoff": f"{BACKOFF_MAX_S}s",
        "backoffMultiplier": BACKOFF_FACTOR,
        # CANCELLED comes from a server, or a proxy, that ended before it took the call: a caller who cancels is past
        # all retries. DEADLINE_EXCEEDED has no time left, RESOURCE_EXHAUSTED would make it worse.
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    },
}

_SERVICE_CONFIG: Final = {
    # Each failure costs one token, each success gives 0.1 back; below half, no retries: a service that is down for
    # good sees each call once and not three times. Half is more than the calls that one lost connection can fail (a
    # server takes 256 at once), so that each of those is sent again.
    "retryThrottling": {"maxTokens": RETRY_TOKENS, "tokenRatio": RETRY_TOKENS_BACK},
    # Over all servers that the target's name resolves to; the default would send everything to the first.
    "loadBalancingConfig": [{"round_robin": {}}],
    # A server that is about to end says so here while it still answers, and gets no more calls: retries alone would
    # meet it again and again. A server without the health service counts as healthy.
    "healthCheckConfig": {"serviceName": ""},
}

_MESSAGE_BYTES_MAX_RECEIVED: Final = 16 * 2**20
"""A page of 1,000 ledger entries with the most and longest labels and subjects is about 10 MB."""

_MESSAGE_BYTES_MAX_SENT: Final = 2**20
"""The largest legal Authorize is below 100 KB."""

CHANNEL_OPTIONS: Final[Sequence[tuple[str, str | int]]] = (
    ("grpc.enable_retries", 1),
    ("grpc.service_config_disable_resolution", 1),  # a DNS TXT record must not replace the retry policy
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX_RECEIVED),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX_SENT),
    # A peer that vanished without a FIN would fail every call until the kernel gives up (about 15 minutes).
    # Pings go out only while a call waits and nothing has come in.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it the answer to a ping may take a minute
    # A server that was restarted is in use again at once, and one that was gone for long within seconds; gRPC's own
    # waits are 1 s at first and 2 minutes in the end.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.primary_user_agent", "drawdown-python"),
)


def tls_credentials(
    ca: FilePath | None = None, *, certificate: FilePath | None = None, key: FilePath | None = None
) -> grpc.ChannelCredentials:
    """TLS for a client: ``Client("drawdown:50051", credentials=drawdown.tls_credentials("ca.pem"))``.

    The server's certificate must be signed by ``ca`` and name the host of the target. The files are read here, once:
    when a certificate of yours is renewed, make a new client.

    Args:
        ca: PEM file of the roots to trust; None: the public ones that gRPC carries.
        certificate: PEM file of the client's own certificate and its chain, for a server that asks for one.
        key: PEM file of its private key, not encrypted.

    Raises:
        ValueError: A certificate without its key, or the other way round.
        OSError: A file cannot be read.
    """
    if (certificate is None) != (key is None):
        raise ValueError("certificate and key go together: give both or neither")
    return grpc.ssl_channel_credentials(_read(ca), _read(key), _read(certificate))


def _read(file: FilePath | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()


CONNECTIONS_MAX: Final = 64
"""Some per worker of a large server; each costs both sides a socket, and the client a channel."""


class ClientDefault(Enum):
    """The type of ``USE_CLIENT_DEFAULT``."""

    TOKEN = "use the client's timeout_s"  # noqa: S105 - a sentinel, no secret

    def __repr__(self) -> str:
        return "USE_CLIENT_DEFAULT"


USE_CLIENT_DEFAULT: Final = ClientDefault.TOKEN
"""The default of ``timeout_s`` on every call. There is no way to say "no deadline": a call without one can hang for
ever, so ``None`` is refused rather than guessed at."""

FilePath: TypeAlias = "str | PathLike[str]"
Timeout: TypeAlias = float | ClientDefault
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client was made with."""

    target: str
    timeout_s: float
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str | bytes], ...] = field(repr=False)  # may carry a token
    connections: int = 1
    transport: Transport = "unary"

    @classmethod
    def of(
        cls,
        target: str,
        timeout_s: float,
        credentials: grpc.ChannelCredentials | None,
        metadata: Metadata,
        *,
        api_key: str | None = None,
        plaintext_api_key: bool = False,
        connections: int = 1,
        transport: Transport = "unary",
    ) -> Settings:
        """Checked settings."""
        if isinstance(connections, bool) or not isinstance(connections, int):
            raise TypeError(f"connections is a whole number, not {connections!r}")
        if not 1 <= connections <= CONNECTIONS_MAX:
            raise ValueError(f"connections must be 1 to {CONNECTIONS_MAX}, got {connections}")
        if transport not in get_args(Transport):
            raise ValueError(f"transport is one of {', '.join(get_args(Transport))}, not {transport!r}")
        names_a_caller = any(name == AUTHORIZATION for name, _ in metadata)
        if api_key and names_a_caller:
            raise ValueError("api_key and an authorization in the metadata: give one of them")
        if api_key is None and not names_a_caller:
            api_key = os.environ.get(API_KEY_ENVIRONMENT, "")
        if api_key:
            if not _API_KEY.fullmatch(api_key):
                raise ValueError("an API key has no spaces and no line breaks")  # it is not repeated: it is secret
            metadata = [*metadata, (AUTHORIZATION, f"Bearer {api_key}")]
            names_a_caller = True
        if names_a_caller and credentials is None and not plaintext_api_key and not is_local(target):
            raise ValueError(
                f"an API key would go to {target} in plain text, to be read on the way: give TLS credentials, or "
                "say plaintext_api_key=True if something else protects that way"
            )
        return cls(target, _checked(timeout_s), credentials, tuple(metadata), connections, transport)

    @property
    def channel_options(self) -> Sequence[tuple[str, str | int]]:
        """Of each channel."""
        methods = [_NOT_REPEATED, _REPEATED] if self.transport == "session" else [_REPEATED]
        options = (*CHANNEL_OPTIONS, ("grpc.service_config", json.dumps({"methodConfig": methods} | _SERVICE_CONFIG)))
        # Channels of one process share their connections, unless they are told not to.
        return options if self.connections == 1 else (*options, ("grpc.use_local_subchannel_pool", 1))

    def timeout(self, timeout_s: Timeout) -> float:
        """The deadline of one call, in seconds from now."""
        return self.timeout_s if timeout_s is USE_CLIENT_DEFAULT else _checked(timeout_s)

    def timeout_waiting(self, timeout_s: Timeout, wait_s: float | None) -> Timeout:
        """The deadline of a call for which the server may wait: the client's own begins after that."""
        return self.timeout_s + max(0, wait_s or 0) if timeout_s is USE_CLIENT_DEFAULT else timeout_s


def is_local(target: str) -> bool:
    """Whether all addresses of a gRPC target are certainly of this machine."""
    scheme, _, rest = target.partition(":")
    if scheme in {"unix", "unix-abstract"}:
        return True
    addresses = rest.rpartition("/")[2] if scheme in {"dns", "ipv4", "ipv6"} else target
    return all(_is_loopback(address) for address in addresses.split(","))


def _is_loopback(address: str) -> bool:
    bare = address.count(":") > 1 and not address.startswith("[")  # an IPv6 address without a port
    host = address if bare else address.rpartition(":")[0] or address
    host = host.strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False  # a name, which may be anywhere


def _checked(timeout_s: float | ClientDefault) -> float:
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
        raise TypeError(f"timeout_s is a number of seconds, not {timeout_s!r}: every call has a deadline")
    if not 0 < timeout_s <= TIMEOUT_S_MAX:
        raise ValueError(
            f"timeout_s must be above 0 and at most {TIMEOUT_S_MAX}, a day, got {timeout_s}: every call has a deadline"
        )
    return float(timeout_s)


OTHER_LOOP: Final = "this client belongs to the event loop that used it first; make a new one in each event loop"
"""What an ``AsyncClient`` says in another one, where its calls would only time out."""

CLOSED: Final = "this client is closed; make a new one"
"""What a call on a closed client says."""

CLOSED_IN_FLIGHT: Final = "the client was closed while this call was in flight; its outcome is unknown"
"""What a call says whose client was closed under it."""
