"""The embedded cluster: that it is one, what it outlives, and that its slots and primaries move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis.cluster import RedisCluster
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError

from drawdown_server.dev.process import is_alive
from drawdown_server.dev.valkey_cluster import SLOTS, ValkeyCluster

if TYPE_CHECKING:
    from pathlib import Path

NODE_TIMEOUT_MS = 1_000
KEY = "{dd07}:meta"
SLOT = key_slot(KEY.encode())


def client(cluster: ValkeyCluster) -> RedisCluster:
    return RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port, decode_responses=True)


def test_its_primaries_share_all_slots_and_any_of_them_leads_to_the_rest(cluster: ValkeyCluster) -> None:
    assert cluster.primaries == cluster.nodes
    assert cluster.url == "redis://{},{},{}/0".format(*(f"127.0.0.1:{node.port}" for node in cluster.nodes))
    views = [node.slots() for node in cluster.nodes]
    assert views[0] == views[1] == views[2]
    assert sorted(slot for slots in views[0].values() for slot in slots) == list(range(SLOTS))
    with client(cluster) as valkey:
        for number in range(64):
            valkey.set(f"{{dd{number:02d}}}", number)
        assert sum(node.ask("DBSIZE") for node in cluster.nodes) == 64
        assert all(node.ask("DBSIZE") for node in cluster.nodes)


def test_kill_9_and_stop_keep_data_places_and_ports(data_dir: Path) -> None:
    with ValkeyCluster(data_dir, node_timeout_ms=NODE_TIMEOUT_MS) as cluster:
        url, owner = cluster.url, cluster.owner_of(KEY)
        owner.ask("SET", KEY, "kept")
        owner.kill()
        assert cluster.running == [node for node in cluster.nodes if node is not owner]
        cluster.start()
        assert (cluster.owner_of(KEY), owner.ask("GET", KEY)) == (owner, b"kept")
        pids = [node.pid for node in cluster.nodes]
        cluster.stop()
        assert not any(is_alive(pid) for pid in pids)
        cluster.start()
        assert (cluster.url, cluster.owner_of(KEY), owner.ask("GET", KEY)) == (url, owner, b"kept")


def test_a_slot_moves_with_its_keys_while_it_is_used(data_dir: Path) -> None:
    with ValkeyCluster(data_dir) as cluster:
        source = cluster.owner(SLOT)
        with client(cluster) as valkey:
            for number in range(25):
                valkey.set(f"{{dd07}}:{number}", number)
        added = cluster.add_node()
        assert added not in cluster.primaries
        with cluster.moving(SLOT, added) as move:
            assert move(2) == 2
            with pytest.raises(AskError):
                source.ask("GET", "{dd07}:new")
            with pytest.raises(MovedError):
                added.ask("GET", "{dd07}:new")
        assert cluster.owner(SLOT) is added
        assert added in cluster.primaries
        assert added.ask("DBSIZE") == 25
        with pytest.raises(MovedError):
            source.ask("GET", KEY)
        cluster.migrate_slot(SLOT, source)
        assert (cluster.owner(SLOT), added.ask("DBSIZE"), source.ask("DBSIZE")) == (source, 0, 25)


def test_a_replica_takes_over_when_asked_and_when_its_primary_dies(data_dir: Path) -> None:
    with ValkeyCluster(data_dir, replicas=1, node_timeout_ms=NODE_TIMEOUT_MS) as cluster:
        first = cluster.owner(SLOT)
        (second,) = cluster.replicas_of(first)
        with first.client() as valkey:
            valkey.set(KEY, "kept")
            assert valkey.wait(1, 10_000) == 1
        cluster.fail_over(second)
        assert cluster.owner(SLOT) is second
        cluster.wait_until_agreed()
        assert cluster.replicas_of(second) == [first]
        second.kill()
        cluster.wait_until_promoted(first)
        assert (cluster.owner(SLOT), first.ask("GET", KEY)) == (first, b"kept")
        cluster.start()
        assert cluster.replicas_of(first) == [second]
