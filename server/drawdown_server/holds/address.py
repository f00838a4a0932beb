"""Where the store is. The URL of the settings may name several nodes of a cluster: any of them knows the rest.

``redis://user:password@a:6379,b:6379,c:6379/0``: everything but the hosts counts for all of them.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

PORT_DEFAULT: Final = 6379


class Address(NamedTuple):
    """Of one node, as a client reaches it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def split_url(url: str) -> list[str]:
    """A URL for each host that is named; one with a single host, or with a unix socket, stays as it is."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return [url]
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{host}")) for host in hosts.split(",")]


def address_of(url: str) -> Address:
    """Where a URL with one host leads to.

    Raises:
        ValueError: Its port is none.
    """
    parts = urlsplit(url)
    return Address(parts.hostname or "localhost", parts.port or PORT_DEFAULT)


def url_at(url: str, address: Address) -> str:
    """The same URL for another host."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{address}"))


def parse_address(text: str) -> Address:
    """``host:port`` as a node writes it in MOVED and ASK; an IPv6 address has no brackets there."""
    host, _, port = text.rpartition(":")
    return Address(host.strip("[]"), int(port))
