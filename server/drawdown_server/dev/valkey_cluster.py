"""A real Valkey Cluster of our own on 127.0.0.1: primaries that share all slots, replicas, and what operators do to it.

It is formed by the commands that an operator gives, so it is a cluster like any other. A node is a ``ValkeyProcess``:
it can be killed and started again on its own data and port, and knows its place from its own ``nodes.conf``.
Everything here blocks; inside an event loop it belongs into a thread.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from redis import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from drawdown_server.dev.process import HOST, START_TIMEOUT_S, EmbeddedStackError, Startable, free_port
from drawdown_server.dev.valkey import ValkeyProcess

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from drawdown_server.dev.valkey import Appendfsync

PRIMARIES: Final = 3
"""Fewest of which most are left to agree that one has failed."""
NODE_TIMEOUT_MS: Final = 15_000
"""Valkey's own default: a busy machine is no failure."""
COMMAND_TIMEOUT_S: Final = 10.0
WAIT_S: Final = 60.0
"""Longest wait for the nodes to agree."""
MIGRATE_TIMEOUT_MS: Final = 10_000
KEYS_PER_MIGRATE: Final = 10
"""As ``valkey-cli --cluster reshard``: a node that sends many at once answers nobody meanwhile."""
MANUAL_FAILOVER_S: Final = 6.0
"""A node gives a failover that it was asked for 5 s, then it forgets it: an operator asks again."""
POLL_S: Final = 0.01
SLOTS_PART: Final = 8
"""Where the slots begin in a line of CLUSTER NODES."""

Failover = Literal["", "FORCE", "TAKEOVER"]


class ClusterNode(ValkeyProcess):
    """One node: a primary with slots or without, or a replica.

    Args:
        directory: As of a ``ValkeyProcess``; its place in the cluster is kept here too.
        node_timeout_ms: Silence after which it takes another node for failed.
        binary, appendfsync, extra, start_timeout_s: As of a ``ValkeyProcess``.
    """

    title: ClassVar[str] = "Valkey Cluster node"

    def __init__(
        self,
        directory: Path,
        *,
        node_timeout_ms: int,
        binary: Path | None,
        appendfsync: Appendfsync,
        extra: Sequence[str],
        start_timeout_s: float,
    ) -> None:
        super().__init__(
            directory, binary=binary, appendfsync=appendfsync, extra=extra, start_timeout_s=start_timeout_s
        )
        self._node_timeout_ms = node_timeout_ms
        self.bus_port = 0
        self._bus_port_goes_with = 0
        self._node_id = ""
        self._is_paused = False

    @property
    def answers(self) -> bool:
        """Whether it runs and is not paused."""
        return self.is_running and not self._is_paused

    def pause(self) -> None:
        """Let it hang: its connections stay, and nothing is answered until ``resume``."""
        os.kill(self.pid, signal.SIGSTOP)
        self._is_paused = True

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        os.kill(self.pid, signal.SIGCONT)
        self._is_paused = False

    def kill(self) -> None:
        """As of a ``ServerProcess``."""
        super().kill()
        self._is_paused = False

    @property
    def node_id(self) -> str:
        """Its name in the cluster, for as long as its directory is there."""
        self._node_id = self._node_id or self.ask("CLUSTER", "MYID").decode()
        return self._node_id

    @contextmanager
    def client(self) -> Iterator[Redis]:
        """A client of this node alone: it follows no redirect."""
        with Redis(HOST, self.port, socket_timeout=COMMAND_TIMEOUT_S, single_connection_client=True) as client:
            yield client

    def ask(self, *command: str | bytes | int) -> Any:  # noqa: ANN401 - the reply of any command
        """The reply to one command."""
        with self.client() as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def announce(self, port: int) -> None:
        """Let the others, and the clients that ask them, find this node at another port of 127.0.0.1; 0: its own."""
        self.ask("CONFIG", "SET", "cluster-announce-port", port)

    def slots(self) -> dict[str, set[int]]:
        """Slots by node id, as this node knows them; a node without any is not among them."""
        found: dict[str, set[int]] = {}
        for line in self.ask("CLUSTER", "NODES").decode().splitlines():
            node_id, *_ = parts = line.split()
            for part in parts[SLOTS_PART:]:
                if not part.startswith("["):  # a slot on its way is in brackets, and counts where it still is
                    first, _, last = part.partition("-")
                    found.setdefault(node_id, set()).update(range(int(first), int(last or first) + 1))
        return found

    def agrees(self, nodes: int) -> bool:
        """Whether all slots are served as this node sees it, it knows so many nodes, and has what its primary has."""
        state = dict(line.split(":") for line in self.ask("CLUSTER", "INFO").decode().split())
        if (state["cluster_state"], state["cluster_slots_ok"]) != ("ok", str(SLOTS)):
            return False
        if int(state["cluster_known_nodes"]) < nodes:
            return False
        return bool(self.replication().get("master_link_status", "up") == "up")

    def replication(self) -> dict[str, Any]:
        """INFO replication."""
        info: dict[str, Any] = self.ask("INFO", "replication")
        return info

    def _spawn(self, log: int, inherit: tuple[int, ...]) -> subprocess.Popen[bytes]:
        if self._bus_port_goes_with != self.port:  # when one of the two was taken, both are chosen again
            self.bus_port, self._bus_port_goes_with = free_port(), self.port
        return super()._spawn(log, inherit)

    def _settings(self) -> list[str]:
        return [
            "cluster-enabled yes",
            "cluster-config-file nodes.conf",
            f"cluster-port {self.bus_port}",
            f"cluster-announce-ip {HOST}",
            f"cluster-node-timeout {self._node_timeout_ms}",
            # The slots of a node that has failed are away, those of the others are served.
            "cluster-require-full-coverage no",
            # A primary whose slots were moved away stays one, and waits for others.
            "cluster-allow-replica-migration no",
            "repl-diskless-sync-delay 0",
            *super()._settings(),
        ]


