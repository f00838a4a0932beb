"""Sends the hold scripts: fills in keys and epoch, and mends what keeps a script from running at all.

A wallet that is not in Redis yet is loaded from Postgres on its first use (through the ``load_missing`` hook, so that
this module knows nothing of Postgres) and the script is sent again: it had no effect the first time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.messages import Reply, WalletRequest
from drawdown_server.holds.refusals import wallet_not_found
from drawdown_server.holds.socket import FunctionMissingError
from drawdown_server.telemetry.metrics import Metrics
from drawdown_server.telemetry.scripts import ScriptCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from drawdown_server.holds.library import Library
    from drawdown_server.holds.store_connection import StoreConnection

    LoadMissing = Callable[[str, str], Awaitable[bool]]
    """Load (tenant_id, wallet_id) from Postgres; False if there is no such wallet."""
    RefreshEpochs = Callable[[Collection[int]], Awaitable[dict[int, int]]]
    """Find out the epochs of these partitions again, after a rebuild."""
    Beside = Callable[[int], Collection[int]]
    """The partitions that live where this one does, and itself."""
    ReloadLibrary = Callable[[], Awaitable[None]]
    """Load the function library again."""

_R = TypeVar("_R", bound=Reply)

ATTEMPTS_MAX: Final = 4
"""Times a script is sent: once, and again after each thing that can keep it from running at all (wallet not loaded,
stale epoch, functions lost). None of these attempts has an effect but the last."""


SETTLING: Final = frozenset({"commit", "release", "refund"})
"""Verbs that finish what was begun: a part of the connection's room is theirs alone."""


class ScriptSender:
    """Sends scripts.

    Args:
        connection: To Valkey/Redis.
        library: The scripts, already loaded there.
        epochs: The epoch of each partition, by its number; its length is the number of partitions.
        metrics: Where decisions, ages of holds and the time of scripts are counted; None: nobody reads them.
    """

    def __init__(
        self, connection: StoreConnection, library: Library, epochs: list[int], metrics: Metrics | None = None
    ) -> None:
        self._connection = connection
        self._epochs = epochs
        self._library = library
        self._encode = msgspec.msgpack.Encoder().encode
        self._load_missing: LoadMissing | None = None
        self._refresh_epochs: RefreshEpochs | None = None
        self._beside: Beside = lambda _: range(len(epochs))
        self._learning = asyncio.Lock()
        self._reload_library: ReloadLibrary | None = None
        self._metrics = metrics or Metrics()
        self._metrics.follow_store(lambda: connection.in_flight, lambda: connection.abandoned.counts, epochs)

    def on_missing_wallet(self, load: LoadMissing) -> None:
        """Load wallets on first use with this function."""
        self._load_missing = load

    def on_stale_epoch(self, refresh: RefreshEpochs, beside: Beside | None = None) -> None:
        """Find out the epochs again with this function when a partition was rebuilt.

        Args:
            refresh: For which partitions it is called depends on ``beside``.
            beside: Of the partition that was rebuilt: those that probably were as well, and can be asked about at once.
                None: all.
        """
        self._refresh_epochs = refresh
        if beside is not None:
            self._beside = beside

    def on_missing_library(self, reload: ReloadLibrary) -> None:
        """Load the scripts again with this function when the store has lost them."""
        self._reload_library = reload

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        return len(self._epochs)

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epoch of each partition, as far as this server knows."""
        return tuple(self._epochs)

    async def _run(
        self, verb: str, request: WalletRequest, decoder: msgspec.msgpack.Decoder[_R], *, load: bool = True
    ) -> _R:
        """Send a script; when something kept it from running at all, mend that and send it again.

        Without ``load`` a wallet that is not in Redis is not brought there: the reply then is NOT_LOADED.
        """
        for _ in range(ATTEMPTS_MAX):
            try:
                reply = await self._send(verb, request, decoder)
            except FunctionMissingError:
                if self._reload_library is None:
                    raise
                await self._reload_library()
                continue
            if reply.status == "NOT_LOADED" and load and self._load_missing is not None:
                if not await self._load_missing(request.tenant_id, request.wallet_id):
                    raise wallet_not_found(request.wallet_id)
            elif reply.status == "STALE_EPOCH":
                await self._learn_epochs(request)
            else:
                return reply
        raise StoreUnavailableError("valkey", "the wallet's partition is being rebuilt")

    async def learn_epochs(self, partitions: Collection[int] | None = None) -> None:
        """Find out the epochs of partitions again; None: of all."""
        async with self._learning:
            await self._learn(range(len(self._epochs)) if partitions is None else partitions)

    async def _learn(self, partitions: Collection[int]) -> None:
        if self._refresh_epochs is not None:
            for partition, epoch in (await self._refresh_epochs(partitions)).items():
                self._epochs[partition] = epoch

    async def _learn_epochs(self, refused: WalletRequest) -> None:
        """Find out the epochs again, once for all the calls that a rebuild has refused at the same time."""
        async with self._learning:
            partition = self._partition_of(refused)
            if str(self._epochs[partition]) == refused.epoch:
                await self._learn(self._beside(partition))

    def _partition_of(self, request: WalletRequest) -> int:
        return keys.partition_of(request.tenant_id, request.wallet_id, len(self._epochs))

    async def _send(
        self, verb: str, request: WalletRequest, decoder: msgspec.msgpack.Decoder[_R], *, epoch: int | None = None
    ) -> _R:
        partition = self._partition_of(request)
        epoch = self._epochs[partition] if epoch is None else epoch
        request.epoch = str(epoch)
        wallet_keys = keys.wallet_keys(partition, epoch, request.tenant_id, request.wallet_id)
        with ScriptCall(self._metrics, verb, partition):
            reply = await self._connection.call(
                b"FCALL",
                self._library.function(verb),
                len(wallet_keys),
                *wallet_keys,
                self._encode(request),
                partition=partition,
                settles=verb in SETTLING,
            )
        assert isinstance(reply, bytes)  # noqa: S101  # every script answers one msgpack string
        return decoder.decode(reply)
