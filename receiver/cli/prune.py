"""`receiver prune`: removes every execution and rejected message that is older than the retention, now."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from receiver.cli import arguments, terminal
from receiver.errors import ConfigurationError
from receiver.record.connections import RecordConnection
from receiver.record.whose import Whose
from receiver.settings import LEAST_RETENTION, retention_too_short
from receiver.sweep.pruning import PrunedCounts, Pruning
from receiver.telemetry import logs

if TYPE_CHECKING:
    from receiver.settings import Settings


@click.command("prune")
@click.option(
    "--older-than",
    metavar="DURATION",
    help="Only what ended longer ago: 15d at least.  [default: $TASKS_RETENTION]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, older_than: str | None, as_json: bool) -> None:
    """Remove final executions and rejected messages that are older than the retention."""
    settings = arguments.settings()
    older = settings.retention if older_than is None else arguments.duration("--older-than", older_than)
    if older < LEAST_RETENTION:
        raise ConfigurationError(f"--older-than is {older_than!r}; {retention_too_short()}")
    gone = asyncio.run(_pruned(settings, older))
    if as_json:
        terminal.print_json(gone)
        return
    click.echo(f"{gone.pruned} executions and {gone.rejected} rejected messages removed")
    if gone.finalised:
        click.echo(f"{gone.finalised} failed executions are final now, and go with the next prune")
    if gone.kept:
        click.echo(f"{gone.kept} executions kept: rows of the application refer to them")


async def _pruned(settings: Settings, older: timedelta) -> PrunedCounts:
    connection = RecordConnection(arguments.database(settings), "receiver prune")
    pruning = Pruning(connection, whose=Whose.of(settings), emit=logs.configure(settings))
    total = PrunedCounts()
    try:
        for part in (pruning.prune(older), pruning.prune_sweeps()):
            async for step in part:
                total += step
    finally:
        await connection.close()
    return total
