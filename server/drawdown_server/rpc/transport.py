"""What the gRPC transport allows a client: sizes, calls at once, silence. Each constant says why it is what it is."""

from __future__ import annotations

from typing import Final

OPERATION_BYTES_MAX: Final = 64 * 1024
"""Largest request, by itself or as one of a Batch: an Authorize with every field at its limit has about 40 KiB."""
CARRIER_BYTES_MAX: Final = 1024 * 1024
"""Largest message of operations: 256 of them with 4 KiB each, ten times what they usually have. gRPC reads no more."""
METADATA_BYTES_MAX: Final = 16 * 1024
STREAMS_MAX: Final = 256
"""Calls at once on one connection: the answers that wait in memory for a client that does not read. A client with more
keeps them back; at this many a server has no time left in any case."""
HANDSHAKE_MS: Final = 10_000
"""A connection that says nothing, or little at a time, must not occupy one of those for gRPC's own two minutes."""
KEEPALIVE_MS: Final = 30_000
"""A client that is silent for this long while it has calls is asked whether it is still there."""
KEEPALIVE_TIMEOUT_MS: Final = 10_000
"""Then it is dropped: its machine is gone, or it reads nothing."""
CLIENT_PING_MS: Final = 5_000
"""A client may ask so often whether we are still there (ours does after 10 s); gRPC's own 5 minutes would drop it."""

CONNECTION_GRACE_MS: Final = 60_000
"""How long calls on a connection that is old may go on at least: longer than any call, of which those that wait for the
ledger are the longest (30 s). Then streams such as Watch are ended; who follows one has a new connection by then."""
AGE_JITTER: Final = 0.1
"""gRPC ends a connection up to this part of its age earlier or later, so that not all clients come at once."""

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", CARRIER_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    # Off: with it, two of three calls of a client with more than these at once were refused (measured with 700). It
    # counts a call until it is cleaned up, the client until it is answered.
    ("grpc.http.overload_protection", 0),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # without it the answer to a ping may take a minute
    ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_MS),
)


def server_options(*, connections_max: int, connection_age_s: float, shares_ports: bool) -> list[tuple[str, int]]:
    """What the server is made with.

    Args:
        connections_max: Every connection beyond so many at once is closed.
        connection_age_s: After that, give or take a tenth, the client of a connection is told to make a new one (calls
            in flight finish); 0: never.
        shares_ports: Whether other processes listen on the same ports. Without that, a taken port is an error.
    """
    options = [
        *_OPTIONS,
        ("grpc.max_allowed_incoming_connections", connections_max),
        ("grpc.so_reuseport", int(shares_ports)),
    ]
    if connection_age_s:
        options.append(("grpc.max_connection_age_ms", int(connection_age_s * 1000)))
        options.append(("grpc.max_connection_age_grace_ms", int(_grace_s(connection_age_s) * 1000)))
    return options


def _grace_s(connection_age_s: float) -> float:
    """Longer by what connections differ in age: the earliest must not be over before its Session was asked to leave."""
    return CONNECTION_GRACE_MS / 1000 + 2 * AGE_JITTER * connection_age_s


def session_age_s(connection_age_s: float) -> float:
    """After which time the client of a Session is asked to leave; 0: never.

    Its connection is old by then for certain, so the next Session has a new one, and the grace is not over.
    """
    return connection_age_s * (1 + AGE_JITTER) + CONNECTION_GRACE_MS / 2000 if connection_age_s else 0.0
