"""`receiver replay`: publishes executions and rejected messages again, when an operator asks for it."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from receiver.cli import arguments, terminal
from receiver.errors import ConfigurationError, RejectionReason
from receiver.record.sql.replaying import Filter
from receiver.sweep import sweeper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from receiver.sweep.operator_replays import OperatorReplays, Told

MOST = 10_000
"""How many are replayed by one command, unless asked otherwise."""

RATE = 100
"""How many a second: a service of a few instances takes them beside its other work."""


@click.command("replay")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--failed", is_flag=True, help="Every execution that failed for good.")
@click.option(
    "--undelivered",
    is_flag=True,
    help="Every execution that waits for a message which Pub/Sub may have lost, as after a restore of the database.",
)
@click.option(
    "--reason",
    type=click.Choice([reason.value for reason in RejectionReason]),
    help="Every message that was rejected for this and never replayed.",
)
@click.option("--task", metavar="NAME", help="Only those of this task.")
@click.option("--since", metavar="DURATION", help="Only executions enqueued within 90s, 15m, 2h, 30d.")
@click.option(
    "--error",
    metavar="TYPE",
    callback=arguments.error_type,
    help="Only executions that failed so, such as ValueError or shop.OutOfStock.",
)
@click.option("--limit", type=click.IntRange(1), default=MOST, show_default=True, help="How many at most.")
@click.option(
    "--rate", type=click.IntRange(1, 10_000), default=RATE, show_default=True, help="How many a second."
)
@click.option("--dry-run", is_flag=True, help="Only say how many; change nothing.")
def command(
    *,
    ids: tuple[str, ...],
    failed: bool,
    undelivered: bool,
    reason: str | None,
    task: str | None,
    since: str | None,
    error: str | None,
    limit: int,
    rate: int,
    dry_run: bool,
) -> None:
    """Publish executions (by task id) or rejected messages (by message id) again; exit 1 when one cannot be.

    An execution keeps its id, and its count of attempts starts again, but not with --undelivered: that only sends its
    message once more. An execution that succeeded never runs again: enqueue another.
    """
    if [bool(ids), failed, undelivered, reason is not None].count(True) != 1:
        raise ConfigurationError(
            "give the ids of executions or messages, or one of --failed, --undelivered and --reason"
        )
    if (ids and task is not None) or ((ids or reason) and (since is not None or error is not None)):
        raise ConfigurationError(
            "--task, --since and --error go with --failed or --undelivered; --task with --reason too"
        )
    within = None if since is None else arguments.duration("--since", since)
    wanted = Filter(task, within, error)

    async def ask(made: OperatorReplays) -> None:
        if reason is not None:
            await made.rejected_for(reason, task)
        elif failed:
            await made.failed(wanted)
        elif undelivered:
            await made.undelivered(wanted)
        else:
            await made.named(list(dict.fromkeys(ids)))

    tell(_replayed(ask, rate=rate, limit=limit, dry_run=dry_run), dry_run=dry_run)


def named(ids: Sequence[str]) -> Told:
    """Replays the executions and messages of these ids."""
    return _replayed(lambda made: made.named(ids), rate=RATE, limit=len(ids), dry_run=False)


def _replayed(ask: Callable[[OperatorReplays], Awaitable[None]], **terms: Any) -> Told:
    async def run() -> Told:
        async with sweeper.sweeping(arguments.surroundings(lambda _: None)) as made:
            replays = made.operator_replays(**terms)
            await ask(replays)
            return replays.told

    return asyncio.run(run())


def tell(told: Told, *, dry_run: bool = False) -> None:
    """Prints what a replay did; exit 1 when something could not be replayed."""
    done = "would be published again" if dry_run else "published again"
    for name, count in (("execution", told.executions), ("rejected message", told.messages)):
        if count:
            click.echo(f"{count} {name}{'' if count == 1 else 's'} {done}")
    if told.owed:
        click.echo(
            f"{told.owed} not published now; the sweeper does it when they are due and Pub/Sub can be reached"
        )
    if told.outage:
        click.echo(
            f"error: Pub/Sub cannot be reached ({terminal.line(told.outage)}); the rest was not tried: run it again",
            err=True,
        )
    if told.more:
        click.echo("the limit is reached, and there may be more: run it again")
    for id_, why in told.failures.items():
        click.echo(f"error: {terminal.line(id_)}: {terminal.line(why)}", err=True)
    if not (told.executions or told.messages or told.owed or told.failures):
        click.echo("there is nothing to replay")
    if told.failures or told.outage:
        sys.exit(1)
