"""``drawdown-server status``: how the installation is, for an operator and for programs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from drawdown_server.app import check_schema, open_nodes_of
from drawdown_server.commands.output import counted
from drawdown_server.errors import ConfigurationError, DrawdownError, StoreUnavailableError
from drawdown_server.holds.opening import check_nodes
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.status import Status, read_status
from drawdown_server.ledger.store import LedgerStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drawdown_server.config import Config
    from drawdown_server.ledger.status import PartitionStatus

EXIT_UNHEALTHY: Final = 1
TABLE_WIDTH: Final = 160
"""Of the table where no terminal says how wide it is: its longest column is a sentence."""


async def run_status(config: Config, *, everything: bool, as_json: bool) -> int:
    """Look at both stores and print what is to be known.

    Args:
        config: The settings.
        everything: A row for each partition, not only for those that something is wrong with.
        as_json: One JSON object (``ledger/status.py`` describes it) instead of sentences and a table.

    Returns:
        The exit status: 1 when anything is wrong, also when a store cannot be asked.
    """
    try:
        status = await _look(config)
    except (ConfigurationError, DrawdownError) as error:
        status = Status()
        status.add(str(error))
    if as_json:
        typer.echo(msgspec.json.encode(status).decode())
    else:
        _print(status, [one for one in status.partitions if everything or one.problems])
    return 0 if status.healthy else EXIT_UNHEALTHY


async def _look(config: Config) -> Status:
    await check_schema(config)
    async with (
        open_pool(config) as pool,
        open_nodes_of(config) as nodes,
    ):
        ledger = LedgerStore(pool)
        await ledger.check_partition_count(config.partitions)
        status = await read_status(
            nodes, ledger, partitions=config.partitions, backlog_limit=config.outbox_backlog_limit
        )
        try:
            await check_nodes(nodes)
        except ConfigurationError as error:
            status.add(str(error))
        except StoreUnavailableError:
            pass  # which the status has found
        return status


def _print(status: Status, partitions: Sequence[PartitionStatus]) -> None:
    if status.partitions:
        for line in _summary(status):
            typer.echo(line)
    if partitions:
        _print_table(partitions)
    for problem in status.problems:
        typer.echo(f"problem: {problem}")
    typer.echo("healthy" if status.healthy else "not healthy")


def _summary(status: Status) -> list[str]:
    epochs = sorted({one.epoch for one in status.partitions})
    flushers = Counter(one.flusher for one in status.partitions if one.flusher)
    waiting = counted(status.waiting_events, "event")
    if status.waiting_events:
        waiting += f", the oldest for {status.waiting_s:.3f} s"
    return [
        f"servers       {', '.join(one.server_id for one in status.servers) or 'none'}",
        f"valkey        {_valkey(status)}",
        f"partitions    {len(status.partitions)}, {_range('epoch', epochs)}",
        f"recorded by   {', '.join(f'{name} ({count})' for name, count in sorted(flushers.items())) or 'nobody'}",
        f"waiting       {waiting}",
        f"dead letters  {status.dead_letters}",
    ]


def _valkey(status: Status) -> str:
    nodes = {one.node for one in status.partitions if one.node}
    if nodes:
        primaries = "primary" if len(nodes) == 1 else "primaries"
        return f"cluster, {len(nodes)} {primaries} with partitions: {', '.join(sorted(nodes))}"
    return f"run id {status.run_id or 'unknown'}"


def _range(noun: str, values: Sequence[int]) -> str:
    return f"{noun} {values[0]}" if len(values) == 1 else f"{noun}s {values[0]} to {values[-1]}"


def _print_table(partitions: Sequence[PartitionStatus]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    table = Table(box=None, pad_edge=False)
    for column in ("partition", "epoch", "waiting", "oldest, s", "lease, s"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("recorded by")
    table.add_column("what is wrong")
    for one in partitions:
        numbers = (one.partition, one.epoch, one.waiting_events, f"{one.waiting_s:.3f}", f"{one.lease_s:.1f}")
        table.add_row(*map(str, numbers), one.flusher or "nobody", "; ".join(one.problems) or "-")
    console.print(table)
