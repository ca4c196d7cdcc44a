"""`receiver prune`: removes every execution and rejected message that is older than the retention, now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from receiver.cli import arguments, terminal
from receiver.errors import ConfigurationError
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.sql.sweeping import find_blocks
from receiver.record.whose import Whose
from receiver.settings import LEAST_RETENTION, retention_too_short
from receiver.sweep.pruning import PrunedCounts, Pruning, Retention
from receiver.sweep.sweeper import GROWTH
from receiver.tasks import registry
from receiver.telemetry import logs

if TYPE_CHECKING:
    from receiver.settings import Settings


@click.command("prune")
@click.option(
    "--older-than",
    metavar="DURATION",
    help="Only what ended longer ago: 15d at least.  [default: $TASKS_RETENTION, $TASKS_RETENTION_FAILED]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, older_than: str | None, as_json: bool) -> None:
    """Remove final executions and rejected messages that are older than the retention.

    A task's own `keep` stands, also with --older-than.
    """
    settings = arguments.settings()
    older = None if older_than is None else arguments.duration("--older-than", older_than)
    if older is not None and older < LEAST_RETENTION:
        raise ConfigurationError(f"--older-than is {older_than!r}; {retention_too_short()}")
    retention = Retention.of(settings, registry.load(settings), older=older)
    gone = asyncio.run(_pruned(settings, retention))
    if as_json:
        terminal.print_json(gone)
        return
    click.echo(f"{gone.pruned} executions and {gone.rejected} rejected messages removed")
    if gone.finalised:
        click.echo(f"{gone.finalised} failed executions are final now, and go with the next prune")
    if gone.kept:
        click.echo(f"{gone.kept} executions kept: rows of the application refer to them")


async def _pruned(settings: Settings, retention: Retention) -> PrunedCounts:
    connection = RecordConnection(Database.configured(settings), "receiver prune")
    pruning = Pruning(connection, whose=Whose.of(settings), emit=logs.configure(settings))
    total = PrunedCounts()
    try:
        blocks, _ = await find_blocks(connection)
        for part in (pruning.prune(retention, (0, blocks + GROWTH)), pruning.prune_sweeps()):
            async for step in part:
                total += step
    finally:
        await connection.close()
    return total
