"""How an installation is, as both stores tell it: what ``drawdown-server status`` prints. Reads only.

It is a look at moving things: the stores are asked one after the other, so beside busy servers a number may be of a
moment before another one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.ledger import streams
from drawdown_server.ledger.recovery import Action, examine_partitions
from drawdown_server.ledger.servers import Claim, run_id_of, run_ids_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.ledger.recovery import Verdict
    from drawdown_server.ledger.store import LedgerStore

LAG_MAX_S: Final = 60.0
"""Events that wait for longer mean that nobody records them, or too slowly: they take well below a second."""
LOOKS_MORE: Final = 2
"""What looks wrong beside a busy flusher, because it trimmed in that moment, does not look wrong three times."""
HANDOVER_LOOKS: Final = 6
HANDOVER_PAUSE_S: Final = 0.5
"""A flusher that ends gives its partitions back, and another takes them within a third of ``lease_ttl_ms`` (1.7 s)."""
SHOWN_MAX: Final = 8
"""Numbers of partitions in one sentence."""


class PartitionStatus(msgspec.Struct, frozen=True):
    """One partition."""

    partition: int
    epoch: int
    """In Postgres."""
    action: Action
    """What a server would do with it; ``serve`` is as it should be."""
    why: str
    """In words."""
    waiting_events: int
    """In its outbox, and not in the ledger."""
    waiting_s: float
    """For how long the oldest of them has waited; 0 = there is none."""
    flusher: str
    """The process that records it; empty: nobody."""
    lease_s: float
    """How much longer that process may, unless it renews its lease; 0 = nobody may."""
    node: str
    """The address of the primary that has it, in a cluster; empty for one server."""
    problems: list[str]
    """What is wrong with it, in words."""


class Status(msgspec.Struct):
    """The whole installation. As JSON it has these fields; more may be added, none is renamed or taken away."""

    healthy: bool = True
    """There is no problem."""
    problems: list[str] = msgspec.field(default_factory=list)
    """What is wrong, in words, each with its place."""
    run_id: str = ""
    """What Valkey calls itself, of a cluster each primary, with + between them; empty where nobody answered."""
    servers: list[Claim] = msgspec.field(default_factory=list)
    """The processes that serve or record, each with the Valkey that it is connected to."""
    waiting_events: int = 0
    """Of all partitions."""
    waiting_s: float = 0.0
    """For how long the oldest of them has waited."""
    dead_letters: int = 0
    """Events that could not be recorded: ``drawdown-server dead-letters`` lists them."""
    partitions: list[PartitionStatus] = msgspec.field(default_factory=list)
    """By number; empty when a store could not be asked, or before the first server has run."""

    def add(self, problem: str) -> None:
        """Something is wrong."""
        self.healthy = False
        self.problems.append(problem)


async def read_status(nodes: Nodes, ledger: LedgerStore, *, partitions: int, backlog_limit: int) -> Status:
    """Look at everything once.

    Args:
        nodes: Of the store that should be served.
        ledger: Postgres.
        partitions: How many.
        backlog_limit: Events per partition past which new holds are refused; 0: never.

    Returns:
        What both stores say. If Valkey does not answer, what Postgres alone knows, and that as a problem.

    Raises:
        StoreUnavailableError: Postgres did not answer.
    """
    status = Status(servers=await ledger.list_claims(), dead_letters=await ledger.count_dead_letters())
    groups = nodes.groups(range(partitions))
    try:
        status.run_id = run_id_of((await nodes.read_run_ids()).answered)
    except StoreUnavailableError as error:
        status.add(str(error))
        groups = []
    for group in groups:
        try:
            status.partitions += await _read_partitions(nodes, ledger, group, backlog_limit)
        except StoreUnavailableError as error:
            if error.metadata["store"] != "valkey":
                raise
            place = f"{_partitions(group)} ({nodes.place(group[0])}): " if nodes.is_cluster else ""
            status.add(f"{place}{error}")
    status.partitions.sort(key=lambda one: one.partition)
    status.waiting_events = sum(one.waiting_events for one in status.partitions)
    status.waiting_s = max((one.waiting_s for one in status.partitions), default=0.0)
    _judge(status)
    return status


async def _read_partitions(
    nodes: Nodes, ledger: LedgerStore, numbers: Sequence[int], backlog_limit: int
) -> list[PartitionStatus]:
    verdicts = {verdict.partition: verdict for verdict in await examine_partitions(nodes, ledger, numbers)}
    for _ in range(LOOKS_MORE):
        doubtful = [number for number, verdict in verdicts.items() if verdict.action is not Action.SERVE]
        if doubtful:
            again = await examine_partitions(nodes, ledger, doubtful)
            verdicts.update((verdict.partition, verdict) for verdict in again)
    waits = await _waits_s(nodes, ledger, list(verdicts.values()))
    leases = await _leases(ledger, list(verdicts))
    found = []
    for verdict in verdicts.values():
        waiting_s = waits.get(verdict.partition, 0.0)
        events = verdict.unrecorded if waiting_s else 0
        flusher, lease_s = leases.get(verdict.partition, ("", 0.0))
        found.append(
            PartitionStatus(
                partition=verdict.partition,
                epoch=verdict.epoch,
                action=verdict.action,
                why=verdict.why,
                waiting_events=events,
                waiting_s=waiting_s,
                flusher=flusher,
                lease_s=round(lease_s, 3),
                node=nodes.place(verdict.partition),
                problems=_problems(verdict, events, waiting_s, flusher, backlog_limit),
            )
        )
    return found


async def _leases(ledger: LedgerStore, numbers: Sequence[int]) -> dict[int, tuple[str, float]]:
    """Who records what, after a moment if a partition is between two flushers."""
    for _ in range(HANDOVER_LOOKS):
        leases = await ledger.list_leases()
        if leases.keys() >= set(numbers):
            return leases
        await asyncio.sleep(HANDOVER_PAUSE_S)
    return await ledger.list_leases()


async def _waits_s(nodes: Nodes, ledger: LedgerStore, verdicts: Sequence[Verdict]) -> dict[int, float]:
    """How long the first event that is not recorded has waited, of partitions that have one."""
    positions = {row.partition: row.position for row in await ledger.read_partitions()}
    outboxes = {keys.outbox(v.partition, v.epoch): v.partition for v in verdicts if v.unrecorded > 0}
    if not outboxes:
        return {}
    wanted = {key: positions[partition] for key, partition in outboxes.items()}
    found = await streams.read_streams(nodes, wanted, count=1, block_ms=0)
    now_ms = await streams.clocks(nodes, outboxes.values())
    # At least a millisecond: one that came just now waits too.
    return {
        outboxes[key]: max(1, now_ms[outboxes[key]] - streams.id_key(entries[0][0])[0]) / 1000
        for key, entries in found.items()
    }


def _problems(verdict: Verdict, events: int, waiting_s: float, flusher: str, backlog_limit: int) -> list[str]:
    problems = []
    if verdict.action is not Action.SERVE:
        problems.append(f"a server would {verdict.action.value}: {verdict.why}")
    if waiting_s > LAG_MAX_S:
        problems.append(f"events have waited for the ledger for more than {LAG_MAX_S:.0f} s")
    if backlog_limit and events > backlog_limit:
        problems.append(f"more than {backlog_limit} events wait (outbox_backlog_limit): new holds are refused")
    if not flusher:
        problems.append("nobody records it")
    return problems


def _judge(status: Status) -> None:
    """Say what is wrong with the whole: each kind of problem once, however many partitions have it."""
    if not status.servers:
        status.add("no server runs, or none reaches both stores")
    asked = run_ids_in(status.run_id)
    strangers = [one.server_id for one in status.servers if asked and not run_ids_in(one.run_id) <= asked]
    if strangers:
        status.add(f"{', '.join(strangers)}: connected to another Valkey than the one that was asked")
    if status.dead_letters:
        status.add(f"dead letters ({status.dead_letters}): drawdown-server dead-letters lists them")
    by_problem: dict[str, list[int]] = {}
    for one in status.partitions:
        for problem in one.problems:
            by_problem.setdefault(problem, []).append(one.partition)
    for problem, numbers in by_problem.items():
        status.add(f"{_partitions(numbers)}: {problem}")


def _partitions(numbers: Sequence[int]) -> str:
    """``partition 3``, ``64 partitions (0, 1, 2, ...)``."""
    if len(numbers) == 1:
        return f"partition {numbers[0]}"
    shown = ", ".join(str(number) for number in numbers[:SHOWN_MAX])
    return f"{len(numbers)} partitions ({shown}{', ...' if len(numbers) > SHOWN_MAX else ''})"
