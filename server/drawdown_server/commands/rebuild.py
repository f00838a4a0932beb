"""``drawdown-server rebuild``: says what each partition's state is worth, and begins new epochs where it is told to.

A new epoch drops the partition's live state: its wallets load again from the ledger on their next use. Servers may run:
their next call is refused by the script, they learn the new epoch and send it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import typer

from drawdown_server.commands.opening import open_both
from drawdown_server.commands.output import counted, progress
from drawdown_server.errors import ConfigurationError
from drawdown_server.ledger.presence import Presence
from drawdown_server.ledger.recovery import Action, examine_partitions, rebuild_partition
from drawdown_server.stores import process_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drawdown_server.config import Config
    from drawdown_server.ledger.recovery import Verdict

WHAT_IS_LOST = (
    "A new epoch drops what only Valkey has: the open holds of these partitions (their units are free again, a Commit "
    "under such a hold answers NOT_FOUND). Events that are not recorded yet become dead letters: see "
    "`drawdown-server dead-letters`."
)


async def run_rebuild(
    config: Config, *, partitions: Sequence[int], everything: bool, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Examine partitions, and begin new epochs.

    Args:
        config: The settings.
        partitions: Their numbers.
        everything: All of them instead.
        dry_run: Only examine; without numbers all of them.
        yes: Do not ask.
        as_json: One JSON object per partition instead of sentences.

    Returns:
        The exit status.

    Raises:
        ConfigurationError: Nothing is named, a number does not exist, or other servers serve from another Valkey.
        StoreUnavailableError: A store did not answer.
    """
    chosen = sorted(set(range(config.partitions) if everything or (dry_run and not partitions) else partitions))
    if not chosen:
        raise ConfigurationError("name what to rebuild: --partition N (again for more), or --all")
    if chosen[-1] >= config.partitions:
        raise ConfigurationError(f"there is no partition {chosen[-1]}: they are 0 to {config.partitions - 1}")
    async with open_both(config) as opened:
        verdicts = await examine_partitions(opened.nodes, opened.ledger, chosen)
        for verdict in verdicts:
            typer.echo(msgspec.json.encode(verdict).decode() if as_json else _sentence(verdict))
        if dry_run:
            return 0
        refused = [verdict for verdict in verdicts if verdict.action is Action.REFUSE]
        if refused:
            raise ConfigurationError(f"partition {refused[0].partition} must not be rebuilt: {refused[0].why}")
        typer.echo(WHAT_IS_LOST, err=True)
        if not (yes or typer.confirm(f"Begin a new epoch of {counted(len(chosen), 'partition')}?", err=True)):
            typer.echo("nothing was changed", err=True)
            return 1
        presence = Presence(opened.nodes, opened.ledger, process_name())
        try:
            await presence.claim_patiently()
            letters = 0
            with progress("rebuilding partitions", len(chosen)) as advance:
                for partition in chosen:
                    letters += await rebuild_partition(opened.nodes, opened.ledger, partition)
                    advance()
        finally:
            await presence.end()
    typer.echo(f"rebuilt {counted(len(chosen), 'partition')}; {counted(letters, 'new dead letter')}", err=as_json)
    return 0


def _sentence(verdict: Verdict) -> str:
    left = f"; {counted(verdict.unrecorded, 'event')} not recorded yet" if verdict.unrecorded else ""
    return f"partition {verdict.partition}, epoch {verdict.epoch}: {verdict.action.value} ({verdict.why}{left})"
