"""Every key name in Valkey, and nothing else.

All keys of a wallet and the outbox that records it carry the hash tag of one partition (``{dd07}``), so that one
script may touch them on a single server as on a cluster. The epoch is part of the names: state that a rebuild
replaced can never be reached again by an old server. ``|`` separates the parts because no id may contain it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from zlib import crc32

from redis.crc import key_slot

PARTITIONS_DEFAULT: Final = 64
"""Default number of partitions. Fixed for the life of an installation: it decides where a wallet lives."""

PARTITIONS_MAX: Final = 1024
"""Most partitions: each costs one stream read per flusher cycle and one sweep per second."""


WALLET: Final = 3
"""Place of the wallet's hash in ``wallet_keys``."""

WALLETS_PATTERN: Final = "{dd*}:*:wallet|*"
"""Finds the hashes of all wallets, whatever their partition and epoch."""

_WALLET_NAME: Final = re.compile(r"\{dd(\d+)\}:(\d+):wallet\|([^|]+)\|([^|]+)")


class WalletName(NamedTuple):
    """What the name of a wallet's hash says."""

    partition: int
    epoch: int
    tenant_id: str
    wallet_id: str


def parse_wallet(key: str) -> WalletName | None:
    """The wallet whose hash has this name; None for other keys."""
    found = _WALLET_NAME.fullmatch(key)
    return None if found is None else WalletName(int(found[1]), int(found[2]), found[3], found[4])


ALL: Final = "{dd*"
"""Pattern of every key of ours."""

_EPOCH: Final = re.compile(r"\{dd(\d+)\}:(\d+):")


def epoch_of(key: str) -> tuple[int, int] | None:
    """(partition, epoch) in the name of a key; None for one that has no epoch."""
    found = _EPOCH.match(key)
    return None if found is None else (int(found[1]), int(found[2]))


def partition_in(name: str) -> int:
    """The partition in the name of a key of ours."""
    return int(name[len("{dd") : name.index("}")])


def slot(partition: int) -> int:
    """The hash slot of a cluster that all keys of a partition are in."""
    found: int = key_slot(meta(partition).encode())
    return found


def presence(partition: int = 0) -> str:
    """A key that never exists: deleting it proves that writes are taken, and changes nothing."""
    return f"{{dd{partition:02d}}}:presence"


def partition_of(tenant_id: str, wallet_id: str, partitions: int) -> int:
    """The partition, 0 .. partitions - 1, in which a wallet lives; the same on every server and in every version."""
    return crc32(f"{tenant_id}|{wallet_id}".encode()) % partitions


def meta(partition: int) -> str:
    """Hash: the epoch of the partition. The only key without the epoch in its name."""
    return f"{{dd{partition:02d}}}:meta"


def outbox(partition: int, epoch: int) -> str:
    """Stream: the events that Postgres must still record."""
    return f"{{dd{partition:02d}}}:{epoch}:outbox"


def due_wallets(partition: int, epoch: int) -> str:
    """Sorted set: ``tenant|wallet`` by the time in milliseconds at which the wallet next needs the sweep."""
    return f"{{dd{partition:02d}}}:{epoch}:due"


def wallet_member(tenant_id: str, wallet_id: str) -> str:
    """A wallet's name inside ``due_wallets``."""
    return f"{tenant_id}|{wallet_id}"


def wallet_keys(partition: int, epoch: int, tenant_id: str, wallet_id: str) -> tuple[str, ...]:
    """KEYS of every script that works on a wallet, in their order (``lua/store.lua`` names them).

    Returns:
        meta, outbox, due wallets; then the wallet's own five: its hash (head, caps, one packed field per asset), its
        holds (hash of packed holds by id), its open holds (sorted set of ids by expiry), its settled holds (sorted
        set of ids by the time at which they may be forgotten) and the counters of its caps (hash).
    """
    tag = f"{{dd{partition:02d}}}"
    prefix = f"{tag}:{epoch}:"
    name = f"|{tenant_id}|{wallet_id}"
    return (
        f"{tag}:meta",
        f"{prefix}outbox",
        f"{prefix}due",
        f"{prefix}wallet{name}",
        f"{prefix}holds{name}",
        f"{prefix}open{name}",
        f"{prefix}settled{name}",
        f"{prefix}caps{name}",
    )
