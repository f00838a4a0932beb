"""The connection of the hot path to a cluster: a pipelined connection to each primary, and which of them has what.

What one of them does when it breaks is ``connection.py``'s; here is what a cluster adds:

    MOVED      an operator moved the partition, or a replica was promoted. The nodes are asked once for all the calls
               that are refused at the same time; each is then sent to the node that has it
    ASK        the keys of this command have moved already: it goes there, this once, after ASKING
    TRYAGAIN   some of its keys have: it is sent again for a moment, then refused
    a primary is lost     the calls in flight there fail, their outcome unknown. The others go on. All nodes are asked,
               again and again, who has its partitions now

A primary that had none of our partitions before is verified like a store that was replaced: it may be a replica that
lacks what was acknowledged, or new and without scripts. One that had some is not: it gets more from an operator alone,
with what is in them, and an empty one is noticed by its missing epoch.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server import clock, deadline
from drawdown_server.errors import DrawdownError, StoreUnavailableError
from drawdown_server.holds.abandoned import AbandonedCalls
from drawdown_server.holds.address import url_at
from drawdown_server.holds.connection import PipelinedConnection
from drawdown_server.holds.nodes import together
from drawdown_server.holds.socket import RedirectError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from drawdown_server.holds.address import Address
    from drawdown_server.holds.cluster_nodes import ClusterNodes
    from drawdown_server.holds.socket import Reply
    from drawdown_server.holds.store_connection import Verify

log = structlog.get_logger(__name__)

REDIRECTS_MAX: Final = 6
"""How often a call is sent again that was refused because its partition moves: with the pauses for 0.3 s, as long as a
call waits for a connection that is being made again."""
REDIRECT_PAUSE_S: Final = 0.01
"""Before it is sent again a second time; doubles. The first MOVED needs none."""
LOOK_PAUSE_S: Final = 0.2
"""Between two looks at who has what while a primary is down: how much later than the cluster a promotion is noticed."""
PROVE_WAIT_S: Final = 0.5
"""How long a proof waits for slow nodes: claims of the others must be renewed in time (``ledger/servers.py``)."""
LOG_INTERVAL_S: Final = 1.0
"""At most one line in this time per partition that is moving: every call to it is refused for as long."""
LOOK_INTERVAL_S: Final = 10.0
"""Between two looks while all is well: a node is then known before the first call is sent there by another one."""


class ClusterConnection:
    """Connections to all primaries that have partitions.

    Args:
        nodes: Of the cluster.
        timeout_ms: As of ``PipelinedConnection``.
        in_flight_max: As of ``PipelinedConnection``, for each primary: one that is slow takes no room of the others.
    """

    def __init__(self, nodes: ClusterNodes, *, timeout_ms: int, in_flight_max: int) -> None:
        self.abandoned = AbandonedCalls()
        self._nodes = nodes
        self._timeout_ms = timeout_ms
        self._in_flight_max = in_flight_max
        self._connections: dict[Address, PipelinedConnection] = {}
        self._home_of: list[PipelinedConnection] = []
        self._verify: Verify | None = None
        self._look = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pings: dict[PipelinedConnection, asyncio.Task[None]] = {}
        self._proofs: dict[PipelinedConnection, asyncio.Task[frozenset[str]]] = {}
        self._refused: Counter[int] = Counter()
        """Calls by partition, since its last line in the log."""
        self._next_log_s: dict[int, float] = {}

    def on_reconnect(self, verify: Verify) -> None:
        """As ``StoreConnection.on_reconnect``."""
        self._verify = verify

    async def open(self) -> None:
        """As ``StoreConnection.open``: every primary is needed to begin with."""
        try:
            for address in self._nodes.homes.primaries:
                self._connections[address] = self._new(address)
                await self._connections[address].open()
        except BaseException:
            await self.close()
            raise
        self._adopt()
        self._nodes.homes.on_change.append(self._adopt)
        self._nodes.homes.is_lost = self._is_lost
        self._looking = asyncio.create_task(self._keep_looking(), name="valkey-cluster")

    async def close(self) -> None:
        """As ``StoreConnection.close``."""
        if self._looking is not None:
            self._nodes.homes.on_change.remove(self._adopt)
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None
        asking = [*self._pings.values(), *self._proofs.values()]
        for task in asking:
            task.cancel()
        closing = [connection.close() for connection in self._connections.values()]
        await asyncio.gather(*closing, *self._tasks, *asking, return_exceptions=True)

    async def call(self, *command: bytes | str | int, partition: int = 0, settles: bool = False) -> Reply:
        """As ``StoreConnection.call``."""
        home = self._home_of[partition]
        try:
            return await home.call(*command, settles=settles)
        except RedirectError as refusal:
            return await self._follow(refusal, home, command, partition=partition, settles=settles)

    async def ping(self) -> None:
        """As ``StoreConnection.ping``. One node that hangs must not make a server look dead that serves the others."""
        for connection in self._connections.values():
            if connection not in self._pings:  # else the last one is not answered yet
                self._pings[connection] = task = asyncio.create_task(connection.ping(), name="valkey-ping")
                task.add_done_callback(partial(self._pinged, connection))
        waiting = set(self._pings.values())
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(not task.cancelled() and task.exception() is None for task in done):
                return
        raise StoreUnavailableError("valkey")

    async def prove(self) -> frozenset[str]:
        """As ``StoreConnection.prove``."""
        homes = {connection: partition for partition, connection in enumerate(self._home_of)}
        for connection, partition in homes.items():
            if connection not in self._proofs:  # else the last one is not answered yet
                self._proofs[connection] = asyncio.create_task(connection.prove(partition), name="valkey-proof")
        await asyncio.wait(self._proofs.values(), timeout=PROVE_WAIT_S)
        done = [connection for connection, proof in self._proofs.items() if proof.done()]
        results = await asyncio.gather(*(self._proofs.pop(one) for one in done), return_exceptions=True)
        proven: set[str] = set()
        for result in results:
            if isinstance(result, RedirectError):
                self._look.set()
            elif isinstance(result, frozenset):
                proven |= result
            elif not isinstance(result, DrawdownError | asyncio.CancelledError):
                raise result
        if not proven:
            raise StoreUnavailableError("valkey")
        # One that is slow is ours until its connection finds that it has timed out.
        slow = {connection.run_id for connection in self._proofs if connection.is_up}
        in_question = {connection.run_id_in_question for connection in homes} - {""}
        return frozenset(proven | slow | in_question)

    @property
    def in_flight(self) -> int:
        """Calls sent and not yet answered, of all nodes."""
        return sum(connection.in_flight for connection in self._connections.values())

    def groups(self, partitions: Iterable[int]) -> list[list[int]]:
        """As ``StoreConnection.groups``."""
        return together(partitions, self._home_of.__getitem__)

    def partitions_of(self, run_ids: Collection[str]) -> list[int]:
        """As ``StoreConnection.partitions_of``."""
        return [partition for partition, home in enumerate(self._home_of) if home.run_id in run_ids]

    def distrust(self, run_ids: Collection[str] | None = None) -> None:
        """As ``StoreConnection.distrust``."""
        for connection in self._connections.values():
            if connection.is_up and (run_ids is None or connection.run_id in run_ids):
                connection.distrust()
        self._look.set()

    def doubt(self, run_ids: Collection[str]) -> None:
        """As ``StoreConnection.doubt``."""
        for connection in self._connections.values():
            if connection.run_id in run_ids:
                connection.doubt()

    async def _follow(
        self,
        refusal: RedirectError,
        home: PipelinedConnection,
        command: tuple[bytes | str | int, ...],
        *,
        partition: int,
        settles: bool,
    ) -> Reply:
        """Send a refused call, which had no effect, to where its partition is."""
        pause_s = 0.0
        for _ in range(REDIRECTS_MAX):
            is_moved = refusal.address is not None and not refusal.asks
            if is_moved and self._home_of[partition] is home:
                await self._nodes.refresh()
            guest = self._connections.get(refusal.address) if refusal.asks and refusal.address else None
            if pause_s or not (is_moved or guest):
                pause_s = 2 * pause_s or REDIRECT_PAUSE_S
                await asyncio.sleep(pause_s)
            else:
                pause_s = REDIRECT_PAUSE_S
            deadline.check()
            home = self._home_of[partition]
            try:
                if guest is not None:
                    return await guest.call(*command, settles=settles, asking=True)
                return await home.call(*command, settles=settles)
            except RedirectError as again:
                refusal = again
        self._refused_in_the_end(partition)
        raise refusal

    def _refused_in_the_end(self, partition: int) -> None:
        """Count a call that could not be sent where its partition is, and say so, but not for each of thousands."""
        self._refused[partition] += 1
        now_s = clock.monotonic_s()
        if now_s >= self._next_log_s.get(partition, 0.0):
            log.warning("valkey.partition_moving", partition=partition, calls=self._refused.pop(partition))
            self._next_log_s[partition] = now_s + LOG_INTERVAL_S

    def _new(self, address: Address) -> PipelinedConnection:
        connection = PipelinedConnection(
            url_at(self._nodes.homes.url, address),
            timeout_ms=self._timeout_ms,
            in_flight_max=self._in_flight_max,
            abandoned=self.abandoned,
            on_lost=self._look.set,
        )
        connection.on_reconnect(partial(self._verify_at, address))
        return connection

    async def _verify_at(self, address: Address) -> None:
        """Before a node is used that was restarted, or had nothing of ours before."""
        partitions = [partition for partition, home in enumerate(self._nodes.homes.of) if home == address]
        if self._verify is not None and partitions:
            await self._verify(partitions)

    def _adopt(self) -> None:
        """Connect to the primaries that there are now, and leave those that are none any more."""
        homes = self._nodes.homes
        for address in homes.primaries:
            if address not in self._connections:
                self._connections[address] = self._new(address)
                self._connections[address].begin()
        self._home_of = [self._connections[address] for address in homes.of]
        for address in self._connections.keys() - set(homes.primaries):
            self._spawn(self._connections.pop(address))

    def _is_lost(self, address: Address) -> bool:
        """Whether a primary is neither connected nor being verified."""
        connection = self._connections.get(address)
        return connection is not None and not (connection.is_up or connection.run_id_in_question)

    def _spawn(self, leaving: PipelinedConnection) -> None:
        task = asyncio.create_task(leaving.close(), name="valkey-leave")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pinged(self, connection: PipelinedConnection, ping: asyncio.Task[None]) -> None:
        del self._pings[connection]
        if not ping.cancelled():
            ping.exception()  # whoever waited has seen it; nobody else needs to

    async def _keep_looking(self) -> None:
        """Learn who has what while anything is wrong, and now and then."""
        while True:
            is_well = all(connection.is_up for connection in self._connections.values())
            try:
                async with asyncio.timeout(LOOK_INTERVAL_S if is_well else LOOK_PAUSE_S):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            try:
                await self._nodes.refresh()
            except StoreUnavailableError as error:
                log.warning("valkey.cluster_unknown", error=str(error))
            except Exception:  # whatever it is, this loop must outlive it: nothing else looks again
                log.exception("valkey.cluster_look_failed")
            await asyncio.sleep(LOOK_PAUSE_S)
