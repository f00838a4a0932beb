"""Decides, per partition, whether the state in Valkey is the one that Postgres knows, before anything is served.

Postgres remembers the position of the last recorded event; the flusher never trims that entry. So the two have the
same history if, and only if, the entry is still there (or it was the last one when the stream was emptied).

    what is found                                             what is done
    no meta, this epoch was never opened                      a new installation (or epoch): set it, serve
    meta is the epoch, same history                           serve
    no meta, same history and something is recorded           only the meta key is lost: set it, serve
    meta below the epoch, this epoch was never opened         another server began it and crashed: set it, serve
    meta above the epoch                                      Postgres was restored from a backup: refused
    the stream was trimmed past the position                  Postgres was restored from a backup: refused
    anything else                                             Valkey lost its state or went back in time: a new epoch

A new epoch begins in Postgres (compare and set, position 0-0), then in Valkey's meta key, from which every script
learns it. Its keys have new names, so the old state cannot be reached any more, and the wallets load again from
Postgres. Events of the old outbox that were not recorded cannot be trusted (their wallets' history broke off), but
they were acknowledged: they go to dead_letters for a person to look at.

Postgres is read before Valkey: whoever finds an epoch opened in Postgres then finds its meta key in Valkey. And before
that, the flushers are fenced: what one of them has read from a Valkey that is gone must not be recorded when the next
one, which may lack it, is already served. ``tests/simulation/protocol`` walks through all orders of these steps.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, cast

import msgspec
import structlog

from drawdown_server.errors import ConfigurationError
from drawdown_server.holds import keys
from drawdown_server.ledger import streams
from drawdown_server.ledger.rows import POSITION_START, LeaseRow, PartitionRow
from drawdown_server.ledger.salvage import salvage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.ledger.streams import StreamInfo

ROUNDS_MAX: Final = 10
"""How often to look again when other servers change the same partitions meanwhile."""

AT_ONCE: Final = 4
"""Partitions worked on at once: half of the connections to Postgres that a process has by default."""

_A = TypeVar("_A")
_T = TypeVar("_T")

POSTGRES_IS_OLD: Final = (
    "Postgres was restored from a backup, or it is not the database of this Valkey. Nothing was changed; "
    "restore the newer database"
)

_log = structlog.get_logger(__name__)


class LedgerBehindError(ConfigurationError):
    """Valkey has confirmed more than Postgres knows: Postgres was restored from a backup, or it is another one."""


class Finding(NamedTuple):
    """What Valkey says about one partition."""

    epoch: int
    """In the meta key; 0 = no key."""
    outbox: StreamInfo
    """Of the epoch that Postgres has."""
    has_position: bool
    """The entry at Postgres' position is there."""


class Action(StrEnum):
    """What a server would do with a partition."""

    SERVE = "serve"
    SET_EPOCH = "set its epoch again, then serve"
    FINISH = "finish the epoch that was begun, then serve"
    REBUILD = "begin a new epoch"
    REFUSE = "refuse to serve"


class Verdict(msgspec.Struct, frozen=True):
    """What is to be thought of one partition."""

    partition: int
    epoch: int
    """In Postgres."""
    action: Action
    why: str
    unrecorded: int
    """Events in its outbox that Postgres does not have yet."""


async def examine_partitions(nodes: Nodes, store: LedgerStore, partitions: Sequence[int]) -> list[Verdict]:
    """What ``open_partitions`` would do; changes nothing. Beside busy servers it may see a moment that passes.

    Raises:
        StoreUnavailableError: A store did not answer.
    """
    wanted = set(partitions)
    rows = [row for row in await store.read_partitions() if row.partition in wanted]
    return [_verdict(row, finding) for row, finding in zip(rows, await _look(nodes, rows), strict=True)]


def _verdict(row: PartitionRow, finding: Finding) -> Verdict:
    same = same_history(row, finding)
    if finding.epoch > row.epoch:
        action, why = Action.REFUSE, f"Valkey is in epoch {finding.epoch} already. {POSTGRES_IS_OLD}"
    elif row.left_epoch:
        action, why = Action.FINISH, f"events of epoch {row.left_epoch} are still to be kept"
    elif same is None:
        action, why = Action.REFUSE, f"events after {row.position} were dropped as recorded. {POSTGRES_IS_OLD}"
    elif not same:
        action = Action.REBUILD
        why = f"the outbox does not continue what was recorded up to {row.position}: Valkey lost its state"
    elif finding.epoch == row.epoch:
        action, why = Action.SERVE, "both stores have the same history"
    elif not row.opened:
        action, why = Action.SET_EPOCH, "the epoch is new"
    elif row.position != POSITION_START:
        action, why = Action.SET_EPOCH, "only the epoch's key is missing"
    else:
        action, why = Action.REBUILD, "Valkey has no state of it, although it had"
    unrecorded = finding.outbox.length - finding.has_position
    return Verdict(row.partition, row.epoch, action, why, unrecorded)