class ValkeyCluster(Startable):
    """A cluster on 127.0.0.1, without a password.

    Args:
        directory: Each node has a directory of its own in it, kept afterwards.
        primaries: How many nodes share the slots.
        replicas: How many nodes copy each of these.
        node_timeout_ms: Silence after which a node is taken for failed, and a replica takes its place.
        binary: The server program; default the embedded Valkey. A Redis 7 works too.
        appendfsync: ``always`` loses no acknowledged write; others are for tests and measurements.
        extra: More lines of every node's configuration file; they win over ours.
        start_timeout_s: How long a node may take to answer.
    """

    def __init__(
        self,
        directory: Path,
        *,
        primaries: int = PRIMARIES,
        replicas: int = 0,
        node_timeout_ms: int = NODE_TIMEOUT_MS,
        binary: Path | None = None,
        appendfsync: Appendfsync = "always",
        extra: Sequence[str] = (),
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._directory = directory
        self._primaries = primaries
        self._replicas = replicas
        self._options: dict[str, Any] = {
            "node_timeout_ms": node_timeout_ms,
            "binary": binary,
            "appendfsync": appendfsync,
            "extra": extra,
            "start_timeout_s": start_timeout_s,
        }
        self.nodes: list[ClusterNode] = []
        """All nodes, the first primaries first, then their replicas in turn, then those added, whatever each is now."""

    @property
    def url(self) -> str:
        """``redis://`` URL of the first primaries: any of them knows the rest."""
        return f"redis://{','.join(f'{HOST}:{node.port}' for node in self.nodes[: self._primaries])}/0"

    @property
    def running(self) -> list[ClusterNode]:
        """The nodes that are neither killed, stopped nor paused."""
        return [node for node in self.nodes if node.answers]

    @property
    def primaries(self) -> list[ClusterNode]:
        """The nodes that have slots, in the order of ``nodes``, as one that runs knows them."""
        slots = self.running[0].slots()
        return [node for node in self.nodes if node.node_id in slots]

    def owner(self, slot: int) -> ClusterNode:
        """The node that has a slot, as one that runs knows it."""
        slots = self.running[0].slots()
        return next(node for node in self.nodes if slot in slots.get(node.node_id, ()))

    def owner_of(self, key: str) -> ClusterNode:
        """The node that has the slot of a key."""
        return self.owner(key_slot(key.encode()))

    def replicas_of(self, primary: ClusterNode) -> list[ClusterNode]:
        """The running nodes that copy a primary."""
        return [node for node in self.running if node.replication().get("master_port") == primary.port]

    def start(self) -> None:
        """Start every node that does not run, form a cluster of them if they are none yet, and wait until it serves.

        Raises:
            EmbeddedStackError: A node does not start, or they do not agree.
        """
        try:
            if self.nodes:
                for node in self.nodes:
                    if not node.is_running:
                        node.start()
            else:
                self._form()
            self.wait_until_agreed()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop every node; ``start`` starts them again on their data and ports."""
        for node in self.nodes:
            node.stop()

    def add_node(self) -> ClusterNode:
        """Start one more primary, without slots, and wait until all know it."""
        node = self._start_node()
        node.node_id  # noqa: B018 - asked while it runs
        self._meet([node])
        self.wait_until_agreed()
        return node

    def fail_over(self, replica: ClusterNode, how: Failover = "") -> None:
        """Let a replica take the place of its primary, and wait until all agree.

        Args:
            replica: Of a primary that runs, or with ``FORCE`` or ``TAKEOVER`` of any.
            how: ``""`` loses nothing: both wait for each other. ``FORCE`` waits for the other primaries alone,
                ``TAKEOVER`` for nobody.
        """
        asked_s = 0.0

        def promoted() -> bool:
            nonlocal asked_s
            if self._has_slots(replica):
                return True
            if time.monotonic() - asked_s > MANUAL_FAILOVER_S and replica.replication()["role"] == "slave":
                replica.ask("CLUSTER", "FAILOVER", *([how] if how else []))
                asked_s = time.monotonic()
            return False

        wait_for(promoted, "the replica is not promoted")

    def wait_until_promoted(self, replica: ClusterNode) -> None:
        """Wait until a replica has slots, and all that run know it."""
        wait_for(lambda: self._has_slots(replica), "the replica is not promoted")

    def _has_slots(self, node: ClusterNode) -> bool:
        """Whether a node is a primary with slots in the eyes of all that run."""
        return all(node.node_id in other.slots() for other in self.running)

    @contextmanager
    def moving(self, slot: int, target: ClusterNode) -> Iterator[Callable[[int], int]]:
        """Move a slot while it is used, as ``valkey-cli --cluster reshard`` does, and stay inside for a while.

        Inside the block the slot is on its way: what is still at its old node is answered there, for the rest the old
        node says ASK. Yields a function that moves up to so many keys and returns how many it moved; at the end the
        rest goes, and all primaries are told.
        """
        source = self.owner(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.node_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.node_id)

        def move(keys_max: int) -> int:
            keys: list[bytes] = source.ask("CLUSTER", "GETKEYSINSLOT", slot, keys_max)
            if keys:
                source.ask("MIGRATE", HOST, target.port, "", 0, MIGRATE_TIMEOUT_MS, "KEYS", *keys)
            return len(keys)

        yield move
        while move(KEYS_PER_MIGRATE):
            pass
        # The new owner first: there is no moment at which nobody has it.
        for node in (target, source, *(node for node in self.primaries if node not in (target, source))):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.node_id)

    def move_slot(self, slot: int, target: ClusterNode) -> None:
        """Move a slot and its keys to another primary while it is used."""
        with self.moving(slot, target):
            pass

    def migrate_slot(self, slot: int, target: ClusterNode) -> None:
        """Let Valkey 9 move a slot to another primary in one step: no key is ever between two nodes."""
        self.owner(slot).ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.node_id)
        wait_for(lambda: all(slot in node.slots().get(target.node_id, ()) for node in self.running), "the slot stays")

    def wait_until_agreed(self) -> None:
        """Wait until every node that runs knows every other, and that all slots are served."""
        wait_for(lambda: all(node.agrees(len(self.nodes)) for node in self.running), "the nodes do not agree")

    def _form(self) -> None:
        nodes = [self._start_node() for _ in range(self._primaries * (1 + self._replicas))]
        primaries, replicas = nodes[: self._primaries], nodes[self._primaries :]
        bounds = [SLOTS * number // self._primaries for number in range(self._primaries + 1)]
        for number, primary in enumerate(primaries):
            primary.ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for epoch, node in enumerate(nodes, 1):
            # Else they find out by collisions, one after the other.
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        self._meet(nodes[1:])
        for number, replica in enumerate(replicas):
            self._replicate(replica, primaries[number % self._primaries])

    def _start_node(self) -> ClusterNode:
        node = ClusterNode(self._directory / f"node{len(self.nodes)}", **self._options)
        self.nodes.append(node)
        node.start()
        return node

    def _meet(self, nodes: Sequence[ClusterNode]) -> None:
        for node in nodes:
            self.running[0].ask("CLUSTER", "MEET", HOST, node.port, node.bus_port)

    @staticmethod
    def _replicate(replica: ClusterNode, primary: ClusterNode) -> None:
        """Make a node a replica as soon as it knows its primary."""
        wait_for(lambda: primary.node_id in replica.slots(), "the nodes do not meet")
        replica.ask("CLUSTER", "REPLICATE", primary.node_id)


def wait_for(condition: Callable[[], bool], failure: str) -> None:
    """Look again and again until it is so.

    Raises:
        EmbeddedStackError: It never was.
    """
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise EmbeddedStackError(f"Valkey Cluster: {failure} after {WAIT_S:.0f} s")
        time.sleep(POLL_S)
