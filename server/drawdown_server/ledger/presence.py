"""Keeps a process to the one Valkey that serves the installation.

Two live Valkeys behind one Postgres (a split brain, a server with a wrong URL) would both answer callers from the same
money, and each would take the other's state for lost. So a process claims its Valkey in Postgres before it looks at
any partition (``servers.py``), and proves twice a second, by a write that changes nothing, that it still serves from
it. A Valkey that was replaced under everybody is free to be claimed as soon as the claims on the old one have run out.

Of a cluster it claims all primaries. One that takes no writes any more is given up at the next renewal, the others stay
claimed; the replica that is promoted instead can be claimed, and is served, as soon as nobody claims the old primary.

Without Postgres nothing is renewed and everybody serves on: who comes later needs Postgres too, and waits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server.errors import ConfigurationError, StoreUnavailableError
from drawdown_server.ledger.servers import CLAIM_TTL_S, OtherStoreError, run_id_of

if TYPE_CHECKING:
    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.holds.store_connection import StoreConnection, Verify
    from drawdown_server.ledger.store import LedgerStore

BEAT_S: Final = CLAIM_TTL_S / 4
"""Between two renewals: some may fail or be late and the claim stays."""
CLAIM_WAIT_S: Final = CLAIM_TTL_S + 1.0
"""How long a start waits for others: those that crashed together with the Valkey before count until they run out."""
CLAIM_PAUSE_S: Final = 0.1

_log = structlog.get_logger(__name__)


class Presence:
    """The claim of one process.

    Args:
        nodes: The Valkey that the URL leads to.
        store: Where claims are.
        server_id: Unique per process start.
    """

    def __init__(self, nodes: Nodes, store: LedgerStore, server_id: str) -> None:
        self._nodes = nodes
        self._store = store
        self._server_id = server_id
        self._claimed: frozenset[str] = frozenset()
        self._known: frozenset[str] = frozenset()
        self._has_lapsed = False
        self._claiming = asyncio.Lock()
        self._claims = 0

    @property
    def run_id(self) -> str:
        """Of the Valkey that was claimed last, of a cluster all its primaries; empty where INFO is not allowed."""
        return run_id_of(self._known)

    async def claim_patiently(self) -> None:
        """Claim the Valkey, with some patience for others who claim one that is gone.

        Raises:
            OtherStoreError: Others serve from another Valkey, and go on doing so.
            StoreUnavailableError: A store did not answer.
        """
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + CLAIM_WAIT_S
        while True:
            try:
                await self.claim()
            except OtherStoreError:
                if loop.time() > give_up_s:
                    raise
                await asyncio.sleep(CLAIM_PAUSE_S)
            else:
                return

    async def claim(self) -> None:
        """Claim the Valkey that the URL leads to now; what was connected before is not it.

        Raises:
            OtherStoreError: Others serve from another Valkey. Of a cluster, the primaries that were claimed before and
                are still there stay claimed: they are served on.
            StoreUnavailableError: A store did not answer.
        """
        await self._nodes.refresh()
        await self._nodes.disconnect()
        async with self._claiming:
            self._claims += 1
            before = self._claimed
            self._claimed, self._known = await self._nodes.read_run_ids()
            kept = before & self._claimed
            try:
                await self._store.claim_store(self._server_id, run_id_of(self._claimed), self.run_id, keeps=bool(kept))
            except OtherStoreError:
                self._claimed = kept
                raise

    async def run(self, connection: StoreConnection, verify: Verify) -> None:
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

    async def _beat(self, connection: StoreConnection, verify: Verify) -> None:
        claims = self._claims
        proven = await connection.prove()
        async with self._claiming:
            if claims != self._claims:
                return  # claimed meanwhile, perhaps more than was proven
            if strangers := proven - self._claimed:
                connection.distrust(strangers)
            kept = proven & self._claimed
            if not kept:
                return
            if not self._has_lapsed and await self._store.renew_claim(self._server_id, run_id_of(kept)):
                # A node that takes no writes is given up: it may come back as one that others take for another's.
                connection.doubt(self._claimed - kept)
                self._claimed = kept
                return
            self._has_lapsed = True  # until the partitions were compared, however often that fails
        try:
            await self._store.claim_store(self._server_id, run_id_of(kept), self.run_id)
            await verify(connection.partitions_of(kept))
            self._has_lapsed = False
        except ConfigurationError as error:
            _log.error("presence_lost", error=str(error))  # a sentence, not a fault of ours
            connection.distrust(kept)

    async def end(self) -> None:
        """Give the claim up."""
        try:
            await self._store.drop_claim(self._server_id)
        except StoreUnavailableError:
            return  # it runs out by itself