async def rebuild_partition(nodes: Nodes, store: LedgerStore, partition: int) -> int:
    """Begin a new epoch of a partition, whatever its state is.

    Args:
        nodes: Of the store that is served.
        store: The ledger.
        partition: Its number.

    Returns:
        How many events became dead letters.

    Raises:
        StoreUnavailableError: A store did not answer; whatever was begun is finished by the next server or rebuild.
    """
    letters = 0
    row = await store.read_partition(partition)
    assert row is not None, "the caller knows the number of partitions"  # noqa: S101
    if row.left_epoch:
        letters += await _finish(nodes, store, row)
    if await store.bump_epoch(partition, row.epoch) is not None:
        _log.warning("partition_rebuilt", partition=partition, epoch=row.epoch + 1, reason="asked for by an operator")
    row = await store.read_partition(partition)
    assert row is not None, "partitions are never deleted"  # noqa: S101
    letters += await _finish(nodes, store, row)
    await store.mark_opened([(partition, row.epoch)])
    return letters


async def open_partitions(nodes: Nodes, store: LedgerStore, partitions: int) -> list[int]:
    """As ``open_some``, of all partitions, so many. Returns the epoch per partition."""
    epochs = await open_some(nodes, store, range(partitions))
    return [epochs[partition] for partition in range(partitions)]


async def open_some(nodes: Nodes, store: LedgerStore, partitions: Collection[int]) -> dict[int, int]:
    """Make partitions fit to serve; at start, and whenever Valkey, or the node that has them, may have lost state.

    Args:
        nodes: Of the store that will be served.
        store: The ledger; its partitions exist (``ensure_partitions``).
        partitions: Their numbers.

    Returns:
        The epoch per partition.

    Raises:
        LedgerBehindError: Postgres is older than what it once confirmed; serving would lose money.
        StoreUnavailableError: A store did not answer.
    """
    await store.fence_flushers()
    epochs: dict[int, int] = {}
    left = set(partitions)
    suspects: set[int] = set()
    for _ in range(ROUNDS_MAX):
        rows = [row for row in await store.read_partitions() if row.partition in left]
        await _some_at_once(lambda row: _finish(nodes, store, row), [row for row in rows if row.left_epoch])
        findings = await _look(nodes, rows)
        opened = []
        results = await _some_at_once(
            lambda pair: _open(nodes, store, *pair, suspects), list(zip(rows, findings, strict=True))
        )
        for row, epoch in zip(rows, results, strict=True):
            if epoch is not None:
                epochs[row.partition] = epoch
                left.discard(row.partition)
                if not row.opened or epoch != row.epoch:
                    opened.append((row.partition, epoch))
        if opened:
            await store.mark_opened(opened)
        if not left:
            return epochs
    raise RuntimeError(f"partitions {sorted(left)} did not come to rest in {ROUNDS_MAX} rounds")


async def find_gaps(nodes: Nodes, store: LedgerStore, rows: Sequence[LeaseRow]) -> list[LeaseRow]:
    """Those whose outbox was trimmed past their position, for the flusher: what it would read next comes after a gap.

    Postgres went back to before what it had confirmed: a failover to a replica that lagged, or a backup.

    Raises:
        StoreUnavailableError: A store did not answer.
    """
    findings = await _look(nodes, rows)
    gaps = []
    for row, finding in zip(rows, findings, strict=True):
        if same_history(row, finding) is None:
            now = await store.read_partition(row.partition)
            if now is not None and (now.epoch, now.position) == (row.epoch, row.position):
                gaps.append(row)  # else another flusher went on since
    return gaps


