"""What the hot path asks of its connection, be the store one server or a cluster."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable

    from drawdown_server.holds.abandoned import AbandonedCalls
    from drawdown_server.holds.socket import Reply


class Verify(Protocol):
    """Compares partitions with the ledger before they are served from what may have lost state."""

    async def __call__(self, partitions: Collection[int] | None = None) -> None:
        """Of these partitions; None: of all."""


class StoreConnection(Protocol):
    """Calls that are in flight together; nothing whose outcome is unknown is sent twice."""

    abandoned: AbandonedCalls

    @property
    def in_flight(self) -> int:
        """Calls sent and not yet answered."""

    async def open(self) -> None:
        """Connect.

        Raises:
            StoreUnavailableError: A node cannot be reached, or refuses us.
        """

    async def close(self) -> None:
        """Close; calls in flight fail after a moment."""

    async def call(self, *command: bytes | str | int, partition: int = 0, settles: bool = False) -> Reply:
        """Send one command to the node that has a partition, and wait for its reply.

        Args:
            command: Its name and arguments; all its keys are of the partition.
            partition: Whose keys they are, or whose clock is asked.
            settles: Whether it may use the room that is reserved for calls that settle holds.

        Raises:
            StoreUnavailableError: The node is down, in trouble, or did not answer in time. Unless it refused the call,
                whether the command ran is unknown.
            DrawdownError: INTERNAL, when the script itself failed; DEADLINE_EXCEEDED, when it was not sent because its
                caller had too little time left.
        """

    async def ping(self) -> None:
        """Return when any node answers: calls of some partitions are served. Not held up by others that wait for room.

        Raises:
            StoreUnavailableError: None does.
        """

    async def prove(self) -> frozenset[str]:
        """Write to every node, changing nothing.

        Returns:
            The run_ids of the nodes that took it, and of those that are being verified.

        Raises:
            StoreUnavailableError: None took it.
        """

    def groups(self, partitions: Iterable[int]) -> list[list[int]]:
        """Partitions that are on one node, together."""

    def partitions_of(self, run_ids: Collection[str]) -> Collection[int] | None:
        """The partitions that are served from these nodes; None: all that there are."""

    def distrust(self, run_ids: Collection[str] | None = None) -> None:
        """Drop the connections to these nodes (None: to all), and verify what is found at the next ones."""

    def doubt(self, run_ids: Collection[str]) -> None:
        """Verify these nodes when they are connected the next time, even if they are the same."""

    def on_reconnect(self, verify: Verify) -> None:
        """Before a node that was restarted or replaced is used, await this: it may have lost state.

        While it raises anything, that node counts as down.
        """


_Connection = TypeVar("_Connection", bound=StoreConnection)


@asynccontextmanager
async def opened(connection: _Connection) -> AsyncIterator[_Connection]:
    """A connection that is open inside the block.

    Raises:
        StoreUnavailableError: As ``StoreConnection.open``.
    """
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()
