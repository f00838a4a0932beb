"""Opens the store at the URL of the settings: finds out whether it is one server or a cluster."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import structlog

from drawdown_server.errors import ConfigurationError, StoreUnavailableError
from drawdown_server.holds.address import address_of, split_url
from drawdown_server.holds.cluster import ClusterConnection
from drawdown_server.holds.cluster_nodes import ClusterNodes, open_cluster_nodes
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.library import load_library
from drawdown_server.holds.nodes import Nodes, OneNode
from drawdown_server.holds.startup import check_store, open_client
from drawdown_server.holds.store_connection import opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from contextlib import AbstractAsyncContextManager

    from drawdown_server.holds.library import Library
    from drawdown_server.holds.store_connection import StoreConnection

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_nodes(url: str, *, timeout_ms: int, partitions: int) -> AsyncIterator[Nodes]:
    """The primaries of the store, by clients for all but the hot path.

    Args:
        url: As in the configuration; with several hosts, those of some nodes of a cluster.
        timeout_ms: Of one command.
        partitions: How many there are.

    Raises:
        ConfigurationError: The URL is malformed, names several servers that are no cluster, or a cluster's database
            other than 0.
        StoreUnavailableError: The nodes of a cluster do not say which of them has what.
    """
    urls = split_url(url)
    for one in urls:
        is_cluster = await _is_cluster(one, timeout_ms)
        if is_cluster:
            async with open_cluster_nodes(url, timeout_ms=timeout_ms, partitions=partitions) as nodes:
                yield nodes
            return
        if is_cluster is False and len(urls) > 1:
            raise ConfigurationError(
                f"{len(urls)} addresses of valkey are given, and {address_of(one)} is no node of a cluster: "
                "name the one primary alone."
            )
    # One server, or nobody who answers: check_store says what is wrong.
    async with open_client(urls[0], timeout_ms=timeout_ms) as client:
        yield OneNode(client, urls[0], partitions)


async def _is_cluster(url: str, timeout_ms: int) -> bool | None:
    """Whether a server is a node of a cluster; None when it does not say."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        url = urlunsplit(parts._replace(path=""))  # a cluster may refuse any database but 0 before it says what it is
    async with open_client(url, timeout_ms=timeout_ms) as client:
        try:
            info = await client.info("server")
        except Exception as error:  # check_store says what is wrong with it, in words
            log.debug("valkey.mode_unknown", error=str(error))
            return None
    return "cluster" in (info.get("server_mode"), info.get("redis_mode"))  # Valkey's name of it, and Redis'


async def check_nodes(nodes: Nodes, library: Library | None = None, partitions: Collection[int] | None = None) -> None:
    """Check that every primary is fit to hold money; then load the scripts there, if any are given.

    Args:
        nodes: Of the store.
        library: The scripts.
        partitions: Only the primaries of these.

    Raises:
        ConfigurationError: With what to change.
        StoreUnavailableError: One cannot be reached.
    """
    clients = nodes.clients if partitions is None else list(dict.fromkeys(nodes.of(one) for one in partitions))
    for client in clients:
        await check_store(client)
        if library is not None:
            await load_library(client, library)


async def load_on_all(nodes: Nodes, library: Library) -> None:
    """Load the scripts on every primary that answers.

    Raises:
        StoreUnavailableError: None does.
    """
    loads = [load_library(client, library) for client in nodes.clients]
    failures = [failure for failure in await asyncio.gather(*loads, return_exceptions=True) if failure is not None]
    for failure in failures:
        if len(failures) == len(loads) or not isinstance(failure, StoreUnavailableError):
            raise failure


def open_store_connection(
    nodes: Nodes, url: str, *, timeout_ms: int, in_flight_max: int
) -> AbstractAsyncContextManager[StoreConnection]:
    """The connection of the hot path, open inside the block.

    Args:
        nodes: Of the store at this URL.
        url: As in the configuration.
        timeout_ms: As of ``PipelinedConnection``.
        in_flight_max: As of ``PipelinedConnection``, for each node.
    """
    if isinstance(nodes, ClusterNodes):
        return opened(ClusterConnection(nodes, timeout_ms=timeout_ms, in_flight_max=in_flight_max))
    return open_connection(url, timeout_ms=timeout_ms, in_flight_max=in_flight_max)