async def _some_at_once(step: Callable[[_A], Awaitable[_T]], items: Sequence[_A]) -> list[_T]:
    """A step for every item, a few at a time: a Valkey that lost everything is a question to Postgres per partition.

    When one fails the others have ended too before the error is raised: none goes on with what it saw before.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def one(item: _A) -> _T:
        async with room:
            return await step(item)

    results = await asyncio.gather(*(one(item) for item in items), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[_T]", results)


def same_history(row: PartitionRow | LeaseRow, finding: Finding) -> bool | None:
    """Whether the outbox continues what Postgres has recorded; None when it continues something later than that."""
    outbox = finding.outbox
    position = streams.id_key(row.position)
    if streams.id_key(outbox.last_id) < position:
        return False  # went back in time, or lost the stream
    if finding.has_position or streams.id_key(outbox.last_id) == position:
        return True
    trimmed = outbox.entries_added > outbox.length
    if trimmed and (not outbox.first_id or streams.id_key(outbox.first_id) > position):
        return None
    # Nothing was ever trimmed: with nothing recorded that is a young stream, otherwise one that was begun anew.
    return row.position == POSITION_START


async def _look(nodes: Nodes, rows: Sequence[PartitionRow | LeaseRow]) -> list[Finding]:
    """What Valkey says, beside flushers and servers that go on: the order of the three reads matters.

    An entry that is not at the position because a flusher trimmed it in this moment is then seen as trimmed by the
    second read, and an epoch that another server began meanwhile by the third.
    """
    outboxes = [keys.outbox(row.partition, row.epoch) for row in rows]
    present = await streams.has_entries(
        nodes, [(outbox, row.position) for outbox, row in zip(outboxes, rows, strict=True)]
    )
    infos = await streams.read_infos(nodes, outboxes)
    epochs = await streams.read_epochs(nodes, [row.partition for row in rows])
    return [Finding(*finding) for finding in zip(epochs, infos, present, strict=True)]


async def _open(
    nodes: Nodes, store: LedgerStore, row: PartitionRow, finding: Finding, suspects: set[int]
) -> int | None:
    """The epoch to serve; None to look again."""
    if finding.epoch > row.epoch:
        await _check_newer_epoch(store, row, finding.epoch)
        return None
    same = same_history(row, finding)
    if same is None:
        if not await _check_later_trim(store, row, finding.outbox):
            return None
        same = True
    if same and finding.epoch == row.epoch:
        return row.epoch
    if same and (not row.opened or row.position != POSITION_START):
        # An epoch that was served is set again only beside its last recorded event: all of it may be gone by now.
        beside = (keys.outbox(row.partition, row.epoch), row.position) if row.opened else None
        if epoch := await streams.raise_epoch(nodes, row.partition, row.epoch, beside=beside):
            if row.opened or row.epoch > 1:
                _log.warning("epoch_set_again", partition=row.partition, epoch=row.epoch, found=finding.epoch)
            return epoch
    if row.partition not in suspects:
        suspects.add(row.partition)  # a rebuild drops every open hold: look twice before it
        return None
    await _begin_epoch(store, row, finding)
    return None


async def _check_newer_epoch(store: LedgerStore, row: PartitionRow, found: int) -> None:
    """Valkey is ahead: because another server began an epoch after we read Postgres, or because Postgres is old."""
    now = await store.read_partition(row.partition)
    if now is None or now.epoch < found:
        raise LedgerBehindError(
            f"partition {row.partition}: Valkey is in epoch {found}, Postgres in epoch {row.epoch}. {POSTGRES_IS_OLD}"
        )


async def _check_later_trim(store: LedgerStore, row: PartitionRow, outbox: StreamInfo) -> bool:
    """Events were trimmed past the position that we read: a flusher went on since, or Postgres is old.

    Returns:
        Whether what was looked at continues what Postgres has recorded since; if not, look again.
    """
    now = await store.read_partition(row.partition)
    if now is None or (now.epoch, now.position) == (row.epoch, row.position):
        raise LedgerBehindError(
            f"partition {row.partition}: Postgres has recorded up to {row.position} of epoch {row.epoch}, but Valkey "
            f"has already dropped later events as recorded. {POSTGRES_IS_OLD}"
        )
    first_id = streams.id_key(outbox.first_id) if outbox.first_id else None
    return first_id is not None and now.epoch == row.epoch and first_id <= streams.id_key(now.position)


async def _begin_epoch(store: LedgerStore, row: PartitionRow, finding: Finding) -> None:
    epoch = await store.bump_epoch(row.partition, row.epoch)
    if epoch is None:
        return  # another server was first
    _log.warning(
        "partition_rebuilt",
        partition=row.partition,
        epoch=epoch,
        reason="meta key missing" if finding.epoch == 0 else "outbox is not the one that was recorded",
        recorded_position=row.position,
        outbox_last_id=finding.outbox.last_id,
    )
    # The next round finishes it, as it does for a server that died here.


async def _finish(nodes: Nodes, store: LedgerStore, row: PartitionRow) -> int:
    """Finish the begin of an epoch: fence the old one, then copy its unrecorded events to dead_letters, so many."""
    # First: until the meta key has the new epoch, scripts can still add to the old outbox.
    await streams.raise_epoch(nodes, row.partition, row.epoch)
    if not row.left_epoch:
        return 0  # somebody else has copied them
    letters = await salvage(nodes, store, row.partition, row.left_epoch, row.left_position)
    await store.mark_salvaged(row.partition, row.left_epoch)
    return letters
