"""The primaries of a cluster: which of them has which partition is learned, and learned again when it changes.

Nobody here decides whether a new primary may be used: ``holds/cluster.py`` and whoever reads through these clients
compare what it has with the ledger first.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog
from redis.asyncio.connection import parse_url
from redis.exceptions import AskError, MovedError

from drawdown_server.errors import ConfigurationError, StoreUnavailableError
from drawdown_server.holds.address import Address, address_of, split_url, url_at
from drawdown_server.holds.nodes import Nodes, RunIds, read_run_id, run_on, with_raw_replies
from drawdown_server.holds.startup import new_client, unavailable
from drawdown_server.holds.topology import read_view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from redis.asyncio import Redis

    from drawdown_server.holds.nodes import Command
    from drawdown_server.holds.topology import View

log = structlog.get_logger(__name__)

REDIRECTS_MAX: Final = 5
"""How often a command is sent again that a node refused because another one has its partition."""
REDIRECT_PAUSE_S: Final = 0.02
"""Before it is sent again a second time and more often: the nodes tell each other of a change within a moment."""
LATER_ANSWERS_S: Final = 0.1
"""How long other nodes are awaited after the first has said what it knows: a hanging one must not hold up the rest."""


class Homes:
    """Where each partition is, shared by all who use the cluster in a process.

    Args:
        url: As in the configuration.
        partitions: How many there are.
    """

    def __init__(self, url: str, partitions: int) -> None:
        self.url = url
        self.seeds = [address_of(one) for one in split_url(url)]
        self.partitions = partitions
        self.of: list[Address] = []
        """The primary of each partition; empty before it was learned."""
        self.replicas: frozenset[Address] = frozenset()
        self.run_ids: dict[Address, str] = {}
        """What each primary called itself last."""
        self.on_change: list[Callable[[], None]] = []
        """Called after it was learned anew."""
        self.is_lost: Callable[[Address], bool] = lambda _: False
        """Whether a primary is known not to answer: nobody then waits for it to find out again."""

    @property
    def primaries(self) -> list[Address]:
        """Each that has a partition, once."""
        return list(dict.fromkeys(self.of))

    @property
    def candidates(self) -> list[Address]:
        """Nodes that may know the cluster."""
        return list(dict.fromkeys((*self.of, *sorted(self.replicas), *self.seeds)))

    def adopt(self, view: View) -> None:
        """This is what the node knows that knows most.

        Raises:
            StoreUnavailableError: Some partitions have no primary, and never had.
        """
        homes = {**dict(enumerate(self.of)), **view.homes}
        missing = [partition for partition in range(self.partitions) if partition not in homes]
        if missing:
            raise StoreUnavailableError(
                "valkey",
                f"no node of the valkey cluster has the slots of {len(missing)} partitions ({missing[0]}, ...)",
            )
        new = [homes[partition] for partition in range(self.partitions)]
        self.replicas = view.replicas
        if new == self.of:
            return
        if self.of:
            moved = sum(before != after for before, after in zip(self.of, new, strict=True))
            log.warning("valkey.partitions_moved", partitions=moved, nodes=[str(one) for one in dict.fromkeys(new)])
        self.of = new
        for tell in self.on_change:
            tell()


class ClusterNodes(Nodes):
    """The primaries of a cluster that have partitions.

    Args:
        homes: Where each partition is.
        timeout_ms: Of one command.
    """

    is_cluster = True

    def __init__(self, homes: Homes, timeout_ms: int) -> None:
        self.homes = homes
        self.partitions = homes.partitions
        self._timeout_ms = timeout_ms
        self._clients: dict[Address, Redis] = {}
        self._siblings: list[ClusterNodes] = []
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def clients(self) -> list[Redis]:
        """One for each primary."""
        return [self._client(address) for address in self.homes.primaries]

    def of(self, partition: int) -> Redis:
        """The client of the primary that has a partition."""
        return self._client(self.homes.of[partition])

    def place(self, partition: int) -> str:
        """As ``Nodes.place``."""
        return str(self.homes.of[partition])

    async def run(self, commands: Sequence[Command]) -> list[object]:
        """As ``Nodes.run``; what a node refused because it does not have the partition is sent to the one that has."""
        replies: list[object] = [None] * len(commands)
        await self._send(commands, range(len(commands)), replies)
        if any(_is_lost(reply) for reply in replies):
            with suppress(StoreUnavailableError):
                await self.refresh()
        for attempt in range(REDIRECTS_MAX):
            refused = [number for number, reply in enumerate(replies) if isinstance(reply, AskError)]
            if not refused:
                break
            if attempt:
                await asyncio.sleep(REDIRECT_PAUSE_S)
            asking = [number for number in refused if not isinstance(replies[number], MovedError)]
            moved = [number for number in refused if isinstance(replies[number], MovedError)]
            for number in asking:
                replies[number] = await self._ask(replies[number], commands[number])
            if moved:
                with suppress(StoreUnavailableError):
                    await self.refresh()
                await self._send(commands, moved, replies)
        return replies

    async def refresh(self) -> None:
        """As ``Nodes.refresh``; once for all who ask at the same time."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._learn(), name="valkey-topology")
        await asyncio.shield(self._refreshing)

    async def read_run_ids(self) -> RunIds:
        """As ``Nodes.read_run_ids``."""
        primaries = self.homes.primaries
        found = await asyncio.gather(
            *(read_run_id(self._client(address)) for address in primaries), return_exceptions=True
        )
        answered: dict[Address, str] = {}
        for address, run_id in zip(primaries, found, strict=True):
            if isinstance(run_id, str):
                answered[address] = run_id
            elif not isinstance(run_id, StoreUnavailableError):
                raise run_id
        if not answered:
            raise StoreUnavailableError("valkey")
        known = self.homes.run_ids
        for address, run_id in answered.items():
            if known.get(address) != run_id:  # commands that still wait for an answer wait for the one from before
                await self._cut(address)
        known.update(answered)
        return RunIds(
            frozenset(answered.values()), frozenset(known[address] for address in primaries if address in known)
        )

    async def disconnect(self) -> None:
        """As ``Nodes.disconnect``, but for commands on their way: most nodes are what they were.

        ``read_run_ids`` cuts those to a node that is another one.
        """
        for nodes in (self, *self._siblings):
            for client in list(nodes._clients.values()):  # noqa: SLF001  # of the same class
                await client.connection_pool.disconnect(inuse_connections=False)

    async def _cut(self, address: Address) -> None:
        for nodes in (self, *self._siblings):
            if client := nodes._clients.get(address):  # noqa: SLF001  # of the same class
                await client.connection_pool.disconnect()

    @asynccontextmanager
    async def patient(self, timeout_ms: int) -> AsyncIterator[Nodes]:
        """As ``Nodes.patient``."""
        sibling = ClusterNodes(self.homes, timeout_ms)
        self._siblings.append(sibling)
        try:
            yield sibling
        finally:
            self._siblings.remove(sibling)
            await sibling.close()

    async def close(self) -> None:
        """Close every client."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        while self._clients:
            _, client = self._clients.popitem()
            await client.aclose()

    def _client(self, address: Address) -> Redis:
        client = self._clients.get(address)
        if client is None:
            client = with_raw_replies(new_client(url_at(self.homes.url, address), timeout_ms=self._timeout_ms))
            self._clients[address] = client
        return client

    async def _drop_strangers(self) -> None:
        """Close the clients of nodes that have left the cluster."""
        strangers = self._clients.keys() - set(self.homes.candidates)
        for client in [self._clients.pop(address) for address in strangers]:
            await client.aclose()

    async def _send(self, commands: Sequence[Command], numbers: Iterable[int], replies: list[object]) -> None:
        """Send some of the commands, a pipeline per node, and put the replies in their places."""
        by_home: dict[Address, list[int]] = {}
        for number in numbers:
            by_home.setdefault(self.homes.of[commands[number].partition], []).append(number)

        async def send(address: Address, of_node: list[int]) -> None:
            if self.homes.is_lost(address):
                for number in of_node:
                    replies[number] = StoreUnavailableError("valkey")
                return
            found = await run_on(self._client(address), [commands[number].words for number in of_node])
            for number, reply in zip(of_node, found, strict=True):
                replies[number] = reply

        await asyncio.gather(*(send(address, of_node) for address, of_node in by_home.items()))

    async def _ask(self, refusal: object, command: Command) -> object:
        """Send a command to the node to which its keys move at this moment."""
        assert isinstance(refusal, AskError)  # noqa: S101  # the caller has looked
        client = self._client(Address(refusal.host, refusal.port))
        return (await run_on(client, [("ASKING",), command.words]))[1]

    async def _learn(self) -> None:
        asking = {asyncio.create_task(self._view(address)) for address in self.homes.candidates}
        views: list[View] = []
        failure: BaseException = StoreUnavailableError("valkey")
        try:
            while asking:
                done, asking = await asyncio.wait(
                    asking, timeout=LATER_ANSWERS_S if views else None, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    if (error := task.exception()) is None:
                        views.append(task.result())
                    elif not isinstance(error, StoreUnavailableError):
                        failure = error
        finally:
            for task in asking:
                task.cancel()
        if not views:
            raise failure
        self.homes.adopt(max(views, key=lambda view: view.rank))
        for nodes in (self, *self._siblings):
            await nodes._drop_strangers()  # noqa: SLF001  # of the same class

    async def _view(self, address: Address) -> View:
        return await read_view(self._client(address), address, self.homes.partitions)


def _is_lost(reply: object) -> bool:
    """Whether a node did not answer; a redirect is an answer."""
    return (
        isinstance(reply, Exception)
        and not isinstance(reply, AskError)
        and isinstance(unavailable(reply), StoreUnavailableError)
    )


@asynccontextmanager
async def open_cluster_nodes(url: str, *, timeout_ms: int, partitions: int) -> AsyncIterator[ClusterNodes]:
    """The nodes of a cluster.

    Raises:
        ConfigurationError: The URL names another database than 0, or a unix socket.
        StoreUnavailableError: No node says which of them has what.
    """
    _check_url(url)
    nodes = ClusterNodes(Homes(url, partitions), timeout_ms)
    try:
        await nodes.refresh()
        yield nodes
    finally:
        await nodes.close()


def _check_url(url: str) -> None:
    if url.startswith("unix://"):
        raise ConfigurationError(
            "this valkey is a node of a cluster, and the other nodes have no unix socket here: give the addresses of "
            "some nodes, redis://user:password@a:6379,b:6379,c:6379/0"
        )
    database = parse_url(split_url(url)[0]).get("db", 0)
    if database:
        raise ConfigurationError(f"this valkey is a cluster, which has database 0 alone: the URL names {database}.")
