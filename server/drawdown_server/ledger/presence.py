"""Keeps a process to the one Valkey that serves the installation.

Two live Valkeys behind one Postgres (a split brain, a server with a wrong URL) would both answer callers from the same
money, and each would take the other's state for lost. So a process claims its Valkey in Postgres before it looks at
any partition (``servers.py``), and proves twice a second, by a write that changes nothing, that it still serves from
it. A Valkey that was replaced under everybody is free to be claimed as soon as the claims on the old one have run out.

Without Postgres nothing is renewed and everybody serves on: who comes later needs Postgres too, and waits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server.errors import ConfigurationError, StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.startup import unavailable
from drawdown_server.ledger.servers import CLAIM_TTL_S, OtherStoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis

    from drawdown_server.holds.connection import PipelinedConnection
    from drawdown_server.ledger.store import LedgerStore

BEAT_S: Final = CLAIM_TTL_S / 4
"""Between two renewals: some may fail or be late and the claim stays."""
FIRST_CLAIM_WAIT_S: Final = CLAIM_TTL_S + 1.0
"""How long a start waits for others: those that crashed together with the Valkey before count until they run out."""
FIRST_CLAIM_PAUSE_S: Final = 0.1

_log = structlog.get_logger(__name__)


class Presence:
    """The claim of one process.

    Args:
        redis: Reads which Valkey it is.
        store: Where claims are.
        server_id: Unique per process start.
    """

    def __init__(self, redis: Redis, store: LedgerStore, server_id: str) -> None:
        self._redis = redis
        self._followers = [redis]
        self._store = store
        self._server_id = server_id
        self._run_id = ""
        self._has_lapsed = False

    @property
    def run_id(self) -> str:
        """Of the Valkey that was claimed last; empty where INFO is not allowed."""
        return self._run_id

    def follow(self, client: Redis) -> None:
        """Whenever a Valkey is claimed, cut the connections of this client: they may lead to the one from before."""
        self._followers.append(client)

    async def claim_first(self) -> None:
        """Claim the Valkey at the start of the process, with some patience.

        Raises:
            OtherStoreError: Others serve from another Valkey, and go on doing so.
            StoreUnavailableError: A store did not answer.
        """
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + FIRST_CLAIM_WAIT_S
        while True:
            try:
                await self.claim()
            except OtherStoreError:
                if loop.time() > give_up_s:
                    raise
                await asyncio.sleep(FIRST_CLAIM_PAUSE_S)
            else:
                return

    async def claim(self) -> None:
        """Claim the Valkey that the URL leads to now; what was connected before is not it.

        Raises:
            OtherStoreError: Others serve from another Valkey.
            StoreUnavailableError: A store did not answer.
        """
        for client in self._followers:
            await client.connection_pool.disconnect()
        try:
            info = await self._redis.info("server")
        except Exception as error:
            raise unavailable(error) from error
        self._run_id = str(info.get("run_id", ""))
        await self._store.claim_store(self._server_id, self._run_id)

    async def run(self, connection: PipelinedConnection, verify: Callable[[], Awaitable[None]]) -> None:
        """Renew the claim until cancelled; when it is lost to others, make the connection verify itself anew.

        Args:
            connection: What the process serves from.
            verify: Compares the partitions with the ledger. Awaited after the claim had run out: somebody may have
                served from another Valkey meanwhile, and be gone again.
        """
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self._beat(connection, verify)
            except StoreUnavailableError as error:
                _log.debug("presence_not_renewed", store=error.metadata["store"])
            except Exception:  # whatever it is: without this loop others would take us for gone
                _log.exception("presence_failed")

    async def _beat(self, connection: PipelinedConnection, verify: Callable[[], Awaitable[None]]) -> None:
        await connection.call("UNLINK", keys.presence(), settles=True)  # not held up by others that wait for room
        if connection.run_id != self._run_id:
            connection.distrust()
        elif self._has_lapsed or not await self._store.renew_claim(self._server_id, self._run_id):
            self._has_lapsed = True  # until the partitions were compared, however often that fails
            try:
                await self._store.claim_store(self._server_id, self._run_id)
                await verify()
                self._has_lapsed = False
            except ConfigurationError as error:
                _log.error("presence_lost", error=str(error))  # a sentence, not a fault of ours
                connection.distrust()

    async def end(self) -> None:
        """Give the claim up."""
        try:
            await self._store.drop_claim(self._server_id)
        except StoreUnavailableError:
            return  # it runs out by itself
