"""Takes idle wallets out of Valkey, so that its memory holds the customers of today and not those of ever.

The hot path pays nothing for it: the head of a wallet has the time of its last event. (Valkey's own idle time would
count looks too, and the reconciler looks at everything.) A round walks a part of the keys, asks Postgres once how far
the idle wallets among them are recorded, and sends these numbers to ``evict.lua``, which decides. Any number of servers
may do this at once.

When memory is short, wallets go after a much shorter time: a load costs Postgres a few milliseconds, a full Valkey
refuses every new hold.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

import msgspec
import structlog
from redis.exceptions import AskError, RedisError

from drawdown_server.errors import DrawdownError, StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.messages import EvictRequest
from drawdown_server.holds.model import WalletHead
from drawdown_server.holds.nodes import run_on
from drawdown_server.holds.startup import unavailable
from drawdown_server.ledger import streams
from drawdown_server.signals import stopped

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.holds.store import HoldStore
    from drawdown_server.ledger.rows import RecordedWallet
    from drawdown_server.ledger.store import LedgerStore

log = structlog.get_logger(__name__)

KEYS_PER_SCAN: Final = 250
"""Keys that one SCAN looks at: about 0.1 ms of Valkey, and at most 5 ms of ours if all are wallets."""
SCANS_PER_ROUND: Final = 40
"""10,000 keys per round: with a round every 10 s, ten million keys in three hours."""
PRESSURE_SHARE: Final = 0.8
"""Of maxmemory. From here on memory is short."""
PRESSURE_IDLE_S: Final = 120
"""How long a wallet may be idle when memory is short: a customer in a conversation stays."""

_head = msgspec.msgpack.Decoder(WalletHead)


class Evictor:
    """Evicts wallets to which nothing has happened for long.

    Args:
        nodes: To look at keys with; each is walked through on its own, by its own clock and for its own memory.
        idle_s: For how long nothing has happened to them. A wallet stays for a minute at least, whatever this says.
        interval_ms: Pause between rounds.
    """

    def __init__(self, nodes: Nodes, holds: HoldStore, ledger: LedgerStore, *, idle_s: int, interval_ms: int) -> None:
        self._nodes = nodes
        self._holds = holds
        self._ledger = ledger
        self._idle_s = idle_s
        self._interval_s = interval_ms / 1000
        self._cursors: dict[Redis, int] = {}
        self.evicted_total = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Evict until told to stop."""
        while not stop.is_set():
            more = False
            try:
                more = await self.run_once()
            except StoreUnavailableError as error:
                log.warning("evictor.store_unavailable", store=error.metadata["store"])
            except (DrawdownError, RedisError):
                log.exception("evictor.failed")
            if more:
                continue
            await stopped(stop, self._interval_s)

    async def run_once(self) -> bool:
        """One round. Returns whether to go on at once: memory is short, and this round has freed some.

        Raises:
            StoreUnavailableError: A store did not answer; other nodes have been walked through all the same.
            redis.exceptions.RedisError: The store does not allow what this needs (SCAN, HGET, INFO).
        """
        clients = self._nodes.clients
        self._cursors = {client: self._cursors.get(client, 0) for client in clients}
        more = False
        failure: StoreUnavailableError | None = None
        for client in clients:
            try:
                more = await self._walk(client) or more
            except StoreUnavailableError as error:
                failure = error
        if failure is not None:
            raise failure
        return more

    async def _walk(self, client: Redis) -> bool:
        """A round of one node."""
        is_short = await _is_memory_short(client)
        idle_s = min(self._idle_s, PRESSURE_IDLE_S) if is_short else self._idle_s
        until_ms, before = await streams.now_ms(client) - idle_s * 1000, self.evicted_total
        for _ in range(SCANS_PER_ROUND):
            idle = await self._next_idle(client, until_ms)
            if idle:
                recorded = await self._ledger.recorded_wallets(idle)
                await asyncio.gather(*(self._evict(wallet) for wallet in recorded))
            if self._cursors[client] == 0:  # that was all of them
                break
        evicted = self.evicted_total - before
        if evicted:
            log.info("evictor.evicted", wallets=evicted, idle_s=idle_s, memory_is_short=is_short)
        return is_short and evicted > 0

    async def _next_idle(self, client: Redis, until_ms: int) -> list[tuple[str, str]]:
        """(tenant, wallet) of the wallets among the next keys to which nothing has happened since."""
        self._cursors[client], names = await streams.scan(
            client, keys.WALLETS_PATTERN, self._cursors[client], KEYS_PER_SCAN
        )
        heads = await run_on(client, [("HGET", name, "head") for name in names])
        wallets = []
        for name, head in zip(names, cast("list[bytes | Exception | None]", heads), strict=True):
            if isinstance(head, AskError):
                continue  # its partition has just moved to another node
            if isinstance(head, Exception):
                raise unavailable(head) from head
            wallet = keys.parse_wallet(name)
            # An older epoch's keys are not ours to judge: its numbers mean nothing any more.
            if wallet and head and _head.decode(head).changed_ms <= until_ms and self._is_current(wallet):
                wallets.append((wallet.tenant_id, wallet.wallet_id))
        return wallets

    def _is_current(self, wallet: keys.WalletName) -> bool:
        return wallet.partition < self._holds.partitions and self._holds.epochs[wallet.partition] == wallet.epoch

    async def _evict(self, wallet: RecordedWallet) -> None:
        reply = await self._holds.evict(
            EvictRequest(
                tenant_id=wallet.tenant_id,
                wallet_id=wallet.wallet_id,
                sequence=wallet.sequence,
                applied_change_number=wallet.applied_change_number,
                change_number=wallet.change_number,
            )
        )
        self.evicted_total += reply.status == "OK"


async def _is_memory_short(client: Redis) -> bool:
    """Whether a node has little room left."""
    try:
        memory = await client.info("memory")
    except Exception as error:
        raise unavailable(error) from error
    return bool(memory["maxmemory"]) and memory["used_memory"] >= PRESSURE_SHARE * memory["maxmemory"]
