"""Who serves from which Valkey, in Postgres: one Valkey at a time serves an installation.

A process claims the Valkey that it is connected to before it serves from it, and renews the claim for as long as it can
write there. The claim fails while another process has one on another Valkey.

Of a cluster it claims every primary that it can write to. A claim fails while another process has one on a node that is
no primary in this one's eyes: two processes that disagree on who is the primary of a partition do not both serve it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drawdown_server.errors import ConfigurationError
from drawdown_server.ledger.database import Database, affected
from drawdown_server.ledger.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Iterable

CLAIM_TTL_S: Final = 2.0
"""How long a claim outlives its last renewal. After Valkey was replaced under several servers, the first of them waits
for at most this long; a server that stands still for longer may be taken for one that is gone."""


def run_id_of(run_ids: Iterable[str]) -> str:
    """The nodes of a store in one text: their run_ids, with + between them."""
    return "+".join(sorted(run_ids))


def run_ids_in(run_id: str) -> frozenset[str]:
    """The nodes that ``run_id_of`` has put together; none of an empty text."""
    return frozenset(run_id.split("+")) if run_id else frozenset()


class Claim(msgspec.Struct, frozen=True):
    """A process that serves, or records."""

    server_id: str
    """Host, process and a random part."""
    run_id: str
    """Of the Valkey that it is connected to, of a cluster each primary (``run_id_of``); empty where it is not told."""
    expires_in_s: float
    """Unless it is renewed, which happens twice a second."""


class OtherStoreError(ConfigurationError):
    """A server of this installation serves from another Valkey; two would each spend the same money."""


class ServerStore(Database):
    """Claims."""

    async def claim_store(self, server_id: str, run_id: str, known: str | None = None, *, keeps: bool = False) -> None:
        """Claim a Valkey for this process, which gives up what it claimed before.

        Args:
            server_id: Unique per process start.
            run_id: Of the Valkey that it is connected to; of a cluster those primaries that it can write to.
            known: All primaries that the cluster has, as this process knows it; None: there are no others. Whoever
                serves from one that is not among them serves from another cluster, or from a primary that is none any
                more.
            keeps: Whether a claim that fails leaves the one from before, because a part of that is served on.

        Raises:
            OtherStoreError: Somebody serves from another one; unless it keeps the one from before, this process now has
                no claim.
        """
        async with self._transaction() as connection:
            await connection.execute(QUERIES["installation_lock"])  # one claim at a time
            other: str | None = await connection.fetchval(QUERIES["server_elsewhere"], server_id, known or run_id)
            if other is None:
                await connection.execute(QUERIES["server_set"], server_id, run_id, CLAIM_TTL_S)
                await connection.execute(QUERIES["servers_forget"])
            elif not keeps:
                await connection.execute(QUERIES["server_remove"], server_id)
        if other is not None:
            raise OtherStoreError(
                f"server {other} of this installation serves from another Valkey than this process is connected to; "
                "give all of them the same DRAWDOWN_VALKEY_URL (after a failover: stop the old Valkey)"
            )

    async def list_claims(self) -> list[Claim]:
        """Every claim that has not run out, by the process that has it."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["servers_list"])
        return [Claim(row["server_id"], row["run_id"], row["claim_s"]) for row in rows]

    async def renew_claim(self, server_id: str, run_id: str) -> bool:
        """Renew a claim that has not run out, or what is left of it. Returns whether it was there."""
        async with self._connection() as connection:
            return affected(await connection.execute(QUERIES["server_renew"], server_id, run_id, CLAIM_TTL_S)) == 1

    async def drop_claim(self, server_id: str) -> None:
        """Give up the claim, for the end of the process."""
        async with self._connection() as connection:
            await connection.execute(QUERIES["server_remove"], server_id)
