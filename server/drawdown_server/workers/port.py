"""The port that all workers listen on, reserved before any of them starts."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from drawdown_server.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def reserved_port(host: str, port: int, setting: str) -> Iterator[int]:
    """Keep a port for the workers inside the block, on every address of a host; yields the port.

    The kernel spreads connections over all sockets that *listen* on a port with SO_REUSEPORT. Those of this process are
    bound and do not listen: they get none, and they keep the port while no worker listens.

    Args:
        host: A name or an address, IPv6 with or without brackets.
        port: 0 takes a free one.
        setting: What it is called, for the error.

    Raises:
        ConfigurationError: The port is taken or the address is not ours.
    """
    try:
        with ExitStack() as opened:
            found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, address in found:
                place = (address[0], port, *address[2:])
                if port:
                    # Without SO_REUSEPORT: others who share theirs would otherwise take half of our calls in silence.
                    with socket.socket(family, kind, protocol) as alone:
                        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        alone.bind(place)
                ours = opened.enter_context(socket.socket(family, kind, protocol))
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                ours.bind(place)
                port = port or ours.getsockname()[1]
            kept = opened.pop_all()
    except OSError:
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: the port is taken or the address is not ours. "
            f"Choose another with --{setting.replace('_', '-')} or DRAWDOWN_{setting.upper()}."
        ) from None
    with kept:
        yield port
