"""The primaries of the store, each with a client of redis-py: one server, or those of a cluster.

What is not the hot path works on partitions, and asks here which client has them. All keys of a partition are on one
primary (``keys.py``), so a command must name keys of one partition only; commands of several partitions go together
in a pipeline per node.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from drawdown_server.holds.startup import open_client, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis

RAW_REPLIES: Final = ("XREAD", "CLUSTER SLOTS", "CLUSTER INFO")
"""Commands whose replies are left as they come: redis-py's own form of them depends on its version and on the
protocol's. Every client of a node has this from its first command on, whenever the node was found."""

Words: TypeAlias = "tuple[bytes | str | int, ...]"
"""A command and its arguments."""


class Command(NamedTuple):
    """One command on keys of one partition."""

    partition: int
    words: Words


class RunIds(NamedTuple):
    """What the primaries call themselves; another name after each start of one."""

    answered: frozenset[str]
    """Of those that answered now."""
    known: frozenset[str]
    """Of all, as far as they ever answered."""


class Nodes(ABC):
    """The primaries that have partitions.

    Their clients do not decode replies and do not retry by themselves.
    """

    is_cluster: bool
    partitions: int

    @property
    @abstractmethod
    def clients(self) -> list[Redis]:
        """One for each primary."""

    @abstractmethod
    def of(self, partition: int) -> Redis:
        """The client of the primary that has a partition."""

    def place(self, partition: int) -> str:  # noqa: ARG002  # there is one for all
        """Where a partition is, for people; empty where there is one server."""
        return ""

    @abstractmethod
    async def run(self, commands: Sequence[Command]) -> list[object]:
        """Send commands, those of one node together, each exactly once where it runs.

        Returns:
            A reply for each, or the exception that it met; nothing is raised for one of them alone.
        """

    @abstractmethod
    async def refresh(self) -> None:
        """Learn again which primary has which partition.

        Raises:
            StoreUnavailableError: No node answered.
        """

    @abstractmethod
    async def read_run_ids(self) -> RunIds:
        """Ask every primary what it calls itself now.

        Raises:
            StoreUnavailableError: None answered.
        """

    @abstractmethod
    async def disconnect(self) -> None:
        """Cut every connection: they may lead to what was there before."""

    @abstractmethod
    def patient(self, timeout_ms: int) -> AbstractAsyncContextManager[Nodes]:
        """The same nodes with clients that may wait longer for one answer; cut with these."""

    def beside(self, partition: int) -> list[int]:
        """The partitions that live on the node of this one, itself among them."""
        home = self.of(partition)
        return [other for other in range(self.partitions) if self.of(other) is home]

    def groups(self, partitions: Iterable[int]) -> list[list[int]]:
        """Partitions that live on one node, together."""
        return together(partitions, self.of)


def together(partitions: Iterable[int], home_of: Callable[[int], Hashable]) -> list[list[int]]:
    """Partitions that have the same home, together."""
    found: dict[Hashable, list[int]] = {}
    for partition in partitions:
        found.setdefault(home_of(partition), []).append(partition)
    return list(found.values())


class OneNode(Nodes):
    """A single server: it has everything.

    Args:
        client: Of that server.
        url: Where it is, for ``patient``.
        partitions: How many there are.
    """

    is_cluster = False

    def __init__(self, client: Redis, url: str = "", partitions: int = 0) -> None:
        self.partitions = partitions
        self._client = with_raw_replies(client)
        self._url = url
        self._patient: list[Redis] = []

    @property
    def clients(self) -> list[Redis]:
        """The one."""
        return [self._client]

    def of(self, partition: int) -> Redis:  # noqa: ARG002  # whichever it is
        """The client of the primary that has a partition."""
        return self._client

    async def run(self, commands: Sequence[Command]) -> list[object]:
        """As ``Nodes.run``."""
        return await run_on(self._client, [command.words for command in commands])

    async def refresh(self) -> None:
        """There is nothing to learn."""

    async def read_run_ids(self) -> RunIds:
        """As ``Nodes.read_run_ids``."""
        answered = frozenset([await read_run_id(self._client)])
        return RunIds(answered, answered)

    async def disconnect(self) -> None:
        """As ``Nodes.disconnect``."""
        for client in (self._client, *self._patient):
            await client.connection_pool.disconnect()

    @asynccontextmanager
    async def patient(self, timeout_ms: int) -> AsyncIterator[Nodes]:
        """As ``Nodes.patient``."""
        async with open_client(self._url, timeout_ms=timeout_ms) as client:
            self._patient.append(client)
            try:
                yield OneNode(client, self._url, self.partitions)
            finally:
                self._patient.remove(client)


def with_raw_replies(client: Redis) -> Redis:
    """The same client, which leaves ``RAW_REPLIES`` as they are."""
    for name in RAW_REPLIES:
        client.set_response_callback(name, _raw)
    return client


def _raw(response: object, **_: object) -> object:
    return response


async def run_on(client: Redis, commands: Sequence[Words]) -> list[object]:
    """Send commands to one server in a pipeline; a reply for each, or the exception that it met."""
    if not commands:
        return []
    pipeline = client.pipeline(transaction=False)
    for words in commands:
        pipeline.execute_command(*words)
    try:
        return list(await pipeline.execute(raise_on_error=False))
    except Exception as error:  # whoever reads the replies raises it
        return [error] * len(commands)


async def read_run_id(client: Redis) -> str:
    """What a server calls itself; empty where INFO does not say."""
    try:
        info = await client.info("server")
    except Exception as error:
        raise unavailable(error) from error
    return str(info.get("run_id", ""))
