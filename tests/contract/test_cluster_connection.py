"""The connection to a cluster, against nodes that say what a test wants; on a real one it is in faults/test_cluster_*.

What is counted here cannot be counted there: how often a command was sent, and who was asked how often.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import hiredis
import pytest
from structlog.testing import capture_logs

from drawdown_server import clock
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.address import Address
from drawdown_server.holds.cluster import REDIRECTS_MAX
from drawdown_server.holds.nodes import Command
from drawdown_server.holds.opening import open_nodes, open_store_connection
from drawdown_server.holds.socket import ConnectionLostError, RedirectError
from drawdown_server.holds.topology import read_view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.holds.store_connection import StoreConnection

WAIT_S = 10.0
PATIENT_MS = 10_000
PARTITIONS = 3
"""One for each node."""


class FakeNode:
    """Answers ECHO if it has the partition, and tells who has what."""

    def __init__(self, cluster: FakeCluster, number: int) -> None:
        self._cluster = cluster
        self._number = number
        self.port = 0
        self.heard: Counter[str] = Counter()
        """Commands by name."""
        self.refusal = ""
        """What it answers to ECHO instead."""
        self.is_silent = False
        """Whether it answers nothing to ECHO, and hangs up at the second one."""
        self.is_hanging = False
        """Whether it answers nothing at all any more."""
        self.made_epoch = 0
        """The newest change of the cluster that it made itself."""
        self._asked = False
        self.homes: list[int] = []
        """Where the partitions are in its eyes; empty: where they are."""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        parser = hiredis.Reader()
        while data := await reader.read(65_536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                words = [word.decode() for word in command]
                self.heard[words[0]] += 1
                if not self.is_hanging:
                    writer.write(self._reply(words, writer))
        writer.close()

    def _reply(self, words: list[str], writer: asyncio.StreamWriter) -> bytes:
        match words:
            case ["INFO", *_]:
                return bulk(f"redis_version:9.0.0\r\nserver_mode:cluster\r\nrun_id:run{self._number}\r\n")
            case ["CLUSTER", "INFO"]:
                heard, made = self._cluster.epoch, self.made_epoch
                return bulk(f"cluster_state:ok\r\ncluster_current_epoch:{heard}\r\ncluster_my_epoch:{made}\r\n")
            case ["CLUSTER", "SLOTS"]:
                return self._cluster.slots(self.homes or self._cluster.homes)
            case ["ECHO", text]:
                return self._echo(text, writer)
        self._asked = words == ["ASKING"]
        return b"+OK\r\n"

    def _echo(self, text: str, writer: asyncio.StreamWriter) -> bytes:
        if self.is_silent:
            if self.heard["ECHO"] > 1:
                writer.transport.abort()
            return b""
        asked, self._asked = self._asked, False
        return f"-{self.refusal}\r\n".encode() if self.refusal and not asked else bulk(f"{text} by {self._number}")


class FakeCluster:
    """Three nodes; partition n is at node ``homes[n]``."""

    def __init__(self) -> None:
        self.nodes = [FakeNode(self, number) for number in range(4)]
        self.homes = [0, 1, 2]
        self.epoch = 1

    def slots(self, homes: list[int]) -> bytes:
        found = [
            f"*3\r\n:{keys.slot(partition)}\r\n:{keys.slot(partition)}\r\n"
            f"*3\r\n$9\r\n127.0.0.1\r\n:{self.nodes[home].port}\r\n$4\r\nid-{home}\r\n"
            for partition, home in enumerate(homes)
        ]
        return f"*{len(found)}\r\n{''.join(found)}".encode()

    def move(self, partition: int, node: int) -> None:
        """As an operator: the old node says where it is now."""
        old = self.nodes[self.homes[partition]]
        self.homes[partition] = node
        self.epoch += 1
        old.refusal = f"MOVED {keys.slot(partition)} 127.0.0.1:{self.nodes[node].port}"

    def asked(self) -> int:
        """How often anybody was asked who has what."""
        return sum(node.heard["CLUSTER"] for node in self.nodes)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.nodes[0].port},127.0.0.1:{self.nodes[1].port}/0"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeCluster]:
        async with AsyncExitStack() as opened:
            for node in self.nodes:
                server = await opened.enter_async_context(await asyncio.start_server(node.serve, "127.0.0.1", 0))
                node.port = server.sockets[0].getsockname()[1]
            try:
                yield self
            finally:
                for node in self.nodes:
                    for writer in node.writers:
                        writer.transport.abort()


def bulk(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster().running() as cluster:
        yield cluster


@pytest.fixture
async def nodes(cluster: FakeCluster) -> AsyncIterator[Nodes]:
    async with open_nodes(cluster.url, timeout_ms=PATIENT_MS, partitions=PARTITIONS) as nodes:
        yield nodes


@pytest.fixture
async def connection(cluster: FakeCluster, nodes: Nodes) -> AsyncIterator[StoreConnection]:
    async with open_store_connection(nodes, cluster.url, timeout_ms=PATIENT_MS, in_flight_max=1_000) as connection:
        yield connection


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await turn()


async def turn() -> None:
    """Let everything else that is ready run."""
    await asyncio.sleep(0)


async def test_each_call_goes_to_the_node_that_has_its_partition(connection: StoreConnection) -> None:
    calls = [connection.call("ECHO", str(partition), partition=partition) for partition in range(PARTITIONS)]
    assert await asyncio.gather(*calls) == [b"0 by 0", b"1 by 1", b"2 by 2"]
    assert await connection.prove() == {"run0", "run1", "run2"}
    assert connection.partitions_of({"run0", "run2"}) == [0, 2]
    assert connection.in_flight == 0


async def test_of_many_calls_that_are_refused_together_the_nodes_are_asked_once(
    connection: StoreConnection, cluster: FakeCluster
) -> None:
    asked = cluster.asked()
    cluster.move(1, 2)
    calls = [connection.call("ECHO", str(number), partition=1) for number in range(500)]
    assert await asyncio.gather(*calls) == [f"{number} by 2".encode() for number in range(500)]
    assert cluster.nodes[1].heard["ECHO"] == cluster.nodes[2].heard["ECHO"] == 500
    # Two commands to each of the three that may know it; and once more if the connection looked by itself just then.
    assert cluster.asked() - asked in (6, 12)
    assert await connection.call("ECHO", "x", partition=1) == b"x by 2"
    assert cluster.nodes[1].heard["ECHO"] == 500, "it is known by now"


async def test_keys_that_have_moved_already_are_asked_for_where_they_are_and_nothing_is_learned(
    connection: StoreConnection, cluster: FakeCluster
) -> None:
    source, target = cluster.nodes[0], cluster.nodes[1]
    source.refusal = f"ASK {keys.slot(0)} 127.0.0.1:{target.port}"
    target.refusal = f"MOVED {keys.slot(0)} 127.0.0.1:{source.port}"  # it is not the owner yet
    asked = cluster.asked()
    assert await connection.call("ECHO", "x", partition=0) == b"x by 1"
    assert (target.heard["ASKING"], target.heard["ECHO"], cluster.asked() - asked) == (1, 1, 0)


async def test_a_partition_on_its_way_is_waited_for_and_refused_in_the_end(
    connection: StoreConnection, cluster: FakeCluster
) -> None:
    node = cluster.nodes[0]
    node.refusal = "TRYAGAIN Multiple keys request during rehashing of slot"
    with pytest.raises(RedirectError) as refused:
        await connection.call("ECHO", "x", partition=0)
    assert refused.value.metadata == {"store": "valkey"}
    assert node.heard["ECHO"] == 1 + REDIRECTS_MAX

    call = asyncio.create_task(connection.call("ECHO", "x", partition=0))
    await until(lambda: node.heard["ECHO"] > 2 + REDIRECTS_MAX)
    node.refusal = ""
    assert await call == b"x by 0"


async def test_of_many_calls_that_are_refused_in_the_end_the_log_has_a_line_per_second_and_partition(
    connection: StoreConnection, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in cluster.nodes[:2]:
        node.refusal = "TRYAGAIN Multiple keys request during rehashing of slot"
    with capture_logs() as logs:
        for at_s in (100.0, 100.5, 101.0):
            monkeypatch.setattr(clock, "monotonic_s", lambda now_s=at_s: now_s)
            calls = [connection.call("ECHO", "x", partition=number % 2) for number in range(40)]
            await asyncio.gather(*calls, return_exceptions=True)
    told = [(line["partition"], line["calls"]) for line in logs if line["event"] == "valkey.partition_moving"]
    assert sorted(told) == [(0, 1), (0, 40), (1, 1), (1, 40)]


async def test_two_nodes_that_send_each_other_a_call_are_left_after_some_tries(
    connection: StoreConnection, cluster: FakeCluster
) -> None:
    for node, other in ((0, 1), (1, 0)):
        cluster.nodes[node].refusal = f"MOVED {keys.slot(0)} 127.0.0.1:{cluster.nodes[other].port}"
    with pytest.raises(StoreUnavailableError):
        await connection.call("ECHO", "x", partition=0)
    assert sum(node.heard["ECHO"] for node in cluster.nodes) == 1 + REDIRECTS_MAX


async def test_a_call_whose_outcome_is_unknown_is_not_sent_again_and_the_others_go_on(
    connection: StoreConnection, cluster: FakeCluster
) -> None:
    cluster.nodes[0].is_silent = True
    calls = [asyncio.create_task(connection.call("ECHO", "x", partition=0)) for _ in range(2)]
    others = await asyncio.gather(*(connection.call("ECHO", "y", partition=partition) for partition in (1, 2)))
    assert others == [b"y by 1", b"y by 2"]
    lost = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in lost] == [ConnectionLostError] * 2
    assert cluster.nodes[0].heard["ECHO"] == 2
    await connection.ping()


async def test_a_new_primary_is_verified_before_it_is_used_and_again_when_it_comes_back_as_another(
    connection: StoreConnection, cluster: FakeCluster
) -> None:
    verified: list[list[int]] = []
    may_go_on = asyncio.Event()

    async def verify(partitions: object = None) -> None:
        assert isinstance(partitions, list)
        verified.append(partitions)
        await may_go_on.wait()

    connection.on_reconnect(verify)
    cluster.move(1, 3)
    with pytest.raises(StoreUnavailableError):
        await connection.call("ECHO", "x", partition=1)
    assert (verified, cluster.nodes[3].heard["ECHO"]) == ([[1]], 0)
    assert await connection.prove() == {"run0", "run2", "run3"}, "what is being verified counts as ours"
    may_go_on.set()

    async def is_served() -> bool:
        try:
            return await connection.call("ECHO", "x", partition=1) == b"x by 3"
        except StoreUnavailableError:
            return False

    async with asyncio.timeout(WAIT_S):
        while not await is_served():
            await turn()
    assert verified == [[1]]


async def test_a_node_that_hangs_is_ours_until_its_connection_is_lost(
    connection: StoreConnection, cluster: FakeCluster
) -> None:
    cluster.nodes[0].is_hanging = True
    assert await connection.prove() == {"run0", "run1", "run2"}
    await connection.ping()
    for writer in cluster.nodes[0].writers:
        writer.transport.abort()
    async with asyncio.timeout(WAIT_S):
        while await connection.prove() != {"run1", "run2"}:
            await turn()
    for node in cluster.nodes:
        node.is_hanging = True
    with pytest.raises(StoreUnavailableError):
        await connection.prove()


async def test_a_partition_that_moves_between_primaries_that_are_served_needs_no_ledger(
    connection: StoreConnection, cluster: FakeCluster
) -> None:
    async def verify(partitions: object = None) -> None:
        raise AssertionError(partitions)

    connection.on_reconnect(verify)
    cluster.move(1, 2)
    assert await connection.call("ECHO", "x", partition=1) == b"x by 2"


async def test_commands_of_the_other_clients_follow_their_partition_as_well(nodes: Nodes, cluster: FakeCluster) -> None:
    def commands() -> list[Command]:
        return [Command(partition, ("ECHO", f"{partition}")) for partition in range(PARTITIONS)]

    assert await nodes.run(commands()) == [b"0 by 0", b"1 by 1", b"2 by 2"]
    assert nodes.groups(range(PARTITIONS)) == [[0], [1], [2]]
    cluster.move(1, 2)
    cluster.nodes[0].refusal = f"ASK {keys.slot(0)} 127.0.0.1:{cluster.nodes[2].port}"
    assert await nodes.run(commands()) == [b"0 by 2", b"1 by 2", b"2 by 2"]
    assert nodes.groups(range(PARTITIONS)) == [[0], [1, 2]]
    assert nodes.beside(2) == [1, 2]
    assert (await nodes.read_run_ids()).answered == {"run0", "run2"}


async def test_the_node_that_has_heard_of_the_newest_change_is_believed(nodes: Nodes, cluster: FakeCluster) -> None:
    behind = cluster.nodes[0]
    reply = behind._reply

    def of_old(words: list[str], writer: asyncio.StreamWriter) -> bytes:
        now, cluster.epoch = cluster.epoch, 1
        try:
            return reply(words, writer)
        finally:
            cluster.epoch = now

    behind._reply = of_old  # type: ignore[method-assign]
    behind.homes = [0, 1, 2]
    cluster.move(1, 3)
    await nodes.refresh()
    assert Address("127.0.0.1", cluster.nodes[3].port) in nodes.homes.primaries  # type: ignore[attr-defined]


async def test_of_nodes_that_have_heard_of_a_failover_the_one_that_was_promoted_is_believed(
    nodes: Nodes, cluster: FakeCluster
) -> None:
    """The others have voted for it, and so know the new epoch, but not yet that it was elected."""
    cluster.move(1, 2)
    for voter in cluster.nodes[:2]:
        voter.homes = [0, 1, 2]
    cluster.nodes[2].made_epoch = cluster.epoch
    addresses = [Address("127.0.0.1", node.port) for node in cluster.nodes[:3]]
    views = [await read_view(nodes.of(number), addresses[number], PARTITIONS) for number in range(3)]
    assert [view.homes[1] for view in views] == [addresses[1], addresses[1], addresses[2]]
    assert max(views, key=lambda view: view.rank).homes[1] == addresses[2]
    await nodes.refresh()
    assert nodes.groups(range(PARTITIONS)) == [[0], [1, 2]]
